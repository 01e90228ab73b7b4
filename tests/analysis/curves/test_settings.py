"""The unquantized baseline is 16 bit and nothing else: not 16-bit weights that read 8 bit."""

import numpy as np
import pandas as pd
import pytest

from analysis.answers.costs import setting_costs
from analysis.answers.latency import LATENCY, latency_task, speedups
from analysis.claims.four_bit.factors import at_blocks
from analysis.curves.names import name_blocks
from analysis.curves.settings import is_baseline, main_settings, settings_of
from analysis.findings.families import collapses, quantization_loss
from quantizers.setting import Setting

W16A8 = Setting.make(16, activations={"token": 8})


@pytest.fixture
def mixed(results: pd.DataFrame) -> pd.DataFrame:
    """`results` in which every model has 16-bit weights with 8-bit activations, too, first."""
    read = results[results["bits"] == 16].assign(activations=W16A8.activations)
    read["experiment_id"] += "-a8"
    read.loc[read["metric"] == "cross_entropy", "value"] += 0.5
    read.loc[read["metric"].isin(["acc", "acc_norm"]), "value"] = 0.0
    return pd.concat([read, results], ignore_index=True)


def test_rows_of_16_bit_weights_that_read_8_bit_are_no_baseline(mixed: pd.DataFrame) -> None:
    assert not W16A8.is_baseline and W16A8.keeps_weights
    expected = (mixed["bits"] == 16) & ~mixed["experiment_id"].str.endswith("-a8")
    assert is_baseline(mixed).equals(expected)
    assert is_baseline(mixed.iloc[:0]).empty
    assert W16A8 not in main_settings(settings_of(mixed))


def test_what_settings_lose_is_told_from_the_baseline(
    mixed: pd.DataFrame, results: pd.DataFrame
) -> None:
    pd.testing.assert_frame_equal(quantization_loss(mixed), quantization_loss(results))
    costs = setting_costs(mixed, "cross_entropy")
    of_reading = costs[costs["setting"] == W16A8.label]
    assert len(of_reading) == 12 and np.allclose(of_reading["difference"], 0.5)
    assert set(collapses(mixed, 16)["setting"]) == {"16-bit", W16A8.label}
    assert len(at_blocks(mixed, 1024)) == len(at_blocks(results, 1024))


def test_speed_is_told_from_the_baseline(mixed: pd.DataFrame) -> None:
    timed = mixed[(mixed["metric"] == "cross_entropy") & mixed["bits"].isin([4, 16])]
    milliseconds = np.where(is_baseline(timed), 8.0, np.where(timed["bits"] == 16, 2.0, 4.0))
    timed = timed.assign(task=latency_task(1), metric=LATENCY, value=milliseconds)
    assert set(speedups(timed)["speedup"]) == {2.0} and set(speedups(timed)["bits"]) == {4}


@pytest.mark.parametrize(
    ("size", "by_row", "words"),
    [
        (None, False, "one block a tensor"),
        (pd.NA, True, "one constant a row"),
        (64, False, "blocks of 64"),
        (64.0, True, "groups of 64"),
    ],
)
def test_blocks_are_named_by_what_shares_a_constant(size, by_row, words) -> None:
    assert name_blocks(size, by_row) == words
