"""Settings that are applied to a model one after another, and rounded by GPTQ in one go.

Rows of GPTQ's column loop are independent, so what is stacked changes no bit of any setting's
result: it is made earlier, and kept packed until its setting is applied.
"""

from __future__ import annotations

from collections.abc import Sequence

from quantizers.rounding.one_shot import OneShot
from quantizers.setting import Setting
from quantizers.stackable import shared


class Stack:
    """Of one model and the statistics of one calibration. Raises ValueError for several settings
    one of which cannot be rounded with others."""

    def __init__(self, settings: Sequence[Setting] = ()) -> None:
        self._settings = tuple(dict.fromkeys(settings))
        self._together = True
        self._made: dict[tuple[Setting, str], OneShot] = {}
        for setting in self._settings:
            if setting.is_sequential and len(self._settings) > 1:
                raise ValueError(
                    f"{setting.label}: what reaches a block depends on how those before it were "
                    "rounded, so it is not rounded together with others; take it out of the stack, "
                    "or use hessian: original"
                )

    def __contains__(self, setting: Setting) -> bool:
        return setting in self._settings

    def companions(self, setting: Setting) -> list[Setting]:
        """The setting, then the others that can be rounded with it."""
        kind = shared(setting)
        if kind is None or not self._together:
            return [setting]
        return [setting, *(s for s in self._settings if s != setting and shared(s) == kind)]

    def dissolve(self) -> None:
        """Round no further settings together: one of them cannot be."""
        self._together = False

    def keep(self, setting: Setting, site: str, made: OneShot) -> None:
        self._made[setting, site] = made

    def take(self, setting: Setting, site: str) -> OneShot | None:
        """A site's matrix at a setting, where it was made already; it is kept no longer."""
        return self._made.pop((setting, site), None)
