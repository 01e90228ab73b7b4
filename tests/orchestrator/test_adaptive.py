"""What a sample rules out: on curves with a known answer, and in a whole sweep."""

import numpy as np
import pytest

from orchestrator.adaptive import (
    MIN_ITEMS,
    NEAR,
    Sample,
    may_win_by_accuracy,
    may_win_by_loss,
    near_by_loss,
)
from orchestrator.errors import InputError
from orchestrator.grid import expand
from orchestrator.models import load_models
from orchestrator.screening import SAMPLE_TOKENS, corpus_sample
from orchestrator.spec import load_sweep
from orchestrator.store import Store
from orchestrator.sweep import main

WINDOWS = 16
SHARE = 1 / 8  # of what is scored in full
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


def scored(samples: list[Sample], right: float, seed: int = 0, n: int = 50) -> list[Sample]:
    """The samples with errors of items, wrong with probability 1 - `right`."""
    wrong = np.random.default_rng(seed).random((len(samples), n)) > right
    return [
        Sample(s.experiment_id, s.setting, s.bits, s.losses, e.astype(float))
        for s, e in zip(samples, wrong, strict=True)
    ]


def ids(samples: list[Sample]) -> set[str]:
    return {sample.experiment_id for sample in samples}


def dropped(samples: list[Sample]) -> set[str]:
    return ids(samples) - may_win_by_loss(samples, SHARE)


def settings_of(ids: set[str]) -> set[str]:
    return {id_.rpartition("-")[0] for id_ in ids}


def test_clearly_worse_curve_is_dropped_whatever_the_text_is_like():
    samples = curve("good", 1, 0) + curve("close", 1, 0.004) + curve("bad", 1, 0.1, noise=0.01)
    assert dropped(samples) == {f"bad-{i}" for i in range(4)}


def test_what_leads_significantly_in_full_is_rarely_dropped():
    """The sample is the first windows of what is scored in full; leads are within its noise."""
    full = int(WINDOWS / SHARE)
    won = missed = 0
    for seed in range(100):
        generator = np.random.default_rng(seed)
        losses = generator.normal(0, 0.5, (3, len(SIZES), full))
        losses[0] -= 0.1
        samples = [
            Sample(f"{name}-{i}", name, size, losses[j, i, :WINDOWS])
            for j, name in enumerate("abc")
            for i, size in enumerate(SIZES)
        ]
        lost = dropped(samples)
        for i in range(len(SIZES)):
            first, second = np.argsort(losses[:, i].mean(axis=1))[:2]
            lead = losses[second, i] - losses[first, i]
            if lead.mean() > 2 * lead.std(ddof=1) / np.sqrt(full):
                won += 1
                missed += f"{'abc'[first]}-{i}" in lost
    assert won > 50 and missed <= 0.05 * won


def test_equals_need_not_all_be_scored():
    samples = [s for name in "abcdef" for s in curve(name, 1, 0.0)]
    assert len(settings_of(may_win_by_loss(samples, SHARE))) == 2


def test_a_tie_goes_on_where_its_lead_could_be_significant_in_full():
    """Half a millinat behind, give or take one: it may lead by another, which is clear in full."""
    noise = 0.004 * np.resize([1.0, -1.0], WINDOWS)
    tie = [
        Sample(s.experiment_id, s.setting, s.bits, s.losses + noise) for s in curve("tie", 1, 5e-4)
    ]
    samples = curve("a", 1, 0) + curve("b", 1, 2e-4) + tie + curve("behind", 1, 5e-3, 1e-4)
    assert not ids(tie) & dropped(samples)
    assert "behind" in settings_of(dropped(samples))


def test_only_points_that_bear_on_a_budget_where_the_setting_contends_are_kept():
    """`small` reaches down to budgets where nothing else is, and loses elsewhere."""
    small = curve("small", 0.25, 1.0)
    samples = small + curve("good", 1, 0) + curve("second", 1, 0.05)
    lost = dropped(samples)
    assert {"small-0"} <= lost  # alone at its size: nothing to compare it with
    kept = [s for s in samples if s.experiment_id not in lost]
    for budget in np.geomspace(1e6, 2e6, 20):
        assert covering(kept, budget) >= 2
    assert not {f"good-{i}" for i in range(4)} & lost


def covering(samples: list[Sample], budget: float) -> int:
    sizes: dict[str, list[float]] = {}
    for sample in samples:
        sizes.setdefault(sample.setting, []).append(sample.bits)
    return sum(min(x) <= budget * 1.0001 and budget <= max(x) * 1.0001 for x in sizes.values())


def bent(setting: str, losses: list[float]) -> list[Sample]:
    text = np.random.default_rng(99).normal(0, 0.3, WINDOWS)
    return [
        Sample(f"{setting}-{i}", setting, size, loss + text)
        for i, (size, loss) in enumerate(zip(SIZES, losses, strict=True))
    ]


def test_a_curve_is_not_joined_over_lost_points_where_it_would_seem_to_win():
    """`ends` wins at both ends; between, its own points are bad, the line over them is not."""
    middle = bent("middle", [5.0, 3.9, 3.8, 3.5])
    ends = bent("ends", [4.0, 6.0, 6.0, 2.0])
    lost = dropped(middle + ends + bent("other", [5.1, 4.5, 4.4, 3.6]))
    assert not ids(middle[1:3]) & lost
    assert not ids(ends) & lost
    harmless = bent("ends", [4.9, 6.0, 6.0, 3.4])  # the line over the gap stays behind `middle`
    lost = dropped(bent("middle", [5.0, 3.0, 2.9, 3.5]) + harmless + bent("o", [5.1, 3.1, 3, 3.6]))
    assert settings_of(lost) <= {"ends", "o"}


def test_diverged_points_lose():
    bad = curve("diverged", 1, -1.0)
    bad = [Sample(s.experiment_id, s.setting, s.bits, np.full(WINDOWS, np.nan)) for s in bad]
    assert settings_of(dropped(curve("a", 1, 0) + curve("b", 1, 0.01) + bad)) == {"diverged"}


def test_rarely_drops_the_true_best():
    """Two equal rivals and noise: the significant winner is dropped at most as often as stated."""
    wrong = 0
    for seed in range(200):
        truth = curve("best", 1, -0.01, noise=0.01, seed=3 * seed)
        rivals = [curve(n, 1, 0, 0.01, 3 * seed + k + 1) for k, n in enumerate("ab")]
        wrong += "best" in settings_of(dropped(truth + rivals[0] + rivals[1]))
    assert wrong <= 0.05 * 200


def test_too_few_windows_rule_nothing_out():
    """One window has no spread, two hardly any: no confidence could be stated."""
    samples = curve("good", 1, 0) + curve("second", 1, 0.05) + curve("bad", 1, 1.0, noise=0.01)

    def of(windows: int) -> list[Sample]:
        return [Sample(s.experiment_id, s.setting, s.bits, s.losses[:windows]) for s in samples]

    for windows in (1, 2, MIN_ITEMS - 1):
        assert dropped(of(windows)) == set()
        assert near_by_loss(of(windows), SHARE) == ids(samples)
        assert may_win_by_accuracy(scored(of(windows), 0.5), SHARE, 0.1) == ids(samples)
    assert settings_of(dropped(of(MIN_ITEMS))) == {"bad"}


def test_one_curve_alone_is_not_dropped():
    assert dropped(curve("only", 1, 0)) == set()


def test_what_is_near_by_loss_may_win_by_accuracy():
    """Worse by loss, though near, and clearly better on the items; what is far is not asked."""
    best = scored(curve("best", 1, 0), 0.5, seed=1)
    accurate = scored(curve("accurate", 1, NEAR / 2, 1e-4), 0.95, seed=2)
    others = [s for i in range(3) for s in scored(curve(f"o{i}", 1, 0.01, 1e-4, i), 0.5, 5 + i)]
    far = curve("far", 1, 2 * NEAR, 1e-4)
    samples = best + accurate + others + far
    assert not ids(accurate) & may_win_by_loss(samples, SHARE)
    assert near_by_loss(samples, SHARE) == ids(best + accurate + others)
    chosen = may_win_by_accuracy(samples, SHARE, 0.1)
    assert ids(accurate) <= chosen and not ids(far) & chosen
    assert len(chosen) < len(best + accurate + others)  # not every runner-up


def test_far_ahead_by_loss_is_scored_by_accuracy_without_a_sampled_rival():
    """`middle` is alone at its budgets, though two others reach over them."""
    ends = bent("a", [4.0, 4.5, 4.4, 3.0]), bent("b", [4.01, 4.6, 4.5, 3.01])
    middle = bent("middle", [5.0, 2.0, 1.9, 4.0])
    samples = [s for points in (*ends, middle) for s in scored(points, 0.5)]
    assert {"middle-1", "middle-2"} <= may_win_by_accuracy(samples, SHARE, 0.1)


def test_without_sampled_items_every_task_is_scored():
    samples = curve("a", 1, 0) + curve("b", 1, 1.0)
    assert may_win_by_accuracy(samples, SHARE, 0.1) == ids(samples)


STUDY = """
models: [sotu-neox-32x2, sotu-neox-64x2]
strategy: adaptive
grids:
  - {bits: [16, 4, 3, 2], data_type: [float, int], block_size: 64, scope: [linear, all]}
tasks: [sotu_blank]
limit: 60
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
    rows = attempts[attempts["status"] == "dropped"]
    assert set(rows["stage"]) == {"screen", "screen_tasks"}
    assert not rows["experiment_id"].duplicated().any()
    assert rows["error"].str.contains("confidence|accuracy").all()
    results = store.results()

    def measured(metric: str) -> set[str]:
        return set(results.loc[results["metric"] == metric, "experiment_id"])

    def dropped_from(what: str) -> set[str]:
        return set(rows.loc[rows["error"].str.match(f"({what} )?dropped: "), "experiment_id"])

    everything = set(attempts["experiment_id"])
    assert len(everything) == 26 and measured("cross_entropy_sample") == everything
    assert measured("cross_entropy") == everything - dropped_from("corpora")
    assert measured("acc") == everything - dropped_from("tasks")
    near = measured("acc_sample")
    assert set(rows.loc[rows["stage"] == "screen_tasks", "experiment_id"]) <= near
    assert measured("acc") and measured("cross_entropy") and near < everything
    gone = dropped_from("corpora") & dropped_from("tasks")
    assert 0 < len(gone) < 26 and f"{len(gone)} experiments dropped" in out
    # The same command changes nothing; the full strategy goes on from what is there.
    code, store, out = run(STUDY)
    assert code == 0 and len(store.attempts()) == len(attempts)
    code, store, out = run(STUDY.replace("adaptive", "full"))
    stored = measured("acc") & measured("cross_entropy")
    assert code == 0 and f"{len(stored)} stored, {26 - len(stored)} to do" in out
    results = store.results()
    assert measured("acc") == measured("cross_entropy") == everything


def test_tasks_with_hardly_more_items_than_a_sample_are_not_sampled(run):
    code, store, _ = run(STUDY.replace("limit: 60", "limit: 20"))
    results, attempts = store.results(), store.attempts()
    assert code == 0 and "acc_sample" not in set(results["metric"])
    assert set(attempts["stage"]) == {"screen", "full"}
    scored = results.loc[results["metric"] == "acc", "experiment_id"]
    assert 0 < scored.nunique() < 26


def test_without_tasks_only_corpora_are_screened(run):
    code, store, _ = run(STUDY.replace("tasks: [sotu_blank]", "tasks: []"))
    assert code == 0 and set(store.attempts()["stage"]) == {"screen", "full"}
    dropped_rows = store.attempts().query("status == 'dropped'")
    scored = store.results().query("metric == 'cross_entropy'")["experiment_id"]
    assert len(dropped_rows) + scored.nunique() == 26


@pytest.mark.parametrize("context", ["", "context: 2048\n", "context: 128\n"])
def test_sample_has_windows_enough_at_any_context(tmp_path, context):
    study = tmp_path / "study.yaml"
    study.write_text(STUDY.replace("sotu-neox-64x2", "opt-1.3b") + context)
    sweep = load_sweep(study)
    samples = corpus_sample(expand(sweep, load_models(), study, on_gpu=False), sweep)
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
