"""Two variants at one cross-entropy: models that were trained less quantize better."""

from collections.abc import Mapping

import numpy as np

from analysis.claims.intriguing.runs import Ladder, Model, Point
from analysis.claims.intriguing.seeds import SeedDifference

MATCHED = (
    "At matched cross-entropy: by seed, each variant's added loss is read off its own checkpoints, "
    "linearly between them, at the pair's common 16-bit cross-entropy, the worse of the two "
    "finals; where one never was that good, or began better, they do not compare. Checkpoints on "
    "the way have not been annealed; a final model has."
)


def at_the_end(ladder: Ladder, size: str, pair: tuple[str, str], dose: str) -> SeedDifference:
    """The pair's last models, seed by seed where both have the dose."""
    both = []
    for seed in ladder.seeds:
        points = [ladder.final(Model(size, variant, seed), dose) for variant in pair]
        if points[0] is not None and points[1] is not None:
            both.append((points[0], points[1]))
    return _difference(both)


def at_matched_loss(ladder: Ladder, size: str, pair: tuple[str, str], dose: str) -> SeedDifference:
    """The pair at each seed's common cross-entropy, without the seeds where there is none."""
    both = []
    for seed in ladder.seeds:
        models = [Model(size, variant, seed) for variant in pair]
        final = [ladder.final(model, dose) for model in models]
        if final[0] is None or final[1] is None:
            continue
        common = max(final[0].base, final[1].base)
        read = [read_at(ladder.points[model][dose], common) for model in models]
        if read[0] is not None and read[1] is not None:
            both.append((read[0], read[1]))
    return _difference(both)


def read_at(checkpoints: Mapping[int, Point], base: float) -> Point | None:
    """A run's added loss where its 16-bit loss was `base`, between the last two checkpoints around
    it; None where it never was."""
    steps = sorted(checkpoints)
    if steps and checkpoints[steps[-1]].base == base:
        return checkpoints[steps[-1]]
    for before, after in reversed(list(zip(steps, steps[1:], strict=False))):
        first, second = checkpoints[before], checkpoints[after]
        if second.base <= base <= first.base and first.base > second.base:
            weight = (first.base - base) / (first.base - second.base)
            return _between(first, second, weight)
    return None


def _between(first: Point, second: Point, weight: float) -> Point:
    items = None
    if first.items is not None and second.items is not None:
        items = (1 - weight) * first.items + weight * second.items
    mean = [(1 - weight) * a + weight * b for a, b in
            ((first.base, second.base), (first.added, second.added))]  # fmt: skip
    return Point(mean[0], mean[1], items)


def _difference(both: list[tuple[Point, Point]]) -> SeedDifference:
    items = [b.items - a.items for a, b in both if a.items is not None and b.items is not None]
    return SeedDifference(
        np.array([a.added for a, _ in both]),
        np.array([b.added for _, b in both]),
        np.mean(items, axis=0) if both and len(items) == len(both) else None,
    )
