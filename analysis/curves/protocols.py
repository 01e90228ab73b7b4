"""One protocol a curve: which measurements of a task compare, and what is left out."""

import pandas as pd

_TOLD = {"context": "context", "limit": "limit", "max_tokens": "tokens"}


def one_protocol(rows: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The `rows` of one protocol per family and task, and those that are left out.

    It is the one that most experiments have, of equals the one with most items, else the last by
    id. Rows without a column `protocol` are taken to be of one.
    """
    if "protocol" not in rows or rows.empty:
        return rows, rows.iloc[:0]
    protocol = rows["protocol"].fillna("").astype(str)
    if not (protocol.groupby(rows["task"], sort=False).nunique() > 1).any():
        return rows, rows.iloc[:0]
    named = rows.assign(protocol=protocol)
    by_protocol = named.groupby(["family", "task", "protocol"], as_index=False).agg(
        experiments=("experiment_id", "nunique"), items=("n_items", "max")
    )
    order = by_protocol.sort_values(["experiments", "items", "protocol"], kind="stable")
    chosen = order.drop_duplicates(["family", "task"], keep="last")
    place = ["family", "task", "protocol"]
    kept = pd.MultiIndex.from_frame(named[place]).isin(pd.MultiIndex.from_frame(chosen[place]))
    return rows[kept], rows[~kept]


def left_out_sentences(rows: pd.DataFrame) -> list[str]:
    """What no curve holds because of one_protocol, a sentence per family, task and protocol."""
    kept, left = one_protocol(rows)
    if left.empty:
        return []
    place = ["experiment_id", "task"]
    there = pd.MultiIndex.from_frame(kept[place])
    left = left[~pd.MultiIndex.from_frame(left[place]).isin(there)]
    sentences = []
    for (family, task, _), part in left.groupby(["family", "task", "protocol"], sort=False):
        same = kept[(kept["family"] == family) & (kept["task"] == task)]
        models = sorted(set(part["model"]))
        who = ", ".join(models[:3]) + (f" and {len(models) - 3} more" if len(models) > 3 else "")
        n = part["experiment_id"].nunique()
        sentences.append(
            f"{family} on {task}: {n} experiment{'s' * (n != 1)} of {who} left out, "
            f"{_difference(part, same)}; a curve has one protocol."
        )
    return sentences


def _difference(part: pd.DataFrame, kept: pd.DataFrame) -> str:
    """ "measured with context 2048 (the others: 256)"."""
    told = []
    for column, name in _TOLD.items():
        if column in part:
            values = [_shown(frame[column].iloc[0]) for frame in (part, kept)]
            if values[0] != values[1]:
                told.append(f"{name} {values[0]} (the others: {values[1]})")
    return "measured with " + ", ".join(told) if told else "measured by another protocol"


def _shown(value: object) -> str:
    return "unlimited" if pd.isna(value) else f"{value:,.0f}"  # type: ignore[call-overload]
