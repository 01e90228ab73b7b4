"""What a sample rules out: on curves with a known answer, and in a whole sweep."""

import numpy as np
import pytest

from orchestrator.adaptive import MARGIN, MIN_WINDOWS, Sample, dominated
from orchestrator.errors import InputError
from orchestrator.grid import expand
from orchestrator.models import load_models
from orchestrator.screening import SAMPLE_TOKENS, sample_plan
from orchestrator.spec import load_sweep
from orchestrator.store import Store
from orchestrator.sweep import main

WINDOWS = 16
SIZES = (1e6, 2e6, 4e6, 8e6)


def curve(setting: str, factor: float, loss: float, noise: float = 0.0, seed: int = 0):
    """Four models: `factor` scales their size, `loss` is added; the text's noise is shared."""
    text = np.random.default_rng(99).normal(0, 0.3, WINDOWS)
    own = np.random.default_rng(seed).normal(0, noise, (len(SIZES), WINDOWS))
    return [
        Sample(
            f"{setting}-{i}", setting, size * factor, 10 - np.log(size) / 3 + loss + text + own[i]
        )
        for i, size in enumerate(SIZES)
    ]


def settings_of(ids: set[str]) -> set[str]:
    return {id_.rpartition("-")[0] for id_ in ids}


def test_clearly_worse_curve_is_dropped_whatever_the_text_is_like():
    samples = curve("good", 1, 0) + curve("close", 1, 0.004) + curve("bad", 1, 0.1, noise=0.01)
    assert dominated(samples) == {f"bad-{i}" for i in range(4)}


def test_a_lead_within_the_noise_rules_little_out():
    """No more than the confidence admits, twice over: a point is asked at several budgets."""
    dropped = 0
    for seed in range(40):
        leads = [("a", 0.0), ("b", 0.05), ("c", 0.05)]
        curves = [curve(n, 1, lead, 0.5, 3 * seed + i) for i, (n, lead) in enumerate(leads)]
        dropped += len(dominated([sample for points in curves for sample in points]))
    assert dropped <= 2 * 0.05 * 40 * 12


def test_equals_need_not_all_be_scored():
    samples = [s for name in "abcdef" for s in curve(name, 1, 0.0)]
    assert len(settings_of({s.experiment_id for s in samples} - dominated(samples))) == 2
    better = [*samples, *curve("best", 1, -3 * MARGIN)]
    assert "best" not in settings_of(dominated(better))


def test_only_points_that_bear_on_a_budget_where_the_setting_contends_are_kept():
    """`small` reaches down to budgets where nothing else is, and loses elsewhere."""
    small = curve("small", 0.25, 1.0)
    samples = small + curve("good", 1, 0) + curve("second", 1, 0.05)
    dropped = dominated(samples)
    assert {"small-0"} <= dropped  # alone at its size: nothing to compare it with
    kept = [s for s in samples if s.experiment_id not in dropped]
    for budget in np.geomspace(1e6, 2e6, 20):
        assert covering(kept, budget) >= 2
    assert not {f"good-{i}" for i in range(4)} & dropped


def covering(samples: list[Sample], budget: float) -> int:
    sizes: dict[str, list[float]] = {}
    for sample in samples:
        sizes.setdefault(sample.setting, []).append(sample.bits)
    return sum(min(x) <= budget * 1.0001 and budget <= max(x) * 1.0001 for x in sizes.values())


def test_diverged_points_lose():
    bad = curve("diverged", 1, -1.0)
    bad = [Sample(s.experiment_id, s.setting, s.bits, np.full(WINDOWS, np.nan)) for s in bad]
    dropped = dominated(curve("a", 1, 0) + curve("b", 1, 0.01) + bad)
    assert settings_of(dropped) == {"diverged"}


def test_rarely_drops_the_true_best():
    """Two equal rivals and noise: the winner by MARGIN is dropped at most as often as stated."""
    wrong = 0
    for seed in range(200):
        truth = curve("best", 1, -2 * MARGIN, noise=0.01, seed=3 * seed)
        rivals = [curve(n, 1, 0, 0.01, 3 * seed + k + 1) for k, n in enumerate("ab")]
        samples = truth + rivals[0] + rivals[1]
        wrong += "best" in settings_of(dominated(samples))
    assert wrong <= 0.05 * 200


def test_too_few_windows_rule_nothing_out():
    """One window has no spread, two hardly any: no confidence could be stated."""
    samples = curve("good", 1, 0) + curve("second", 1, 0.05) + curve("bad", 1, 1.0, noise=0.01)

    def of(windows: int) -> list[Sample]:
        return [Sample(s.experiment_id, s.setting, s.bits, s.losses[:windows]) for s in samples]

    for windows in (1, 2, MIN_WINDOWS - 1):
        assert dominated(of(windows)) == set()
    assert settings_of(dominated(of(MIN_WINDOWS))) == {"bad"}


STUDY = """
models: [sotu-neox-32x2, sotu-neox-64x2]
strategy: adaptive
grids:
  - {bits: [16, 4, 3, 2], data_type: [float, int], block_size: 64, scope: [linear, all]}
tasks: [sotu_blank]
limit: 20
corpora:
  - {name: sotu, max_tokens: 6000}
"""


@pytest.fixture
def run(tmp_path, capsys):
    def sweep(text: str) -> tuple[int, Store, str]:
        study = tmp_path / "study.yaml"
        study.write_text(text)
        code = main([str(study), "--db", str(tmp_path / "t.db"), "--executor", "local"])
        return code, Store.open(f"sqlite:///{tmp_path}/t.db"), capsys.readouterr().out

    return sweep


def test_sweep_stores_at_which_stage_a_setting_was_dropped(run):
    code, store, out = run(STUDY)
    assert code == 0
    attempts = store.attempts()
    dropped = attempts[attempts["status"] == "dropped"]
    assert 0 < len(dropped) < 26 and set(dropped["stage"]) == {"screen"}
    assert dropped["error"].str.contains("confidence 0.95").all()
    results = store.results()
    scored = results[results["metric"] == "acc"]["experiment_id"]
    assert set(scored) == set(attempts["experiment_id"]) - set(dropped["experiment_id"])
    sampled = results[results["metric"] == "cross_entropy_sample"]
    assert sampled["experiment_id"].nunique() == 26
    assert f"{len(dropped)} experiments dropped" in out
    # The same command changes nothing; the full strategy goes on from what is there.
    code, store, out = run(STUDY)
    assert code == 0 and len(store.attempts()) == len(attempts)
    code, store, out = run(STUDY.replace("adaptive", "full"))
    assert code == 0
    assert f"{len(scored)} stored, {len(dropped)} to do" in out


@pytest.mark.parametrize("context", ["", "context: 2048\n", "context: 128\n"])
def test_sample_has_windows_enough_at_any_context(tmp_path, context):
    study = tmp_path / "study.yaml"
    study.write_text(STUDY.replace("sotu-neox-64x2", "opt-1.3b") + context)
    sweep = load_sweep(study)
    samples = sample_plan(expand(sweep, load_models(), study, on_gpu=False), sweep)
    assert set(samples.protocols) == {"sotu-neox-32x2", "opt-1.3b"}
    for (sample,) in samples.protocols.values():
        assert SAMPLE_TOKENS / sample.settings["context"] >= 16
        assert sample.settings["context"] == (128 if "128" in context else 256)


def test_a_listed_model_that_no_grid_is_for_is_not_sampled(run):
    one = STUDY.replace("all]}", "all], models: [sotu-neox-32x2]}")
    code, store, _ = run(one.replace("sotu-neox-64x2", "sotu-neox"))
    assert code == 0 and set(store.results()["model"]) == {"sotu-neox-32x2"}


def test_without_a_corpus_there_is_nothing_to_sample(run, tmp_path, capsys):
    study = tmp_path / "study.yaml"
    study.write_text(STUDY[: STUDY.index("corpora")])
    assert main([str(study), "--db", str(tmp_path / "t.db"), "--executor", "local"]) == 2
    assert "strategy: adaptive" in capsys.readouterr().err
    with pytest.raises(InputError):
        Store.open(f"sqlite:///{tmp_path}/none.db")
