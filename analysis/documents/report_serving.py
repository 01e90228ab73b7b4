"""The report's tables of what serving costs: table 6 of the third paper, table 1 of FPTQ."""

import pandas as pd

from analysis.answers.serving import CONTEXT, LATENCY, PEAK, RATE, STEP, serving_table, stage_table
from analysis.documents.markup import escape
from analysis.documents.page import table


def serving_tables(results: pd.DataFrame) -> list[str]:
    """Nothing where `kbit bench latency --shapes` has stored nothing."""
    measured = serving_table(results)
    if measured.empty:
        return []
    rows = [
        [
            escape(row["model"]),
            escape(row["setting"]),
            escape(row["shape"]),
            _number(row[LATENCY], ".1f") + _times(row["gain"]),
            _number(row[CONTEXT], ".1f") + _times(row["context_gain"]),
            _number(row[STEP], ".2f") + _times(row["step_gain"]),
            _number(row[RATE], ".1f") + _times(row["gain"]),
            _number(row[PEAK] / 1e9, ".2f") + _less(row["less_memory"]),
        ]
        for _, row in measured.iterrows()
    ]
    columns = ["Model", "Setting", "Batch x in x out", "Latency (ms)", "Context decoding (ms)"]
    columns += ["A step of self-decoding (ms)", "Tokens a second", "Peak memory (GB)"]
    stages = stage_table(measured)
    efficient = [
        [
            escape(row["model"]),
            escape(row["setting"]),
            _efficient(row["context_gain"], row["n_context"]),
            _efficient(row["step_gain"], row["n_step"]),
        ]
        for _, row in stages.iterrows()
    ]
    return [
        "<h2>What serving costs</h2>",
        "<p>Measured by <code>kbit bench latency</code>; in brackets how many times as fast as 16 "
        "bit on the same device, and the memory saved. A step is the median in the middle of the "
        "output; latency is the context and the steps of all other tokens. An empty cell was not "
        "measured.</p>",
        table(columns, rows, numbers=columns[3:]),
        "<h3>Which stage is faster than at 16 bit</h3>",
        table(["Model", "Setting", "Context decoding", "Self-decoding"], efficient),
    ]


def _number(value: float, form: str) -> str:
    return "" if pd.isna(value) else format(value, form)


def _times(gain: float) -> str:
    return "" if pd.isna(gain) else f" ({gain:.2f}x)"


def _less(share: float) -> str:
    return "" if pd.isna(share) else f" ({share:+.0%} saved)".replace("+", "")


def _efficient(gain: float, shapes: int) -> str:
    if pd.isna(gain):
        return "not measured"
    return f"{'yes' if gain > 1 else 'no'}, {gain:.2f}x over {shapes} shapes"
