import pytest

from quantizers.recipes import RECIPES, recipe_of
from quantizers.setting import Setting


def test_every_recipe_is_a_setting_of_its_own():
    settings = {name: recipe.setting for name, recipe in RECIPES.items()}
    assert len(set(settings.values())) == len(RECIPES)
    assert all(recipe_of(setting) == name for name, setting in settings.items())


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("vectorwise-w8a8", "8-bit int per row A8 token"),
        ("w8a8-naive", "8-bit int per tensor A8 tensor"),
        ("llm-int8", "8-bit int per row A8 decomposed"),
        ("smoothquant-w8a8", "8-bit int per row folded smoothquant 0.5 A8 token"),
        ("sq-w4a8-tensor", "4-bit int per row folded smoothquant 0.5 A8 tensor"),
        ("sq-w4a8-fine", "4-bit int G128 folded smoothquant 0.5 A8 by_type"),
        ("fptq", "4-bit int G128 folded logarithmic 1.0 A8 by_type"),
        ("fptq-gptq", "4-bit int G128 gptq folded logarithmic 1.0 A8 by_type"),
        ("gptq", "4-bit int per row gptq"),
    ],
)
def test_recipes_are_what_papers_say(name, label):
    assert RECIPES[name].setting.label == label


def test_a_recipe_is_recognized_by_its_factors():
    fptq = {"bits": 4, "data_type": "int", "folding": "logarithmic", "activations": "by_type"}
    assert recipe_of(Setting.make(**fptq, block_size={"group": 128}, calibration="any")) == "fptq"
    assert recipe_of(Setting.make(**fptq, block_size={"group": 64})) is None
    assert recipe_of(Setting.make(16)) is None


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_overridden_into_its_opposite_has_no_name(name):
    """Or that of the recipe which it then is: gptq that rounds to nearest is columnwise-w4."""
    factors = dict(RECIPES[name].factors)
    opposites = {
        "activations": 16,
        "folding": "none",
        "rounding": "nearest",
        "data_type": "dynamic",
    }
    for factor in set(opposites) & set(factors):
        other = Setting.make(**factors | {factor: opposites[factor]})
        assert recipe_of(other) != name
        called = {n for n, r in RECIPES.items() if r.setting == other}
        assert called == ({recipe_of(other)} - {None})
