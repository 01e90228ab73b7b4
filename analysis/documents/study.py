"""A study written up: each claim of the paper, and what these results show, as Markdown.

Every number is computed from the results; verdicts follow from rules that the text states.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from analysis.claims.claim import Block, Claim, table
from analysis.claims.four_bit.additions import addition_claims
from analysis.claims.four_bit.factors import factor_claims
from analysis.claims.four_bit.figures import FIGURES, LOSS
from analysis.claims.four_bit.fits import fit_claims
from analysis.claims.four_bit.high_precision import high_precision_claims
from analysis.claims.four_bit.optimum import linear_only, optimum_claims
from analysis.claims.four_bit.tuning import tuning_claims
from analysis.curves.names import listed
from analysis.curves.points import curve_points
from analysis.curves.remembering import remembered
from analysis.curves.scaling import AXES
from analysis.curves.settings import settings_of
from analysis.documents.markdown import section, summary, text
from analysis.documents.study_method import method
from analysis.noise.bootstrap import ItemScores
from quantizers.setting import default_exponent_bits

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


def paper_claims(
    results: pd.DataFrame, scores: ItemScores, axes: Sequence[str] = tuple(AXES)
) -> list[Claim]:
    """Every claim that these results can test; `axes`: the sizes counted in section 5.1."""
    linear = linear_only(results)
    return [
        *optimum_claims(results, scores, axes),
        *factor_claims(linear, scores),
        *high_precision_claims(linear, scores),
        *addition_claims(results, scores),
        *tuning_claims(linear),
        *fit_claims(linear),
    ]


def study_document(
    results: pd.DataFrame, scores: ItemScores, title: str, figures: Mapping[str, str]
) -> str:
    """The study as Markdown; `figures`: name in STUDY_FIGURES -> address to show it from.

    `results` is the flat view, `scores` gives its per-item scores. Raises ValueError where no
    experiment has a cross-entropy.
    """
    if curve_points(results, "cross_entropy").empty:
        raise ValueError("a study needs cross-entropies: no experiment has one")
    with remembered():
        claims = paper_claims(results, scores)
    parts = [
        f"# {title}",
        "The claims of Dettmers & Zettlemoyer 2023, *The case for 4-bit precision*, tested on "
        "these models. Generated from stored results by `kbit study`: every number and verdict on "
        "them is computed, none is typed.",
        "## In short",
        summary(claims),
        "## What was measured",
        *(text(block) for block in _data(results)),
        "## Where the numbers come from",
        *(text(block) for block in method(results, scores)),
    ]
    for claim in claims:
        parts += section(claim, figures)
    return "\n\n".join(parts) + "\n"


def _data(results: pd.DataFrame) -> list[Block]:
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
        f"factors but a designed part of it: {_design(quantized)}.",
        table(["Family", "Models", "Parameters", "Experiments"], models),
        table(["Factor", "Levels"], levels, text=2),
    ]


def _design(quantized: pd.DataFrame) -> str:
    """Which combinations of the factors there are, in words."""
    usual = quantized["bits"].map(default_exponent_bits)
    exponents = quantized["exponent_bits"].astype(float)
    varied = {
        "other exponent splits than the default": exponents.notna() & (exponents != usual),
        "outliers": quantized["outlier_fraction"] > 0,
        "centering": quantized["centered"].astype(bool),
        "embeddings too": quantized["scope"] != "linear",
    }
    plain = quantized[~np.logical_or.reduce(list(varied.values()))]
    crossed = ["bits", "data_type", "block_size"]
    product = np.prod([plain[factor].nunique(dropna=False) for factor in crossed])
    parts = [
        f"of precision x data type x block size {len(plain[crossed].drop_duplicates()):,} of "
        f"{product:,} combinations"
    ]
    for name, rows in varied.items():
        if rows.any():
            blocks = _sorted(quantized.loc[rows, "block_size"])
            precisions = _sorted(quantized.loc[rows, "bits"])
            sizes = listed([str(b) for b in blocks if b is not None])
            where = [f"blocks of {sizes}"] if sizes else []
            where += ["whole tensors"] if None in blocks else []
            parts.append(f"{name} at {listed([str(k) for k in precisions])} bit and "
                         f"{listed(where)}")  # fmt: skip
    return "; ".join(parts)


def _sorted(values: pd.Series) -> list[object]:
    known = sorted(values.dropna().unique())
    return [*known, None] if values.isna().any() else known


def _level(value: object, factor: str) -> str:
    if value is None:
        return "one block a tensor" if factor == "block_size" else "none (other types)"
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)
