"""What two databases measured of the same experiments differs by, and how sure that is."""

import numpy as np
import pandas as pd
import pytest

from analysis.noise.versions import measured_twice
from quantizers.setting import Setting


def table(values: dict[str, float], metric: str = "acc") -> pd.DataFrame:
    setting = Setting.make(4, "int", block_size=64).row()
    named = {"model": "m", "task": "t", "protocol": "p", "metric": metric, **setting}
    return pd.DataFrame([{"experiment_id": i, **named, "value": v} for i, v in values.items()])


def scores(found: dict[str, list[float]]):
    return lambda ids, task, metric, protocol: {i: np.array(found[i]) for i in ids if i in found}


def test_the_error_is_of_the_items_that_both_share() -> None:
    first, second = {"a": [0, 1, 0, 1], "b": [1, 1, 0, 0]}, {"a": [0, 1, 1, 1], "b": [1, 1, 1, 1]}
    means = [{k: float(np.mean(v)) for k, v in found.items()} for found in (first, second)]
    (row,) = measured_twice(*map(table, means), scores(first), scores(second)).to_dict("records")
    assert row["experiments"] == 2 and row["identical"] == 0
    assert row["difference"] == pytest.approx(0.375)
    each = np.array([0, 0, 1, 0.5])  # an item's mean difference over the experiments
    assert row["stderr"] == pytest.approx(each.std(ddof=1) / 2)
    assert row["largest"] == pytest.approx(0.5) and row["largest_at"] == "4-bit int B64"


def test_unknown_is_not_zero() -> None:
    values = {"a": 0.5, "b": float("nan")}
    (row,) = measured_twice(
        table(values), table(values | {"a": 0.75}), scores({}), scores({})
    ).to_dict("records")
    assert np.isnan(row["stderr"]) and row["identical"] == 1  # both diverged
    (row,) = measured_twice(
        table({"b": 1.0}), table({"b": float("nan")}), scores({}), scores({})
    ).to_dict("records")
    assert row["largest"] == np.inf and row["identical"] == 0  # one alone diverged
    some = scores({"a": [1.0, 2.0]})
    assert measured_twice(table({"a": 1.0}), table({"b": 1.0}), some, some).empty


def test_the_error_of_a_perplexity_is_through_its_cross_entropy() -> None:
    """To first order the difference of perplexities times that of the logarithms."""
    losses = [np.array([1.0, 2.0, 1.5, 1.2]), np.array([1.1, 2.05, 1.6, 1.3])]
    asked = []

    def of(which: int):
        def found(ids: list[str], task: str, metric: str, protocol: str) -> dict[str, np.ndarray]:
            asked.append(metric)
            return {"a": losses[which]}

        return found

    tables = [table({"a": float(np.exp(x.mean()))}, "perplexity") for x in losses]
    (row,) = measured_twice(*tables, of(0), of(1)).to_dict("records")
    assert set(asked) == {"cross_entropy"}
    paired = (losses[1] - losses[0]).std(ddof=1) / 2 * np.exp(1.45)
    assert row["stderr"] == pytest.approx(paired, rel=0.6) and row["stderr"] < 0.2
    alone = np.hypot(*(x.std(ddof=1) / 2 * np.exp(x.mean()) for x in losses))
    assert row["stderr"] < alone / 5
