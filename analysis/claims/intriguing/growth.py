"""Over the steps of training: does damage grow, and do early checkpoints foretell it?"""

from collections.abc import Callable, Iterator, Mapping

import numpy as np
from scipy import stats

from analysis.claims.claim import (
    FAILS,
    HOLDS,
    UNRESOLVED,
    Block,
    Claim,
    Exhibit,
    between,
    table,
)
from analysis.claims.intriguing.runs import JUDGED, FloatArray, Ladder, Model, Point
from analysis.claims.intriguing.seeds import (
    HOW,
    LEAST_SEEDS,
    LEVEL,
    no_verdict,
    over_sizes,
    t_interval,
)

ON_THE_WAY = (*JUDGED, "A8 static")


def growth_claims(ladder: Ladder) -> Iterator[Claim]:
    """Claims on doses that were measured at two steps or more."""
    first, second = _cells(ladder, _grown), _cells(ladder, _foretold)
    if first:
        yield _claim(
            "Damage grows over training",
            "section 4, “Using early checkpoints”; Figure 3",
            "Quantization degradation increases with step count.",
            first,
            "by {mean:+.4f} nats from the first checkpoint to the last",
            "Of each seed the mean over its variants of what quantization adds to the last model "
            "less what it adds to the first checkpoint.",
        )
    if second:
        yield _claim(
            "Early checkpoints foretell the order of variants",
            "section 4, “Using early checkpoints”",
            "The relative impact of a variant emerges early in training.",
            second,
            "rank correlation {mean:+.2f} of first checkpoint and last model",
            "Of each seed Spearman's correlation over its variants between what quantization adds "
            "to the first checkpoint and to the last model. Variants whose weights are the same "
            "count once.",
        )


def growth_exhibit(ladder: Ladder) -> Iterator[Exhibit]:
    """Added loss and 16-bit loss by step, a table a size."""
    for size in ladder.sizes:
        rows = []
        for variant in ladder.variants:
            for dose in ON_THE_WAY:
                by_seed = [ladder.points.get(Model(size, variant, seed), {}).get(dose, {})
                           for seed in ladder.seeds]  # fmt: skip
                by_seed = [points for points in by_seed if len(points) > 1]
                if by_seed:
                    rows.append([variant, dose, str(len(by_seed)), *_over_steps(by_seed)])
        if rows:
            yield Exhibit(
                f"Degradation and absolute loss over steps, {size}",
                "the right of Figure 3, in nats a token",
                [
                    "16-bit cross-entropy / what the dose adds to it, at each kept step: means "
                    "over seeds.",
                    table(["Variant", "Dose", "Seeds", *_steps(ladder, size)], rows, text=2),
                ],
                ("figure-03-over-steps",),
            )


def _steps(ladder: Ladder, size: str) -> list[str]:
    steps = {
        step
        for model, doses in ladder.points.items()
        if model.size == size
        for dose in ON_THE_WAY
        for step in doses.get(dose, {})
    }
    return [f"step {step}" for step in sorted(steps)]


def _over_steps(by_seed: list[Mapping[int, Point]]) -> list[str]:
    steps = sorted(set.intersection(*(set(points) for points in by_seed)))
    means = [
        (
            np.mean([points[step].base for points in by_seed]),
            np.mean([points[step].added for points in by_seed]),
        )
        for step in steps
    ]
    return [f"{base:.3f} / {added:.4f}" for base, added in means]


_Cells = dict[tuple[str, str], FloatArray]


def _cells(ladder: Ladder, statistic: Callable[[list[tuple[float, float]]], float]) -> _Cells:
    """(size, dose) -> a statistic of (first, last) over variants, [seeds]."""
    cells = {}
    for size in ladder.sizes:
        for dose in ON_THE_WAY:
            by_seed = [_first_and_last(ladder, size, seed, dose) for seed in ladder.seeds]
            values = np.array([statistic(pairs) for pairs in by_seed if pairs])
            if np.isfinite(values).any():
                cells[size, dose] = values[np.isfinite(values)]
    return cells


def _first_and_last(ladder: Ladder, size: str, seed: int, dose: str) -> list[tuple[float, float]]:
    pairs = []
    for variant in ladder.variants:
        points = ladder.points.get(Model(size, variant, seed), {}).get(dose, {})
        if len(points) > 1:
            pairs.append((points[min(points)].added, points[max(points)].added))
    return list(dict.fromkeys(pairs))


def _grown(pairs: list[tuple[float, float]]) -> float:
    return float(np.mean([last - first for first, last in pairs]))


def _foretold(pairs: list[tuple[float, float]]) -> float:
    if len(pairs) < 4:
        return np.nan
    first, last = np.array(pairs).T
    return float(stats.spearmanr(first, last).statistic)


def _claim(title: str, source: str, says: str, cells: _Cells, told: str, how: str) -> Claim:
    rows, judged, evidence = [], [], []
    for (size, dose), values in cells.items():
        low, high = t_interval(values)
        verdict = HOLDS if low > 0 else FAILS if high < 0 else UNRESOLVED
        if len(values) < LEAST_SEEDS:
            verdict = no_verdict(len(values))
        ends = between(low, high)
        rows.append([size, dose, str(len(values)), f"{values.mean():+.4f}", ends, verdict])
        if dose in JUDGED:
            judged.append((len(values), verdict))
            evidence.append(f"{size} {dose} {told.format(mean=values.mean())}")
    body: list[Block] = [
        f"{how} The verdict is that of {' and '.join(JUDGED)}, by the rules under “{HOW}”.",
        table(["Size", "Dose", "Seeds", "Mean", f"{LEVEL:.0%} over seeds", "Verdict"], rows, 2),
    ]
    return Claim(title, source, says, over_sizes(judged), "; ".join(evidence), body)
