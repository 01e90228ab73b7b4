import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, OPTConfig, OPTForCausalLM

from analysis.findings.outliers import PAIRS, outlier_correlations, summary
from evaluation.activations import input_magnitudes
from quantizers.wiring import wiring_of


def tiny(kind: str) -> torch.nn.Module:
    torch.manual_seed(0)
    if kind == "gpt2":
        config = GPT2Config(vocab_size=64, n_positions=32, n_embd=32, n_layer=2, n_head=2)
        return GPT2LMHeadModel(config).eval()
    options = dict(vocab_size=64, hidden_size=32, num_hidden_layers=2, ffn_dim=64)
    options |= dict(num_attention_heads=2, max_position_embeddings=32, word_embed_proj_dim=32)
    return OPTForCausalLM(OPTConfig(**options)).eval()


WINDOWS = [list(range(1, 21)), list(range(30, 40))]


def record(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    matrices = [(site.name, site.module) for site in wiring_of(model).linear]
    return input_magnitudes(model, matrices, WINDOWS)


def test_magnitudes_are_those_of_the_inputs() -> None:
    model = tiny("opt")
    layer = model.get_submodule("model.decoder.layers.1.fc1")
    seen = []
    hook = layer.register_forward_pre_hook(lambda _m, x: seen.append(x[0].reshape(-1, 32)))
    recorded = record(model)["model.decoder.layers.1.fc1"]
    hook.remove()
    expected = torch.cat(seen).abs().double().mean(dim=0)
    torch.testing.assert_close(recorded, expected)
    assert not layer._forward_pre_hooks  # nothing of ours is left on the model
    with pytest.raises(ValueError, match="no windows"):
        input_magnitudes(model, [], [])


@pytest.mark.parametrize("kind", ["opt", "gpt2"])
def test_every_layer_has_table_2_s_pairs(kind: str) -> None:
    model = tiny(kind)
    table = outlier_correlations(model, record(model))
    assert table.groupby("layer")["pair"].apply(list).tolist() == [list(PAIRS.values())] * 2
    assert table[["spearman", "pearson"]].abs().to_numpy().max() <= 1
    rows = summary(table)
    assert rows["layers"].tolist() == [2, 2, 2] and (rows["std_ratio"] > 1).all()


@pytest.mark.parametrize("kind", ["opt", "gpt2"])
def test_a_unit_with_large_weights_is_found_where_it_goes(kind: str) -> None:
    model = tiny(kind)
    sites = wiring_of(model).linear
    target = next(site for site in sites if site.kind == "down")
    producer = next(site for site in sites if site.name == target.producer.site)
    scale = torch.linspace(0.1, 20, target.producer.rows.numel())
    with torch.no_grad():
        producer.parameter.mul_(scale if producer.transposed else scale[:, None])
    table = outlier_correlations(model, record(model))
    row = table[(table["layer"] == 0) & (table["pair"] == PAIRS["FFN2"])].iloc[0]
    assert row["spearman"] > 0.7 and row["std_ratio"] == pytest.approx(2, abs=0.6)
    assert np.isfinite(row["pearson"])
