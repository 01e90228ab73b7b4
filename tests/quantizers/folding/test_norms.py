"""Folding leaves the function as it was, in every architecture whose norms are known."""

import pytest
import torch

from quantizers.calibration import collect
from quantizers.folding.method import Method
from quantizers.folding.norms import choose
from quantizers.folding.scales import Folding
from quantizers.plant import plant
from quantizers.undo import UndoLog
from quantizers.wiring import wiring_of
from tests.quantizers.folding.folded import exact_model, put_weights
from tests.quantizers.tiny_models import VOCAB, logits, tiny_model

WINDOWS = torch.randint(VOCAB, (4, 20), generator=torch.Generator().manual_seed(3))
FOLDABLE = ("gpt2", "opt", "gpt_neox", "bloom", "llama", "falcon", "falcon-40b", "gptj", "phi")
METHODS = (Method("smoothquant", 0.5), Method("logarithmic", 1.0))


def prepared(name, method=METHODS[1]):
    model = exact_model(name)
    wiring = wiring_of(model)
    statistics = dict(collect(model, wiring, WINDOWS))
    return model, wiring, statistics, choose(method, wiring, statistics)


@pytest.mark.parametrize("method", METHODS, ids=str)
@pytest.mark.parametrize("name", FOLDABLE)
def test_the_function_is_unchanged_and_undo_is_bit_for_bit(name, method):
    model, wiring, statistics, folding = prepared(name, method)
    assert len(folding.scales) == len({site.norm for site in wiring.linear} - {None})
    folding.check(model, wiring)
    before, parameters = logits(model), [p.detach().clone() for p in model.parameters()]
    log = UndoLog(torch.float16)
    matrices = {site.name: folding.weight(site) for site in wiring.linear}
    folding.put(model, log, torch.float32)
    put_weights(wiring, matrices, log)
    after = logits(model)
    assert (after - before).norm() / before.norm() <= 1e-5
    seen = dict(collect(model, wiring, WINDOWS))
    for key, expected in folding.statistics(statistics, wiring).items():
        torch.testing.assert_close(seen[key].channel_max, expected.channel_max)
        torch.testing.assert_close(seen[key].channel_mean, expected.channel_mean)
        error = (seen[key].hessian - expected.hessian).abs().max() / expected.hessian.abs().max()
        assert error < 1e-4
    log.undo()
    assert all(map(torch.equal, model.parameters(), parameters))


def test_norms_that_attention_and_mlp_share_have_one_scale_over_all_readers():
    model, wiring, statistics, folding = prepared("phi", METHODS[0])
    norm = "model.layers.1.input_layernorm"
    names = {site.name.rpartition(".")[2] for site in wiring.readers(norm)}
    assert names == {"q_proj", "k_proj", "v_proj", "fc1"}
    widest = torch.stack([site.weight.abs().amax(0) for site in wiring.readers(norm)]).amax(0)
    x = statistics["model.layers.1.self_attn.q_proj"].channel_max
    torch.testing.assert_close(folding.scales[norm], (x / widest).sqrt().detach())


def test_logarithmic_leaves_logarithms_of_channel_maxima():
    model = exact_model("llama")
    plant(model, 2, 256.0, seed=0)
    wiring = wiring_of(model)
    statistics = dict(collect(model, wiring, WINDOWS))
    folding = choose(METHODS[1], wiring, statistics)
    folding.check(model, wiring)
    site = wiring.linear[0]
    m = statistics[site.input].channel_max
    folded = folding.statistics(statistics, wiring)[site.input]
    torch.testing.assert_close(folded.channel_max, torch.log2(2 + m))
    assert statistics[site.input].maximum > 20 * folded.maximum


def test_a_reader_left_out_is_noticed():
    model, wiring, _, folding = prepared("gpt_neox")
    Folding({}).check(model, wiring)

    class Forgetful(Folding):
        def weight(self, site):
            return site.weight.float() if site.kind == "up" else super().weight(site)

    with pytest.raises(ValueError, match=r"mlp\.dense_h_to_4h behind .*post_att.* changes by"):
        Forgetful(folding.scales).check(model, wiring)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("opt-350m", "the residual stream reads what the norms put out"),
        ("gemma", "architecture 'gemma' is not known"),
        ("mixtral", "calibration does not see what .*post_attention_layernorm puts out"),
    ],
)
def test_what_cannot_be_folded_is_one_line(name, reason):
    model = tiny_model(name)
    wiring = wiring_of(model)
    statistics = dict(collect(model, wiring, WINDOWS))
    with pytest.raises(ValueError, match=f"^folding: .*{reason}") as error:
        choose(METHODS[0], wiring, statistics)
    assert "\n" not in str(error.value)


def test_a_gain_that_overflows_is_named():
    model, _, _, folding = prepared("gpt2")
    tiny = {norm: torch.full_like(s, 1e-8) for norm, s in folding.scales.items()}
    with pytest.raises(ValueError, match=r"h\.0\.ln_1\.weight: overflows float16 when folded"):
        Folding(tiny).put(model, UndoLog(torch.float16), torch.float16)
