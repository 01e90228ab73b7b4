"""Activation formats, as sweep files spell them and tables store them. Torch-free."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

NONE = "16"
NAMES = {  # what each takes beside its bits
    "token": (),  # dynamic: a scale a token
    "tensor": (),  # static: one scale a site, from calibration after folding; clamps
    "tensor-dynamic": (),  # one scale for all tokens at hand, later ones too: for latency only
    "decomposed": ("threshold", "outlier_weights", "columns"),  # LLM.int8(), token by token
    "by_type": (),  # FPTQ, figure 4: tensor, but token before the down projection
    "by_range": ("v0", "v1"),  # FPTQ, table 2
}
OUTLIER_WEIGHTS = ("original", "quantized")
COLUMNS = ("element", "calibrated")


@dataclass(frozen=True)
class Activations:
    """A format, or a policy that chooses one for each site. Its text, "by_range 8 v0=15.0
    v1=150.0", is what is stored."""

    name: str  # a key of NAMES
    bits: int = 8  # 4..8
    threshold: float = 6.0  # decomposed: elements from here on are multiplied in 16 bit ...
    outlier_weights: str = "original"  # ... with these weights: of 16 bit, or the quantized ones
    columns: str = "element"  # ... element by element, or those that reach it in calibration
    v0: float = 15.0  # by_range: static up to this largest magnitude before folding ...
    v1: float = 150.0  # ... a scale a token from this on

    def __post_init__(self) -> None:
        """Raises ValueError, beginning with "activations: "."""
        if self.name not in NAMES:
            known = ", ".join((NONE, *NAMES))
            raise ValueError(f"activations: {self.name!r} is not one of {known}")
        if not isinstance(self.bits, int) or isinstance(self.bits, bool) or not 4 <= self.bits <= 8:
            raise ValueError(f"activations: {self.name} takes 4 to 8 bits, not {self.bits!r}")
        for name in ("threshold", "v0", "v1"):
            value = getattr(self, name)
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not number or math.isnan(value) or value < 0:
                raise ValueError(f"activations: {name} {value!r} is not a number from 0 on")
            object.__setattr__(self, name, float(value))
        if self.v0 >= self.v1:
            raise ValueError(f"activations: v0 {self.v0:g} is not below v1 {self.v1:g}")
        if self.outlier_weights not in OUTLIER_WEIGHTS:
            known = ", ".join(OUTLIER_WEIGHTS)
            raise ValueError(
                f"activations: outlier_weights {self.outlier_weights!r} is not one of {known}"
            )

        if self.columns not in COLUMNS:
            known = ", ".join(COLUMNS)
            raise ValueError(f"activations: columns {self.columns!r} is not one of {known}")

    @property
    def needs_statistics(self) -> bool:
        return self.name in ("tensor", "by_type", "by_range") or self.columns == "calibrated"

    @property
    def is_causal(self) -> bool:
        """Whether no token's product depends on later ones: what is not, scores nothing."""
        return self.name != "tensor-dynamic"

    @property
    def label(self) -> str:
        """Short: "A8 token", "A8 by_range v0=10"; options at their default are left out."""
        options = [
            f"{f.name}={value:g}" if isinstance(value, float) else f"{f.name}={value}"
            for f in fields(self)
            if f.name in NAMES[self.name] and (value := getattr(self, f.name)) != f.default
        ]
        return " ".join([f"A{self.bits} {self.name}", *options])

    def __str__(self) -> str:
        options = (
            f"{name}={getattr(self, name)}"
            for name in NAMES[self.name]
            if name != "columns" or self.columns != "element"  # younger than what is stored
        )
        return " ".join((self.name, str(self.bits), *options))

    @classmethod
    def parse(cls, text: str) -> Activations:
        """From its text. Raises ValueError for one that is none."""
        name, *rest = text.split()
        try:
            options = dict(part.split("=") for part in rest[1:])
            return cls._of(
                name, {"bits": int(rest[0])} | {k: _value(v) for k, v in options.items()}
            )
        except (IndexError, TypeError, ValueError):
            raise ValueError(f"activations: {text!r} is not like 'token 8'") from None

    @classmethod
    def _of(cls, name: str, options: Mapping[str, Any]) -> Activations:
        unknown = sorted(map(str, set(options) - {"bits", *NAMES.get(name, ())}))
        if unknown and name in NAMES:
            raise ValueError(f"activations: {name} has no option {', '.join(unknown)}")
        return cls(name, **({} if unknown else options))


def activations_text(spelled: Any) -> str:
    """What is stored for 16, token, {token: 8}, {by_range: {bits: 8, v0: 15, v1: 150}} or a text
    that was stored. Raises ValueError, beginning with "activations: ", for any other."""
    if spelled is None or (str(spelled) == NONE and not isinstance(spelled, bool)):
        return NONE
    if isinstance(spelled, str):
        parsed = Activations.parse(spelled) if " " in spelled else Activations(spelled)
        return str(parsed)
    if not isinstance(spelled, Mapping) or len(spelled) != 1:
        raise ValueError(f"activations: {spelled!r} is not one of {', '.join((NONE, *NAMES))}")
    ((name, options),) = spelled.items()
    given = options if isinstance(options, Mapping) else {"bits": options}
    return str(Activations._of(str(name), given))


def _value(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text
