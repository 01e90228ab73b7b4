"""Which folding, as sweep files spell it and tables store it. Torch-free."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

ALPHAS = {"smoothquant": 0.5, "logarithmic": 1.0}  # by method: its default
AWQ = "awq"  # searches its exponents
HADAMARD = "hadamard"  # a random rotation of the residual stream
NONE = "none"


@dataclass(frozen=True)
class Method:
    """How a model is folded. Its text, "smoothquant 0.5", "hadamard 0" or "awq", is stored."""

    name: str  # a key of ALPHAS, AWQ or HADAMARD
    alpha: float | None = None  # of ALPHAS
    seed: int | None = None  # of HADAMARD

    def __str__(self) -> str:
        number = self.seed if self.alpha is None else self.alpha
        return self.name if number is None else f"{self.name} {number!r}"

    @property
    def needs_statistics(self) -> bool:
        return self.name != HADAMARD

    @classmethod
    def parse(cls, text: str) -> Method:
        """From its text. Raises ValueError as `folding_text` does."""
        if text == AWQ:
            return cls(AWQ)
        name, _, number = text.partition(" ")
        try:
            return cls(name, seed=int(number)) if name == HADAMARD else cls(name, float(number))
        except ValueError:
            raise ValueError(f"folding: {text!r} is not like 'smoothquant 0.5'") from None


def folding_text(spelled: Any) -> str:
    """What is stored for none, awq, smoothquant, {smoothquant: 0.5}, {hadamard: {seed: 0}} or a
    text that was stored.

    Raises ValueError, beginning with "folding: ", for any other, for an alpha outside [0, 2] and
    for a seed that is none.
    """
    if spelled is None or spelled == NONE:
        return NONE
    if spelled == AWQ:
        return AWQ
    number: Any = None
    if isinstance(spelled, Mapping) and len(spelled) == 1:
        ((name, number),) = spelled.items()
    elif isinstance(spelled, str) and " " in spelled:
        method = Method.parse(spelled)
        name, number = method.name, method.alpha if method.seed is None else method.seed
    else:
        name = spelled
    if name == HADAMARD:
        return str(Method(HADAMARD, seed=_seed(number)))
    if not isinstance(name, str) or name not in ALPHAS:
        known = ", ".join((NONE, *ALPHAS, AWQ, HADAMARD))
        raise ValueError(f"folding: {spelled!r} is not one of {known}")
    alpha = ALPHAS[name] if number is None else number
    is_number = isinstance(alpha, int | float) and not isinstance(alpha, bool)
    if not is_number or not math.isfinite(alpha) or not 0 <= alpha <= 2:
        raise ValueError(f"folding: {name} takes an alpha from 0 to 2, not {alpha!r}")
    return str(Method(name, float(alpha)))


def _seed(spelled: Any) -> int:
    """Of None, 0 or {seed: 0}."""
    seed = spelled
    if isinstance(spelled, Mapping):
        seed = spelled.get("seed", 0) if set(spelled) <= {"seed"} else spelled
    seed = 0 if seed is None else seed
    if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
        raise ValueError(f"folding: {HADAMARD} takes {{seed: 0}}, not {spelled!r}")
    return seed
