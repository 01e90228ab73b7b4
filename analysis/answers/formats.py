"""The answer's second axis: weights alone, or activations too, at equal total bits.

A format says what a product multiplies: W4A16 holds 4-bit weights and computes in 16 bit, W4A8
rounds activations to 8 bit as well. At a budget each is represented by its best setting there,
whatever its recipe; a format's size is that of its weights, so that W4A16 and W4A8 compete alike.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from analysis.answers.contest import (
    N_BUDGETS,
    ONE_SIZE,
    BoolArray,
    IntArray,
    competitors,
    lead_error,
)
from analysis.curves.panel import Panel, make_panel, run_ends
from analysis.curves.scaling import Curve, FloatArray
from analysis.noise.bootstrap import ItemScores, no_item_scores
from analysis.noise.means import is_clear
from quantizers.recipes import recipe_of
from quantizers.setting import Setting

COLUMNS = ["family", "budget_bits", "format", "recipe", "setting", "value", "behind"]
COLUMNS += ["behind_stderr", "paired", "clearly_behind"]
_EQUAL = 1e-12  # of a value: formats closer than that to the best are tied with it


def format_name(setting: Setting) -> str:
    """ "W4A16", "W8A8"; "W4/8A8" with 8 bit in attention, "W4A8KV8" with an 8-bit cache."""
    activations, cache = setting.activation_format, setting.cache
    attention = f"/{setting.attention_bits}" if setting.attention_bits else ""
    read = 16 if activations is None else activations.bits
    return f"W{setting.bits:g}{attention}A{read}{f'KV{cache.bits}' if cache else ''}"


def formats_at(
    curves: Sequence[Curve],
    budgets: Sequence[float] | FloatArray,
    scores: ItemScores = no_item_scores,
) -> pd.DataFrame:
    """The best setting of every format at each budget (bits), the best format first.

    `curves`: of one family, metric and axis. Columns: family, budget_bits, format, recipe (its
    name, "": it has none), setting (its label), value; behind (what it is worse by than the best
    format's, 0 for that itself), behind_stderr (NaN where it is not known), paired (over the items
    both were scored on), clearly_behind (the distance's 95 % interval leaves out 0). A budget that
    one format alone reaches is left out.
    """
    panel = make_panel(curves)
    grid = np.asarray(budgets, dtype=np.float64)
    value, best = _best_of_formats(panel, grid)
    tables = []
    recipes = [recipe_of(curve.setting) or "" for curve in panel.curves]
    first = np.argmax(np.stack([score for score, _ in best.values()]), axis=0)
    champion = np.stack([index for _, index in best.values()])[first, np.arange(len(grid))]
    for name, (score, index) in best.items():
        met = np.isfinite(score) & (index != champion)
        behind = np.zeros(len(grid))
        behind[met] = panel.better * (value[champion, _each(grid)] - value[index, _each(grid)])[met]
        behind[behind <= _EQUAL * np.abs(value[champion, _each(grid)])] = 0.0
        error = lead_error(panel, grid, champion, index, met, scores)
        reached = np.isfinite(score)
        tables.append(
            pd.DataFrame(
                {
                    "family": panel.curves[0].family,
                    "budget_bits": grid,
                    "format": name,
                    "recipe": [recipes[i] for i in index],
                    "setting": [panel.curves[i].setting.label for i in index],
                    "value": value[index, _each(grid)],
                    "behind": behind,
                    "behind_stderr": np.where(met, error.stderr, 0.0),
                    "paired": error.paired | ~met,
                    "clearly_behind": met & is_clear(behind, error.stderr, error.df),
                }
            )[reached]
        )
    table = pd.concat(tables, ignore_index=True)
    contested = table.groupby("budget_bits")["format"].transform("size") > 1
    return table[contested].sort_values(["budget_bits", "behind"], ignore_index=True)[COLUMNS]


def format_shares(
    results: pd.DataFrame,
    metric: str = "zero_shot",
    axis: str = "total",
    task: str | None = None,
    scores: ItemScores = no_item_scores,
) -> pd.DataFrame:
    """How often each format wins, by family, where some settings round activations.

    Over log-spaced budgets that a weight-only format and one with activations reach. Columns:
    family, format, share (of budgets won; formats that tie share a budget, so shares add up to 1),
    reached (share of budgets it reaches), behind (mean over those it reaches), clearly_behind
    (share of these), usual (the setting that stands for it most often), recipe (that setting's,
    "": it has none), n_budgets, low_bits and high_bits (the budgets). Raises ValueError as
    scaling_curves does.
    """
    rows: list[list[object]] = []
    for family, curves in competitors(results, metric, axis, task).items():
        budgets = _shared_budgets(curves)
        if not len(budgets):
            continue
        table = formats_at(curves, budgets, scores)
        table["won"] = table["behind"] == 0
        table["won"] = table["won"] / table.groupby("budget_bits")["won"].transform("sum")
        n = table["budget_bits"].nunique()
        for name, part in table.groupby("format", sort=False):
            usual = part["setting"].mode().iloc[0]
            recipe = part.loc[part["setting"] == usual, "recipe"].iloc[0]
            share, reached = part["won"].sum() / n, len(part) / n
            behind = part[["behind", "clearly_behind"]].mean()
            place = [n, table["budget_bits"].min(), table["budget_bits"].max()]
            rows.append([family, name, share, reached, *behind, usual, recipe, *place])
    columns = ["family", "format", "share", "reached", "behind", "clearly_behind", "usual"]
    columns += ["recipe", "n_budgets", "low_bits", "high_bits"]
    shares = pd.DataFrame(rows, columns=columns)
    return shares.sort_values(["family", "share"], ascending=[True, False], ignore_index=True)


def _best_of_formats(
    panel: Panel, budgets: FloatArray
) -> tuple[FloatArray, dict[str, tuple[FloatArray, IntArray]]]:
    """Curves at budgets, [S, m]; format -> score (larger is better, -inf: not reached) and index
    of its best curve, each [m]."""
    value = panel.read(budgets)
    score = np.where(np.isfinite(value), panel.better * value, -np.inf)
    names = np.array([format_name(curve.setting) for curve in panel.curves])
    best = {}
    for name in dict.fromkeys(names):
        within = np.where((names == name)[:, None], score, -np.inf)
        index = within.argmax(axis=0)
        best[str(name)] = (within[index, _each(budgets)], index)
    return value, best


def _shared_budgets(curves: Sequence[Curve]) -> FloatArray:
    """N_BUDGETS where a format of weights alone and one with activations have values; or none."""
    panel = make_panel(curves)
    alone = np.array([curve.setting.activation_format is None for curve in curves])
    places = run_ends(panel)
    read = np.isfinite(panel.read(places))
    met = places[_both(read, alone)]
    if len(met) < 2 or np.log(met[-1] / met[0]) <= ONE_SIZE:
        return np.empty(0)
    budgets = np.geomspace(met[0], met[-1], N_BUDGETS)
    return budgets[_both(np.isfinite(panel.read(budgets)), alone)]


def _both(reached: BoolArray, alone: BoolArray) -> BoolArray:
    return np.asarray(reached[alone].any(axis=0) & reached[~alone].any(axis=0))


def _each(budgets: FloatArray) -> IntArray:
    return np.arange(len(budgets))
