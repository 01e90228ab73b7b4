"""A study whose truth is given: what each setting adds to the loss, and how loud its items are."""

import math
from collections.abc import Mapping, Sequence
from zlib import crc32

import numpy as np
import pandas as pd

from analysis.claims.paper import Paper, Study
from analysis.curves.metrics import COLUMNS
from analysis.curves.remembering import remembered
from quantizers.setting import Setting

SIZES = [(32, 2), (64, 2), (64, 4), (128, 4)]
N_ITEMS = 40


def made_study(
    added: Mapping[Setting, float],
    error: float = 1e-4,
    families: Sequence[str] = ("neox", "opt"),
    task: str = "wikitext2",
) -> Study:
    """Cross-entropies: a base that falls with size, and `added` nats a setting (16 bit: 0).

    error: standard error of one experiment's own luck, which pairing does not cancel; what all
    share is far louder. Sizes are as bits are counted, embeddings in 16 bit.
    """
    luck = np.random.default_rng(0).normal(0, 0.5, N_ITEMS)
    items, rows = {}, []
    for family in families:
        for width, depth in SIZES:
            for setting, loss in ({Setting.make(16): 0.0} | dict(added)).items():
                row = _experiment(family, width, depth, setting, loss)
                rng = np.random.default_rng(crc32(row["experiment_id"].encode()))
                own = rng.normal(0, error * math.sqrt(N_ITEMS), N_ITEMS)
                items[row["experiment_id"]] = row["value"] + luck + own - own.mean() - luck.mean()
                rows.append(row | {"task": task, "metric": "cross_entropy"})

    def scores(
        ids: Sequence[str], name: str, metric: str, protocol: str | None = None
    ) -> Mapping[str, np.ndarray]:
        return {i: items[i].astype(np.float32) for i in ids if name == task}

    return Study(pd.DataFrame(rows, columns=COLUMNS), scores)


def made_verdict(
    paper: Paper, title: str, added: Mapping[Setting, float], error: float = 1e-4
) -> str:
    """What the paper's claim of this title comes to in a study that is made so."""
    with remembered():  # as in a document
        return verdicts(paper.claims(made_study(added, error)))[title]


def _experiment(family: str, width: int, depth: int, setting: Setting, loss: float) -> dict:
    linear, embedding = 12 * width**2 * depth, 2 * 512 * width
    quantized = linear * setting.bits_per_param
    model = f"{family}-{width}x{depth}"
    return {
        "source": "kbit",
        "experiment_id": f"{model} {setting.label}",
        "family": family,
        "model": model,
        "n_params": linear + embedding,
        **setting.row(),
        "bits_per_param": setting.bits_per_param,
        "total_bits": int(quantized + 16 * embedding),
        "quantized_bits": int(quantized),
        "nominal_bits": int((linear + embedding) * setting.bits_per_param),
        "value": 3.95 - 0.13 * math.log(linear / 24576) + loss,
        "stderr": 0.08,
        "n_items": N_ITEMS,
    }


def verdicts(claims: Sequence[object]) -> dict[str, str]:
    """Title -> verdict."""
    return {claim.title: claim.verdict for claim in claims}  # type: ignore[attr-defined]
