"""Which folding, as sweep files spell it and tables store it. Torch-free."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

ALPHAS = {"smoothquant": 0.5, "logarithmic": 1.0}  # by method: its default
AWQ = "awq"  # searches its exponents
NONE = "none"


@dataclass(frozen=True)
class Method:
    """How channel scales are chosen. Its text, "smoothquant 0.5" or "awq", is what is stored."""

    name: str  # a key of ALPHAS, or AWQ
    alpha: float | None = None  # None: it takes none

    def __str__(self) -> str:
        return self.name if self.alpha is None else f"{self.name} {self.alpha!r}"

    @classmethod
    def parse(cls, text: str) -> Method:
        """From its text. Raises ValueError as `folding_text` does."""
        if text == AWQ:
            return cls(AWQ)
        name, _, alpha = text.partition(" ")
        try:
            return cls(name, float(alpha))
        except ValueError:
            raise ValueError(f"folding: {text!r} is not like 'smoothquant 0.5'") from None


def folding_text(spelled: Any) -> str:
    """What is stored for none, awq, smoothquant, {smoothquant: 0.5} or a text that was stored.

    Raises ValueError, beginning with "folding: ", for any other and for an alpha outside [0, 2].
    """
    if spelled is None or spelled == NONE:
        return NONE
    if spelled == AWQ:
        return AWQ
    if isinstance(spelled, Mapping) and len(spelled) == 1:
        ((name, alpha),) = spelled.items()
    elif isinstance(spelled, str) and " " in spelled:
        method = Method.parse(spelled)
        name, alpha = method.name, method.alpha
    else:
        name, alpha = spelled, None
    if not isinstance(name, str) or name not in ALPHAS:
        raise ValueError(f"folding: {spelled!r} is not one of {', '.join((NONE, *ALPHAS, AWQ))}")
    alpha = ALPHAS[name] if alpha is None else alpha
    number = isinstance(alpha, int | float) and not isinstance(alpha, bool)
    if not number or not math.isfinite(alpha) or not 0 <= alpha <= 2:
        raise ValueError(f"folding: {name} takes an alpha from 0 to 2, not {alpha!r}")
    return str(Method(name, float(alpha)))
