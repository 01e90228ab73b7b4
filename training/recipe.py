"""What determines a trained model: architecture, optimisation and seed, as one value.

The defaults follow *Intriguing properties of quantization at scale* (Ahmadian et al. 2023, section
3): AdamW with betas (0.9, 0.95), weight decay 0.1, gradient clipping at 1.0, no dropout, linear
warm-up and cosine decay. The paper's axes are fields: `weight_decay`, `clip_norm`, `dropout`,
`dtype`. Input and output embeddings are separate, as in the paper and in Pythia.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass, fields
from typing import Any

CONTEXT = 256
VOCAB_SIZE = 2048
HEAD_DIM = 16
ARCHITECTURES = ("bloom", "gpt2", "gpt_neox", "llama", "opt")
DTYPES = ("fp32", "bf16", "fp16")
SCHEDULES = ("cosine", "constant", "constant-decay")

ClipNorm = float | dict[str, float] | None
_TAKES = {"int": "a whole number", "float": "a number", "str": "text", "bool": "true or false"}


@dataclass(frozen=True)
class Recipe:
    """Everything a training run depends on besides the text, the tokenizer and the device.

    Raises ValueError, naming the field, for a value with which no model can be trained.
    """

    architecture: str
    hidden_size: int
    n_layers: int
    learning_rate: float
    steps: int = 2000
    warmup_steps: int = 100
    batch_size: int = 16
    context: int = CONTEXT
    vocab_size: int = VOCAB_SIZE
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.1
    clip_norm: ClipNorm = (
        1.0  # of the gradient; {"median": m}: m times the median of the run so far
    )
    dropout: float = 0.0  # of what attention and MLP add to the residual stream, nowhere else
    final_lr_fraction: float = 0.1
    seed: int = 0
    threads: int = 1
    kv_heads: int | None = None  # of grouped queries; None: as many as query heads
    heads: int | None = None  # None: hidden_size / 16
    dtype: str = (
        "fp32"  # fp16, bf16: of everything but the master weights and the norms' arithmetic
    )
    schedule: str = "cosine"  # after the warm-up
    decay_fraction: float = 0.2  # of the steps, at the end: the decay of constant-decay
    decay_norms: bool = False  # whether weight decay acts on the norms' gains too
    loss_scale: float = 2.0**16  # of fp16, at the start; halved when a gradient overflows
    loss_scale_growth: int = 200  # good steps after which it doubles

    def __post_init__(self) -> None:
        for problem in self._mistyped() or self._problems():
            raise ValueError(problem)

    def _mistyped(self) -> list[str]:
        """Values of another type than their field's: true is no number, nor is infinity."""
        problems = []
        for field in fields(self):
            value, kind = getattr(self, field.name), str(field.type).removesuffix(" | None")
            unset = value is None and kind != field.type
            if kind in _TAKES and not unset and not _is_of(kind, value):
                problems.append(f"{field.name}: takes {_TAKES[kind]}, not {value!r}")
        return problems

    def _problems(self) -> list[str]:
        heads = self.n_heads
        dtypes, schedules = ", ".join(DTYPES), ", ".join(SCHEDULES)
        positive: tuple[str, ...] = (
            "hidden_size",
            "n_layers",
            "learning_rate",
            "steps",
            "batch_size",
            "threads",
        )
        positive += ("loss_scale", "loss_scale_growth")
        checks = [
            *((getattr(self, name) > 0, f"{name}: must be above 0") for name in positive),
            (
                self.architecture in ARCHITECTURES,
                f"architecture {self.architecture!r} is not one of {list(ARCHITECTURES)}",
            ),
            (self.context >= 2, "context: must be at least 2 tokens"),
            (self.seed >= 0, "seed: must be 0 or more"),
            (0 <= self.warmup_steps <= self.steps, "warmup_steps: must be 0 ... steps"),
            (self.weight_decay >= 0, "weight_decay: must be 0 or more"),
            (_can_average(self.betas), "betas: two numbers from 0 on, below 1"),
            (
                0 <= self.dropout < 1,
                "dropout: must be 0 or more and below 1, where nothing is left",
            ),
            (_can_clip(self.clip_norm), "clip_norm: a number above 0, none, or {median: number}"),
            (self.dtype in DTYPES, f"dtype {self.dtype!r} is not one of {dtypes}"),
            (self.schedule in SCHEDULES, f"schedule {self.schedule!r} is not one of {schedules}"),
            (0 < self.decay_fraction <= 1, "decay_fraction: must be above 0 and at most 1"),
            (0 <= self.final_lr_fraction <= 1, "final_lr_fraction: must be 0 ... 1"),
            (heads > 0 and self.hidden_size % heads == 0, "heads: must divide hidden_size"),
            (heads % (self.kv_heads or heads) == 0, "kv_heads: must divide the number of heads"),
            (
                self.kv_heads is None or self.architecture == "llama",
                "kv_heads: grouped queries are Llama's",
            ),
        ]
        return [message for holds, message in checks if not holds]

    @property
    def n_heads(self) -> int:
        return self.heads or max(1, self.hidden_size // HEAD_DIM)

    @property
    def linear_params(self) -> int:
        """Parameters of the attention and FFN projections, biases not counted."""
        per_block = 13 if self.architecture == "llama" else 12
        return per_block * self.hidden_size**2 * self.n_layers

    @property
    def flops(self) -> float:
        """Of all steps, forward and backward: 6 a weight of a product and 12 L h T of attention a
        token (Chowdhery et al. 2022, appendix B)."""
        weights = self.linear_params + self.vocab_size * self.hidden_size
        attention = 12 * self.n_layers * self.hidden_size * self.context
        return float(self.tokens) * (6 * weights + attention)

    @property
    def tokens(self) -> int:
        """Tokens seen in all steps."""
        return self.steps * self.batch_size * self.context

    @property
    def digest(self) -> str:
        """16 hex digits of what differs from the defaults: later fields do not change it."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        told = {f.name: values[f.name] for f in fields(self) if values[f.name] != f.default}
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Recipe:
        """Raises ValueError for a field there is not, is missing or has the wrong type."""
        values = dict(values)
        known = {f.name for f in fields(cls)}
        if unknown := set(values) - known:
            raise ValueError(f"unknown field {sorted(unknown)[0]!r}; known: {', '.join(known)}")
        if isinstance(values.get("betas"), list):
            values["betas"] = tuple(values["betas"])
        try:
            return cls(**values)
        except TypeError as error:
            raise ValueError(f"not a recipe: {error}") from None


def _can_clip(clip: ClipNorm) -> bool:
    if isinstance(clip, dict):
        return list(clip) == ["median"] and _can_clip(clip["median"])
    return clip is None or (_is_of("float", clip) and clip > 0)


def _can_average(betas: Any) -> bool:
    two = isinstance(betas, tuple) and len(betas) == 2
    return two and all(_is_of("float", beta) and 0 <= beta < 1 for beta in betas)


def _is_of(kind: str, value: Any) -> bool:
    """Whether a value is of the type of this name, a whole number being a number too."""
    if isinstance(value, bool) or kind == "bool":
        return isinstance(value, bool) and kind == "bool"
    if kind == "float":
        return isinstance(value, int | float) and math.isfinite(value)
    return isinstance(value, {"int": int, "str": str}[kind])
