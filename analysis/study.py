"""A study written up: each claim of the paper, and what these results show, as Markdown.

Every number is computed from the results; verdicts follow from rules that the text states.
"""

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from analysis.bootstrap import N_REPLICATES, ItemScores
from analysis.curves import remembered_curves
from analysis.markdown import Claim, table
from analysis.metrics import curve_points
from analysis.paper_figures import FIGURES, LOSS
from analysis.settings import settings_of
from analysis.study_additions import addition_claims
from analysis.study_factors import factor_claims
from analysis.study_fits import fit_claims
from analysis.study_optimum import linear_only, optimum_claims

_FACTORS = ["bits", "data_type", "exponent_bits", "block_size", "outlier_fraction", "centered"]
_FACTORS += ["scope"]
# Effects of factors are drawn by loss, as they are tested.
STUDY_FIGURES: dict[str, Callable[[pd.DataFrame], go.Figure]] = {
    "figure-02-total-bits": FIGURES["figure-02-total-bits"],
    "figure-04-proxy-outliers": partial(FIGURES["figure-04-proxy-outliers"], metric=LOSS),
    "figure-12-exponent-bits": partial(FIGURES["figure-12-exponent-bits"], metric=LOSS),
    "figure-13-total-bits-loss": FIGURES["figure-13-total-bits-loss"],
    "figure-14-data-type-loss": FIGURES["figure-14-data-type-loss"],
    "figure-15-block-size-loss": FIGURES["figure-15-block-size-loss"],
}
"""The figures a study shows, from its rows of scope `linear`."""


def study_document(
    results: pd.DataFrame, scores: ItemScores, title: str, figures: Mapping[str, str]
) -> str:
    """The study as Markdown; `figures`: name in STUDY_FIGURES -> address to show it from.

    `results` is the flat view, `scores` gives its per-item scores. Raises ValueError where no
    experiment has a cross-entropy.
    """
    if curve_points(results, "cross_entropy").empty:
        raise ValueError("a study needs cross-entropies: no experiment has one")
    with remembered_curves():
        linear = linear_only(results)
        claims = [
            *optimum_claims(results, scores),
            *factor_claims(linear, scores),
            *addition_claims(results, scores),
            *fit_claims(linear),
        ]
    parts = [
        f"# {title}",
        "The claims of Dettmers & Zettlemoyer 2023, *The case for 4-bit precision*, tested on "
        "small models. Generated from stored results by `kbit study`: every number and verdict on "
        "these models is computed, none is typed.",
        "## In short",
        table(
            ["Claim", "Here", "What was measured"],
            [[f"[{c.title}](#{_anchor(c.title)})", f"**{c.verdict}**", c.evidence] for c in claims],
            text=3,
        ),
        "## What was measured",
        *_data(results),
        "## Where the numbers come from",
        *_method(results),
    ]
    for claim in claims:
        parts += _section(claim, figures)
    return "\n\n".join(parts) + "\n"


def _section(claim: Claim, figures: Mapping[str, str]) -> list[str]:
    shown = [f"![{name}]({figures[name]})" for name in claim.figures if name in figures]
    return [
        f"## {claim.title}",
        f"Claim ({claim.source}): {claim.claim}",
        f"**Here: {claim.verdict}.** {claim.evidence[0].upper()}{claim.evidence[1:]}.",
        *claim.body,
        *shown,
    ]


def _anchor(title: str) -> str:
    kept = "".join(c for c in title.lower() if c.isalnum() or c in " -")
    return kept.replace(" ", "-")


def _data(results: pd.DataFrame) -> list[str]:
    experiments = results.drop_duplicates("experiment_id")
    families = experiments.groupby("family", sort=False)
    models = [
        [
            str(family),
            str(part["model"].nunique()),
            f"{part['n_params'].min():,} to {part['n_params'].max():,}",
            f"{len(part):,}",
        ]
        for family, part in families
    ]
    quantized = experiments[experiments["bits"] < 16]
    levels = [
        [factor.replace("_", " "), ", ".join(_level(v, factor) for v in _sorted(rows[factor]))]
        for factor in _FACTORS
        for rows in [experiments if factor == "bits" else quantized]
    ]
    return [
        f"{len(experiments):,} experiments: {experiments['model'].nunique()} models at "
        f"{len(set(settings_of(experiments)))} precision settings. Not the full product of the "
        "factors but a designed part of it: precision, data type and block size are crossed; "
        "exponent splits, outliers, centering and scope vary around blocks of 64.",
        table(["Family", "Models", "Parameters", "Experiments"], models),
        table(["Factor", "Levels"], levels, text=2),
    ]


def _sorted(values: pd.Series) -> list[object]:
    known = sorted(values.dropna().unique())
    return [*known, None] if values.isna().any() else known


def _level(value: object, factor: str) -> str:
    if value is None:
        return "one block a tensor" if factor == "block_size" else "none (other types)"
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _method(results: pd.DataFrame) -> list[str]:
    rows = []
    for metric in ("zero_shot", "cross_entropy"):
        points = curve_points(results, metric)
        for task, part in points.groupby("task"):
            low, high = part["n_items"].min(), part["n_items"].max()
            count = f"{low:,}" if low == high else f"{low:,} to {high:,}"
            error = f"{part['stderr'].median():.4f}"
            rows.append([metric.replace("_", "-"), str(task), f"{len(part):,}", count, error])
    return [
        "Sizes count every bit of the model unless stated (unquantized parameters at 16). Losses "
        "are nats a token.",
        table(["Metric", "On", "Experiments", "Items", "Median standard error"], rows, text=2),
        f"Intervals are 90 % and, unless stated, come from {N_REPLICATES:,} bootstrap replicates "
        "(200 for shares of budgets) that draw the same items for every experiment, so that what "
        "two settings have in common cancels: differences are known far better than values. "
        "Intervals over items and models also redraw the sizes of each family. “Clearly” means "
        "that the whole interval lies on one side.",
    ]
