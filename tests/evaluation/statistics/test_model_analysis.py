"""A model's analysis against its pieces by hand, and planted outliers: what must rise, does."""

import pytest
import torch
from transformers import AutoModelForCausalLM, GPTNeoXConfig, LlamaConfig

from evaluation.statistics import tensor_metrics as m
from evaluation.statistics.model_analysis import ACTIVATION_METRICS, ModelAnalysis, vectorwise
from quantizers.plant import plant

SIZE = {"vocab_size": 64, "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4}
CONFIGS = {
    "gpt_neox": GPTNeoXConfig(**SIZE, intermediate_size=128),
    "llama": LlamaConfig(**SIZE, intermediate_size=96, num_key_value_heads=2),
}
WINDOWS = torch.randint(0, 64, (4, 24), generator=torch.Generator().manual_seed(0)).tolist()


def model_of(name):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(CONFIGS[name]).eval()


@pytest.mark.parametrize("name", CONFIGS)
def test_rows_are_the_metrics_of_each_sites_input(name):
    model = model_of(name)
    rows = ModelAnalysis(model, WINDOWS).sites()
    per_block = {"gpt_neox": 4, "llama": 7}[name]
    assert len(rows) == 3 * per_block
    assert [row["block"] for row in rows] == [b for b in range(3) for _ in range(per_block)]
    row = next(r for r in rows if r["block"] == 1 and r["kind"] == "down")
    assert row["gain_std"] is None
    module, seen = model.get_submodule(row["site"]), []
    hook = module.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0][0]))
    with torch.no_grad():
        for window in WINDOWS:
            model(input_ids=torch.tensor([window]))
    hook.remove()
    w = module.weight.detach()
    expected = {metric: 0.0 for metric in ACTIVATION_METRICS}
    for x in seen:
        x_hat = vectorwise(x)
        expected["rmse"] += m.rmse(x, x_hat) / 4
        expected["relative_rmse"] += m.relative_rmse(x, x_hat) / 4
        expected["relative_output_error"] += m.relative_output_error(x, w, x_hat, vectorwise(w)) / 4
        for metric in ACTIVATION_METRICS[3:]:
            expected[metric] += getattr(m, metric)(x) / 4
    assert {metric: row[metric] for metric in expected} == pytest.approx(expected, rel=1e-5)
    assert row["spectral_norm"] == pytest.approx(torch.linalg.svdvals(w)[0].item(), rel=1e-4)


def test_vectorwise_rounds_rows_symmetrically():
    x = torch.tensor([[0.0, 127.0, -64.5, 1.5], [0.0, 0.0, 0.0, 0.0], [0.5, -0.25, 0.1, 0.0]])
    assert torch.equal(vectorwise(x)[0], torch.tensor([0.0, 127.0, -64.0, 2.0]))
    assert torch.equal(vectorwise(x)[1], torch.zeros(4))
    assert (vectorwise(x)[2] - x[2]).abs().max() <= 0.5 / 127 / 2 + 1e-7


def test_planted_outliers_raise_what_follows_damage_and_are_found():
    """Max/median and the relative output error rise with every dose; the spectral norm does not."""
    doses = [(0, 1.0), (1, 16.0), (1, 64.0), (4, 64.0), (4, 256.0)]
    means, counts = [], []
    for channels, factor in doses:
        model = model_of("gpt_neox")
        planted = plant(model, channels, factor, seed=2) if channels else {}
        analysis = ModelAnalysis(model, WINDOWS)
        rows = [row for row in analysis.sites() if row["kind"] in ("qkv", "up")]
        means.append({k: sum(r[k] for r in rows) / len(rows) for k in ACTIVATION_METRICS})
        means[-1]["spectral_norm"] = sum(r["spectral_norm"] for r in rows) / len(rows)
        counts.append(len(analysis.outliers()["above 6.0"].dimensions))
        assert planted.keys() <= {f"gpt_neox.layers.{i}.{n}" for i in range(3) for n in NORMS}
    error = [row["relative_output_error"] for row in means]
    assert all(a < b for a, b in zip(error, error[1:], strict=False)) and error[-1] > 5 * error[0]
    largest = [row["max_to_median"] for row in means]
    assert largest[1] > 4 * largest[0] and largest[2] > 3 * largest[1]
    spectral = [row["spectral_norm"] for row in means]
    assert max(spectral) < 1.1 * min(spectral)
    assert counts[0] == 0


NORMS = ("input_layernorm", "post_attention_layernorm")


def test_one_feature_planted_everywhere_is_an_outlier_dimension():
    model = model_of("gpt_neox")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if any(f"{norm}.weight" in name for norm in NORMS):
                parameter[7] *= 100
    counts = ModelAnalysis(model, WINDOWS).outliers()
    assert counts["above 6.0"].dimensions == (7,) and counts["z-score"].dimensions == (7,)
    # Norms feed two of three sites a block.
    assert counts["above 6.0"].layer_share == pytest.approx(2 / 3)
    assert counts["above 6.0"].token_share > 0.9
    assert len(counts["searched"].dimensions) == 1
