"""FPTQ's table 10 on a model of others: SmolLM2-135M on WikiText-2, by loss.

Needs what tests/quantizers/rounding/test_smollm2.py needs.
"""

import pytest

from evaluation.calibration_text import CalibrationText, calibration_windows
from evaluation.engine.engine import Engine
from evaluation.text.perplexity import evaluate_perplexity
from quantizers.calibration import collect
from quantizers.recipes import RECIPES
from quantizers.resident import ResidentModel
from quantizers.setting import Setting
from tests.quantizers.rounding.test_smollm2 import LACKING, TEXT, loaded, saved

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(LACKING), reason=f"no {', no '.join(LACKING)} here"),
]
ROWS = ("sq-w4a8-tensor", "smoothquant-w4a8", "sq-w4a8-fine", "fptq")  # of table 10, in its order


def test_the_order_of_table_10():
    model, tokenizer = loaded()
    resident = ResidentModel(model)
    windows = calibration_windows(CalibrationText("sotu", 16, 128), tokenizer, 0)
    statistics = dict(collect(resident.model, resident.wiring, windows))
    engine = Engine(resident.model, tokenizer)
    scores = {}
    for name in ("16 bit", *ROWS, "vectorwise-w8a8"):
        setting = Setting.make(16) if name == "16 bit" else RECIPES[name].setting
        resident.apply(setting, statistics, windows=windows)
        scores[name] = evaluate_perplexity(engine, "wikitext2", 128, 2048, TEXT).items[
            "cross_entropy"
        ]
        loss, error = saved(scores[name], scores["16 bit"])
        print(f"{name}: {scores[name].mean():.3f} nats a token, {loss:+.3f} +- {error:.3f}",
              flush=True)  # fmt: skip
    for worse, better in zip(ROWS, ROWS[1:], strict=False):
        gain, error = saved(scores[worse], scores[better])
        print(f"{better} over {worse}: {gain:+.3f} +- {error:.3f} nats", flush=True)
    gain, error = saved(scores["sq-w4a8-tensor"], scores["smoothquant-w4a8"])
    assert gain > 2 * error  # one static scale a tensor loses what scales a token keep
    gain, error = saved(scores["sq-w4a8-tensor"], scores["fptq"])
    assert gain > 2 * error
