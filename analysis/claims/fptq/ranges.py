"""Activation ranges by layer: tables 8 and 9, and what the paper claims of them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from analysis.claims.claim import Claim, Exhibit, between, jointly, resolved, table
from analysis.claims.fptq.sites import KINDS, as_they_are, before_and_after, by_block, ranges
from analysis.claims.paper import Study
from analysis.noise.means import margin
from analysis.noise.spread import INTERVAL

# Model -> layer -> smallest and largest range over its blocks, as printed.
TABLE_8 = {
    "OPT-66B": ("3.2871/94.87", "0.0581/16.45", "3.3223/94.81", "0.1580/34.00"),
    "BLOOM-176B": ("1.7451/97.31", "0.0972/17.07", "3.9922/119.8", "0.1636/71.00"),
    "GLM-130B": ("2.7188/115.1", "0.2861/19.39", "3.3125/124.5", "0.5513/5476."),
    "LLaMA-65B": ("0.4927/22.51", "0.0518/17.40", "0.2856/27.07", "0.0485/887.5"),
}
TABLE_9 = {
    "OPT-66B": ("0.2637/4.03", "0.0572/16.45", "0.3489/3.28", "0.1580/34.00"),
    "BLOOM-176B": ("0.2446/4.66", "0.0972/17.07", "0.4021/6.46", "0.1636/71.06"),
    "GLM-130B": ("0.4658/1.89", "0.2861/19.37", "0.4006/2.01", "0.5513/5476."),
    "LLaMA-65B": ("0.2371/3.10", "0.0518/17.39", "0.1586/3.69", "0.0485/887.5"),
}
_NOTE = (
    "The smallest and the largest range over a model's blocks; a range is the largest magnitude "
    "that reaches a layer in calibration. Rows marked * are as printed. GLM-130B is no causal "
    "model of `transformers` and was not loaded."
)


def claims(study: Study) -> Iterator[Claim]:
    if claim := _wide_down(as_they_are(study)):
        yield claim


def exhibits(study: Study) -> Iterator[Exhibit]:
    found = ranges(study)
    yield _table(found, "range", TABLE_8, "Activation ranges of typical layers", "table 8")
    after = _table(found, "range_read", TABLE_9, "Activation ranges after equalization", "table 9")
    yield replace(after, source="table 9 and figure 1", figures=["figure-01-equalization"])


def _table(
    found: pd.DataFrame, column: str, printed: Mapping[str, Sequence[str]], title: str, source: str
) -> Exhibit:
    rows = [[f"{model}*", *cells] for model, cells in printed.items()]
    shown = before_and_after(found)
    for model, part in shown.groupby("model", sort=False):
        cells = []
        for kind in KINDS:
            values = part.loc[part["kind"] == kind, column]
            cells.append(f"{values.min():.4g}/{values.max():.4g}" if len(values) else "")
        rows.append([str(model), *cells])
    notes = [_NOTE]
    if shown.empty:
        notes.append("No model here has recorded ranges: run a sweep with logarithmic folding.")
    if column == "range_read":
        notes.append(
            "The printed values are not equation 1 of those in table 8: a range of 94.87 would "
            "become 6.6, not 4.03."
        )
    return Exhibit(title, source, [*notes, table(["Model", *KINDS], rows)])


def _wide_down(found: pd.DataFrame) -> Claim | None:
    """Inputs of the down projection span more than those of the attention output."""
    wide = (
        by_block(found)
        .pivot_table(index=["model", "block"], columns="kind", values="range")
        .reset_index()
    )
    if not {"Dense", "FC2"} <= set(wide):
        return None
    wide = wide[(wide["Dense"] > 0) & (wide["FC2"] > 0)]
    rows, verdicts = [], []
    for model, part in wide.groupby("model", sort=False):
        ratio = np.log2(part["FC2"] / part["Dense"]).to_numpy(dtype=np.float64)
        if len(ratio) < 2:
            continue
        error = ratio.std(ddof=1) / np.sqrt(len(ratio))
        reach = float(margin(error, len(ratio) - 1, INTERVAL))
        low, high = ratio.mean() - reach, ratio.mean() + reach
        verdicts.append(resolved(low, high))
        cells = [f"{2 ** ratio.mean():.2f}", between(2**low, 2**high, ".2f"), str(len(ratio))]
        rows.append([str(model), *cells, verdicts[-1]])
    if not rows:
        return None
    return Claim(
        "Inputs of the down projection span more than those of the attention output",
        "section 3.2, appendix A.3, figures 3 and 5 to 10",
        "The attention output reads a compact distribution, the down projection one that spans "
        "extensively, in every model.",
        jointly(verdicts),
        "its range over the attention output's: " + ", ".join(f"{r[1]} ({r[0]})" for r in rows),
        [
            "Geometric mean over blocks of the ratio of ranges; the intervals are Student's over "
            "blocks, n - 1 degrees of freedom. The claim holds if in every model the whole "
            "interval is above 1, does not hold if in one it is below, and is not resolved "
            "otherwise.",
            table(["Model", "Ratio", "90 % interval", "Blocks", "Claim"], rows),
        ],
        ["figures-03-05-to-10-ranges"],
    )
