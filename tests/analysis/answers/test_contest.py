"""Who wins, by how much and how surely: one contest, and everything that reads it."""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.answers.contest import competitors, contests
from analysis.answers.costs import setting_costs
from analysis.answers.optimal import optimal
from analysis.answers.shares import EVERY_FAMILY, win_shares
from analysis.answers.universal import certain_shares
from analysis.claims.four_bit.optimum import linear_only, main_only
from analysis.curves.metrics import COLUMNS
from analysis.curves.panel import make_panel
from analysis.documents.report import write_report
from analysis.documents.scaling_figure import scaling_figure
from analysis.documents.study_data import read_study
from analysis.findings.finding import find
from analysis.findings.wording import headline, range_part, verdict_sentence
from analysis.noise.bootstrap import no_item_scores
from analysis.noise.errors import covariance
from tests.analysis.conftest import make_results
from tests.analysis.simulate import simulate

STUDY = Path(__file__).parents[3] / "docs" / "embedded-study"


def shared_luck(results: pd.DataFrame):
    """Windows whose luck all experiments share, with little of their own."""
    losses = results[results["metric"] == "cross_entropy"].set_index("experiment_id")["value"]
    rng = np.random.default_rng(0)
    luck = rng.normal(0, 0.3, 200)
    items = {id_: value + luck + rng.normal(0, 0.01, 200) for id_, value in losses.items()}

    def scores(ids: Sequence[str], task: str, metric: str, protocol: str | None = None):
        return {i: items[i] for i in ids if metric == "cross_entropy"}

    return scores


def rows(table: str) -> pd.DataFrame:
    """A frame of results from "model bits data_type total metric value n_items" lines."""
    made = []
    for i, line in enumerate(table.strip().splitlines()):
        model, bits, data_type, total, metric, value, n_items = line.split()
        made.append(
            dict.fromkeys(COLUMNS)
            | {"source": "x", "experiment_id": str(i), "family": "f", "model": model}
            | {"n_params": 1000, "method": "rtn", "bits": float(bits), "scope": "linear"}
            | {"data_type": None if data_type == "-" else data_type, "centered": False}
            | {"outlier_fraction": 0.0, "bits_per_param": float(bits), "total_bits": int(total)}
            | {"nominal_bits": int(total), "task": "piqa" if metric == "acc" else "text"}
            | {"metric": metric, "value": float(value), "n_items": int(n_items)}
        )
    frame = pd.DataFrame(made)
    return frame.astype({"stderr": float, "quantized_bits": "Int64", "block_size": "Int64"})


# Case 17: leads by paired errors, the same in every place that says "clear".
def test_a_paired_lead_is_clear_where_an_unpaired_one_is_not() -> None:
    results = make_results(stderr=0.1)
    scores = shared_luck(results)
    paired, alone = (find(results, "cross_entropy", scores=s) for s in (scores, no_item_scores))
    assert paired.paired == 1 and alone.paired == 0
    clear = [f.by_precision["clear_share"].sum() for f in (paired, alone)]
    assert clear[0] > 0.8 > 0.2 > clear[1]
    assert "(errors as if independent" in headline(alone) and "(errors" not in headline(paired)


def test_cards_titles_and_tables_read_one_contest(tmp_path: Path) -> None:
    results = make_results(stderr=0.02)
    scores = shared_luck(results)
    finding = find(results, "cross_entropy", scores=scores)
    best = finding.by_precision
    wins, clear = f"{best['share'].iloc[0]:.0%}", f"{best['clear_share'].sum():.0%}"
    title = scaling_figure(results, "cross_entropy", scores=scores).layout.title.text
    said = f"at {wins} of budgets ({range_part(finding)}); a lead is clear at {clear}"
    assert said in title == headline(finding)
    assert "iB to " in range_part(finding) and "chance" not in range_part(finding)
    page = write_report(results, tmp_path / "r.html", scores=scores).read_text()
    card = page[page.index("By cross-entropy") :]
    assert f"-bit wins {wins} of budgets" in card
    assert f"A lead is clear at {clear} of all budgets" in card
    table, _ = certain_shares(results, "cross_entropy", scores=scores)
    pooled = table[(table["family"] == EVERY_FAMILY) & (table["bits"] == best.index[0])]
    assert pooled["share"].item() == pytest.approx(best["share"].iloc[0])
    (contest, *_) = contests(results, "cross_entropy", scores=scores).values()
    for j in np.linspace(0, len(contest.budgets) - 1, 5, dtype=int):
        answer = optimal(
            results, contest.budgets[j], contest.family, "cross_entropy", scores=scores
        )[0]
        assert answer.paired and answer.significant == contest.clear[j]
        assert answer.lead_stderr == pytest.approx(contest.error.stderr[j])


def test_the_lead_is_over_another_precision() -> None:
    results = make_results(("f",), bits=(4, 5, 16))
    five = results[(results["bits"] == 5) & (results["scope"] == "linear")]
    twin = five.assign(experiment_id=five["experiment_id"] + "-int", data_type="int")
    loss = results["metric"] == "cross_entropy"
    results.loc[loss & (results["bits"] == 5), "value"] -= 0.5
    twin.loc[twin["metric"] == "cross_entropy", "value"] -= 0.5001  # as good, of the same precision
    both = pd.concat([results, twin], ignore_index=True)
    answer = optimal(both, 5e6, metric="cross_entropy")[0]
    assert answer.setting and answer.runner_up and answer.setting.bits == 5
    assert answer.runner_up.bits != 5 and answer.lead > 0.3


def test_the_error_of_a_lead_is_that_of_the_interpolated_difference() -> None:
    """Against the items themselves, weighed as interpolation weighs the models."""
    family = simulate(3, missing=0, broken=0, unstable=0)
    panel = make_panel(family.seen)
    known = covariance(panel, np.isfinite(panel.value), family.scores)
    points = np.array([[known.place[0, 1]], [known.place[0, 2]], [known.place[1, 0]]])
    weight = np.array([[0.3], [0.7], [-1.0]])
    items = [family.items[e, "sotu"] for e in (
        family.seen[0].experiments[1], family.seen[0].experiments[2], family.seen[1].experiments[0]
    )]  # fmt: skip
    difference = 0.3 * items[0] + 0.7 * items[1] - items[2]
    error = known.of_sums(points, weight)
    expected = difference.std(ddof=1) / np.sqrt(len(difference))
    assert error.paired.all() and error.stderr[0] == pytest.approx(expected, rel=1e-5)
    assert error.df[0] == pytest.approx(len(difference) - 1)  # one corpus: Student's t of windows


def test_the_embedded_study_s_leads_are_clear_by_paired_errors() -> None:
    results, scores = read_study(STUDY)
    main = main_only(linear_only(results))
    clear = {
        name: find(main, "cross_entropy", scores=s).by_precision["clear_share"].sum()
        for name, s in (("paired", scores), ("unpaired", no_item_scores))
    }
    assert clear["paired"] == pytest.approx(0.875, abs=0.03)
    assert clear["unpaired"] == pytest.approx(0.05, abs=0.03)


# Case 16: no comparison, no winner.
ONE_MODEL = """
a 16 - 16000 cross_entropy 2.88 100
a 4 int 4000 cross_entropy 2.95 100
a 4 float 4000 cross_entropy 2.93 100
a 3 int 3000 cross_entropy 4.81 100
a 3 float 3000 cross_entropy 4.70 100
"""


@pytest.mark.parametrize("table", [ONE_MODEL, ONE_MODEL + "b 16 - 99000 cross_entropy 2.5 100"])
def test_one_model_or_sizes_apart_have_no_winner(table: str, tmp_path: Path) -> None:
    results = rows(table).assign(stderr=0.01)
    finding = find(results, "cross_entropy")
    assert finding.shares.empty and win_shares(results, "cross_entropy").empty
    assert "undetermined" in headline(finding)
    assert certain_shares(results, "cross_entropy")[1] is None
    for budget in (3000, 4000, 16000):
        assert not optimal(results, budget, metric="cross_entropy")[0].determined
    page = write_report(results, tmp_path / "r.html").read_text()
    assert "Undetermined" in page and "-bit wins" not in page
    costs = page[page.index("What each setting costs") :]
    assert "+1.9300" in costs and "independent" in costs


def test_a_cost_is_paired_over_items() -> None:
    results = make_results(("f",), bits=(4, 16))
    results = results[results["model"] == "f-64x2"]
    scores = shared_luck(results)
    paired, alone = (setting_costs(results, "cross_entropy", scores=s).iloc[0]
                     for s in (scores, no_item_scores))  # fmt: skip
    assert paired["errors"] == "paired" and alone["errors"] == "independent"
    assert paired["difference"] == pytest.approx(0.015) == alone["difference"]
    assert paired["low"] < 0.015 < paired["high"]
    assert paired["clear"] and not alone["clear"]


@pytest.mark.parametrize("size", [8000, 8040])
def test_single_precisions_meeting_at_one_size_are_no_contest(size: int) -> None:
    """4 bit of 2n parameters and 8 bit of n are of one size, or nearly: one budget is no range."""
    results = rows(
        f"""
a 8 int 8000 cross_entropy 3.0 100
b 8 int 16000 cross_entropy 2.8 100
a 4 int 4000 cross_entropy 3.1 100
b 4 int {size} cross_entropy 2.9 100
"""
    )
    finding = find(results, "cross_entropy")
    assert finding.shares.empty and "at one size alone" in headline(finding)
    (answer,) = optimal(results, 8000, metric="cross_entropy")
    assert answer.setting and answer.setting.bits == 4  # asked of that very size


# Cases 19 and 45: unknown is not zero, and chance is no winner.
SHARES = """
a 16 - 16000 acc {0} {n}
b 16 - 32000 acc {1} {n}
c 16 - 64000 acc {2} {n}
a 4 int 8000 acc {0} {n}
b 4 int 16000 acc {1} {n}
c 4 int 32000 acc {2} {n}
"""


def test_without_errors_there_is_no_interval_and_no_verdict(tmp_path: Path) -> None:
    results = rows(SHARES.format(0.6, 0.7, 0.8, n=0))
    results.loc[results["bits"] == 4, "value"] -= np.array([0.02, 0.01, 0.03])
    table, claim = certain_shares(results)
    assert claim is not None and claim.verdict == "unknown"
    assert np.isnan([claim.low, claim.high, claim.tied_share]).all()
    assert table[["low", "high", "low_models", "high_models"]].isna().all(axis=None)
    said = verdict_sentence(claim, "accuracy on piqa")
    assert "cannot be judged" in said and "holds" not in said and "interval" not in said
    finding = find(results)
    assert finding.unknown == 1 and "errors unknown" in headline(finding)
    (answer,) = optimal(results, 2e4, scores=no_item_scores)
    assert answer.determined and not answer.significant and answer.certainty is None
    page = write_report(results, tmp_path / "r.html").read_text()
    shown = re.sub(r"<script.*?</script>", "", page, flags=re.S)
    assert "nan" not in shown and "clear leads at" not in shown


def test_budgets_that_no_resampling_changes_have_no_interval_of_width_zero() -> None:
    results = rows(SHARES.format(0.6, 0.7, 0.8, n=100_000))
    results.loc[results["bits"] == 4, "value"] -= 0.3
    _, claim = certain_shares(results)
    assert claim is not None and claim.low == claim.share == claim.high
    said = verdict_sentence(claim, "accuracy on piqa")
    assert "(so do 90% of resamplings)" in said and "interval" not in said


def test_shares_of_counted_items_have_binomial_errors() -> None:
    results = rows(SHARES.format(0.6, 0.7, 1.0, n=400))
    (contest,) = contests(results).values()
    assert np.isfinite(contest.error.stderr).all() and (contest.error.stderr > 0).all()
    (curve, *_) = competitors(results, "zero_shot", "total")["f"]
    assert curve.stderr[0] == pytest.approx(np.sqrt(0.6 * 0.4 / 400), rel=0.01)
    assert 0 < curve.stderr[2] < 0.01  # all right: still not exact


@pytest.mark.parametrize("n", [0, 8, 200])
def test_at_chance_nobody_wins(n: int) -> None:
    results = rows(SHARES.format(0.49, 0.51, 0.505, n=n))
    finding = find(results)
    assert finding.shares.empty and finding.at_chance == {"f": 1.0}
    assert "at chance: no setting can be told from guessing" in headline(finding)
    assert "can be told from guessing" in str(optimal(results, 2e4)[0].reason)


def test_a_report_of_guessing_says_so(tmp_path: Path) -> None:
    results = rows(SHARES.format(0.49, 0.51, 0.505, n=8))
    assert ">Not clear of chance<" in write_report(results, tmp_path / "r.html").read_text()


def test_what_is_partly_at_chance_says_so_and_what_chance_is() -> None:
    """The two smallest of four models guess: the headline names the range and the level."""
    table = SHARES + "d 16 - 128000 acc {3} {n}\nd 4 int 64000 acc {3} {n}"
    results = rows(table.format(0.49, 0.51, 0.6, 0.7, n=2000))
    said = headline(find(results))
    assert "left out where no setting is clear of chance, 50.00 %: " in said
    assert " in f)" in said and "iB to " in said


def test_a_claim_is_not_judged_from_a_small_part_of_the_sizes() -> None:
    """Precisions meet at a sixth of the range of sizes; 4 bit wins all of that clearly."""
    results = rows(
        """
a 16 - 16000 cross_entropy 3.5 100
b 16 - 32000 cross_entropy 3.4 100
c 4 int 20000 cross_entropy 2.8 100
d 4 int 40000 cross_entropy 2.6 100
e 4 int 400000 cross_entropy 2.0 100
"""
    ).assign(stderr=0.001)
    _, claim = certain_shares(results, "cross_entropy")
    assert claim is not None and claim.share == claim.low == 1
    assert claim.verdict == "narrow" and claim.compared == pytest.approx(
        np.log(32 / 20) / np.log(400 / 16), rel=0.02
    )
    said = verdict_sentence(claim, "cross-entropy")
    assert "cannot be judged from so small a part of the sizes" in said and "holds" not in said
    assert "15% of the (log) range of all sizes" in said
    assert "only 15% of the range of all sizes)" in headline(find(results, "cross_entropy"))


# Case 20: bits are a number.
def test_fractions_of_a_bit_are_precisions() -> None:
    results = rows(
        """
a 2.5 int 2500 cross_entropy 3.4 100
b 2.5 int 5000 cross_entropy 3.2 100
a 1.58 int 1580 cross_entropy 3.5 100
b 1.58 int 3160 cross_entropy 3.1 100
"""
    ).assign(stderr=0.01)
    finding = find(results, "cross_entropy")
    assert finding.by_precision.index[0] == 1.58 and "1.58-bit is" in headline(finding)
    figure = scaling_figure(results, "cross_entropy")
    looks = {t.name: (t.line.color, t.marker.symbol) for t in figure.data}
    assert set(looks) == {"1.58-bit int per tensor", "2.5-bit int per tensor"}
    assert len(set(looks.values())) == 2
