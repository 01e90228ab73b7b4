"""Stored latencies: speed over 16 bit, and beside the choices for a memory budget."""

import numpy as np
import pandas as pd
import pytest

from analysis.answers.latency import LATENCY, ROOFLINE, latencies, latency_task, speedups
from analysis.answers.memory import Serving, cache_bits_per_token, choices_for_memory
from analysis.figures.illustrations import speed_figure
from analysis.figures.style import colour

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
        table = choices_for_memory(known, 1e9, {}, Serving(batch=batch))
        assert set(table[LATENCY].dropna()) == expected == set(latencies(known, batch))


def test_latencies_of_two_devices_are_never_compared(results: pd.DataFrame) -> None:
    """16 bit on a CPU, 4 bit on a GPU: no speedup; both on each: of one device."""
    cpu = timed(results, "sotu-opt-128x4", 10.0).assign(protocol="cpu")
    gpu = timed(results, "sotu-opt-128x4").assign(protocol="gpu")
    apart = pd.concat([cpu[cpu["bits"] == 16], gpu[gpu["bits"] == 4]])
    with pytest.raises(ValueError, match="kbit bench latency"):
        speedups(pd.concat([results, apart]))
    table = speedups(pd.concat([results, cpu, gpu])).set_index(["kind", "batch"])["speedup"]
    assert table[("measured", 1)] == 2.0 and len(table) == 4
    more = timed(results, "sotu-opt-64x2").assign(protocol="cpu")
    assert set(latencies(pd.concat([cpu, gpu, more]), 1)) == {80.0, 40.0, 8.0, 4.0}


def test_the_cache_counts_key_value_heads() -> None:
    falcon = {"num_hidden_layers": 32, "num_attention_heads": 71, "hidden_size": 4544}
    one_head = 2 * 32 * 64 * 16
    assert cache_bits_per_token(falcon | {"multi_query": True, "num_kv_heads": 71}) == one_head
    new = {"multi_query": True, "new_decoder_architecture": True, "num_kv_heads": 8}
    assert cache_bits_per_token(falcon | new) == 8 * one_head
    assert cache_bits_per_token(falcon | {"multi_query": False}) == 71 * one_head
    assert cache_bits_per_token(falcon | {"num_key_value_heads": 4}) == 4 * one_head
    assert cache_bits_per_token({"n_layer": 2, "n_head": 4, "n_embd": 32, "multi_query": True}) == (
        2 * 2 * 8 * 16
    )
