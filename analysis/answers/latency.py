"""Generation latency as it stands in `results`, and what it says of speed (appendix E)."""

import pandas as pd

from analysis.curves.settings import is_baseline

LATENCY = "ms_per_token"
"""Metric: milliseconds that a step takes, which adds a token to each sequence of the batch."""
ROOFLINE = "roofline_ms_per_token"
"""Metric: the same if a step only read the weights, at the bandwidth of a copy on the device."""

_TASK = "generation, batch "


def latency_task(batch: int) -> str:
    """The task of a latency measured with `batch` sequences at a time."""
    return f"{_TASK}{batch}"


def latencies(results: pd.DataFrame, batch: int) -> pd.Series:
    """Milliseconds a token at `batch` sequences, by experiment id, all of one device.

    It is the device and protocol that most experiments were timed on, of equals the fastest.
    """
    rows = _with_protocol(results)
    rows = rows[(rows["metric"] == LATENCY) & (rows["task"] == latency_task(batch))]
    by_protocol = rows.groupby("protocol").agg(n=("experiment_id", "nunique"), ms=("value", "mean"))
    order = by_protocol.sort_values(["n", "ms"], ascending=[False, True], kind="stable")
    return rows[rows["protocol"].isin(order.index[:1])].groupby("experiment_id")["value"].min()


def speedups(results: pd.DataFrame) -> pd.DataFrame:
    """Speed over 16 bit by batch size, of the largest model with latencies of both (figure 16).

    Columns: kind ("measured" or "roofline"), bits, batch, speedup, model. Of several settings of
    a precision the fastest counts, of those that round weights alone. Both latencies are of one
    protocol, so of one device; where a model was timed on several, the last by protocol counts.
    Raises ValueError where no latency can be compared.
    """
    rows = _with_protocol(results[results["metric"].isin([LATENCY, ROOFLINE])])
    if "activations" in rows:
        rows = rows[rows["activations"].fillna("16").astype(str) == "16"]
    rows = rows[rows["task"].str.startswith(_TASK)]
    rows = rows.assign(
        batch=rows["task"].str.removeprefix(_TASK).astype(int),
        kind=rows["metric"].map({LATENCY: "measured", ROOFLINE: "roofline"}),
    )
    key = ["kind", "batch", "model", "protocol"]
    baseline = is_baseline(rows)
    full = rows[baseline].groupby(key)["value"].min()
    others = rows[~baseline & (rows["bits"] < 16)]
    fastest = others.groupby([*key, "bits", "n_params"], as_index=False)["value"].min()
    base = full.reindex(pd.MultiIndex.from_frame(fastest[key])).to_numpy()
    fastest = fastest.assign(speedup=base / fastest["value"]).dropna(subset="speedup")
    if fastest.empty:
        raise ValueError("no latency at 16 bit and below it: run kbit bench latency MODEL --db")
    largest = fastest.loc[fastest["n_params"].astype(float).idxmax(), "model"]
    one = fastest[fastest["model"] == largest]
    one = one.drop_duplicates(["kind", "batch", "bits"], keep="last")
    return one[["kind", "bits", "batch", "speedup", "model"]]


def _with_protocol(rows: pd.DataFrame) -> pd.DataFrame:
    """`rows` with a column protocol, which names the device among other things."""
    known = rows["protocol"] if "protocol" in rows else pd.Series("", rows.index)
    return rows.assign(protocol=known.fillna("").astype(str))
