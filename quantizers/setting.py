"""Setting: everything that is done to a model, one point of the experiment grid. Torch-free.

Grids, tables, the view, CSV files and analyses take their columns from its fields, in order.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from quantizers.activations.cache_format import NONE as NO_CACHE
from quantizers.activations.cache_format import CacheFormat, cache_text
from quantizers.activations.format import NONE as NO_ACTIVATIONS
from quantizers.activations.format import Activations, activations_text
from quantizers.folding.method import AWQ, HADAMARD, Method, folding_text
from quantizers.folding.method import NONE as NO_FOLDING
from quantizers.granularity import Granularity

DATA_TYPES = ("int", "float", "dynamic", "quantile")
# The same with values rounded to 1/127: other types, whose products with integers are of integers.
BYTE_TYPES = ("float-int8", "dynamic-int8", "quantile-int8")
SCOPES = ("linear", "all")
SCALES = ("absmax", "clipped")
WEIGHTINGS = ("plain", "hessian")
GPTQ_OPTIONS = ("order", "damping", "hessian", "dead")
HESSIANS = ("original", "sequential")
DEAD = ("nearest", "zero")
# What 16-bit weights have, too.
BESIDE_16_BIT = ("bits", "folding", "activations", "kv", "calibration")


def base_type(data_type: str | None) -> str | None:
    """The data type whose values one of BYTE_TYPES rounds; any other itself."""
    return None if data_type is None else data_type.removesuffix("-int8")


def default_exponent_bits(bits: float) -> int:
    """Exponent bits of a k-bit float: at least half the bits, except at 5 bit (paper, app. C.4)."""
    return {2: 1, 3: 2, 4: 2, 5: 2, 6: 3}.get(int(bits), 4)


@dataclass(frozen=True)
class Setting:
    """A precision setting: `make` one to be run, `from_row` one that was stored or imported."""

    method: str  # "none" at 16 bit, "rtn" (round to nearest), "gptq"; imports: any name
    bits: float  # an int from 2 to 16, 16 = the 16-bit weights as they are; imports: any number
    data_type: str | None = None  # one of DATA_TYPES, None at 16 bit; imports: any name
    exponent_bits: int | None = None  # float only
    block_size: int | None = None  # weights that share one absmax; None = one block a tensor
    outlier_fraction: float = 0.0  # share of input dimensions kept in 16 bit (section 3)
    centered: bool = False  # subtract each block's mean first (appendix B)
    scope: str = "linear"  # one of SCOPES
    by_row: bool = False  # blocks do not cross output rows; block_size None = one block a row
    scales: str = "absmax"  # one of SCALES; clipped: a part of it, of least squared error
    clip_weighting: str = "plain"  # one of WEIGHTINGS: what an error counts, by column
    gptq_order: bool = True  # columns by descending diagonal of the Hessian, not as they come
    gptq_damping: float = 0.01  # added to that diagonal, as a share of its mean
    gptq_hessian: str = "original"  # one of HESSIANS: of the 16-bit model, or of blocks rounded
    gptq_dead: str = "nearest"  # one of DEAD: what weights become whose input is always 0
    attention_bits: int | None = None  # of QKV and attention output, where they have others
    folding: str = NO_FOLDING  # the text of a `folding.method.Method`
    activations: str = NO_ACTIVATIONS  # the text of an `activations.format.Activations`
    kv: str = NO_CACHE  # the text of an `activations.cache_format.CacheFormat`
    calibration: str | None = None  # what names its text for good, where a method reads any

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
        if not _is_int(bits) or not 2 <= bits <= 16:
            raise ValueError(f"bits: {bits!r} is not a whole number from 2 to 16")
        if data_type is not None and data_type not in (*DATA_TYPES, *BYTE_TYPES):
            known = ", ".join((*DATA_TYPES, *BYTE_TYPES))
            raise ValueError(f"data_type: {data_type!r} is not one of {known}")
        if data_type in BYTE_TYPES and bits > 8:
            raise ValueError(f"data_type: {data_type} takes 2 to 8 bits, not {bits}")
        granularity = _granularity(factors.pop("block_size", None))
        blocks: dict[str, Any] = {"block_size": granularity.size, "by_row": granularity.by_row}
        method, options = _rounding(factors.pop("rounding", "nearest"))
        beside: dict[str, Any] = {
            "folding": folding_text(factors.pop("folding", NO_FOLDING)),
            "activations": activations_text(factors.pop("activations", NO_ACTIVATIONS)),
            "kv": cache_text(factors.pop("kv", NO_CACHE)),
        }
        setting = cls(method, bits, data_type, **blocks, **options, **beside, **factors)
        setting._check_factors()
        if setting.keeps_weights:
            setting = cls("none", 16, **beside, calibration=setting.calibration)
        elif data_type is None:
            raise ValueError(
                f"data_type: missing at {bits} bit; choose one of {', '.join(DATA_TYPES)}"
            )
        return replace(
            setting,
            exponent_bits=None if setting.keeps_weights else _exponent_bits(setting),
            outlier_fraction=float(setting.outlier_fraction),
            attention_bits=None if setting.attention_bits == bits else setting.attention_bits,
            calibration=setting.calibration if setting.needs_statistics else None,
        )

    def _check_factors(self) -> None:
        if not isinstance(self.centered, bool):
            raise ValueError(f"centered: {self.centered!r} is neither true nor false")
        if not _is_number(self.outlier_fraction) or not 0 <= self.outlier_fraction < 1:
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
        if not isinstance(self.gptq_order, bool):
            raise ValueError(f"rounding: order {self.gptq_order!r} is neither true nor false")
        if not _is_number(self.gptq_damping) or not 0 <= self.gptq_damping <= 1:
            raise ValueError(f"rounding: damping {self.gptq_damping!r} is not from 0 to 1")
        if self.gptq_hessian not in HESSIANS:
            known = ", ".join(HESSIANS)
            raise ValueError(f"rounding: hessian {self.gptq_hessian!r} is not one of {known}")
        if self.gptq_dead not in DEAD:
            raise ValueError(f"rounding: dead {self.gptq_dead!r} is not one of {', '.join(DEAD)}")
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

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Setting:
        """The setting in a row of a table, a CSV or an import: column -> number or text.

        Missing cells (absent, None, NaN, NA, "") have their defaults. Other people's numbers may
        have fractional bits and names of their own for methods and data types.

        Raises ValueError naming the column at fault.
        """
        given = {name: row[name] for name in SETTING_COLUMNS if not _missing(row.get(name))}
        bits = _number(given, "bits")
        if not 0 < bits <= 16:
            raise ValueError(f"bits {given['bits']!r} is not above 0 and at most 16")
        setting = cls(
            method=str(given.get("method", "none" if bits == 16 else "rtn")),
            bits=int(bits) if bits == int(bits) else bits,
            folding=folding_text(str(given.get("folding", NO_FOLDING))),
            activations=_activations(given),
            kv=cache_text(str(given.get("kv", NO_CACHE))),
            calibration=str(given["calibration"]) if "calibration" in given else None,
        )
        if setting.keeps_weights:
            return setting
        fraction = _number(given, "outlier_fraction") if "outlier_fraction" in given else 0.0
        if not 0 <= fraction < 1:
            raise ValueError(f"outlier_fraction {given['outlier_fraction']!r} is not in [0, 1)")
        return replace(
            setting,
            data_type=str(given["data_type"]) if "data_type" in given else None,
            exponent_bits=_whole(given, "exponent_bits"),
            block_size=_whole(given, "block_size"),
            outlier_fraction=fraction,
            centered=_flag(given, "centered"),
            scope=str(given.get("scope", "linear")),
            by_row=_flag(given, "by_row"),
            scales=str(given.get("scales", "absmax")),
            clip_weighting=str(given.get("clip_weighting", "plain")),
            gptq_order=_flag({"gptq_order": True} | given, "gptq_order"),
            gptq_damping=_number({"gptq_damping": 0.01} | given, "gptq_damping"),
            gptq_hessian=str(given.get("gptq_hessian", "original")),
            attention_bits=_whole(given, "attention_bits"),
            gptq_dead=str(given.get("gptq_dead", "nearest")),
        )

    @property
    def is_baseline(self) -> bool:
        """Whether it is the 16-bit model as it was loaded: no factor is at work."""
        return self == Setting(self.method, 16)

    @property
    def keeps_weights(self) -> bool:
        """Whether weights stay in 16 bit, whatever is done to what they multiply."""
        return self.bits == 16

    @property
    def is_weight_only(self) -> bool:
        """Whether weights are rounded as they are, and what they multiply is not."""
        return self.folding_method is None and self.activation_format is None and not self.cache

    @property
    def folding_method(self) -> Method | None:
        return None if self.folding == NO_FOLDING else Method.parse(self.folding)

    @property
    def is_rotated(self) -> bool:
        """Whether the residual stream is in another basis."""
        return (method := self.folding_method) is not None and method.name == HADAMARD

    @property
    def basis(self) -> Setting:
        """The 16-bit setting whose statistics it reads: as loaded, or rotated."""
        return Setting("none", 16, folding=self.folding if self.is_rotated else NO_FOLDING)

    @property
    def activation_format(self) -> Activations | None:
        return None if self.activations == NO_ACTIVATIONS else Activations.parse(self.activations)

    @property
    def cache(self) -> CacheFormat | None:
        """The format of the key-value cache; None: 16 bit."""
        return None if self.kv == NO_CACHE else CacheFormat.parse(self.kv)

    def at(self, kind: str) -> Setting:
        """What it is to the weights of sites of a kind."""
        if self.attention_bits is None or kind not in ("qkv", "attention_output"):
            return self
        return replace(self, bits=self.attention_bits, attention_bits=None)

    @property
    def needs_statistics(self) -> bool:
        """Whether it is made with what reaches the matrices on calibration text."""
        activations = self.activation_format
        return (
            self.needs_hessians
            or ((folding := self.folding_method) is not None and folding.needs_statistics)
            or (activations is not None and activations.needs_statistics)
            or ((cache := self.cache) is not None and cache.needs_statistics)
        )

    @property
    def needs_hessians(self) -> bool:
        """Whether weights are rounded with the Hessians of what they multiply."""
        return self.method == "gptq" or self.clip_weighting == "hessian"

    @property
    def is_sequential(self) -> bool:
        """Whether each block's Hessians are those of inputs from the blocks already rounded."""
        return self.method == "gptq" and self.gptq_hessian == "sequential"

    @property
    def granularity(self) -> Granularity:
        return Granularity(self.block_size, self.by_row)

    @property
    def bits_per_param(self) -> float:
        """Nominal bits per parameter: k + 16/B (+ 16/B centered) + p(16 - k) (section 5.2).

        One block a tensor counts as 16/B = 0. So does one a row, until the model's rows are known:
        `quantizers.size` counts the constants of rows and groups, and weights by their bits where
        attention has others.
        """
        constants = 0.0 if self.block_size is None else 16 / self.block_size
        return self.bits_with(constants, self.bits)

    def bits_with(self, absmax: float, bits: float) -> float:
        """Nominal bits per parameter where a weight takes `bits` and so many of an absmax."""
        return bits + absmax * (1 + self.centered) + self.outlier_fraction * (16 - bits)

    @property
    def label(self) -> str:
        """Short and unique: "16-bit", "4-bit float E2 B64", "3-bit int per tensor p=2%"."""
        parts = ["16-bit"] if self.keeps_weights else self._weight_labels
        parts += [f"folded {self.folding}"] if self.folding_method is not None else []
        parts += [a.label] if (a := self.activation_format) is not None else []
        parts += [cache.label] if (cache := self.cache) is not None else []
        parts += [f"on {self.calibration}"] if self.calibration else []
        return " ".join(parts)

    @property
    def _weight_labels(self) -> list[str]:
        exponent = f" E{self.exponent_bits}" if self.exponent_bits is not None else ""
        block = {(True, True): " per row", (True, False): " per tensor"}.get(
            (self.block_size is None, self.by_row),
            f" {'G' if self.by_row else 'B'}{self.block_size}",
        )
        parts = [f"{self.bits}-bit {self.data_type}{exponent}{block}"]
        parts += [f"attention {self.attention_bits}-bit"] if self.attention_bits else []
        parts += [f"p={self.outlier_fraction:.3g}"] if self.outlier_fraction else []
        parts += ["centered"] if self.centered else []
        parts += [self.scales] if self.scales != "absmax" else []
        parts += [f"by {self.clip_weighting}"] if self.clip_weighting != "plain" else []
        parts += [f"scope {self.scope}"] if self.scope != "linear" else []
        parts += [self.method] if self.method != "rtn" else []
        parts += [] if self.gptq_order else ["unordered"]
        parts += [f"damping {self.gptq_damping:g}"] if self.gptq_damping != 0.01 else []
        parts += [self.gptq_hessian] if self.gptq_hessian != "original" else []
        parts += [f"dead {self.gptq_dead}"] if self.gptq_dead != "nearest" else []
        return parts

    def row(self) -> dict[str, Any]:
        """Its columns, as tables store them."""
        return asdict(self)

    def identity(self) -> dict[str, Any]:
        """What ids are made of, JSON-able: the fields of the first version always, later ones
        where they differ from their default, so that ids of older settings stay."""
        return {
            field.name: getattr(self, field.name)
            for field in fields(self)
            if field.name in _ALWAYS_IN_ID or getattr(self, field.name) != field.default
        }


SETTING_COLUMNS: tuple[str, ...] = tuple(field.name for field in fields(Setting))

# fmt: off
_ALWAYS_IN_ID = frozenset((
    "bits", "data_type", "exponent_bits", "block_size", "centered", "outlier_fraction", "scope",
    "method",
))
# fmt: on

# Columns that tables written by older versions lack, and what they mean there.
ADDED_COLUMNS: dict[str, Any] = {
    field.name: field.default for field in fields(Setting) if field.name not in _ALWAYS_IN_ID
}


def _exponent_bits(setting: Setting) -> int | None:
    given, bits = setting.exponent_bits, setting.bits
    if base_type(setting.data_type) != "float":
        if given is not None:
            raise ValueError(
                f"exponent_bits: only the float data type has them, not {setting.data_type!r}; "
                "remove it"
            )
        return None
    if given is None:
        return default_exponent_bits(bits)
    if not _is_int(given) or not 1 <= given <= bits - 1:
        raise ValueError(
            f"exponent_bits: {given!r} does not fit a {bits}-bit float, which takes 1 to {bits - 1}"
        )
    return given


def _rounding(spelled: Any) -> tuple[str, dict[str, Any]]:
    """(method, its options as fields)."""
    if spelled == "nearest":
        return "rtn", {}
    if isinstance(spelled, Mapping) and set(spelled) == {"gptq"}:
        options = spelled["gptq"]
        unknown = set(options) - set(GPTQ_OPTIONS) if isinstance(options, Mapping) else {options}
        if unknown:
            raise ValueError(
                f"rounding: gptq has no option {', '.join(map(repr, sorted(unknown, key=str)))}; "
                f"known: {', '.join(GPTQ_OPTIONS)}"
            )
        return "gptq", {f"gptq_{name}": value for name, value in options.items()}
    if spelled != "gptq":
        raise ValueError(f"rounding: {spelled!r} is not one of nearest, gptq")
    return "gptq", {}


def _granularity(spelled: Any) -> Granularity:
    group = isinstance(spelled, Mapping) and set(spelled) == {"group"}
    size = spelled["group"] if group else spelled
    if spelled is None or spelled == "row":
        return Granularity(None, spelled == "row")
    if not _is_int(size) or size < 1:
        raise ValueError(
            f"block_size: {spelled!r} is not a whole number >= 1, null (one block a tensor), "
            "row (one a row) or {group: 128} (of a row)"
        )
    return Granularity(size, group)


def _activations(row: Mapping[str, Any]) -> str:
    """CSV files give 16 back as a number."""
    cell = row.get("activations", NO_ACTIVATIONS)
    return NO_ACTIVATIONS if str(cell) == "16.0" else activations_text(str(cell))


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _missing(cell: object) -> bool:
    return str(cell) in ("", "None", "nan", "NaN", "<NA>")


def _number(row: Mapping[str, Any], column: str) -> float:
    if column not in row:
        raise ValueError(f"{column} is missing")
    try:
        number = float(row[column])
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{column} {row[column]!r} is not a number")
    return number


def _whole(row: Mapping[str, Any], column: str) -> int | None:
    if column not in row:
        return None
    number = _number(row, column)
    if number != int(number) or number < 1:
        raise ValueError(f"{column} {row[column]!r} is not a whole number >= 1")
    return int(number)


def _flag(row: Mapping[str, Any], column: str) -> bool:
    text = str(row.get(column, False)).lower()
    if text not in ("true", "false", "1", "0", "1.0", "0.0"):
        raise ValueError(f"{column} {row[column]!r} is neither true nor false")
    return text in ("true", "1", "1.0")
