"""What determines a trained model: architecture, optimisation and seed.

The optimiser settings follow *Intriguing properties of quantization at scale* (Ahmadian et al.
2023, section 3): AdamW with betas (0.9, 0.95), weight decay 0.1, gradient clipping at 1.0, no
dropout, linear warm-up and cosine decay. Input and output embeddings are separate, as in Pythia.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from transformers import GPTNeoXConfig, OPTConfig, PretrainedConfig

CONTEXT = 256
VOCAB_SIZE = 2048
HEAD_DIM = 16

# hidden size x layers: linear-layer parameters double at every step (12 h^2 L), 24,576 to 786,432.
LADDER = ((32, 2), (32, 4), (64, 2), (64, 4), (128, 2), (128, 4))
ARCHITECTURES = {"sotu-neox": "gpt_neox", "sotu-opt": "opt"}


@dataclass(frozen=True)
class Recipe:
    """Everything a training run depends on besides the text, the tokenizer and the device."""

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
    clip_norm: float = 1.0
    dropout: float = 0.0
    final_lr_fraction: float = 0.1
    seed: int = 0
    threads: int = 1

    def __post_init__(self) -> None:
        if self.architecture not in ARCHITECTURES.values():
            raise ValueError(
                f"architecture {self.architecture!r} is not one of {sorted(ARCHITECTURES.values())}"
            )

    @property
    def linear_params(self) -> int:
        """Parameters of the attention and FFN projections, biases not counted."""
        return 12 * self.hidden_size**2 * self.n_layers

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Recipe:
        values = dict(values)
        values["betas"] = tuple(values["betas"])
        return cls(**values)

    def model_config(self, end_of_text_id: int) -> PretrainedConfig:
        """The transformers configuration of the model this recipe trains."""
        h = self.hidden_size
        # "small init" (Nguyen & Salazar 2019), which GPT-NeoX uses: sqrt(2 / 5h).
        init_std = (2 / (5 * h)) ** 0.5
        special: dict[str, Any] = {"bos_token_id": end_of_text_id, "eos_token_id": end_of_text_id}
        if self.architecture == "gpt_neox":
            return GPTNeoXConfig(
                vocab_size=self.vocab_size,
                hidden_size=h,
                num_hidden_layers=self.n_layers,
                num_attention_heads=h // HEAD_DIM,
                intermediate_size=4 * h,
                max_position_embeddings=self.context,
                hidden_dropout=self.dropout,
                attention_dropout=self.dropout,
                initializer_range=init_std,
                tie_word_embeddings=False,
                **special,
            )
        return OPTConfig(
            vocab_size=self.vocab_size,
            hidden_size=h,
            word_embed_proj_dim=h,
            num_hidden_layers=self.n_layers,
            num_attention_heads=h // HEAD_DIM,
            ffn_dim=4 * h,
            max_position_embeddings=self.context,
            dropout=self.dropout,
            attention_dropout=self.dropout,
            init_std=init_std,
            tie_word_embeddings=False,
            pad_token_id=end_of_text_id,
            **special,
        )


def ladder_recipe(name: str) -> Recipe:
    """The recipe of one rung, by name, e.g. ``sotu-neox-64x4``.

    Raises ValueError for a name that is not in the ladder.
    """
    family, _, size = name.rpartition("-")
    rungs = {f"{h}x{n}": (h, n) for h, n in LADDER}
    if family not in ARCHITECTURES or size not in rungs:
        known = ", ".join(f"{f}-{s}" for f in ARCHITECTURES for s in rungs)
        raise ValueError(f"no model {name!r} in the ladder; known: {known}")
    hidden, layers = rungs[size]
    # Learning rate falls with the square root of the width.
    return Recipe(
        architecture=ARCHITECTURES[family],
        hidden_size=hidden,
        n_layers=layers,
        learning_rate=round(1e-2 * (64 / hidden) ** 0.5, 6),
    )
