"""Keys and values rounded where they leave the projections."""

import pytest
import torch

from quantizers.activations.cache_format import cache_text
from quantizers.calibration import collect
from quantizers.resident import ResidentModel
from quantizers.setting import Setting
from quantizers.wiring import wiring_of
from tests.quantizers.tiny_models import CONFIGS, VOCAB, logits, tiny_model

WINDOWS = torch.randint(VOCAB, (6, 30), generator=torch.Generator().manual_seed(1))
WIRED = [name for name in CONFIGS if name != "gemma"]


def kept(model):
    """What transformers' own cache holds after twelve tokens, by layer: (keys, values)."""
    with torch.no_grad():
        cache = model(torch.arange(12).view(1, 12) % VOCAB, use_cache=True).past_key_values
    return [(layer.keys, layer.values) for layer in cache.layers]


@pytest.mark.parametrize("name", [n for n in WIRED if n != "opt-350m"])
def test_the_rows_are_those_that_the_cache_keeps(name):
    """Zeroed, the cache of every layer is zero; no other row changes it."""
    model = tiny_model(name)
    wiring = wiring_of(model)
    handles = []
    for site in wiring.linear:
        rows = [r for r in (site.keys, site.values) if r is not None]
        if rows:
            rows = torch.cat(rows)
            assert rows.unique().numel() == rows.numel()
            handles.append(
                site.module.register_forward_hook(
                    lambda _, x, y, rows=rows: y.index_fill(-1, rows, 0.0)
                )
            )
    assert all(not k.any() and not v.any() for k, v in kept(model))
    for handle in handles:
        handle.remove()
    n = sum(r.numel() for s in wiring.linear for r in (s.keys, s.values) if r is not None)
    repeated = 2 if name == "falcon-40b" else 1  # transformers keeps a group's once a query head
    assert repeated * n == sum(
        k.shape[1] * k.shape[-1] + v.shape[1] * v.shape[-1] for k, v in kept(model)
    )


@pytest.mark.parametrize("name", ["gpt2", "bloom", "opt"])  # no rotary embeddings, nor norms of K
@pytest.mark.parametrize("cache", ["token", "tensor"])
def test_what_the_cache_keeps_takes_few_values(name, cache):
    resident = ResidentModel(tiny_model(name))
    before, plain = logits(resident.model), kept(resident.model)
    statistics = dict(collect(resident.model, resident.wiring, WINDOWS))
    setting = Setting.make(16, kv={cache: 8})
    assert setting.needs_statistics == (cache == "tensor") and not setting.is_baseline
    bits = resident.apply(setting, statistics)
    layers = len(plain)
    assert bits.total_bits == 16 * resident.n_params + 32 * 2 * layers * (cache == "tensor")
    assert 0 < (logits(resident.model) - before).norm() / before.norm() < 0.02
    for i, (k, v) in enumerate(kept(resident.model)):
        for which, now, then in (("keys", k, plain[i][0]), ("values", v, plain[i][1])):
            rows = now.transpose(1, 2).flatten(2)[0]  # [tokens, heads x size]
            if cache == "token":
                scale = rows.abs().amax(1, keepdim=True) / 127
            else:
                site = next(
                    s for s in resident.wiring.linear if f"{i}." in s.name and s.kind == "qkv"
                )
                scale = getattr(statistics[site.input], which).max() / 127
            codes = rows / scale
            torch.testing.assert_close(codes, codes.round(), atol=2e-3, rtol=0)
            assert codes.abs().max() <= 127.01
            if i == 0:  # its inputs are those of the 16-bit model
                error = (rows - then.transpose(1, 2).flatten(2)[0]).abs()
                inside = codes.abs() < 127
                assert (error[inside] <= (0.501 * scale).expand_as(error)[inside]).all()
    resident.undo()
    assert torch.equal(logits(resident.model), before)
    assert not any("forward" in module.__dict__ for module in resident.model.modules())


def test_ranges_are_the_largest_of_the_calibration_and_follow_scaled_values():
    resident = ResidentModel(tiny_model("llama"))
    model, seen = resident.model, {}
    attention = model.model.layers[0].self_attn
    for name in ("k_proj", "v_proj"):
        getattr(attention, name).register_forward_hook(
            lambda _, x, y, name=name: seen.setdefault(name, []).append(y.flatten(0, -2).abs())
        )
    statistics = dict(collect(model, resident.wiring, WINDOWS))
    found = statistics["model.layers.0.self_attn.q_proj"]
    torch.testing.assert_close(found.keys, torch.cat(seen["k_proj"]).amax(0))
    torch.testing.assert_close(found.values, torch.cat(seen["v_proj"]).amax(0))
    before = logits(model)
    factors = {"block_size": "row", "activations": "token", "kv": "tensor"}
    resident.apply(Setting.make(8, "int", folding="awq", **factors), statistics)
    seen["v_proj"].clear()
    with torch.no_grad():
        model(WINDOWS[:1])
    assert 0 < (logits(model) - before).norm() / before.norm() < 0.1


def test_what_clamps_of_keys_and_values_is_recorded():
    """Of text that the calibration, a part of it, did not see; nothing of a scale a token."""
    resident = ResidentModel(tiny_model("llama"))
    statistics = dict(collect(resident.model, resident.wiring, WINDOWS[:1, :4]))
    site = "model.layers.0.self_attn.k_proj"
    exact = []
    resident.model.get_submodule(site).register_forward_hook(lambda _, x, y: exact.append(y.abs()))
    with torch.no_grad():
        resident.model(WINDOWS)
    resident.apply(Setting.make(16, kv="tensor"), statistics)
    with torch.no_grad():
        resident.model(WINDOWS)
    found = resident.records[site]
    assert isinstance(found["keys"], float)
    share = float((exact[0] > found["keys"] * (1 + 0.5 / 127)).float().mean())
    assert found["keys_clamped"] == pytest.approx(share) and 0 < share < 0.5
    assert "values_clamped" in resident.records["model.layers.0.self_attn.v_proj"]
    resident.apply(Setting.make(16, kv="token"))
    with torch.no_grad():
        resident.model(WINDOWS)
    assert site not in resident.records


def test_a_shared_prefix_is_rounded_as_it_is_alone():
    """Token by token: what follows a prefix changes nothing of it."""
    resident = ResidentModel(tiny_model("llama"))
    resident.apply(Setting.make(16, kv="token"))
    ids = torch.arange(12).view(1, 12) % VOCAB
    with torch.no_grad():
        torch.testing.assert_close(
            resident.model(ids).logits[:, :5], resident.model(ids[:, :5]).logits
        )


@pytest.mark.parametrize("name", ["gemma", "granitemoe"])
def test_a_cache_that_is_not_known_is_refused(name):
    resident = ResidentModel(tiny_model(name))
    with pytest.raises(ValueError, match="^kv: what the cache of architecture .* is not known"):
        resident.apply(Setting.make(16, kv="token"))


@pytest.mark.parametrize(
    ("spelled", "text"),
    [(16, "16"), (None, "16"), ("16.0", "16"), ("token", "token 8"), ({"tensor": 6}, "tensor 6")],
)
def test_spellings(spelled, text):
    assert cache_text(spelled) == text == cache_text(text)


@pytest.mark.parametrize("spelled", ["rows", {"token": 3}, {"token": True}, 8, True, "token x"])
def test_what_is_no_format_is_one_line(spelled):
    with pytest.raises(ValueError, match="^kv: ") as error:
        cache_text(spelled)
    assert "\n" not in str(error.value)
