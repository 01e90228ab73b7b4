"""What a config tells of a model's matrices, beside the matrices themselves."""

import pytest

from quantizers.dimensions import dimensions, groups_are_blocks
from quantizers.setting import Setting
from quantizers.wiring import wiring_of
from tests.quantizers.tiny_models import CONFIGS, KNOWN, LAYERS, MIXTURES, tiny_model


@pytest.mark.parametrize("architecture", KNOWN)
def test_they_are_those_of_the_model(architecture):
    model = tiny_model(architecture)
    wiring, found = wiring_of(model), dimensions(model.config.to_dict())
    assert found is not None and found.layers == LAYERS
    rows = {site.weight.shape[1] for site in wiring.in_scope("all")}
    assert found.rows == rows
    kinds = ("qkv", "attention_output", "up", "down")
    for kind, size in zip(kinds, found.block, strict=True):
        assert {site.weight.shape[1] for site in wiring.linear if site.kind == kind} == {size}
    assert found.head == any(site.kind == "head" for site in wiring.embeddings)


def test_what_is_not_known_is_not_guessed():
    for name in ("gemma", *MIXTURES):
        assert dimensions((CONFIGS | MIXTURES)[name]().to_dict()) is None
    assert dimensions({}) is None
    assert dimensions({"model_type": "opt", "hidden_size": 64, "num_hidden_layers": 2}) is None


@pytest.mark.parametrize(
    ("factors", "same"),
    [
        ({"block_size": {"group": 8}}, True),
        ({"block_size": {"group": 7}}, False),
        ({"block_size": {"group": 48}}, False),  # of which a row of 24 is a half
        ({"block_size": 8}, False),  # blocks they are, but no groups
        ({"block_size": "row"}, False),
        ({"block_size": {"group": 3}, "outlier_fraction": 0.125}, True),  # 3 of 24, 6 of 48
        ({"block_size": {"group": 8}, "outlier_fraction": 0.125}, False),
    ],
)
def test_groups_that_divide_all_rows_are_blocks(factors, same):
    config = CONFIGS["gpt_neox"]().to_dict()
    setting = Setting.make(4, "int", **factors)
    assert groups_are_blocks(config, setting) is same
    assert not groups_are_blocks({}, setting)
