import pytest
import torch

from quantizers.calibration import (
    TOKEN_MAX_BINS,
    Statistics,
    collect,
    site_inputs,
    token_max_bin,
)
from quantizers.wiring import wiring_of
from tests.quantizers.tiny_models import CONFIGS, MIXTURES, VOCAB, tiny_model

WINDOWS = torch.randint(VOCAB, (70, 30), generator=torch.Generator().manual_seed(1))
FIVE = ("gpt2", "opt", "gpt_neox", "bloom", "llama")


def recorded(model, windows):
    """Every site's input, fp64 [tokens, d_in], by plain hooks and one window at a time."""
    wiring = wiring_of(model)
    seen = {site.name: [] for site in wiring.linear if site.expert is None}
    hooks = [
        site.module.register_forward_pre_hook(
            lambda _, x, name=site.name: seen[name].append(x[0].flatten(0, -2).double())
        )
        for site in wiring.linear
        if site.expert is None
    ]
    with torch.no_grad():
        for window in windows:
            model(window[None])
    for hook in hooks:
        hook.remove()
    return {name: torch.cat(parts) for name, parts in seen.items()}


@pytest.mark.parametrize("architecture", FIVE)
def test_statistics_are_those_of_a_plain_reference(architecture):
    model = tiny_model(architecture)
    wiring = wiring_of(model)
    found = dict(collect(model, wiring, WINDOWS))
    reference = recorded(model, WINDOWS)
    assert list(found) == list(site_inputs(wiring))
    for site in wiring.linear:
        statistics, x = found[site.input], reference[site.name]
        assert statistics.n_tokens == len(x) == WINDOWS.numel()
        assert statistics.hessian.dtype == torch.float32
        torch.testing.assert_close(statistics.channel_max.double(), x.abs().amax(0))
        torch.testing.assert_close(statistics.channel_mean.double(), x.abs().mean(0))
        hessian = 2 / len(x) * x.T @ x
        error = (statistics.hessian.double() - hessian).abs().max() / hessian.abs().max()
        assert error < 1e-5
        assert statistics.maximum == pytest.approx(x.abs().max().item())
        bins = token_max_bin(x.abs().amax(1))
        # A maximum on the edge of a bin may fall to either side.
        assert (statistics.token_max - torch.bincount(bins, minlength=640)).abs().sum() <= 4
        assert statistics.token_max.sum() == len(x)


def test_what_a_share_of_the_tokens_stays_within():
    maxima = torch.tensor([0.0] + [1.0] * 60 + [3.0] * 38 + [700.0])
    histogram = torch.bincount(token_max_bin(maxima), minlength=TOKEN_MAX_BINS)
    seen = Statistics(100, torch.tensor([2.0, 700.0]), torch.ones(2), histogram, torch.eye(2))
    octave = 2 ** (1 / 16)  # a bin's width
    assert 1 < seen.token_range(0.5) <= octave and 3 < seen.token_range(0.99) <= 3 * octave
    assert seen.token_range(1.0) == seen.maximum == 700


def test_histogram_of_token_maxima_covers_16_bit():
    maxima = torch.tensor([0.0, 2.0**-24, 1.0, 2**0.5, 2.0, 65504.0, 3e38])
    assert token_max_bin(maxima).tolist() == [0, 0, 384, 392, 400, 639, 639]
    assert TOKEN_MAX_BINS == 640


@pytest.mark.parametrize("architecture", ["gpt2", "falcon", "qwen2_moe"])
def test_little_memory_takes_blocks_one_after_another(architecture, monkeypatch):
    model = tiny_model(architecture)
    wiring = wiring_of(model)
    at_once = dict(collect(model, wiring, WINDOWS[:5]))
    passes = []
    forward = model.forward
    monkeypatch.setattr(model, "forward", lambda *a, **k: passes.append(1) or forward(*a, **k))
    in_turn = dict(collect(model, wiring, WINDOWS[:5], memory=1))
    assert len(passes) == len(at_once) and list(in_turn) == list(at_once)
    for name, statistics in at_once.items():
        assert torch.equal(statistics.hessian, in_turn[name].hessian)
        assert torch.equal(statistics.token_max, in_turn[name].token_max)


def test_nothing_stays_on_the_model_and_logits_are_never_computed():
    model = tiny_model("llama")

    def never(*_):
        raise AssertionError("the head ran")

    model.lm_head.forward = never
    found = dict(collect(model, wiring_of(model), WINDOWS[:2]))
    assert "lm_head" in found  # what it reads was recorded before
    assert not any(module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("architecture", [*CONFIGS, *MIXTURES])
def test_every_site_of_every_architecture_has_its_input(architecture):
    model = tiny_model(architecture)
    wiring = wiring_of(model)
    found = dict(collect(model, wiring, WINDOWS[:1]))
    for site in wiring.linear:
        assert len(found[site.input].channel_max) == site.weight.shape[1]


@pytest.mark.parametrize("architecture", MIXTURES)
def test_each_expert_has_the_tokens_that_are_sent_to_it(architecture):
    model = tiny_model(architecture)
    wiring = wiring_of(model)
    sent = []
    modules = {site.module for site in wiring.linear if site.expert is not None}
    hooks = [m.register_forward_pre_hook(lambda m, x: sent.append((m, *x))) for m in modules]
    with torch.no_grad():
        model(WINDOWS[:2])
    implementation = model.config._experts_implementation
    found = dict(collect(model, wiring, WINDOWS[:2]))
    assert model.config._experts_implementation == implementation
    for hook in hooks:
        hook.remove()
    for site in wiring.linear:
        if site.expert is None:
            continue
        inputs = [(x, chosen) for module, x, chosen, *_ in sent if module is site.module]
        x, chosen = inputs[0]
        tokens = x[(chosen == site.expert).any(-1)]
        statistics = found[site.input]
        assert statistics.n_tokens == len(tokens) > 0
        if site.kind == "up":
            torch.testing.assert_close(statistics.channel_max, tokens.abs().amax(0))
            torch.testing.assert_close(statistics.hessian, 2 * tokens.T @ tokens / len(tokens))
        elif architecture == "mixtral":
            [up] = [s for s in wiring.linear if s.module is site.module and s.kind == "up"
                    and s.expert == site.expert]  # fmt: skip
            gate, value = (tokens @ up.weight.T).chunk(2, -1)
            hidden = torch.nn.functional.silu(gate) * value
            torch.testing.assert_close(statistics.hessian, 2 * hidden.T @ hidden / len(hidden))


def test_an_expert_without_tokens_reads_zeros():
    model = tiny_model("mixtral")
    wiring = wiring_of(model)
    experts = [site for site in wiring.linear if site.expert == 1]
    model.model.layers[0].mlp.gate.weight.data[1] = -1e4 * model.model.layers[0].mlp.gate.weight[0]
    found = dict(collect(model, wiring, WINDOWS[:1, :1]))
    assert min(found[site.input].n_tokens for site in experts) == 0
    for site in experts:
        if not found[site.input].n_tokens:
            assert not found[site.input].hessian.any()


def test_what_is_not_finite_is_named():
    model = tiny_model("opt")
    model.model.decoder.layers[1].fc1.bias.data[2] = float("inf")
    with pytest.raises(ValueError, match=r"what model\.decoder\.layers\.1\.fc2 reads"):
        dict(collect(model, wiring_of(model), WINDOWS[:2]))
    with pytest.raises(ValueError, match="hold no tokens"):
        dict(collect(model, wiring_of(model), WINDOWS[:0]))
