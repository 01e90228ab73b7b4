"""Claims on training studies whose truth is given: seeds, matched loss, refusals."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.claims.claim import FAILS, HOLDS, UNRESOLVED, Claim
from analysis.claims.intriguing import published
from analysis.claims.intriguing.axes import SAME, axis_claims
from analysis.claims.intriguing.blocks import (
    HALF,
    LINES,
    blocks_exhibit,
    by_block,
    comparisons,
    distributions,
)
from analysis.claims.intriguing.control import control_exhibit
from analysis.claims.intriguing.figures import by_variant
from analysis.claims.intriguing.growth import growth_claims
from analysis.claims.intriguing.matched import read_at
from analysis.claims.intriguing.paper import PAPER, claims
from analysis.claims.intriguing.runs import BASELINE, DOSES, Point, read_ladder
from analysis.claims.intriguing.seeds import (
    LEVEL,
    OPPOSED,
    POWER,
    SeedDifference,
    effect_seen,
    over_sizes,
    t_interval,
)
from analysis.claims.paper import Study
from analysis.curves.metrics import COLUMNS, RUN_COLUMNS
from analysis.documents.study import study_document
from analysis.documents.study_data import read_study, read_tables
from evaluation.statistics.model_analysis import QUANTILES

FOLDER = Path(__file__).parents[3] / "docs" / "training-study"
STEPS = (150, 300, 450, 600)
ITEMS = 30
Damage = Callable[[str, int, int], float]  # of a variant, seed and step


def made_study(
    variants: Mapping[str, Sequence[float]], damage: Damage, seeds: Sequence[int] = (1, 2, 3)
) -> Study:
    """`variants`: name -> 16-bit loss at each step; W3, A4 and W4 add `damage`, W8A8 a tenth."""
    rows, runs, items = [], [], {}
    for variant, bases in variants.items():
        for seed in seeds:
            run = f"neox-64x2-{variant}-s{seed}"
            for step, base in zip(STEPS, bases, strict=True):
                added = {"16": 0.0, "W3": 1.0, "A4": 1.0, "W4": 1.0, "W8A8": 0.1}
                for dose, share in added.items():
                    setting = BASELINE if dose == "16" else DOSES[dose]
                    id_ = f"{run} {step} {dose}"
                    value = base + share * damage(variant, seed, step)
                    rng = np.random.default_rng(len(items))
                    luck = np.random.default_rng(0).normal(0, 0.5, ITEMS)
                    noise = luck + rng.normal(0, 1e-4, ITEMS)
                    items[id_] = (value + noise - noise.mean()).astype(np.float32)
                    rows.append(
                        {"source": "kbit", "experiment_id": id_, "family": run, "model": run}
                        | {"n_params": 1, **setting.row(), "bits_per_param": 4, "total_bits": 1}
                        | {"quantized_bits": 1, "nominal_bits": 1, "task": "sotu"}
                        | {"metric": "cross_entropy", "value": value, "stderr": 0.1}
                        | {"n_items": ITEMS, "run": run, "variant": variant}
                        | {"seed": seed, "step": step}
                    )
                digest = f"{variant if variant != 'weight_decay=0.001' else 'same'} {seed} {step}"
                runs.append(
                    {"size": "64x2", "variant": variant, "seed": seed, "step": step}
                    | {"sha256": digest.replace("weight_decay=0.001 clip_norm=none", "same")}
                    | {"heldout_loss": base, "clipped_steps": 0, "skipped_steps": ""}
                )

    def scores(
        ids: Sequence[str], task: str, metric: str, protocol: str | None = None
    ) -> Mapping[str, np.ndarray]:
        return {i: items[i] for i in ids}

    frame = pd.DataFrame(rows, columns=[*COLUMNS, *RUN_COLUMNS])
    return Study(frame, scores, {"runs": pd.DataFrame(runs)})


TRAINED = (4.4, 4.1, 3.9, 3.8)
PAIR = {"control": TRAINED, "dtype=fp16": TRAINED}


def claim_on(study: Study, title: str) -> Claim:
    (found,) = [c for c in axis_claims(read_ladder(study)) if c.title == title]
    return found


def more(share: float, spread: float = 0.002) -> Damage:
    """The second variant is damaged so much more; seeds differ, alike for all variants."""

    def damage(variant: str, seed: int, step: int) -> float:
        own = spread * np.random.default_rng([seed, len(variant)]).normal()
        factor = 1 + share if variant == "dtype=fp16" else 1
        return (0.05 + 0.01 * seed) * factor * step / 600 + own

    return damage


@pytest.mark.parametrize(
    ("damage", "verdict"),
    [(more(0.5), HOLDS), (more(-0.5), FAILS), (more(0.1, spread=0.03), UNRESOLVED)],
)
def test_a_difference_is_judged_over_seeds(damage: Damage, verdict: str) -> None:
    assert claim_on(made_study(PAIR, damage), "bf16 against fp16").verdict == verdict


def test_fewer_than_three_seeds_are_refused_and_counted() -> None:
    found = claim_on(made_study(PAIR, more(0.5), seeds=[1, 2]), "bf16 against fp16")
    assert found.verdict == "no verdict from 2 seeds" and "2 of 2 seeds" in found.evidence
    one = claim_on(made_study(PAIR, more(0.5), seeds=[1]), "bf16 against fp16")
    assert one.verdict == "no verdict from 1 seed"


def test_a_size_with_too_few_seeds_takes_no_part_in_the_verdict() -> None:
    none = "no verdict from 1 seed"
    assert over_sizes([(3, HOLDS), (3, HOLDS), (1, none)]) == HOLDS
    assert over_sizes([(3, HOLDS), (3, UNRESOLVED), (1, none)]) == UNRESOLVED
    assert over_sizes([(3, UNRESOLVED), (5, FAILS)]) == FAILS
    assert over_sizes([(3, HOLDS), (5, FAILS)]) == OPPOSED
    assert over_sizes([(1, none), (2, "no verdict from 2 seeds")]) == "no verdict from 2 seeds"


def test_the_figure_names_what_its_axis_cannot_show() -> None:
    def helped(variant: str, seed: int, step: int) -> float:
        return -0.01 if variant == "dtype=fp16" else 0.05

    title = by_variant(made_study(PAIR, helped)).layout.xaxis.title.text
    assert "not drawn: 64x2 dtype=fp16 W4 -0.0100, A4 -0.0100" in title
    assert "drawn" not in by_variant(made_study(PAIR, more(0))).layout.xaxis.title.text


def test_less_trained_models_are_compared_at_their_own_loss() -> None:
    # Damage is a function of the 16-bit loss alone: whoever is trained further is damaged more.
    variants = {"control": TRAINED, "dropout=0.4": (4.5, 4.3, 4.1, 4.0)}

    def by_loss(variant: str, seed: int, step: int) -> float:
        return (5 - variants[variant][STEPS.index(step)]) * 0.1 + 1e-4 * seed * len(variant)

    study = made_study(variants, by_loss)
    found = claim_on(study, "No dropout against 0.4")
    ladder = read_ladder(study)
    assert ladder.variants == ["control", "dropout=0.4"]
    (rows,) = [block.rows for block in found.body if not isinstance(block, str)]
    end, matched = (
        next(r for r in rows if r[1:3] == ["W3", way]) for way in ("the end", "matched")
    )
    assert float(end[6]) == pytest.approx(-0.02 + 2e-4 * 4, abs=2e-5)
    assert float(matched[6]) == pytest.approx(2e-4 * 4, abs=2e-5)


def test_models_without_a_loss_in_common_do_not_compare() -> None:
    # The second began better than the first ended.
    variants = {"control": (4.4, 4.3, 4.2, 4.1), "dropout=0.8": (3.9, 3.8, 3.7, 3.6)}
    found = claim_on(made_study(variants, more(0.0)), "No dropout against 0.8")
    assert found.verdict == UNRESOLVED and "no cross-entropy in common" in found.evidence


def test_a_choice_that_never_acted_is_no_test_of_it() -> None:
    variants = {"weight_decay=0.001": TRAINED, "weight_decay=0.001 clip_norm=none": TRAINED}
    assert claim_on(made_study(variants, more(0)), "Clipping at 1.0 against none").verdict == SAME


def test_reading_between_checkpoints() -> None:
    points = {150: Point(4.0, 0.1, None), 300: Point(3.5, 0.2, None), 450: Point(3.0, 0.4, None)}
    read = read_at(points, 3.25)
    assert read is not None and read.added == pytest.approx(0.3)
    last = read_at(points, 3.0)
    assert last is points[450] and read_at(points, 2.9) is None and read_at(points, 4.1) is None


def test_growth_and_early_order() -> None:
    variants = {f"weight_decay={i}": TRAINED for i in range(6)}

    def growing(variant: str, seed: int, step: int) -> float:
        return (0.01 + 0.01 * int(variant[-1])) * step / 600 + 1e-5 * seed * step / 600

    verdicts = [c.verdict for c in growth_claims(read_ladder(made_study(variants, growing)))]
    assert verdicts == [HOLDS, HOLDS]

    def shrinking(variant: str, seed: int, step: int) -> float:
        rank = int(variant[-1]) if step == 150 else 5 - int(variant[-1])
        return 0.01 * rank + 0.1 - 1e-4 * step + 1e-5 * seed * step / 600

    verdicts = [c.verdict for c in growth_claims(read_ladder(made_study(variants, shrinking)))]
    assert verdicts == [FAILS, FAILS]


def test_what_a_design_could_have_seen() -> None:
    rng, n = np.random.default_rng(0), 4
    draws = effect_seen(n) + rng.normal(size=(4000, n))
    seen = np.mean([t_interval(draw)[0] > 0 for draw in draws])
    assert seen == pytest.approx(POWER, abs=0.02) and LEVEL == 0.9
    twice = SeedDifference(np.zeros(n), 2 * draws[0]).power
    assert twice == pytest.approx(2 * SeedDifference(np.zeros(n), draws[0]).power)
    assert np.isnan(SeedDifference(np.zeros(1), np.ones(1)).power)


def test_metrics_are_held_against_planted_outliers() -> None:
    """Those of the committed study."""
    study = Study(*read_study(FOLDER), read_tables(FOLDER))
    (made,) = control_exhibit(study)
    damage, metrics = (block.rows for block in made.body if not isinstance(block, str))
    assert [row[0] for row in damage][0] == "control" and len(damage) == 6
    static = [float(row[2]) for row in damage]
    assert static == sorted(static) and static[-1] > 1
    told = {row[0]: row[-1] for row in metrics}
    assert told["relative output error"] == told["largest / median feature"] == "follows"
    assert told["relative RMSE"] == told["spectral norm*"] == "does not"
    assert list(control_exhibit(made_study(PAIR, more(0)))) == []


def made_matrices() -> pd.DataFrame:
    """Two blocks a model: bf16 and fp16 at two sizes and seeds, one pair whole at 64x4; and
    families, of which one lacks the largest size."""
    names = [
        ("neox-64x2-b-s1", "neox-64x2-b-s1", HALF[0], 1),
        ("neox-64x2-h-s1", "neox-64x2-h-s1", HALF[1], 1),
        ("neox-64x4-b-s1", "neox-64x4-b-s1", HALF[0], 1),
        ("neox-64x4-b-s2", "neox-64x4-b-s2", HALF[0], 2),
        ("neox-64x4-h-s2", "neox-64x4-h-s2", HALF[1], 2),
        *((f"sotu-{family}-32x2", None, None, None) for family in ("bloom", "neox", "opt")),
        *((f"sotu-{family}-128x2", None, None, None) for family in ("bloom", "neox")),
    ]
    rows = []
    for i, (model, run, variant, seed) in enumerate(names):
        told = {"model": model, "run": run, "variant": variant, "seed": seed}
        for block in (0, 1):
            for part in range(2):  # Q and K of their own
                values = {name: i + block + 0.5 * part for name in LINES}
                quantiles = {f"{of}_q{q:g}": q + i for of in ("weight", "gain") for q in QUANTILES}
                rows.append({**told, "kind": "qkv", "block": block, **values, **quantiles})
        rows.append({**told, "kind": "up", "block": 0, **dict.fromkeys(LINES, 99.0)})
    return pd.DataFrame(rows)


def test_matrices_are_drawn_by_block_of_the_largest_size_that_has_all() -> None:
    study = Study(pd.DataFrame(), tables={"matrices": made_matrices()})
    half, families = comparisons(study)
    assert half.title == "bf16 and fp16, 64x4, seed 2" and list(half.blocks) == list(HALF)
    assert families.title == "families, 32x2"
    assert list(families.blocks) == ["sotu-neox-32x2", "sotu-opt-32x2", "sotu-bloom-32x2"]
    drawn = by_block(study).data
    assert len(drawn) == 4 * 5 and list(drawn[0].y) == [3.25, 4.25]
    boxes = distributions(study).data
    assert list(boxes[0].median) == [3.5, 3.5] and list(boxes[0].upperfence) == [3.999, 3.999]
    assert list(blocks_exhibit(Study(pd.DataFrame()))) == []


def test_other_studies_have_none_of_these_claims() -> None:
    rows = made_study(PAIR, more(0)).results.drop(columns=RUN_COLUMNS)
    assert claims(Study(rows)) == []


def test_the_papers_numbers_against_its_table() -> None:
    full, int8, int4 = (published.TABLE_4["52B"][name] for name in ("FP16", "W8A8", "W4"))
    means = [np.mean(values) for values in (full, int8, int4)]
    assert means == pytest.approx([77.31, 77.39, 73.72], abs=0.006)  # as printed
    assert published.percent_change(full, int8) == pytest.approx(0.103, abs=0.001)
    assert published.percent_change(full, int4) == pytest.approx(-4.58, abs=0.01)


def test_the_document_is_what_the_committed_files_say() -> None:
    study = Study(*read_study(FOLDER), read_tables(FOLDER))
    figures = {path.stem: f"training-study/{path.name}" for path in sorted(FOLDER.glob("*.svg"))}
    text = study_document(PAPER, study, PAPER.title, figures)
    assert FOLDER.with_suffix(".md").read_text() == text
