"""Generation latency as it stands in `results`, and what it says of speed (appendix E)."""

import pandas as pd

LATENCY = "ms_per_token"
"""Metric: milliseconds that a step takes, which adds a token to each sequence of the batch."""
ROOFLINE = "roofline_ms_per_token"
"""Metric: the same if a step only read the weights, at the bandwidth of a copy on the device."""

_TASK = "generation, batch "


def latency_task(batch: int) -> str:
    """The task of a latency measured with `batch` sequences at a time."""
    return f"{_TASK}{batch}"


def latencies(results: pd.DataFrame, batch: int) -> pd.Series:
    """Milliseconds a token at `batch` sequences, by experiment id; the fastest device's."""
    rows = results[(results["metric"] == LATENCY) & (results["task"] == latency_task(batch))]
    return rows.groupby("experiment_id")["value"].min()


def speedups(results: pd.DataFrame) -> pd.DataFrame:
    """Speed over 16 bit by batch size, of the largest model with latencies of both (figure 16).

    Columns: kind ("measured" or "roofline"), bits, batch, speedup, model. Of several settings of
    a precision the fastest counts. Raises ValueError where no latency can be compared.
    """
    rows = results[results["metric"].isin([LATENCY, ROOFLINE])]
    rows = rows[rows["task"].str.startswith(_TASK)]
    rows = rows.assign(
        batch=rows["task"].str.removeprefix(_TASK).astype(int),
        kind=rows["metric"].map({LATENCY: "measured", ROOFLINE: "roofline"}),
    )
    key = ["kind", "batch", "model"]
    fastest = rows.groupby([*key, "bits", "n_params"], as_index=False)["value"].min()
    full = fastest[fastest["bits"] == 16].set_index(key)["value"]
    fastest = fastest[fastest["bits"] < 16]
    base = full.reindex(pd.MultiIndex.from_frame(fastest[key])).to_numpy()
    fastest = fastest.assign(speedup=base / fastest["value"]).dropna(subset="speedup")
    if fastest.empty:
        raise ValueError("no latency at 16 bit and below it: run kbit bench latency MODEL --db")
    largest = fastest.loc[fastest["n_params"].astype(float).idxmax(), "model"]
    return fastest[fastest["model"] == largest][["kind", "bits", "batch", "speedup", "model"]]
