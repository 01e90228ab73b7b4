"""Synthetic results with a known shape: two families, six sizes, real bit accounting.

A quantized model's cross-entropy is a base curve in its linear parameters plus an offset that
depends on the precision alone (about what tiny real models show); accuracy falls with it.
"""

import math

import pandas as pd
import pytest

from analysis.curves.metrics import COLUMNS
from evaluation.tasks.sets import TASK_SETS
from quantizers.setting import ADDED_COLUMNS

SIZES = [(32, 2), (32, 4), (64, 2), (64, 4), (128, 2), (128, 4)]
OFFSET = {2: 0.9, 3: 0.1, 4: 0.015, 5: 0.007, 6: 0.004, 8: 0.001, 16: 0.0}
EXPONENT = {2: 1, 3: 2, 4: 2, 5: 2, 6: 3, 8: 4}


def make_results(
    families: tuple[str, ...] = ("sotu-neox", "sotu-opt"),
    bits: tuple[int, ...] = tuple(OFFSET),
    stderr: float = 0.02,
    n_items: int = 500,
) -> pd.DataFrame:
    """Float, B=64, scope linear, and 4 bit with scope all; every task, corpus "sotu"."""
    rows = []
    for family_index, family in enumerate(families):
        for width, depth in SIZES:
            settings = [(k, "linear") for k in bits] + ([(4, "all")] if 4 in bits else [])
            for k, scope in settings:
                rows += _experiment(family, width, depth, k, scope, family_index, stderr, n_items)
    return pd.DataFrame(rows, columns=COLUMNS)


def _experiment(
    family: str, width: int, depth: int, k: int, scope: str, shift: int, stderr: float, n: int
) -> list[dict]:
    linear, embedding = 12 * width**2 * depth, 2 * 2048 * width
    per_param = 16.0 if k == 16 else k + 16 / 64
    quantized = (linear + (embedding if scope == "all" else 0)) * per_param
    total = quantized + (0 if scope == "all" else 16 * embedding)
    model = f"{family}-{width}x{depth}"
    loss = 3.95 - 0.13 * math.log(linear / 24576) + 0.03 * shift + OFFSET[k]
    loss += 0.03 if scope == "all" else 0.0
    accuracy = 0.30 + 0.25 * (4.4 - loss)
    common = {
        "source": "kbit",
        "experiment_id": f"{model}-{k}-{scope}",
        "family": family,
        "model": model,
        "n_params": linear + embedding,
        "method": "none" if k == 16 else "rtn",
        "bits": k,
        "data_type": None if k == 16 else "float",
        "exponent_bits": EXPONENT.get(k),
        "block_size": None if k == 16 else 64,
        "outlier_fraction": 0.0,
        "centered": False,
        **ADDED_COLUMNS,
        "scope": scope,
        "bits_per_param": per_param,
        "total_bits": int(total),
        "quantized_bits": int(quantized),
        "nominal_bits": int((linear + embedding) * per_param),
    }
    tokens = {"cross_entropy": loss, "perplexity": math.exp(loss), "bits_per_byte": loss / 2.5}
    rows = [
        common | {"task": "sotu", "metric": m, "value": v, "stderr": stderr * v / loss}
        for m, v in tokens.items()
    ]
    for row in rows:
        row["n_items"] = 30000
    for i, (task, metric) in enumerate(TASK_SETS["sotu"].items()):
        p = min(max(accuracy + 0.05 * i, 0.01), 0.99)
        error = math.sqrt(p * (1 - p) / n)
        for name in {metric, "acc"}:
            rows.append(
                common | {"task": task, "metric": name, "value": p, "stderr": error, "n_items": n}
            )
    return rows


@pytest.fixture
def results() -> pd.DataFrame:
    return make_results()
