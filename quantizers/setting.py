"""Setting: everything that is done to a model, one point of the experiment grid. Torch-free.

Grids, tables, the view, CSV files and analyses take their columns from its fields, in order.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from quantizers.activations.cache_format import NONE as NO_CACHE
from quantizers.activations.cache_format import cache_text
from quantizers.activations.format import NONE as NO_ACTIVATIONS
from quantizers.activations.format import activations_text
from quantizers.cells import read_cells
from quantizers.data_types import base_type, check_data_type, exponent_bits_of
from quantizers.factors import ALWAYS_IN_ID, FIELDS, Factors
from quantizers.folding.method import AWQ, folding_text
from quantizers.folding.method import NONE as NO_FOLDING
from quantizers.spelling import granularity_of, is_number, is_whole, rounding_of

SCOPES = ("linear", "all")
SCALES = ("absmax", "clipped")
WEIGHTINGS = ("plain", "hessian")
SETTING_COLUMNS: tuple[str, ...] = tuple(FIELDS)
# What 16-bit weights have, too.
BESIDE_16_BIT = ("bits", "folding", "activations", "kv", "calibration")
# Columns that tables written by older versions lack, and what they mean there.
ADDED_COLUMNS: dict[str, Any] = {
    name: field.default for name, field in FIELDS.items() if name not in ALWAYS_IN_ID
}
_SPELLED = {"folding": folding_text, "activations": activations_text, "kv": cache_text}


@dataclass(frozen=True)
class Setting(Factors):
    """A precision setting: `make` one to be run, `from_row` one that was stored or imported."""

    @classmethod
    def make(cls, bits: int, data_type: str | None = None, **factors: Any) -> Setting:
        """A setting that can be run, in canonical form, so that equal settings compare equal.

        factors: fields by name, `block_size` as sweep files spell it: 64, None (one block a
        tensor), "row" or {"group": 128} (of a row, which it does not cross); `rounding` too:
        "nearest", "gptq" or {"gptq": {order: false, damping: 0.1, hessian: sequential, dead:
        zero}}; `folding`, `activations` and `kv` too: {"smoothquant": 0.5}, {"token": 8}. At 16 bit
        no weight is quantized: every factor but these three is dropped; so is a calibration where
        no method reads it. A float without `exponent_bits` gets the default split of its width.

        Raises ValueError naming the factor at fault.
        """
        if not is_whole(bits) or not 2 <= bits <= 16:
            raise ValueError(f"bits: {bits!r} is not a whole number from 2 to 16")
        granularity = granularity_of(factors.pop("block_size", None))
        blocks: dict[str, Any] = {"block_size": granularity.size, "by_row": granularity.by_row}
        method, options = rounding_of(factors.pop("rounding", "nearest"))
        beside: dict[str, Any] = {
            "folding": folding_text(factors.pop("folding", NO_FOLDING)),
            "activations": activations_text(factors.pop("activations", NO_ACTIVATIONS)),
            "kv": cache_text(factors.pop("kv", NO_CACHE)),
        }
        check_data_type(data_type, bits)
        setting = cls(method, bits, data_type, **blocks, **options, **beside, **factors)
        setting._check_factors()
        if setting.keeps_weights:
            setting = cls("none", 16, **beside, calibration=setting.calibration)
        return replace(
            setting,
            exponent_bits=exponent_bits_of(setting.data_type, bits, setting.exponent_bits),
            outlier_fraction=float(setting.outlier_fraction),
            attention_bits=None if setting.attention_bits == bits else setting.attention_bits,
            calibration=setting.calibration if setting.needs_statistics else None,
        )

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Setting:
        """The setting in a row of a table, a CSV or an import: column -> number or text.

        Missing cells (absent, None, NaN, NA, "") have their defaults. Other people's numbers may
        have fractional bits and names of their own for methods and data types.

        Raises ValueError naming the column at fault.
        """
        bits = read_cells(row, {"bits": FIELDS["bits"]}).get("bits")
        if bits is None:
            raise ValueError("bits is missing")
        if not 0 < bits <= 16:
            raise ValueError(f"bits {row['bits']!r} is not above 0 and at most 16")
        kept = ("method", *BESIDE_16_BIT) if bits == 16 else SETTING_COLUMNS
        given = read_cells(row, {name: FIELDS[name] for name in kept})
        if not 0 <= given.get("outlier_fraction", 0) < 1:
            raise ValueError(f"outlier_fraction {row['outlier_fraction']!r} is not in [0, 1)")
        given["bits"] = int(bits) if bits == int(bits) else bits
        given.setdefault("method", "none" if bits == 16 else "rtn")
        for name, spelled in _SPELLED.items():
            if name in given:  # CSV files give 16 back as a number
                given[name] = spelled("16" if given[name] == "16.0" else given[name])
        return cls(**given)

    def _check_factors(self) -> None:
        if not isinstance(self.centered, bool):
            raise ValueError(f"centered: {self.centered!r} is neither true nor false")
        if not is_number(self.outlier_fraction) or not 0 <= self.outlier_fraction < 1:
            raise ValueError(f"outlier_fraction: {self.outlier_fraction!r} is not in [0, 1)")
        if self.scope not in SCOPES:
            raise ValueError(f"scope: {self.scope!r} is not one of {', '.join(SCOPES)}")
        if self.scales not in SCALES:
            raise ValueError(f"scales: {self.scales!r} is not one of {', '.join(SCALES)}")
        weighting = self.clip_weighting
        if weighting not in WEIGHTINGS:
            raise ValueError(f"clip_weighting: {weighting!r} is not one of {', '.join(WEIGHTINGS)}")
        if weighting != "plain" and self.scales == "absmax":
            raise ValueError("clip_weighting: only clipped scales have it; remove it")
        if self.keeps_weights and self.folding == AWQ:
            raise ValueError("folding: awq goes by how weights are rounded, which 16 bits are not")
        if self.attention_bits is not None and not self.keeps_weights:
            self._check_attention_bits()
        if self.is_rotated:
            self._check_rotation()
        if self.is_sequential and self.folding != NO_FOLDING:
            raise ValueError("rounding: hessian sequential takes no folding; use original")

    def _check_attention_bits(self) -> None:
        bits = self.attention_bits
        if not isinstance(bits, int) or isinstance(bits, bool) or not 2 <= bits <= 15:
            raise ValueError(f"attention_bits: {bits!r} is not a whole number from 2 to 15")
        if base_type(self.data_type) == "float":
            raise ValueError("attention_bits: the float type has its exponents by one width")
        if self.folding == AWQ:
            raise ValueError("attention_bits: awq searches at one width; leave one of them out")

    def _check_rotation(self) -> None:
        if self.scope != "linear":
            raise ValueError(f"folding: hadamard takes scope linear, not {self.scope}")
        if self.outlier_fraction:
            raise ValueError(
                "folding: hadamard leaves no units whose weights tell proxy outliers; set "
                "outlier_fraction to 0"
            )
