"""Figures 4 and 6 to 11: weights, gains and inputs of QKV, block by block."""

from collections.abc import Iterator
from dataclasses import dataclass

import pandas as pd
import plotly.graph_objects as go

from analysis.claims.claim import Exhibit
from analysis.claims.intriguing.figures import panels
from analysis.claims.paper import Study
from analysis.figures.style import level_colour

TABLE = "matrices"
LINES = {
    "rmse": "RMSE(X, X̂)*",
    "token_std": "token STD*",
    "gain_std": "gain STD*",
    "spectral_norm": "spectral norm*",
}
HALF = ("weight_decay=0.01", "weight_decay=0.01 dtype=fp16")  # bf16 and fp16 (Figures 6, 7, 10)
FAMILIES = ("neox", "opt", "bloom")  # the paper's own beside OPT and BLOOM (Figures 8, 9, 11)
WHISKERS = (0.001, 0.999)


@dataclass(frozen=True, eq=False)
class Comparison:
    """Models that a panel draws beside each other. blocks: name -> a row a block, the means of a
    block's matrices that read the input of QKV."""

    title: str
    blocks: dict[str, pd.DataFrame]


def comparisons(study: Study) -> list[Comparison]:
    """bf16 against fp16 at the largest size and first seed that has both, then the families."""
    rows = study.tables.get(TABLE)
    if rows is None:
        return []
    qkv = rows[rows["kind"] == "qkv"]
    return [made for made in (_half(qkv), _families(qkv)) if made is not None]


def blocks_exhibit(study: Study) -> Iterator[Exhibit]:
    made = comparisons(study)
    if made:
        yield Exhibit(
            "Weights, gains and inputs of QKV, block by block",
            "Figures 4 and 6 to 11",
            [
                f"{'; '.join(comparison.title for comparison in made)}. One model each. Boxes are "
                f"quartiles with whiskers at the quantiles {WHISKERS[0]:g} and {WHISKERS[1]:g} of "
                "a matrix's weights and of the gain of the norm before it; where Q, K and V are "
                "matrices of their own, means of their quantiles. A star: changes when a norm is "
                "scaled and its readers divided by it. Runs whose weights were gone before this "
                "was recorded are not in it."
            ],
            ("figure-04-distributions", "figure-10-blocks"),
        )


def distributions(study: Study) -> go.Figure:
    """Quantiles of weights and of gains by block, a box a model and block."""
    made = _there(study)
    figure = _panels(made, ["weights", "gain of the norm"], "Weights and gains of QKV")
    for column, comparison in enumerate(made, start=1):
        for row, name in enumerate(("weight", "gain"), start=1):
            for i, (model, blocks) in enumerate(comparison.blocks.items()):
                at = {q: blocks[f"{name}_q{q:g}"] for q in (*WHISKERS, 0.25, 0.5, 0.75)}
                figure.add_box(
                    x=blocks.index,
                    lowerfence=at[WHISKERS[0]],
                    q1=at[0.25],
                    median=at[0.5],
                    q3=at[0.75],
                    upperfence=at[WHISKERS[1]],
                    **_look(comparison, model, column, i, row),
                    row=row,
                    col=column,
                )
    return figure.update_layout(boxmode="group")


def by_block(study: Study) -> go.Figure:
    """Metrics of inputs, norms and weights by block, a line a model."""
    made = _there(study)
    figure = _panels(made, list(LINES.values()), "Inputs, norms and weights of QKV")
    for column, comparison in enumerate(made, start=1):
        for row, name in enumerate(LINES, start=1):
            for i, (model, blocks) in enumerate(comparison.blocks.items()):
                figure.add_scatter(
                    x=blocks.index,
                    y=blocks[name],
                    mode="lines+markers",
                    **_look(comparison, model, column, i, row),
                    row=row,
                    col=column,
                )
    return figure


def _half(qkv: pd.DataFrame) -> Comparison | None:
    trained = qkv[qkv["variant"].isin(HALF)]
    size = trained["run"].astype(str).str.split("-").str[1]
    for largest in sorted(size.unique(), key=_size, reverse=True):
        for seed, rows in trained[size == largest].groupby("seed"):
            both = {str(v): _by_block(part) for v, part in rows.groupby("variant")}
            if len(both) == len(HALF):
                title = f"bf16 and fp16, {largest}, seed {seed:g}"
                return Comparison(title, {variant: both[variant] for variant in HALF})
    return None


def _families(qkv: pd.DataFrame) -> Comparison | None:
    others = qkv[qkv["run"].isna()]
    size = others["model"].astype(str).str.split("-").str[-1]
    for largest in sorted(size.unique(), key=_size, reverse=True):
        parts = {str(model): _by_block(p) for model, p in others[size == largest].groupby("model")}
        names = [m for family in FAMILIES for m in parts if f"-{family}-" in m]
        if len(names) == len(FAMILIES):
            return Comparison(f"families, {largest}", {name: parts[name] for name in names})
    return None


def _size(told: str) -> tuple[int, ...]:
    """Hidden size and layers of "64x4"; what is no size comes last."""
    parts = told.split("x")
    return tuple(int(p) for p in parts) if all(p.isdecimal() for p in parts) else ()


def _by_block(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.groupby("block").mean(numeric_only=True)


def _there(study: Study) -> list[Comparison]:
    made = comparisons(study)
    if not made:
        raise ValueError("no matrices of a training study have been recorded")
    return made


def _panels(made: list[Comparison], rows: list[str], title: str) -> go.Figure:
    names = [[f"{row}: {comparison.title}" for comparison in made] for row in rows]
    figure = panels(title, names, 160 + 180 * len(rows), 0.24)
    figure.update_xaxes(dtick=1)
    return figure.update_xaxes(title="Block", row=len(rows))


def _look(comparison: Comparison, model: str, column: int, i: int, row: int) -> dict[str, object]:
    colour = level_colour(i + 3 * (column - 1))
    return {
        "name": model,
        "legendgroup": f"{comparison.title} {model}",
        "showlegend": row == 1,
        "marker": {"color": colour},
        "line": {"color": colour},
    }
