"""The recipes of the embedded models: four families of six sizes on one text and tokenizer."""

from __future__ import annotations

from training.recipe import Recipe

# hidden size x layers: linear-layer parameters double at every step (12 h^2 L, Llama 13 h^2 L),
# 24,576 to 851,968.
LADDER = ((32, 2), (32, 4), (64, 2), (64, 4), (128, 2), (128, 4))
FAMILIES = {
    "sotu-neox": "gpt_neox",
    "sotu-opt": "opt",
    "sotu-llama": "llama",
    "sotu-bloom": "bloom",
}
# Peak learning rate at hidden size 64, steps, warm-up steps.
OPTIMIZATION = {
    "gpt_neox": (1e-2, 2000, 100),
    "opt": (1e-2, 2000, 100),
    "llama": (6e-3, 600, 60),
    "bloom": (6e-3, 600, 60),
}


def learning_rate(architecture: str, hidden_size: int) -> float:
    """The ladder's peak learning rate: it falls with the square root of the width."""
    peak = OPTIMIZATION[architecture][0]
    return round(peak * (64 / hidden_size) ** 0.5, 6)


def ladder_recipe(name: str) -> Recipe:
    """The recipe of one rung, by name, e.g. ``sotu-neox-64x4``.

    Raises ValueError for a name that is not in the ladder.
    """
    family, _, size = name.rpartition("-")
    rungs = {f"{h}x{n}": (h, n) for h, n in LADDER}
    if family not in FAMILIES or size not in rungs:
        known = ", ".join(f"{f}-{s}" for f in FAMILIES for s in rungs)
        raise ValueError(f"no model {name!r} in the ladder; known: {known}")
    hidden, layers = rungs[size]
    architecture = FAMILIES[family]
    _, steps, warmup_steps = OPTIMIZATION[architecture]
    return Recipe(
        architecture=architecture,
        hidden_size=hidden,
        n_layers=layers,
        learning_rate=learning_rate(architecture, hidden),
        steps=steps,
        warmup_steps=warmup_steps,
        kv_heads=2 if architecture == "llama" and (hidden, layers) == LADDER[-1] else None,
    )
