"""Recipes: names for bundles of factors, as papers use them. Torch-free.

A sweep file's `recipe: [fptq, llm-int8]` stands for the factors; keys beside it override them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from quantizers.setting import Setting

_SMOOTHQUANT = "SmoothQuant (Xiao et al. 2023)"
_FPTQ = "FPTQ (Li et al. 2023)"
_WEIGHTS_8: dict[str, Any] = {"bits": 8, "data_type": "int", "block_size": "row"}
_WEIGHTS_4: dict[str, Any] = {"bits": 4, "data_type": "int", "block_size": "row"}
_FINE_4: dict[str, Any] = {"bits": 4, "data_type": "int", "block_size": {"group": 128}}
_EQUALIZED = {"folding": {"logarithmic": 1.0}, "activations": {"by_type": 8}}


@dataclass(frozen=True)
class Recipe:
    """Factors of `Setting.make`, spelled as sweep files do."""

    paper: str
    factors: Mapping[str, Any]

    @property
    def setting(self) -> Setting:
        """The recipe as it is, without a calibration."""
        return Setting.make(**self.factors)


def _smooth(weights: Mapping[str, Any], activations: str, place: str = "") -> Recipe:
    factors = {**weights, "folding": {"smoothquant": 0.5}, "activations": {activations: 8}}
    return Recipe(f"{_FPTQ}, {place}" if place else _SMOOTHQUANT, factors)


RECIPES: dict[str, Recipe] = {
    "vectorwise-w8a8": Recipe("Ahmadian et al. 2023", {**_WEIGHTS_8, "activations": {"token": 8}}),
    "columnwise-w4": Recipe("Ahmadian et al. 2023", _WEIGHTS_4),
    "w8a8-naive": Recipe(
        "one scale a tensor on both sides",
        {**_WEIGHTS_8, "block_size": None, "activations": {"tensor": 8}},
    ),
    "llm-int8": Recipe(
        "LLM.int8() (Dettmers et al. 2022), decided token by token",
        {**_WEIGHTS_8, "activations": {"decomposed": {"bits": 8, "threshold": 6.0}}},
    ),
    "zeroquant": Recipe(
        "ZeroQuant (Yao et al. 2022)",
        {**_WEIGHTS_8, "block_size": {"group": 128}, "activations": {"token": 8}},
    ),
    "zeroquant-w4a8": Recipe(
        "ZeroQuant (Yao et al. 2022), W4 in the MLP, W8 in attention",
        {**_FINE_4, "attention_bits": 8, "activations": {"token": 8}},
    ),
    "smoothquant-w8a8": _smooth(_WEIGHTS_8, "token"),
    "smoothquant-w8a8-static": _smooth(_WEIGHTS_8, "tensor"),
    "sq-w4a8-tensor": _smooth(_WEIGHTS_4, "tensor", "table 10, row 1"),
    "smoothquant-w4a8": _smooth(_WEIGHTS_4, "token", "table 10, row 2"),
    "sq-w4a8-fine": _smooth(_FINE_4, "by_type", "table 10, row 3"),
    "fptq": Recipe(_FPTQ + ", table 10, row 4", {**_FINE_4, **_EQUALIZED}),
    "fptq-gptq": Recipe(_FPTQ + ", table 7", {**_FINE_4, **_EQUALIZED, "rounding": "gptq"}),
    "awq": Recipe("AWQ (Lin et al. 2023)", {**_FINE_4, "folding": "awq"}),
    "gptq": Recipe("GPTQ (Frantar et al. 2022)", {**_WEIGHTS_4, "rounding": "gptq"}),
}


_NAMES: Mapping[Setting, str] = {recipe.setting: name for name, recipe in RECIPES.items()}


def recipe_of(setting: Setting) -> str | None:
    """The recipe whose factors a setting has, all of them, whatever its calibration; None: none.

    So a recipe with a factor overridden has no name, unless it is another one then.
    """
    return _NAMES.get(replace(setting, calibration=None))
