"""What settings a format of others has room for."""

from __future__ import annotations

from collections.abc import Iterable

from quantizers.setting import Setting


def check_expressible(setting: Setting, name: str, needs: Iterable[tuple[object, str]]) -> None:
    """`needs` of the format called `name`: whether `setting` lacks one, and what it is. Raises
    ValueError by the first that it lacks."""
    for lacks, what in needs:
        if lacks:
            raise ValueError(f"{setting.label}: {name} can express only {what}")
