"""docs/architectures.md says what can be done with which architecture: generated, and checked here.

KBIT_WRITE=1 python -m pytest tests/quantizers/test_architectures.py writes it anew.
"""

import os
from pathlib import Path
from typing import Any

import torch
import transformers as hf

from quantizers.export.gguf_model import check_config
from quantizers.loading import auto_class
from quantizers.wiring import wiring_of
from tests.quantizers.tiny_models import (
    _COMMON,
    _GATED,
    CONFIGS,
    HIDDEN,
    LAYERS,
    MIXTURES,
    SEEING,
    VISION,
    VOCAB,
)

TABLE = Path(__file__).resolve().parents[2] / "docs" / "architectures.md"
OTHERS = {
    "phi3": lambda: hf.Phi3Config(**_COMMON, **_GATED),
    "stablelm": lambda: hf.StableLmConfig(**_COMMON, **_GATED),
    "starcoder2": lambda: hf.Starcoder2Config(**_COMMON, **_GATED),
    "granite": lambda: hf.GraniteConfig(**_COMMON, **_GATED),
    "olmo2": lambda: hf.Olmo2Config(**_COMMON, **_GATED),
    "gemma3": lambda: hf.Gemma3Config(
        text_config={**_COMMON, **_GATED, "head_dim": 8}, vision_config=VISION
    ),
    "mamba": lambda: hf.MambaConfig(vocab_size=VOCAB, hidden_size=HIDDEN, num_hidden_layers=LAYERS),
    "rwkv": lambda: hf.RwkvConfig(
        vocab_size=VOCAB, hidden_size=HIDDEN, num_hidden_layers=LAYERS, attention_hidden_size=HIDDEN
    ),
}
_HEAD = """\
# What can be done with which architecture

Generated from small models of each by `tests/quantizers/test_architectures.py`, which fails when
this page is not what the code does. An architecture that is not listed is treated like those
without a wiring: every linear layer of its decoder is quantized, or the model is refused in one
line; never a part of it in silence.

- **quantized**: the matrices of a decoder block at `scope: linear`. Of mixtures every expert by
  itself, its router never. "16 bit alone": its baseline can be swept, settings below are stored as
  failed.
- **outliers**: proxy quantization (`outlier_fraction`), which needs to know what produces what.
- **folding**: norms whose channels can move into what reads them; "none": others read them too.
- **export**: `kbit export` packs its layers; "GGUF": also as a GGUF file.

Not read at all, each refused in one line that names the format: adapters, GPTQ, AWQ, bitsandbytes,
compressed-tensors, fp8 and other weights that are quantized already, encoders and other models that
look ahead. GGUF files are dequantized by `kbit convert` first. Of models that also see the language
model is taken, be they read by `AutoModelForCausalLM` or by `AutoModelForImageTextToText`, as their
exports are; the rest of them stays in 16 bit and counts.

| architecture | quantized | outliers | folding | export |
|---|---|---|---|---|
"""


def row(name: str, config: Any) -> str:
    with torch.device("meta"):
        model = auto_class(config).from_config(config)
    try:
        wiring = wiring_of(model)
    except ValueError as error:
        layer = str(error).split(": ")[1].split("; ")[0]
        return f"| {name} | 16 bit alone: {layer} | | | |"
    experts = sum(site.expert is not None for site in wiring.linear)
    norms = {site.norm for site in wiring.linear if site.norm}
    cells = (
        name,
        _counted(len(wiring.linear), "") + (f", {_counted(experts, 'expert')}" if experts else ""),
        "yes" if wiring.knows_producers else "no",
        _counted(len(norms), "norm") if norms else "none",
        _export(config, experts),
    )
    return f"| {' | '.join(cells)} |"


def _export(config: Any, experts: int) -> str:
    try:
        check_config(config)
    except ValueError:
        return "no" if experts else "yes"
    return "yes, GGUF"


def _counted(n: int, what: str) -> str:
    """The models here have three blocks, and three experts where they have any."""
    count, where = (n // LAYERS, "a block") if n % LAYERS == 0 else (n, f"in {LAYERS} blocks")
    return f"{count} {f'of {what}s ' if what == 'expert' else f'{what}s ' if what else ''}{where}"


def test_the_page_is_what_the_code_does() -> None:
    rows = [
        row(name, make()) for name, make in sorted((CONFIGS | MIXTURES | SEEING | OTHERS).items())
    ]
    page = _HEAD + "\n".join(rows) + "\n"
    if os.environ.get("KBIT_WRITE"):
        TABLE.write_text(page)
    assert TABLE.read_text() == page
