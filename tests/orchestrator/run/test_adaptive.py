"""What a sample rules out: on curves with a known answer, and in a whole sweep."""

import json
import shutil
import sqlite3

import numpy as np
import pytest

from kbit import cli
from orchestrator.errors import InputError
from orchestrator.run import adaptive
from orchestrator.run.adaptive import AXES, MIN_ITEMS, NEAR, Sample, may_win_by_loss, near_by_loss
from orchestrator.run.screening import SAMPLE_WINDOWS, corpus_sample
from orchestrator.store.reading import screened_axes
from orchestrator.store.store import Store
from orchestrator.study.grid import expand
from orchestrator.study.models import load_models
from orchestrator.study.spec import load_sweep
from orchestrator.sweep import main

WINDOWS = 16
SHARE = 1 / 8  # of what is scored in full
SIZES = (1e6, 2e6, 4e6, 8e6)
TEXT = np.random.default_rng(99).normal(0, 0.3, WINDOWS)  # noise that all share


def made(setting: str, i: int, size: float, losses: np.ndarray, precision=None) -> Sample:
    """Model i's sample. Each setting is of a precision of its own, unless one is given."""
    bits = sum(map(ord, setting)) if precision is None else precision
    return Sample(
        f"{setting}-{i}", f"m{i}", setting, bits, bits == 16 and not setting.endswith("A8"),
        "linear", dict.fromkeys(AXES, size), losses
    )  # fmt: skip


def curve(setting: str, factor: float, loss: float, noise: float = 0.0, seed: int = 0, bits=None):
    """Four models: `factor` scales their size, `loss` is added."""
    own = np.random.default_rng(seed).normal(0, noise, (len(SIZES), WINDOWS))
    return [
        made(setting, i, size * factor, 10 - np.log(size) / 3 + loss + TEXT + own[i], bits)
        for i, size in enumerate(SIZES)
    ]


def bent(setting: str, losses: list[float]) -> list[Sample]:
    pairs = enumerate(zip(SIZES, losses, strict=True))
    return [made(setting, i, size, loss + TEXT) for i, (size, loss) in pairs]


def ids(samples: list[Sample]) -> set[str]:
    return {sample.experiment_id for sample in samples}


def dropped(samples: list[Sample]) -> set[str]:
    return ids(samples) - may_win_by_loss(samples, SHARE)


def settings_of(ids: set[str]) -> set[str]:
    return {id_.rpartition("-")[0] for id_ in ids}


def test_clearly_worse_curve_is_dropped_whatever_the_text_is_like():
    samples = curve("good", 1, 0) + curve("close", 1, 0.004) + curve("bad", 1, 0.1, noise=0.01)
    assert dropped(samples) == {f"bad-{i}" for i in range(4)}


def test_the_baseline_always_stays():
    """16 bit is what every cost is told from, however far behind it is for its size."""
    baseline = curve("none", 4, 3.0, bits=16)
    samples = curve("good", 1, 0) + curve("close", 1, 0.004) + baseline
    assert not ids(baseline) & dropped(samples)
    assert ids(baseline) <= near_by_loss(samples, SHARE)


def test_16_bit_weights_that_read_8_bit_are_no_baseline():
    read = curve("none A8", 4, 3.0, bits=16)
    samples = curve("good", 1, 0) + curve("close", 1, 0.004) + curve("none", 4, 0, bits=16) + read
    assert ids(read) == dropped(samples)


def test_of_a_single_model_nothing_is_dropped():
    samples = [s for name in "abc" for s in curve(name, 1, 0.1 * ord(name))[:1]]
    assert dropped(samples) == set() and near_by_loss(samples, SHARE) == ids(samples)


def test_best_of_another_precision_stays_for_its_distance_is_the_answer():
    """Three settings of one precision lead; the fourth, of another, is the rival."""
    best = [s for name in "abc" for s in curve(name, 1, 1e-3 * ord(name), bits=4)]
    rivals = curve("rival", 1, 1.0, bits=3) + curve("worse", 1, 1.2, noise=0.01, bits=3)
    assert settings_of(dropped(best + rivals)) >= {"worse"}
    assert not ids(rivals[:4]) & dropped(best + rivals)


def test_what_leads_significantly_in_full_is_rarely_dropped():
    """The sample is some of the windows that are scored in full; leads are within its noise."""
    full = int(WINDOWS / SHARE)
    won = missed = 0
    for seed in range(100):
        generator = np.random.default_rng(seed)
        losses = generator.normal(0, 0.5, (3, len(SIZES), full))
        losses[0] -= 0.1
        samples = [
            made(name, i, size, losses[j, i, :WINDOWS])
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


def test_a_tie_goes_on_where_its_lead_could_be_significant_in_full():
    """Half a millinat behind, give or take one: it may lead by another, which is clear in full."""
    noise = 0.004 * np.resize([1.0, -1.0], WINDOWS)
    tie = [
        made("tie", i, size, 10 - np.log(size) / 3 + 5e-4 + TEXT + noise)
        for i, size in enumerate(SIZES)
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
        sizes.setdefault(sample.setting, []).append(sample.size["total"])
    return sum(min(x) <= budget * 1.0001 and budget <= max(x) * 1.0001 for x in sizes.values())


def test_a_curve_is_not_joined_over_lost_points_where_it_would_seem_to_win():
    """`ends` wins at both ends; between, its own points are bad, the line over them is not."""
    middle = bent("middle", [5.0, 3.9, 3.8, 3.5])
    ends = bent("ends", [4.0, 6.0, 6.0, 2.0])
    lost = dropped(middle + ends + bent("other", [5.1, 4.5, 4.4, 3.6]))
    assert not ids(middle[1:3]) & lost
    assert not {"ends-0", "ends-2", "ends-3"} & lost  # joined over ends-1 it seems to win nowhere


def test_diverged_points_lose():
    bad = [made("diverged", i, size, np.full(WINDOWS, np.nan)) for i, size in enumerate(SIZES)]
    assert settings_of(dropped(curve("a", 1, 0) + curve("b", 1, 0.01) + bad)) == {"diverged"}


def test_too_few_windows_rule_nothing_out():
    """One window has no spread, two hardly any: no confidence could be stated."""
    samples = curve("good", 1, 0) + curve("second", 1, 0.05) + curve("bad", 1, 1.0, noise=0.01)

    def of(windows: int) -> list[Sample]:
        return [
            made(s.setting, i % 4, s.size["total"], s.losses[:windows])
            for i, s in enumerate(samples)
        ]

    for windows in (1, 2, MIN_ITEMS - 1):
        assert dropped(of(windows)) == set()
        assert near_by_loss(of(windows), SHARE) == ids(samples)
    assert settings_of(dropped(of(MIN_ITEMS))) == {"bad"}


def test_every_axis_is_asked():
    """By total bits `wide` loses; counted by its quantized matrices alone it is the smallest."""
    wide = [
        Sample(s.experiment_id, s.model, "wide", s.precision, s.is_baseline, s.scope,
               {"total": s.size["total"] * 4, "quantized": s.size["total"] / 2, "nominal": 1e6 + i},
               s.losses)
        for i, s in enumerate(curve("wide", 1, 0.0))
    ]  # fmt: skip
    samples = curve("good", 1, 0) + curve("second", 1, 0.01) + wide
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(adaptive, "AXES", ("total",))
        assert ids(wide) & dropped(samples)
    assert not ids(wide[1:]) & dropped(samples)


@pytest.mark.parametrize("unit", [1.0, 5.0])
def test_near_is_told_by_what_precision_costs(unit):
    """Whatever a tokenizer's nats are worth."""
    samples = [
        s
        for name, cost, bits in (
            ("best", 0, 4), ("near", 0.8 * NEAR, 4), ("far", 1.3 * NEAR, 4), ("coarse", 1.0, 3)
        )
        for s in curve(name, 1, 0.1 * unit * cost, 1e-5, bits, bits)
    ]  # fmt: skip
    assert settings_of(may_win_by_loss(samples, SHARE)) == {"best", "coarse"}
    assert settings_of(near_by_loss(samples, SHARE)) == {"best", "near", "coarse"}


def family(rng: np.random.Generator) -> tuple[list[Sample], np.ndarray, np.ndarray]:
    """Samples; losses [experiments, windows] and rights [experiments, items] of the full protocol.

    Accuracy follows loss with a scatter of a hundredth a setting and model, as on the embedded
    models; items share their luck. Precisions cost a few times as much a bit less.
    """
    windows, items, scatter = 128, 2000, 0.01
    step = np.exp(rng.normal(-3.4, 0.7))
    samples, losses, rights = [], [], []
    text = rng.normal(0, 0.5, windows)
    luck = rng.random(items)
    for bits in (3, 4, 5, 6, 8, 16):
        for kind in "int", "float", "quantile":
            penalty = step * 3.0 ** (4 - bits) * rng.uniform(0.8, 1.6) if bits < 16 else 0.0
            for i, size in enumerate(1e5 * 2.0 ** np.arange(7)):
                loss = 4.5 - 0.15 * np.log(size / 1e5) + penalty
                accuracy = 0.35 + 0.25 * (4.5 - loss) + rng.normal(0, scatter)
                mix = np.where(rng.random(items) < 0.85, luck, rng.random(items))
                losses.append(loss + text + rng.normal(0, 0.03, windows))
                rights.append(mix < accuracy)
                name = f"{bits} {kind}"
                samples.append(made(name, i, size * (bits + 0.25), losses[-1][::8], bits))
    return samples, np.array(losses), np.array(rights, dtype=float)


def winners(samples: list[Sample], errors: np.ndarray) -> list[tuple[set[str], bool]]:
    """By the full protocol: the points under the best curve at each budget, and whether its lead
    over another precision exceeds two standard errors. errors: [experiments, n]."""
    row = {id(sample): values for sample, values in zip(samples, errors, strict=True)}
    curves: dict[str, list[Sample]] = {}
    for sample in samples:
        curves.setdefault(sample.setting, []).append(sample)
    found = []
    for budget in np.geomspace(2e6, 3e7, 40):
        at = []
        for points in curves.values():
            x = np.log([p.size["total"] for p in points])
            if x[0] <= np.log(budget) <= x[-1]:
                j = int(np.clip(np.searchsorted(x, np.log(budget)), 1, len(x) - 1))
                w = (np.log(budget) - x[j - 1]) / (x[j] - x[j - 1])
                values = (1 - w) * row[id(points[j - 1])] + w * row[id(points[j])]
                at.append((values.mean(), points[j - 1 : j + 1], values))
        at.sort(key=lambda found: found[0])
        others = [a for a in at if a[1][0].precision != at[0][1][0].precision] if at else []
        if others:
            lead = others[0][2] - at[0][2]
            sure = lead.mean() > 2 * lead.std(ddof=1) / np.sqrt(len(lead))
            found.append((ids(at[0][1]), bool(sure)))
    return found


def test_the_full_runs_significant_winner_is_kept():
    """Simulated: by loss and by accuracy in 95 % of cases at least."""
    won, kept, scored, total = {"l": 0, "a": 0}, {"l": 0, "a": 0}, {"l": 0, "a": 0}, 0
    for seed in range(10):
        samples, losses, rights = family(np.random.default_rng(seed))
        total += len(samples)
        for what, chosen, errors in (
            ("l", may_win_by_loss(samples, SHARE), losses),
            ("a", near_by_loss(samples, SHARE), 1 - rights),
        ):
            scored[what] += len(chosen)
            for points, sure in winners(samples, errors):
                won[what] += sure
                kept[what] += sure and points <= chosen
    assert min(won.values()) > 30
    assert kept["l"] >= 0.95 * won["l"] and kept["a"] >= 0.95 * won["a"]
    assert scored["l"] < 0.75 * total and scored["a"] < 0.95 * total


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


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """The database of STUDY's sweep, to be copied."""
    folder = tmp_path_factory.mktemp("swept")
    (folder / "study.yaml").write_text(STUDY)
    arguments = [str(folder / "study.yaml"), "--db", str(folder / "t.db"), "--executor", "local"]
    assert main(arguments) == 0
    return folder / "t.db"


@pytest.fixture
def again(swept, tmp_path):
    """What that sweep stored, where `run` finds it."""
    shutil.copy(swept, tmp_path / "t.db")
    return Store.open(f"sqlite:///{tmp_path}/t.db")


@pytest.fixture
def run(tmp_path, capsys):
    def sweep(text: str) -> tuple[int, Store, str]:
        study = tmp_path / "study.yaml"
        study.write_text(text)
        code = main([str(study), "--db", str(tmp_path / "t.db"), "--executor", "local"])
        return code, Store.open(f"sqlite:///{tmp_path}/t.db"), capsys.readouterr().out

    return sweep


def test_sweep_stores_what_was_dropped_why_and_on_which_axes(again, run):
    attempts = again.attempts()
    code, store, out = run(STUDY)  # changes nothing
    assert code == 0 and len(store.attempts()) == len(attempts)
    rows = attempts[attempts["status"] == "dropped"]
    assert set(rows["stage"]) == {"screen"} and screened_axes(store) == {"sotu-neox": set(AXES)}
    assert not rows["experiment_id"].duplicated().any()
    assert rows["error"].str.contains("by loss").all()
    results = store.results()

    def measured(metric: str) -> set[str]:
        return set(results.loc[results["metric"] == metric, "experiment_id"])

    def dropped_from(what: str) -> set[str]:
        return set(rows.loc[rows["error"].str.match(f"({what} )?dropped: "), "experiment_id"])

    everything = set(attempts["experiment_id"])
    assert len(everything) == 26 and measured("cross_entropy_sample") == everything
    assert measured("cross_entropy") == everything - dropped_from("corpora")
    assert measured("acc") == everything - dropped_from("tasks")
    assert measured("acc") and measured("cross_entropy")
    baseline = results.loc[results["bits"] == 16, "experiment_id"]
    assert set(baseline) <= measured("acc") & measured("cross_entropy")
    gone = dropped_from("corpora") & dropped_from("tasks")
    assert 0 < len(gone) < 26 and f"{len(gone)} experiments dropped" in out
    # The full strategy goes on from what is there.
    code, store, out = run(STUDY.replace("adaptive", "full"))
    stored = measured("acc") & measured("cross_entropy")
    assert code == 0 and f"{len(stored)} stored, {26 - len(stored)} to do" in out
    results = store.results()
    assert measured("acc") == measured("cross_entropy") == everything
    assert screened_axes(store) == {}


def test_of_one_model_every_setting_is_scored(run):
    """There is no curve to win by: what each setting costs is the answer."""
    code, store, _ = run(STUDY.replace(", sotu-neox-64x2", ""))
    results = store.results()
    assert code == 0 and results.query("metric == 'acc'")["bits"].nunique() == 4


def test_without_tasks_only_corpora_are_screened(run):
    code, store, _ = run(STUDY.replace("tasks: [sotu_blank]", "tasks: []"))
    assert code == 0 and set(store.attempts()["stage"]) == {"screen", "full"}
    dropped_rows = store.attempts().query("status == 'dropped'")
    scored = store.results().query("metric == 'cross_entropy'")["experiment_id"]
    assert len(dropped_rows) + scored.nunique() == 26


@pytest.mark.parametrize("context", ["", "context: 256\n", "context: 128\n"])
def test_sample_has_windows_enough_at_any_context(tmp_path, context):
    study = tmp_path / "study.yaml"
    study.write_text(STUDY.replace("sotu-neox-64x2", "opt-1.3b") + context)
    sweep = load_sweep(study)
    samples = corpus_sample(expand(sweep, load_models(), study, on_gpu=False), sweep)
    assert set(samples.protocols) == {"sotu-neox-32x2", "opt-1.3b"}
    for (sample,) in samples.protocols.values():
        assert sample.settings["spread"] == SAMPLE_WINDOWS >= 2 * MIN_ITEMS
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


def test_what_older_samples_did_not_ask_about_is_undetermined(again, tmp_path, capsys):
    """They were asked about total bits alone."""
    database = str(tmp_path / "t.db")
    for axis in AXES:
        cli.main(["optimal", "--db", database, "--axis", axis, "--metric", "cross_entropy"])
        assert "undetermined on this axis" not in capsys.readouterr().err
    with sqlite3.connect(database) as connection:
        connection.execute("UPDATE attempts SET axes = 'total' WHERE status = 'dropped'")
    connection.close()
    assert screened_axes(again) == {"sotu-neox": {"total"}}
    for axis, said in (("total", False), ("quantized", True)):
        here = ["--db", database, "--axis", axis, "--metric", "cross_entropy"]
        cli.main(["optimal", *here])
        out, err = capsys.readouterr()
        assert ("undetermined on this axis: experiments were dropped" in err) == said
        assert ("undetermined, dropped by screening" in out) == said
        assert ("is bit-optimal by" in out) != said  # no winner beside it
        cli.main(["optimal", *here, "--format", "json"])
        rows = json.loads(capsys.readouterr().out)
        assert any(row["determined"] for row in rows) != said
        cli.main(["optimal", *here, "--reach", "5", "--format", "json"])
        [row] = json.loads(capsys.readouterr().out)
        assert (row["setting"] is None) == said
        page = tmp_path / "report.html"
        cli.main(["report", "--db", database, "--axis", axis, "--output", str(page)])
        cards = page.read_text().split('<div class="answers">')[1].split("<h2>")[0]
        assert ("Undetermined" in cards and "dropped by screening" in cards) == said
        assert ("wins" in cards) != said
