"""The study's document: from committed files alone, and true to them."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.claims.claim import votes
from analysis.claims.four_bit.factors import factor_claims
from analysis.claims.four_bit.high_precision import high_precision_claims
from analysis.claims.four_bit.optimum import linear_only
from analysis.claims.paper import Study
from analysis.claims.papers import PAPERS
from analysis.curves.metrics import COLUMNS
from analysis.curves.scaling import scaling_curves
from analysis.documents import study as study_module
from analysis.documents.study_data import read_study, read_tables, write_study
from analysis.documents.study_method import method
from analysis.noise.bootstrap import ItemScores
from quantizers.setting import ADDED_COLUMNS
from tests.analysis.rich import BLOCK_GAIN, OUTLIER_GAIN, rich_results, with_table_2

PAPER = PAPERS["four-bit"]
STUDY = Path(__file__).parents[3] / "docs" / "embedded-study"
N_ITEMS = 40


def study_document(
    results: pd.DataFrame, scores: ItemScores, title: str, figures: Mapping[str, str]
) -> str:
    return study_module.study_document(PAPER, Study(results, scores), title, figures)


def with_items(results: pd.DataFrame) -> tuple[pd.DataFrame, ItemScores]:
    """Every cross-entropy as windows of text whose luck all experiments share."""
    luck = np.random.default_rng(0).normal(0, 0.3, N_ITEMS)
    losses = results[results["metric"] == "cross_entropy"].set_index("experiment_id")["value"]
    items = {id_: (value + luck).astype(np.float32) for id_, value in losses.items()}

    def scores(
        ids: Sequence[str], task: str, metric: str, protocol: str | None = None
    ) -> Mapping[str, np.ndarray]:
        return {i: items[i] for i in ids} if metric == "cross_entropy" else {}

    return results, scores


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study") / "study"
    write_study(folder, *with_items(with_table_2(rich_results())))
    return folder


def test_files_give_back_what_was_written(stored: Path) -> None:
    given, scores = with_items(with_table_2(rich_results()))
    results, again = read_study(stored)
    key = ["experiment_id", "task", "metric"]
    before, after = (
        frame[COLUMNS].sort_values(key, ignore_index=True) for frame in (given, results)
    )
    for column in COLUMNS:
        if pd.api.types.is_numeric_dtype(after[column]):
            numbers = (frame[column].astype(float) for frame in (before, after))
            np.testing.assert_allclose(*numbers, rtol=1e-8)
        else:
            assert before[column].fillna("").tolist() == after[column].fillna("").tolist()
    ids = results["experiment_id"].unique().tolist()
    first, second = scores(ids, "sotu", "cross_entropy"), again(ids, "sotu", "cross_entropy")
    assert first.keys() == second.keys()
    assert max(np.abs(first[i] - second[i]).max() for i in ids) <= 0.00051
    assert again(ids, "sotu_blank", "acc") == {} and again(["nobody"], "sotu", "acc") == {}


def test_words_stay_words_in_files(stored: Path) -> None:
    results = read_study(stored)[0]
    for column, default in ADDED_COLUMNS.items():
        if isinstance(default, str):  # "16" among them
            assert set(results[column]) == {default}, column


def test_the_same_results_are_the_same_bytes(stored: Path, tmp_path: Path) -> None:
    write_study(tmp_path, *with_items(with_table_2(rich_results())))
    for file in stored.iterdir():
        assert file.read_bytes() == (tmp_path / file.name).read_bytes()


def test_experiments_without_finite_items_have_none(tmp_path: Path) -> None:
    results, scores = with_items(rich_results())
    ids = results["experiment_id"].unique().tolist()

    def broken(
        ids: Sequence[str], task: str, metric: str, protocol: str | None = None
    ) -> dict[str, np.ndarray]:
        found = dict(scores(ids, task, metric, protocol))
        for i, id_ in enumerate(found):
            bad = {0: found[id_] * np.nan, 1: found[id_][:5], 2: found[id_] + 1e30}
            found[id_] = bad.get(i, found[id_])
        return found

    write_study(tmp_path, results, broken)
    again = read_study(tmp_path)[1](ids, "sotu", "cross_entropy")
    assert len(again) == len(ids) - 3
    exact = scores(ids, "sotu", "cross_entropy")
    assert max(np.abs(exact[i] - again[i]).max() for i in again) <= 0.00051


def test_the_document_says_what_the_results_hold(stored: Path) -> None:
    results, scores = read_study(stored)
    text = study_document(results, scores, "A study", {"figure-02-total-bits": "a/b.svg"})
    in_short = text[: text.index("## What was measured")]
    for claim, verdict in {
        "Smaller blocks improve 4-bit precision": "holds",  # 0.02 nats, 2.5 bits' worth
        "At 6 to 8 bit nothing helps": "does not hold",  # the same gain at every precision
        "Half of the bits should be exponent bits": "holds",
        "Centering does not help": "holds",
        "Perplexity stands for zero-shot accuracy": "holds",
        "Weight deviation tells where large features are": "holds",
        "A bivariate power law fits poorly": "holds",
    }.items():
        row = next(line for line in in_short.splitlines() if f"[{claim}]" in line)
        assert f"| **{verdict}** |" in row
        assert f"\n## {claim}\n" in text
        anchor = re.search(r"\(#([^)]*)\)", row)
        assert anchor and anchor[1] == claim.lower().replace(" ", "-")
    assert f"| sotu-neox | 4-bit | {4 * BLOCK_GAIN:+.4f} |" in text
    assert f"{OUTLIER_GAIN:+.4f} | +0.26 |" in text and "![figure-02-total-bits](a/b.svg)" in text
    assert "; counted from blocks of 1024 " in text and "“from 1024”: of what it gains in" in text
    assert "the claim holds if attention output → FFN1 clearly exceeds 0.5" in text
    assert "GPT-NeoX computes attention and FFN in parallel" in text
    assert f"{results['experiment_id'].nunique():,} experiments: 12 models" in text
    assert "outliers at 3 and 4 bit and blocks of 64;" in text
    assert "nan" not in text.replace("nance", "")


def test_what_cannot_be_tested_is_left_out(results: pd.DataFrame) -> None:
    text = study_document(*with_items(results), "Few factors", {})
    assert "almost universally optimal" in text
    for absent in ("Smaller blocks", "Centering does not", "Proxy outliers", "Weight deviation"):
        assert absent not in text
    with pytest.raises(ValueError, match="no experiment has one"):
        study_document(*with_items(results.assign(metric="seconds")), "Nothing", {})


def test_types_that_were_not_measured_are_not_beaten() -> None:
    results, scores = with_items(rich_results())
    four = results["bits"] == 4

    def verdicts(*types: str) -> list[str]:
        some = results[~four | results["data_type"].isin(types)]
        found = factor_claims(linear_only(some), scores)
        return [claim.verdict for claim in found if claim.title.startswith("Quantile and float")]

    assert verdicts("int", "float", "quantile") == ["holds"]
    assert verdicts("int", "float") == verdicts("int", "dynamic") == ["open"]
    assert verdicts("int") == []


def at_high_precision(of_four: float, error: float) -> str:
    """The verdict on 6 to 8 bit where a factor's effects are `of_four` times those at 4 bit."""
    results = rich_results()
    results = results[results["metric"] == "cross_entropy"]
    plain = results["experiment_id"].str.replace("-linear-.*", "-linear", regex=True)
    base = plain.map(results.set_index("experiment_id")["value"])
    scale = np.where(results["bits"] >= 6, of_four, 1.0)
    value = base + scale * (results["value"] - base)
    rng, items = np.random.default_rng(0), {}
    luck = rng.normal(0, 0.6, N_ITEMS)  # a value's standard error is 0.1, above every effect
    for id_, mean in zip(results["experiment_id"], value, strict=True):
        own = rng.normal(0, error * np.sqrt(N_ITEMS), N_ITEMS)
        items[id_] = (mean + luck + own - own.mean()).astype(np.float32)

    def scores(
        ids: Sequence[str], task: str, metric: str, protocol: str | None = None
    ) -> Mapping[str, np.ndarray]:
        return {i: items[i] for i in ids} if metric == "cross_entropy" else {}

    linear = linear_only(results.assign(value=value, stderr=0.1))
    (claim,) = high_precision_claims(linear, scores)
    return claim.verdict


def test_nothing_at_high_precision_is_beside_four_bit_and_paired() -> None:
    assert at_high_precision(0.05, error=0.0005) == "holds"
    assert at_high_precision(0.6, error=0.0005) == "does not hold"  # still below a value's error
    assert at_high_precision(0.05, error=0.03) == "open"


def test_the_rule_over_several_comparisons() -> None:
    some = ["holds"] * 2 + ["does not hold"] * 10
    assert votes(some) == "does not hold"
    assert votes(["holds", "does not hold"]) == "holds in part" and votes(["holds"]) == "holds"
    assert votes(["open", "open", "does not hold"]) == "open"


def test_the_design_is_read_off_the_experiments(stored: Path) -> None:
    results, _ = read_study(stored)
    assert "outliers at 3 and 4 bit and blocks of 64;" in str(study_module._data(results))
    moved = results["outlier_fraction"] > 0
    wider = results.assign(block_size=results["block_size"].where(~moved, 256))
    assert "outliers at 3 and 4 bit and blocks of 256;" in str(study_module._data(wider))


def test_neighbouring_windows_that_resemble_each_other_are_told(stored: Path) -> None:
    results, scores = with_items(rich_results())
    drift = np.linspace(0, 3, N_ITEMS).astype(np.float32)

    def alike(
        ids: Sequence[str], task: str, metric: str, protocol: str | None = None
    ) -> Mapping[str, np.ndarray]:
        return {i: x + drift for i, x in scores(ids, task, metric, protocol).items()}

    found = [
        float(found[1])
        for given in (scores, alike)
        if (found := re.search(r"correlate by ([+-]\S+) in", str(method(results, given))))
    ]
    assert len(found) == 2 and abs(found[0]) < 0.4 and found[1] > 0.8


def test_every_figure_of_a_study_can_be_drawn() -> None:
    study = Study(rich_results())
    for name, draw in PAPER.figures.items():
        assert draw(study).data, name


def test_a_study_s_other_tables_lie_beside_its_results(stored: Path, tmp_path: Path) -> None:
    assert read_tables(stored) == {}
    rows = pd.DataFrame({"model": ["a"], "weight_decay": [0.1]})
    rows.to_csv(tmp_path / "runs.csv", index=False)
    rows.to_csv(tmp_path / "sites.csv.gz", index=False)
    tables = read_tables(tmp_path)
    assert set(tables) == {"runs", "sites"} and tables["runs"].equals(rows)
    (tmp_path / "sites.csv.gz").write_bytes(b"no gzip at all")
    with pytest.raises(ValueError, match="sites.csv.gz cannot be read"):
        read_tables(tmp_path)


def test_the_committed_study_is_what_was_asked_for() -> None:
    if not (STUDY / "results.csv.gz").is_file():
        pytest.skip("docs/embedded-study holds no results yet")
    results, scores = read_study(STUDY)
    experiments = results.drop_duplicates("experiment_id")
    assert len(experiments) >= 3000 and experiments["model"].nunique() == 12
    assert {2, 3, 4, 5, 6, 7, 8, 16} == set(experiments["bits"])
    curve = scaling_curves(results, "cross_entropy")[0]
    found = scores(curve.experiments, "sotu", "cross_entropy")
    for id_, value, stderr in zip(curve.experiments, curve.value, curve.stderr, strict=True):
        if np.isfinite(value):  # windows are of equal length but the last
            assert found[id_].mean() == pytest.approx(value, abs=stderr / 2)


def test_the_committed_document_is_what_its_results_give() -> None:
    document = STUDY.with_suffix(".md")
    if not document.is_file():
        pytest.skip("docs/embedded-study.md is not there yet")
    shown = {path.stem: f"{STUDY.name}/{path.name}" for path in sorted(STUDY.glob("*.svg"))}
    text = study_document(*read_study(STUDY), "The embedded study", shown)
    committed = document.read_text()
    # Another processor may round the last digit of a bootstrap differently: one unit is allowed.
    number = re.compile(r"\d[\d,]*(?:\.(\d+))?(?:e[+-]?\d+)?")
    assert number.sub("#", text) == number.sub("#", committed)
    for new, old in zip(number.finditer(text), number.finditer(committed), strict=True):
        a, b = (float(found[0].replace(",", "")) for found in (new, old))
        assert abs(a - b) <= max(1.01 * 10.0 ** -len(old[1] or ""), 0.02 * abs(b)), (new, old)


@pytest.mark.parametrize("name", ["gptq", "fptq"])
def test_the_verdicts_of_committed_studies_are_what_their_results_give(name: str) -> None:
    paper = PAPERS[name]
    folder = STUDY.parent / paper.folder
    if not folder.with_suffix(".md").is_file():
        pytest.skip(f"{folder.name}.md is not there yet")
    study = Study(*read_study(folder), read_tables(folder))
    committed = re.findall(
        r"^\| \[(.+?)\].*?\*\*(.+?)\*\*", folder.with_suffix(".md").read_text(), re.M
    )
    claims = list(paper.claims(study))
    assert committed == [(claim.title, claim.verdict) for claim in claims]
    for claim in claims:  # each lead has its interval beside it
        shown = re.sub(r"\([^()]* to [^()]*\)", "(interval)", claim.evidence)
        leads = re.findall(r"[+-]\d+\.\d{4}\b(?! (?:nats )?\(interval\))", shown)
        assert not leads, claim.evidence
