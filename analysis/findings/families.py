"""Comparisons the paper makes between families and precisions: C.1, section 5.1."""

import numpy as np
import pandas as pd

from analysis.answers.contest import NEAR_CHANCE
from analysis.curves.metrics import chance_level, larger_is_better
from analysis.curves.panel import make_panel, overlap_range
from analysis.curves.points import curve_points
from analysis.curves.scaling import Curve, FloatArray, scaling_curves
from analysis.curves.settings import is_baseline, main_settings, settings_of
from analysis.noise.bootstrap import ItemScores, item_noise, no_item_scores
from analysis.noise.errors import means_of
from analysis.noise.means import margin
from analysis.noise.spread import INTERVAL, interval
from evaluation.tasks.sets import SIZE_WEIGHTED

_N_BUDGETS = 60
RANDOM_LOSS = np.log(100.0)  # nats: the paper takes perplexities above 100 for random performance


def precision_duel(
    results: pd.DataFrame,
    first: int = 5,
    second: int = 4,
    metric: str = "zero_shot",
    axis: str = "total",
    scores: ItemScores = no_item_scores,
) -> pd.DataFrame:
    """Is `first` bit as good as `second` at equal size? (C.1: Pythia's 5 bit is as good as 4.)

    Main settings, over log-spaced budgets that both curves reach. Columns: family, lead (mean
    over budgets, positive: `first` is better), low, high (90%, paired over items), share (of
    budgets at which `first` is ahead).
    """
    rows = []
    for family, curves in _main_curves(results, metric, axis).items():
        by_bits = {curve.setting.bits: curve for curve in curves}
        if first in by_bits and second in by_bits:
            lead = curve_lead(by_bits[first], by_bits[second], scores)
            rows += [[family, *lead]] if lead else []
    return pd.DataFrame(rows, columns=["family", "lead", "low", "high", "share"])


def curve_lead(
    first: Curve, second: Curve, scores: ItemScores = no_item_scores
) -> tuple[float, float, float, float] | None:
    """Mean lead of one curve over another of its family, its 90% interval and the share ahead.

    Over log-spaced budgets that both reach (None where there are none); positive: `first` is
    better. The interval is paired over items.
    """
    found = lead_replicates(first, second, scores)
    if found is None:
        return None
    lead, replicates, share = found
    return lead, *interval(replicates), share


def lead_replicates(
    first: Curve, second: Curve, scores: ItemScores = no_item_scores
) -> tuple[float, FloatArray, float] | None:
    """As curve_lead: the mean lead, what it is with other items ([R], the same items for every
    pair of curves, so that leads of families may be averaged), and the share ahead."""
    span = overlap_range([first, second])
    if span is None:
        return None
    panel = make_panel([first, second])
    budgets = np.geomspace(*span, _N_BUDGETS)
    value = np.concatenate([panel.value[None], panel.value + item_noise(panel, scores)])
    read = panel.read(budgets, value)
    lead = panel.better * (read[:, 0] - read[:, 1])
    lead = lead[:, np.isfinite(lead[0])]
    if not lead.size:
        return None
    mean = lead.mean(axis=1)
    return float(mean[0]), mean[1:], float((lead[0] > 0).mean())


def quantization_loss(results: pd.DataFrame, metric: str = "zero_shot") -> pd.DataFrame:
    """What each precision loses against 16 bit: per model of the main settings.

    Columns: family, model, n_params, bits, loss (positive is worse), stderr (as if independent);
    task, parts, experiment, base: what both were scored on, and the two by id.
    """
    better = 1.0 if larger_is_better(metric) else -1.0
    rows = []
    for family, curves in _main_curves(results, metric, "total").items():
        full = next((c for c in curves if c.setting.is_baseline), None)
        if full is None:
            continue
        base = {model: i for i, model in enumerate(full.models)}
        for curve in curves:
            for i, model in enumerate(curve.models):
                if curve is not full and model in base:
                    j = base[model]
                    loss = better * (full.value[j] - curve.value[i])
                    stderr = np.hypot(full.stderr[j], curve.stderr[i])
                    place = [family, model, curve.n_params[i], curve.setting.bits]
                    known = [_experiment(curve, i), _experiment(full, j)]
                    rows.append([*place, loss, stderr, curve.task, curve.parts, *known])
    columns = ["family", "model", "n_params", "bits", "loss", "stderr", "task", "parts"]
    return pd.DataFrame(rows, columns=[*columns, "experiment", "base"])


def _experiment(curve: Curve, i: int) -> str:
    return curve.experiments[i] if curve.experiments else ""


def compare_families(
    results: pd.DataFrame,
    first: str = "bloom",
    second: str = "bloomz",
    metric: str = "zero_shot",
    scores: ItemScores = no_item_scores,
) -> pd.DataFrame:
    """Does fine-tuning change what quantization does? (C.1: BLOOM and BLOOMZ behave alike.)

    Models are paired by their number of parameters. Columns: bits, first_loss, second_loss,
    difference, low, high (90%), errors ("paired" over the items that all four experiments of every
    pair were scored on, else "independent", from the stored errors, which overstates them),
    n_models. Empty without pairs.
    """
    loss = quantization_loss(results, metric)
    loss = loss[np.isfinite(loss["loss"].astype(float))]
    one, two = (loss[loss["family"] == family] for family in (first, second))
    pairs = one.merge(two, on=["n_params", "bits"], suffixes=("_first", "_second"))
    rows = []
    for bits, part in pairs.groupby("bits"):
        mean = part[["loss_first", "loss_second"]].mean()
        error, df, kind = _error_between(part, metric, scores)
        reach = float(margin(error, df, level=INTERVAL))
        change = mean["loss_second"] - mean["loss_first"]
        rows.append([bits, *mean, change, change - reach, change + reach, kind, len(part)])
    columns = ["bits", "first_loss", "second_loss", "difference", "low", "high", "errors"]
    return pd.DataFrame(rows, columns=[*columns, "n_models"])


def _error_between(
    pairs: pd.DataFrame, metric: str, scores: ItemScores
) -> tuple[float, float, str]:
    """Of the mean difference of two families' losses: error, degrees of freedom, kind."""
    weight: dict[str, float] = {}
    for family, sign in (("first", -1.0), ("second", 1.0)):
        for column, of in (("experiment", 1.0), ("base", -1.0)):
            for id_ in pairs[f"{column}_{family}"]:
                weight[id_] = weight.get(id_, 0.0) + sign * of / len(pairs)
    parts = {*pairs["parts_first"], *pairs["parts_second"]}
    means = None
    if len(parts) == 1 and metric != "perplexity":  # which is no mean of its items
        by_items = metric == "zero_shot" and pairs["task_first"].iloc[0] in SIZE_WEIGHTED
        means = means_of(parts.pop(), list(weight), scores, by_items)
    if means is not None:
        variance, df = means.of_sum(np.array(list(weight.values())))
        return float(np.sqrt(variance)), df, "paired"
    error = np.hypot(pairs["stderr_first"], pairs["stderr_second"])
    return float(np.sqrt((error**2).sum()) / len(pairs)), np.inf, "independent"


def collapses(results: pd.DataFrame, bits: int = 3, metric: str = "zero_shot") -> pd.DataFrame:
    """Which models collapse to chance at `bits` (section 5.1: the largest OPT and Pythia at 3).

    Accuracy: its 95 % interval holds guessing (of unknown errors, a margin of NEAR_CHANCE);
    left out are tasks of which it is not known what guessing gives, and models that guess at 16
    bit, too, and so have nothing to fall from. Losses: perplexity above 100, or diverged.
    Columns: family, model, n_params, setting, value, threshold, collapsed; by size.
    """
    points = curve_points(results, metric).sort_values(["family", "n_params"])
    value = points["value"].to_numpy(dtype=np.float64)
    if metric == "zero_shot":
        error = points["stderr"].to_numpy(dtype=np.float64)
        reach = np.where(np.isfinite(error), margin(error), NEAR_CHANCE)
        threshold = points["task"].map(chance_level).to_numpy(dtype=np.float64) + reach
        fallen = ~(value > threshold)
    else:
        limit = RANDOM_LOSS if metric == "cross_entropy" else np.exp(RANDOM_LOSS)
        threshold, fallen = np.full(len(value), limit), ~(value <= limit)
    settings = [setting.label for setting in settings_of(points)]
    table = points.assign(setting=settings, threshold=threshold, collapsed=fallen)
    columns = ["family", "model", "n_params", "setting", "value", "threshold", "collapsed"]
    guesses = points.loc[is_baseline(points) & fallen, ["family", "model"]]
    names = pd.MultiIndex.from_frame(table[["family", "model"]])
    judged = ~names.isin(pd.MultiIndex.from_frame(guesses)) & np.isfinite(threshold)
    return table.loc[judged & (table["bits"] == bits), columns].reset_index(drop=True)


def _main_curves(results: pd.DataFrame, metric: str, axis: str) -> dict[str, list[Curve]]:
    curves = scaling_curves(results, metric, axis)
    main = main_settings([curve.setting for curve in curves])
    fields: dict[str, list[Curve]] = {}
    for curve in curves:
        if curve.setting in main:
            fields.setdefault(curve.family, []).append(curve)
    return fields
