"""What is done to the weights of a model: one point of the experiment grid."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

DATA_TYPES = ("int", "float", "dynamic", "quantile")
SCOPES = ("linear", "all")


def default_exponent_bits(bits: int) -> int:
    """Exponent bits of a k-bit float: at least half the bits, except at 5 bit (paper, app. C.4)."""
    return {2: 1, 3: 2, 4: 2, 5: 2, 6: 3}.get(bits, 4)


@dataclass(frozen=True)
class QuantConfig:
    """A quantization setting. Construct it with `make`, which validates and fills in defaults."""

    bits: int  # 2..16; 16 = the 16-bit weights as they are
    data_type: str | None  # one of DATA_TYPES; None at 16 bit
    exponent_bits: int | None = None  # float only
    block_size: int | None = None  # weights that share one absmax; None = one block a tensor
    centered: bool = False  # subtract each block's mean first (appendix B)
    outlier_fraction: float = 0.0  # share of input dimensions kept in 16 bit (section 3)
    scope: str = "linear"  # one of SCOPES

    @classmethod
    def make(
        cls,
        bits: int,
        data_type: str | None = None,
        exponent_bits: int | None = None,
        block_size: int | None = None,
        centered: bool = False,
        outlier_fraction: float = 0.0,
        scope: str = "linear",
    ) -> QuantConfig:
        """A valid configuration in canonical form, so that equal settings compare equal.

        At 16 bit nothing is quantized: every other setting is dropped. A float without
        `exponent_bits` gets the default split of its width.

        Raises ValueError naming the setting at fault.
        """
        if not _is_int(bits) or not 2 <= bits <= 16:
            raise ValueError(f"bits: {bits!r} is not a whole number from 2 to 16")
        if data_type is not None and data_type not in DATA_TYPES:
            raise ValueError(f"data_type: {data_type!r} is not one of {', '.join(DATA_TYPES)}")
        if block_size is not None and (not _is_int(block_size) or block_size < 1):
            raise ValueError(
                f"block_size: {block_size!r} is not a whole number >= 1 (null: one block a tensor)"
            )
        if not isinstance(centered, bool):
            raise ValueError(f"centered: {centered!r} is neither true nor false")
        if not _is_number(outlier_fraction) or not 0 <= outlier_fraction < 1:
            raise ValueError(f"outlier_fraction: {outlier_fraction!r} is not in [0, 1)")
        if scope not in SCOPES:
            raise ValueError(f"scope: {scope!r} is not one of {', '.join(SCOPES)}")
        if bits == 16:
            return cls(bits=16, data_type=None)
        if data_type is None:
            raise ValueError(
                f"data_type: missing at {bits} bit; choose one of {', '.join(DATA_TYPES)}"
            )
        if data_type == "float":
            if exponent_bits is None:
                exponent_bits = default_exponent_bits(bits)
            if not _is_int(exponent_bits) or not 1 <= exponent_bits <= bits - 1:
                raise ValueError(
                    f"exponent_bits: {exponent_bits!r} does not fit a {bits}-bit float, "
                    f"which takes 1 to {bits - 1}"
                )
        elif exponent_bits is not None:
            raise ValueError(
                f"exponent_bits: only the float data type has them, not {data_type!r}; remove it"
            )
        return cls(
            bits, data_type, exponent_bits, block_size, centered, float(outlier_fraction), scope
        )

    @property
    def method(self) -> str:
        """How weights are rounded: "none" at 16 bit, else "rtn" (round to nearest)."""
        return "none" if self.bits == 16 else "rtn"

    @property
    def bits_per_param(self) -> float:
        """Nominal bits per parameter: k + 16/B (+ 16/B centered) + p(16 - k) (section 5.2).

        One block a tensor counts as 16/B = 0.
        """
        constants = 0.0 if self.block_size is None else 16 / self.block_size
        return (
            self.bits + constants * (1 + self.centered) + self.outlier_fraction * (16 - self.bits)
        )

    def as_dict(self) -> dict[str, Any]:
        """All settings, JSON-able, always in the same key order."""
        return {**asdict(self), "method": self.method}


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
