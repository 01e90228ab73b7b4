"""Synthetic results that vary every factor the paper varies, each by a known effect."""

import numpy as np
import pandas as pd

from analysis.findings.outliers import PAIRS, STATISTICS, TASK, as_measurement
from tests.analysis.conftest import make_results

BLOCK_GAIN = 0.005  # nats a halving of the block
TYPE_LOSS = {"int": 0.02, "dynamic": 0.03, "quantile": -0.005}  # against float
EXPONENT_LOSS = {1: 0.01, 3: 0.03}  # against 2, at 4 bit
OUTLIER_GAIN = 0.02


def rich_results() -> pd.DataFrame:
    plain = make_results()
    base = plain[(plain["scope"] == "linear") & (plain["bits"] < 16)]
    parts = [plain]
    for block in (16, 128, 256, 1024):
        loss = BLOCK_GAIN * np.log2(block / 64)
        parts.append(_variant(base, f"b{block}", loss, block_size=block))
    for data_type, loss in TYPE_LOSS.items():
        parts.append(_variant(base, data_type, loss, data_type=data_type, exponent_bits=None))
    for exponent, loss in EXPONENT_LOSS.items():
        parts.append(
            _variant(base[base["bits"] == 4], f"e{exponent}", loss, exponent_bits=exponent)
        )
    few = base[base["bits"].isin([3, 4])]
    parts.append(_variant(few, "p", -OUTLIER_GAIN, outlier_fraction=0.02))
    parts.append(_variant(base, "c", 0.0, centered=True))
    return pd.concat(parts, ignore_index=True)


def _variant(rows: pd.DataFrame, tag: str, loss: float, **setting: object) -> pd.DataFrame:
    value = rows["value"].copy()
    value[rows["metric"] == "cross_entropy"] += loss
    value[rows["metric"].isin(["acc", "acc_norm"])] -= 0.25 * loss
    perplexity = rows["metric"] == "perplexity"
    value[perplexity] *= np.exp(loss)
    return rows.assign(experiment_id=rows["experiment_id"] + "-" + tag, value=value, **setting)


def with_table_2(results: pd.DataFrame) -> pd.DataFrame:
    """`results` with what `kbit outliers` would store of each model: rank correlations as given."""
    rows = []
    for one in results[results["bits"] == 16].drop_duplicates("experiment_id").to_dict("records"):
        layers = pd.DataFrame(
            [
                {"pair": pair, "spearman": rho, "pearson": rho, "std_ratio": 3.0}
                for pair, rho in zip(PAIRS.values(), (0.2, 0.7, 0.0), strict=True)
                for _ in range(2)
            ]
        )
        for metric in as_measurement(layers, {}).metrics:
            values = {"value": metric.value, "stderr": metric.stderr, "n_items": metric.n_items}
            rows.append(one | {"task": TASK, "metric": metric.name} | values)
    assert len(rows) == 12 * len(PAIRS) * len(STATISTICS)
    return pd.concat([results, pd.DataFrame(rows)], ignore_index=True)
