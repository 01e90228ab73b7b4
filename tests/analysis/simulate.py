"""Families whose noise-free scaling curves are known, and item scores drawn around them.

A simulated family has six to eight sizes at five precisions. Its truth has the shapes real sweeps
show: a base curve plus an offset a precision, 3 bit that is not monotone in size, small models at
chance, sizes missing, diverged points. Items share their luck across precisions, as real ones do.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.stats import norm

from analysis.curves.metrics import Part
from analysis.curves.scaling import Curve
from quantizers.setting import Setting

PRECISIONS = (3, 4, 5, 8, 16)
TASKS = ("sotu_last_word", "sotu_blank", "sotu_corruption", "sotu_continuation")
ZOO = dict(missing=0.1, broken=0.05, unstable=0.3)
PLAIN = dict(missing=0.0, broken=0.0, unstable=0.0)


@dataclass
class Family:
    """`truth`: the noise-free curves; `seen`: what was measured; `scores` as ItemScores."""

    truth: list[Curve]
    seen: list[Curve]
    items: dict[tuple[str, str], np.ndarray]

    def scores(
        self, ids: Sequence[str], task: str, metric: str, protocol: str | None = None
    ) -> Mapping[str, np.ndarray]:
        return {i: self.items[i, task] for i in ids if (i, task) in self.items}


def simulate(
    seed: int,
    metric: str = "cross_entropy",
    n_items: int = 300,
    missing: float = 0.1,
    broken: float = 0.05,
    unstable: float = 0.3,
) -> Family:
    """One family. `missing`, `broken`: share of points; `unstable`: chance of a jumping 3 bit."""
    rng = np.random.default_rng(seed)
    n_models = int(rng.integers(6, 9))
    n_params = 1e5 * 2.0 ** (np.arange(n_models) + rng.uniform(-0.2, 0.2, n_models))
    size = rng.uniform(-0.05, 0.05) + 0.12 * np.log(n_params / 1e5)
    step = np.exp(rng.normal(-3.4, 0.7))  # how much one bit matters, per family
    loss = np.stack([3.9 - size + step * 3.0 ** (4 - bits) for bits in PRECISIONS])
    if rng.uniform() < unstable:
        loss[0] += rng.choice([0.0, 0.5], n_models, p=[0.7, 0.3])
    if metric == "zero_shot":
        truth = np.maximum(0.35, 0.35 + 0.25 * (3.75 - loss))  # the smallest stand at chance
        items, mean = _accuracies(rng, truth, n_items)
    else:
        truth = loss
        shared = rng.normal(0, 0.6, (n_items, 1, 1)) + rng.normal(0, 0.2, (n_items, 1, n_models))
        drawn = truth + shared + rng.normal(0, 0.25, (n_items, *truth.shape))
        items, mean = {"sotu": drawn}, drawn.mean(axis=0)
    diverged = rng.uniform(size=truth.shape) < broken
    present = rng.uniform(size=truth.shape) >= missing
    curves, seen, scores = [], [], {}
    for i, bits in enumerate(PRECISIONS):
        at = np.flatnonzero(present[i])
        if not len(at):
            continue
        curve = Curve(
            family="simulated",
            setting=_setting(bits),
            metric=metric,
            task="sotu",
            axis="total",
            models=tuple(f"m{j}" for j in at),
            n_params=tuple(int(n_params[j]) for j in at),
            bits=n_params[at] * bits,
            value=np.where(diverged[i, at], np.nan, truth[i, at]),
            stderr=np.full(len(at), np.nan),
            experiments=tuple(f"{bits}-m{j}" for j in at),
            parts=tuple(Part(task, "score") for task in items),
        )
        curves.append(curve)
        error = _stderr(items, i, at)
        seen.append(
            replace(
                curve,
                value=np.where(diverged[i, at], np.nan, mean[i, at]),
                stderr=error,
            )
        )
        for task, drawn in items.items():
            for j in at:
                scores[f"{bits}-m{j}", task] = drawn[:, i, j].astype(np.float32)
    return Family(curves, seen, scores)


def _accuracies(
    rng: np.random.Generator, truth: np.ndarray, n_items: int
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Right or wrong by a latent ability that precisions and sizes share in part."""
    limit = norm.ppf(truth)
    items = {}
    for task in TASKS:
        latent = np.sqrt(0.4) * rng.normal(size=(n_items, 1, 1))
        latent = latent + np.sqrt(0.4) * rng.normal(size=(n_items, 1, truth.shape[1]))
        latent = latent + np.sqrt(0.2) * rng.normal(size=(n_items, *truth.shape))
        items[task] = (latent < limit).astype(float)
    return items, np.mean([drawn.mean(axis=0) for drawn in items.values()], axis=0)


def _stderr(items: dict[str, np.ndarray], i: int, at: np.ndarray) -> np.ndarray:
    squares = [drawn[:, i, at].var(axis=0, ddof=1) / len(drawn) for drawn in items.values()]
    return np.sqrt(np.sum(squares, axis=0)) / len(items)


def _setting(bits: int) -> Setting:
    if bits == 16:
        return Setting("none", 16, None, None, None, 0.0, False, "linear")
    return Setting("rtn", bits, "int", None, 64, 0.0, False, "linear")
