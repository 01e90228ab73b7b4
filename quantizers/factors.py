"""The factors of a setting as fields, and what follows from them. Torch-free.

A new factor is a field here, with a word in `_TOLD` for labels: grids, rows, ids, tables, the view
and CSV files take it from there.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Self

from quantizers.activations.cache_format import NONE as NO_CACHE
from quantizers.activations.cache_format import CacheFormat
from quantizers.activations.format import NONE as NO_ACTIVATIONS
from quantizers.activations.format import Activations
from quantizers.folding.method import HADAMARD, Method
from quantizers.folding.method import NONE as NO_FOLDING
from quantizers.granularity import Granularity

A_MATRIX = "a matrix"


def _a_matrix(**default: Any) -> Any:
    """A field that says how one matrix is rounded and stored, whatever is done to others."""
    return field(**default, metadata={A_MATRIX: True})


@dataclass(frozen=True)
class Factors:
    """What is done to a model, in canonical form: see `quantizers.setting.Setting`, which makes
    them."""

    method: str  # "none" at 16 bit, "rtn" (round to nearest), "gptq"; imports: any name
    # An int from 2 to 16, 16 = the 16-bit weights as they are; imports: any number.
    bits: float = _a_matrix()
    data_type: str | None = _a_matrix(default=None)  # None at 16 bit; imports: any name
    exponent_bits: int | None = _a_matrix(default=None)  # float only
    # Weights that share one absmax; None = one block a tensor.
    block_size: int | None = _a_matrix(default=None)
    # Share of input dimensions kept in 16 bit (section 3).
    outlier_fraction: float = _a_matrix(default=0.0)
    centered: bool = _a_matrix(default=False)  # subtract each block's mean first (appendix B)
    scope: str = "linear"  # one of SCOPES
    # Blocks do not cross output rows; block_size None = one block a row.
    by_row: bool = _a_matrix(default=False)
    scales: str = _a_matrix(default="absmax")  # clipped: a part of it, of least squared error
    clip_weighting: str = _a_matrix(default="plain")  # what an error counts, by column
    # Columns by descending diagonal of the Hessian, not as they come.
    gptq_order: bool = _a_matrix(default=True)
    gptq_damping: float = _a_matrix(default=0.01)  # as a share of the mean of that diagonal
    gptq_hessian: str = "original"  # of the 16-bit model, or sequential: of blocks rounded
    gptq_dead: str = _a_matrix(default="nearest")  # what weights become whose input is always 0
    attention_bits: int | None = None  # of QKV and attention output, where they have others
    folding: str = NO_FOLDING  # the text of a `folding.method.Method`
    activations: str = NO_ACTIVATIONS  # the text of an `activations.format.Activations`
    kv: str = NO_CACHE  # the text of an `activations.cache_format.CacheFormat`
    calibration: str | None = None  # what names its text for good, where a method reads any

    @property
    def is_baseline(self) -> bool:
        """Whether it is the 16-bit model as it was loaded: no factor is at work."""
        return self == type(self)(self.method, 16)

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
    def basis(self) -> Self:
        """The 16-bit setting whose statistics it reads: as loaded, or rotated."""
        return type(self)("none", 16, folding=self.folding if self.is_rotated else NO_FOLDING)

    @property
    def activation_format(self) -> Activations | None:
        return None if self.activations == NO_ACTIVATIONS else Activations.parse(self.activations)

    @property
    def cache(self) -> CacheFormat | None:
        """The format of the key-value cache; None: 16 bit."""
        return None if self.kv == NO_CACHE else CacheFormat.parse(self.kv)

    def at(self, kind: str) -> Self:
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
        others = [
            told.format(getattr(self, name))
            for name, told in _TOLD.items()
            if getattr(self, name) != ("rtn" if name == "method" else FIELDS[name].default)
        ]
        return [f"{self.bits}-bit {self.data_type}{exponent}{block}", *others]

    def row(self) -> dict[str, Any]:
        """Its columns, as tables store them."""
        return asdict(self)

    def identity(self) -> dict[str, Any]:
        """What ids are made of, JSON-able: the fields of the first version always, later ones
        where they differ from their default, so that ids of older settings stay."""
        return {
            field.name: getattr(self, field.name)
            for field in fields(self)
            if field.name in ALWAYS_IN_ID or getattr(self, field.name) != field.default
        }


FIELDS = {field.name: field for field in fields(Factors)}

# How a label tells what differs from its default.
_TOLD = {
    "attention_bits": "attention {}-bit",
    "outlier_fraction": "p={:.3g}",
    "centered": "centered",
    "scales": "{}",
    "clip_weighting": "by {}",
    "scope": "scope {}",
    "method": "{}",
    "gptq_order": "unordered",
    "gptq_damping": "damping {:g}",
    "gptq_hessian": "{}",
    "gptq_dead": "dead {}",
}

# fmt: off
ALWAYS_IN_ID = frozenset((
    "bits", "data_type", "exponent_bits", "block_size", "centered", "outlier_fraction", "scope",
    "method",
))
# fmt: on
