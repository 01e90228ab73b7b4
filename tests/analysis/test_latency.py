"""Stored latencies: speed over 16 bit, and beside the choices for a memory budget."""

import numpy as np
import pandas as pd
import pytest

from analysis.illustrations import speed_figure
from analysis.latency import LATENCY, ROOFLINE, latencies, latency_task, speedups
from analysis.memory import choices_for_memory
from analysis.style import colour

# Milliseconds a token: (bits, batch) -> measured, roofline.
TIMES = {(16, 1): (8.0, 4.0), (4, 1): (4.0, 1.0), (16, 16): (9.0, 4.0), (4, 16): (10.0, 1.0)}


def timed(results: pd.DataFrame, model: str, factor: float = 1.0) -> pd.DataFrame:
    rows = []
    for (bits, batch), times in TIMES.items():
        own = results[(results["model"] == model) & (results["bits"] == bits)]
        one = own[own["scope"] == "linear"].head(1)
        for metric, value in zip((LATENCY, ROOFLINE), times, strict=True):
            task = latency_task(batch)
            rows.append(one.assign(task=task, metric=metric, value=factor * value, stderr=np.nan))
    return pd.concat(rows)


def test_speed_over_16_bit_is_that_of_the_largest_model(results: pd.DataFrame) -> None:
    known = [results, timed(results, "sotu-opt-64x2", 0.5), timed(results, "sotu-opt-128x4")]
    table = speedups(pd.concat(known, ignore_index=True))
    assert set(table["model"]) == {"sotu-opt-128x4"} and set(table["bits"]) == {4}
    by_kind = table.set_index(["kind", "batch"])["speedup"]
    assert by_kind[("measured", 1)] == 2.0 and by_kind[("measured", 16)] == pytest.approx(0.9)
    assert by_kind[("roofline", 1)] == by_kind[("roofline", 16)] == 4.0
    figure = speed_figure(table)
    assert {t.name for t in figure.data} == {"4-bit, roofline", "4-bit, measured"}
    assert {t.line.color for t in figure.data} == {colour(4)}
    with pytest.raises(ValueError, match="speedup"):
        speed_figure(pd.DataFrame({"kind": [], "bits": [], "batch": []}))


def test_speed_needs_16_bit_beside_it(results: pd.DataFrame) -> None:
    half = timed(results, "sotu-opt-64x2")
    for rows in (results, pd.concat([results, half[half["bits"] == 4]])):
        with pytest.raises(ValueError, match="kbit bench latency"):
            speedups(rows)


def test_choices_take_the_latency_of_their_batch(results: pd.DataFrame) -> None:
    slower = timed(results, "sotu-opt-128x4", 3.0)  # another, slower device
    known = pd.concat([results, timed(results, "sotu-opt-128x4"), slower], ignore_index=True)
    for batch, expected in ((1, {8.0, 4.0}), (16, {9.0, 10.0}), (2, set())):
        table = choices_for_memory(known, 1e9, {}, batch=batch)
        assert set(table[LATENCY].dropna()) == expected == set(latencies(known, batch))
