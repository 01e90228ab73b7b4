"""LLM-QAT: rounding that trains, text from the model itself, a checkpoint that is scored."""

import json

import pytest
import torch
import yaml

from kbit import cli
from orchestrator.store.store import Store
from quantizers.resident import ResidentModel
from quantizers.undo import UndoLog
from tests.quantizers.tiny_models import VOCAB, logits, tiny_model
from training.fake_quantization import Widths, fake_quantize, rounded_rows, rounded_tokens
from training.generation import generated
from training.qat import QatRecipe, compared, qat


def test_gradients_pass_straight_through():
    weight = torch.randn(5, 8, requires_grad=True)
    given = torch.randn(5, 8)
    for rounded in (rounded_rows(weight, 4), rounded_tokens(weight, 8)):
        assert not torch.equal(rounded, weight)
        (gradient,) = torch.autograd.grad((rounded * given).sum(), weight)
        assert torch.equal(gradient, given)
    zero = torch.zeros(2, 3, requires_grad=True)
    assert torch.equal(rounded_rows(zero, 4), zero)


@pytest.mark.parametrize("name", ["gpt2", "llama", "gpt_neox"])
@pytest.mark.parametrize("widths", [Widths(4, 8), Widths(8, 8, 8)], ids=str)
def test_what_is_trained_against_is_what_scores(name, widths):
    """Straight-through values are those of the resident model's integer products."""
    model = tiny_model(name)
    for parameter in model.parameters():
        parameter.data = parameter.data.half().float()
    exact = logits(model)
    log = UndoLog(torch.float16)
    fake_quantize(model, widths, log)
    trained_against = logits(model)
    log.undo()
    assert torch.equal(logits(model), exact)
    resident = ResidentModel(model)
    matrices = {s.name: rounded_rows(s.weight, widths.weights) for s in resident.wiring.linear}
    resident.apply(widths.setting)
    for site in resident.wiring.linear:  # which holds them in 16 bit
        torch.testing.assert_close(site.weight, matrices[site.name], rtol=1e-3, atol=1e-6)
    assert resident.arithmetic == "integer"
    scored, size = logits(model), (trained_against - exact).norm()
    # Sums in another order now and then move an activation by a step.
    assert (scored - trained_against).norm() < 0.1 * size


def test_text_begins_greedily_and_follows_its_seed():
    model = tiny_model("llama")
    text = generated(model, 6, 12, torch.Generator().manual_seed(3))
    assert text.shape == (6, 12) and 0 <= int(text.min()) <= int(text.max()) < VOCAB
    assert torch.equal(text, generated(model, 6, 12, torch.Generator().manual_seed(3)))
    assert not torch.equal(text, generated(model, 6, 12, torch.Generator().manual_seed(4)))
    with torch.no_grad():
        likeliest = model(text).logits.argmax(-1)
    assert torch.equal(text[:, 1:4], likeliest[:, :3])
    assert not torch.equal(text[:, 6:], likeliest[:, 5:-1])


def test_training_lowers_the_divergence():
    model = tiny_model("gpt_neox")
    before = {n: p.clone() for n, p in model.named_parameters()}
    losses = qat(model, QatRecipe(Widths(3, 8, 8), 60, 4, 16, 2e-3), log=lambda _: None)
    assert sum(losses[-10:]) < 0.8 * sum(losses[:10])
    assert all(not torch.equal(p, before[n]) for n, p in model.named_parameters())
    assert not any(p.requires_grad for p in model.parameters())
    assert not any("forward" in module.__dict__ for module in model.modules())


def test_differences_are_paired_by_window():
    before = torch.tensor([1.0, 2.0, 3.0, 4.0]).double()
    found = compared(before, before + torch.tensor([0.1, 0.1, 0.1, 0.2]), 8)
    assert (found.n_windows, found.tokens) == (4, 32)
    assert found.difference == pytest.approx(0.125)
    assert found.stderr == pytest.approx(0.025)
    with pytest.raises(ValueError, match="1 windows of 9 tokens; two are needed"):
        compared(before[:1], before[:1], 8)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--activations", "3"], "activations: token takes 4 to 8 bits, not 3"),
        (["--kv", "9"], "kv: token takes 4 to 8 bits, not 9"),
        (["--length", "300"], "length: 300 tokens exceed the 256 it reads"),
        (["--heldout-tokens", "300"], "1 windows of 257 tokens; two are needed"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(tmp_path, capsys, arguments, said):
    output = ["--output", str(tmp_path / "q")]
    assert cli.main(["qat", "sotu-neox-32x2", *arguments, *output]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1, error
    assert not (tmp_path / "q").exists()


def test_the_command_writes_a_model_that_a_sweep_scores(tmp_path, capsys):
    folder = tmp_path / "q"
    arguments = ["--steps", "4", "--batch-size", "2", "--length", "16", "--kv", "8"]
    arguments += ["--learning-rate", "1e-3", "--heldout-tokens", "600", "--output", str(folder)]
    assert cli.main(["qat", "sotu-neox-32x2", *arguments]) == 0
    shown = capsys.readouterr().out
    assert "W4A8KV8: " in shown and "2 windows, 512 held-out tokens" in shown
    manifest = json.loads((folder / "manifest.json").read_text())
    assert (manifest["method"], manifest["training_tokens"]) == ("llm-qat", 4 * 2 * 16)
    found = manifest["heldout"]["W4A8KV8"]
    assert found["difference"] == pytest.approx(found["after"] - found["before"])
    grids = [{"recipe": "vectorwise-w8a8", "bits": 4, "kv": {"token": 8}}]
    study = {"models": ["sotu-neox-32x2-llm-qat-w4a8kv8"], "grids": grids}
    study["corpora"] = [{"name": "sotu", "max_tokens": 600}]
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(study))
    database, models = str(tmp_path / "t.db"), str(folder / "models.yaml")
    asked = ["sweep", str(path), "--db", database, "--models", models, "--executor", "local"]
    assert cli.main(asked) == 0
    results = Store.open(f"sqlite:///{database}").results()
    assert set(results["variant"]) == {"llm-qat W4A8KV8, 128 tokens"}
    assert set(results["family"]) == {"sotu-neox llm-qat W4A8KV8"} and set(results["step"]) == {4}
