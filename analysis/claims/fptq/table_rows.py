"""Rows of accuracy tables: a model and its accuracies, by recipe."""

from collections.abc import Iterator, Sequence

import pandas as pd

from analysis.claims.claim import Block, table
from analysis.claims.fptq.recipes import RANDOM, percent
from analysis.curves.names import listed


def accuracy_rows(
    rows: pd.DataFrame, scores: pd.DataFrame, recipe: str, random: bool = False
) -> Iterator[tuple[str, list[str]]]:
    """Model and its accuracies, of a recipe calibrated on text or on random tokens."""
    fits = (rows["recipe"] == recipe) & ((rows["text"] == RANDOM) == random)
    for row in rows[fits].drop_duplicates("model").sort_values("n_params").itertuples():
        if row.experiment_id in scores.index:
            yield str(row.model), [percent(x) for x in scores.loc[row.experiment_id]]


def table_body(
    heads: Sequence[str], scores: pd.DataFrame, found: list[list[str]], missing: Sequence[str]
) -> list[Block]:
    """The table of what was `found`, where anything was, and what of it is `missing`."""
    body: list[Block] = []
    if found:
        body.append(table([*heads, *scores.columns], found, text=len(heads)))
    if missing:
        body.append(f"Not measured: {listed(list(missing))}.")
    return body


def place_of(rows: pd.DataFrame, model: str) -> tuple[str, float]:
    """What tables sort models by: the family, then the size."""
    row = rows[rows["model"] == model].iloc[0]
    return str(row["family"]), float(row["n_params"])
