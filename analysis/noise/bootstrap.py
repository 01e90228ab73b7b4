"""Bootstrap replicates of scaling curves: over the items scored, and over the models of a family.

Items are resampled once for all experiments: two precisions scored on the same items keep their
common luck, which cancels in a comparison. Models are resampled once for all precisions of a
family: what a curve would say had other sizes of the family been trained.

Quantiles of plain replicates are too close where there are few items, or few that changed, so the
replicates are widened to the intervals of analysis.noise.means: of right-or-wrong items by the
answer that each experiment might have got more and less, of others as Student's t is wider than
the normal.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from zlib import crc32

import numpy as np
import numpy.typing as npt

from analysis.curves.panel import Panel
from analysis.curves.remembering import once
from analysis.curves.scaling import Curve
from analysis.noise.means import are_shares, largest_item
from evaluation.tasks.sets import SIZE_WEIGHTED

N_REPLICATES = 1000
SEED = 20230613

ItemScores = Callable[[Sequence[str], str, str, str | None], Mapping[str, np.ndarray]]
"""(experiment ids, task, metric, protocol) -> scores of each item, float32 [n], of those of them
that have any; without a protocol (None), of the one that most experiments of a model have."""

_MOST_NATS = 50.0  # what a replicate adds at most: draws of few windows reach beyond any number
_AT_ONCE = 256  # experiments whose items are in memory together


def no_item_scores(
    ids: Sequence[str], task: str, metric: str, protocol: str | None = None
) -> Mapping[str, np.ndarray]:
    """For results that come without per-item scores: their standard errors are used."""
    return {}


def item_noise(
    panel: Panel,
    scores: ItemScores = no_item_scores,
    n_replicates: int = N_REPLICATES,
    points: npt.NDArray[np.bool_] | None = None,
) -> npt.NDArray[np.float32]:
    """What resampling the items adds to each value: float32 [n_replicates, S, M].

    Where a point has no item scores, the noise is Student's with its stored standard error and
    independent of the others, which overstates the error of a comparison; where it has neither it
    is NaN: not known. Outside `points` (bool [S, M]) it is 0. Perplexities are resampled through
    their cross-entropies.
    """
    noise = np.zeros((n_replicates, *panel.value.shape), dtype=np.float32)
    wanted = np.isfinite(panel.value) & (True if points is None else points)
    places: dict[str, tuple[int, int]] = {}
    for i, j in zip(*np.nonzero(wanted), strict=True):
        experiment = panel.curves[i].experiments[j] if panel.curves[i].experiments else ""
        if experiment:
            places[experiment] = (int(i), int(j))
    resampled = _resampled(panel.curves[0], list(places), scores, n_replicates)
    for experiment, change in resampled.items():
        noise[:, *places[experiment]] = change
        wanted[places[experiment]] = False
    if panel.curves[0].metric == "perplexity":
        noise = np.expm1(np.minimum(noise, _MOST_NATS)) * np.nan_to_num(panel.value).astype(
            np.float32
        )
    noise[:, wanted & ~np.isfinite(panel.stderr)] = np.nan
    wanted &= np.isfinite(panel.stderr)
    generator = np.random.default_rng([SEED, crc32(panel.curves[0].family.encode())])
    normal = generator.standard_normal((n_replicates, int(wanted.sum())), dtype=np.float32)
    if np.isfinite(panel.df[wanted]).any():
        normal *= _spreads(generator, panel.df[wanted], normal.shape)
    noise[:, wanted] = normal * panel.stderr[wanted].astype(np.float32)
    return noise


def _resampled(
    curve: Curve, experiments: list[str], scores: ItemScores, n_replicates: int
) -> dict[str, npt.NDArray[np.floating]]:
    """Experiment -> change of its value in each replicate [R], where all its items are known."""
    by_items = curve.metric == "zero_shot" and curve.task in SIZE_WEIGHTED
    total: dict[str, npt.NDArray[np.floating]] = {}
    for start in range(0, len(experiments), _AT_ONCE):
        part = experiments[start : start + _AT_ONCE]
        counted: dict[str, int] = dict.fromkeys(part, 0)
        mass: dict[str, int] = dict.fromkeys(part, 0)
        unseen: dict[str, float] = dict.fromkeys(part, 0.0)
        for task, metric, protocol in curve.parts:
            found = {k: x for k, x in scores(part, task, metric, protocol).items() if len(x) > 1}
            for n in {len(x) for x in found.values()}:
                ids = [key for key, x in found.items() if len(x) == n]
                items = np.stack([found[key] for key in ids], axis=1)
                weight = n if by_items else 1
                shares = are_shares(items)
                change = np.float32(weight) * resampled_means(task, items, n_replicates, shares)
                item = largest_item([(shares, n)], [weight])
                for key, column in zip(ids, change.T, strict=True):
                    total[key] = total[key] + column if key in total else column
                    counted[key] += 1
                    mass[key] += weight
                    unseen[key] = max(unseen[key], item)
        for key in part:
            if counted[key] < len(curve.parts) or not curve.parts:
                total.pop(key, None)
            else:
                own = np.float32(unseen[key]) * own_luck(key, n_replicates)
                total[key] = (total[key] + own) / np.float32(mass[key])
    return total


def resampled_means(
    task: str, items: npt.NDArray[np.floating], n_replicates: int, shares: bool
) -> npt.NDArray[np.floating]:
    """What drawing other items adds to the mean of each column: [R, E].

    items: [n, E], n > 1, an experiment (or a sum of differences) a column. How much items
    vary is not known better than n of them tell, unless they are `shares` (right or wrong): each
    replicate of others is Student's, the same number of its spreads for all columns.
    """
    n = len(items)
    centred = (items - items.mean(axis=0)) * np.float32(1 / np.sqrt(n * (n - 1)))
    drawn = resampling_counts(task, n, n_replicates) @ centred
    if shares:
        return np.asarray(drawn)
    generator = np.random.default_rng([SEED, crc32(task.encode()), n, 1])
    return np.asarray(drawn * _spreads(generator, n - 1.0, (n_replicates, 1)))


def _spreads(
    generator: np.random.Generator, df: npt.ArrayLike, shape: tuple[int, ...]
) -> npt.NDArray[np.float32]:
    """What makes normal draws Student's by multiplication: float32 of `shape`; df: broadcasts."""
    finite = np.minimum(df, 1e9)
    return np.sqrt(finite / generator.chisquare(finite, shape)).astype(np.float32)


def own_luck(experiment: str, n_replicates: int) -> npt.NDArray[np.float32]:
    """Standard normal draws of one experiment, [R], the same in every comparison: to scale by one
    item of a task of right-or-wrong ones, which might have been answered otherwise."""
    return once(_own_luck, experiment, n_replicates)


def _own_luck(experiment: str, n_replicates: int) -> npt.NDArray[np.float32]:
    generator = np.random.default_rng([SEED, crc32(experiment.encode()), 2])
    return generator.standard_normal(n_replicates, dtype=np.float32)


@lru_cache(maxsize=8)
def resampling_counts(task: str, n: int, n_replicates: int) -> npt.NDArray[np.float32]:
    """How often each of the n items of a task is drawn in each replicate: float32 [R, n].

    The same for every model and precision, in this process and the next.
    """
    generator = np.random.default_rng([SEED, crc32(task.encode()), n])
    drawn = generator.integers(n, size=(n_replicates, n)) + n * np.arange(n_replicates)[:, None]
    counts = np.bincount(drawn.ravel(), minlength=n * n_replicates)
    return counts.reshape(n_replicates, n).astype(np.float32)


def kept_models(panel: Panel, n_replicates: int) -> npt.NDArray[np.bool_]:
    """The points that remain when the family's models are resampled: bool [R, S, M].

    A model drawn twice counts once; a curve then joins the models that remain. Diverged models
    stay, so that dropping them never bridges a gap.
    """
    n = len(panel.models)
    generator = np.random.default_rng([SEED, crc32(panel.curves[0].family.encode()), n])
    drawn = generator.integers(n, size=(n_replicates, n))
    kept = np.zeros((n_replicates, n), dtype=bool)
    kept[np.arange(n_replicates)[:, None], drawn] = True
    return kept[:, panel.model] | ~np.isfinite(panel.value)
