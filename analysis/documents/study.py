"""A study written up: each claim of the paper, and what these results show, as Markdown.

Every number is computed from the results; verdicts follow from rules that the text states.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from analysis.claims.claim import Block, table
from analysis.claims.paper import Paper, Study
from analysis.curves.names import listed, name_blocks
from analysis.curves.points import curve_points
from analysis.curves.remembering import remembered
from analysis.curves.settings import settings_of
from analysis.documents.markdown import exhibit, section, summary, text
from analysis.documents.study_method import method
from quantizers.data_types import default_exponent_bits

_FACTORS = ["bits", "data_type", "exponent_bits", "block_size", "outlier_fraction", "centered"]
_FACTORS += ["scope"]
_METHODS = {"method": "rounding", "scales": "scales", "folding": "folding"}
_METHODS |= {"activations": "activations", "calibration": "calibration"}


def study_document(paper: Paper, study: Study, title: str, figures: Mapping[str, str]) -> str:
    """A paper's claims, and its tables and figures, on a study's results, as Markdown.

    `figures`: name in `paper.figures` -> address to show it from. Raises ValueError where no
    experiment has a score that claims are made of.
    """
    with remembered():
        return "\n\n".join(_parts(paper, study, title, figures)) + "\n"


def _parts(paper: Paper, study: Study, title: str, figures: Mapping[str, str]) -> list[str]:
    results, scores = study.results, study.scores
    if all(curve_points(results, metric).empty for metric in ("cross_entropy", "zero_shot")):
        raise ValueError("a study needs cross-entropies or accuracies: no experiment has one")
    claims = paper.claims(study)
    exhibits = paper.exhibits(study)
    parts = [
        f"# {title}",
        f"The claims of {paper.citation}, tested on these models. Generated from stored results "
        "by `kbit study`: every number and verdict on them is computed, none is typed.",
        "## In short",
        summary(claims) if claims else "These results can test none of its claims.",
        *([paper.rule] if claims and paper.rule else []),
        "## What was measured",
        *(text(block) for block in _data(results)),
        "## Where the numbers come from",
        *(text(block) for block in method(results, scores)),
    ]
    for claim in claims:
        parts += section(claim, figures)
    for made in exhibits:
        parts += exhibit(made, figures)
    return parts


def _data(results: pd.DataFrame) -> list[Block]:
    experiments = results.drop_duplicates("experiment_id")
    # Models of a training study have a family each: told by variant.
    trained = experiments["run"].notna() if "run" in experiments else False
    by = (
        experiments["family"].where(~trained, experiments["variant"])
        if np.any(trained)
        else "family"
    )
    families = experiments.groupby(by, sort=False)
    models = [
        [
            str(family),
            str(part["model"].nunique()),
            f"{part['n_params'].min():,} to {part['n_params'].max():,}",
            f"{len(part):,}",
        ]
        for family, part in families
    ]
    quantized = experiments[[not s.keeps_weights for s in settings_of(experiments)]]
    levels = [
        [factor.replace("_", " "), ", ".join(_levels(rows, factor))]
        for factor in _FACTORS
        for rows in [experiments if factor == "bits" else quantized]
    ]
    for column, name in _METHODS.items():  # said where they vary
        there = sorted(map(str, experiments[column].dropna().unique()))
        if len(there) > (column == "method") + (column != "calibration"):  # 16 bit has method none
            levels.append([name, ", ".join(there)])
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


def _levels(rows: pd.DataFrame, factor: str) -> list[str]:
    if factor != "block_size":
        return [_level(value, factor) for value in _sorted(rows[factor])]
    found = rows[["by_row", "block_size"]].drop_duplicates().sort_values(["by_row", "block_size"])
    named = [name_blocks(size, bool(row)) for row, size in found.itertuples(index=False)]
    return [name.removeprefix("blocks of ") for name in named]


def _sorted(values: pd.Series) -> list[object]:
    known = sorted(values.dropna().unique())
    return [*known, None] if values.isna().any() else known


def _level(value: object, factor: str) -> str:
    if value is None:
        return "none (other types)"
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)
