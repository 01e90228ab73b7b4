"""What serving whole models of random weights costs in every format, its two stages apart.

    python benchmarks/serving.py [--model neox-6.9b llama-7b] [--steps 8] [--json FILE]

The shapes are table 6's of Ahmadian et al. 2023; ratios are over 16 bit in the same run, beside the
paper's; from them FPTQ's table 1: which formats read prompts faster, and which generate faster.
Only speed is measured, so weights need no training and no download. On a CPU take --model tiny; 16
bit is fp32 there.
"""

from __future__ import annotations

import argparse
import datetime
import gc
import sys
from pathlib import Path
from typing import Any

import torch
import transformers as hf

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.kernels import Report
from evaluation.speed.serving import TABLE_6, Serving, Shape, serve
from kbit.bench import INTEGER_FORMATS
from quantizers.integer_linear import pack_integers
from quantizers.linear import pack_linears
from quantizers.setting import Setting

MODELS: dict[str, Any] = {
    "neox-6.9b": lambda: hf.GPTNeoXConfig(
        hidden_size=4096,
        num_hidden_layers=32,
        num_attention_heads=32,
        intermediate_size=16384,
        vocab_size=50432,
        max_position_embeddings=4096,
        rotary_pct=0.25,
    ),
    "llama-7b": lambda: hf.LlamaConfig(max_position_embeddings=4096),
    "tiny": lambda: hf.LlamaConfig(
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=128,
        vocab_size=96,
    ),
}
PUBLISHED = {  # fp16 over INT8 vector-wise: latency, share of peak memory saved (52B, 4 A100)
    "1x60x1024": (1.40, 0.42),
    "2x60x1024": (1.41, 0.41),
    "4x60x1024": (1.40, 0.39),
    "8x1024x1": (1.46, 0.37),
    "16x1024x1": (1.43, 0.33),
    "8x2048x1": (1.42, 0.33),
}
BASE = "16 bit"


def formats() -> dict[str, Setting]:
    found = {BASE: Setting.make(16)}
    found |= {f"{bits} bit": Setting.make(bits, "float", block_size=64) for bits in (8, 4, 3)}
    for name, factors in INTEGER_FORMATS.items():
        others = {key: value for key, value in factors.items() if key != "bits"}
        found[name] = Setting.make(factors["bits"], "int", **others)
    return found


def model_in(name: str, setting: Setting, device: str) -> Any:
    """Random weights of one seed in the format; on a CPU what is not packed computes in fp32."""
    torch.manual_seed(0)
    with torch.device(device):
        model = hf.AutoModelForCausalLM.from_config(MODELS[name](), dtype=torch.float16).eval()
    if setting.activation_format is not None:
        pack_integers(model, setting)
    else:
        pack_linears(model, setting)
    return model if device == "cuda" else model.float()


def serving_table(report: Report, name: str, shapes: tuple[Shape, ...], steps: int) -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    full: dict[Shape, Serving] = {}
    for label, setting in formats().items():
        model = model_in(name, setting, device)
        for shape in shapes:
            try:
                serving = serve(model, shape, steps)
            except torch.OutOfMemoryError:
                print(f"{name} {label} {shape}: does not fit this device: left empty")
                continue
            if label == BASE:
                full[shape] = serving
            _records(report, f"{name} {label} {shape}", serving, full.get(shape))
        del model
        gc.collect()
        if device == "cuda":
            torch.cuda.empty_cache()


def _records(report: Report, case: str, serving: Serving, full: Serving | None) -> None:
    def add(metric: str, value: float, unit: str, base: float | None) -> None:
        ratio = None if base is None else base / value
        report.add(case, metric, value, unit, None if base is None else BASE, base, ratio)

    add("latency", serving.latency * 1000, "ms", full and full.latency * 1000)
    add("context decoding", serving.context * 1000, "ms", full and full.context * 1000)
    if serving.step is not None:
        before = full.step * 1000 if full is not None and full.step is not None else None
        add("self-decoding", serving.step * 1000, "ms/token", before)
    report.add(case, "throughput", serving.tokens_per_second, "tokens/s")
    if serving.peak is not None:
        before = full.peak / 1e9 if full is not None and full.peak is not None else None
        add("peak memory", serving.peak / 1e9, "GB", before)
    if "w8a8" in case and str(serving.shape) in PUBLISHED:
        faster, saved = PUBLISHED[str(serving.shape)]
        print(f"{'':46} published for INT8: {faster:.2f}x as fast, {saved:.0%} less memory")


# The methods of FPTQ's table 1 by their formats, and what it says of them: whether reading prompts,
# and generating, is faster than in 16 bit.
STAGES = {
    "4 bit": ("W4A16 (GPTQ, AWQ)", False, True),
    "w8a8": ("W8A8 (SmoothQuant)", True, False),
    "w4a8": ("W4A8 (FPTQ)", True, True),
}


def stages_table(report: Report, model: str) -> None:
    """FPTQ's table 1 from what was measured: the longest prompts, and the longest outputs of one
    sequence; left empty where a shape was not."""
    for label, (method, reads, generates) in STAGES.items():
        for stage, said in (("context decoding", reads), ("self-decoding", generates)):
            found = [
                (Shape.parse(record["case"].rsplit(" ", 1)[1]), record["ratio"])
                for record in report.records
                if record["case"].startswith(f"{model} {label} ") and record["metric"] == stage
            ]
            found = [(shape, x) for shape, x in found if stage[0] == "c" or shape.batch == 1]
            if found:
                shape, ratio = max(found, key=lambda pair: (pair[0].prompt, pair[0].batch))
                case, metric = f"{model} {method} {shape}", f"efficient {stage}"
                report.add(case, metric, ratio, "x 16 bit", "table 1 says", float(said), ratio)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", nargs="+", choices=tuple(MODELS), default=[*MODELS][:2])
    parser.add_argument("--shapes", nargs="+", type=Shape.parse, default=TABLE_6)
    parser.add_argument("--steps", type=int, default=8, help="tokens timed (default: 8)")
    parser.add_argument("--json", type=Path, help="also write one record a case")
    args = parser.parse_args(argv)
    name = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "CPU"
    file = args.json if torch.cuda.is_available() else None
    report = Report(f"{name}, torch {torch.__version__}, {datetime.date.today()}", file)
    for model in args.model:
        serving_table(report, model, tuple(args.shapes), args.steps)
        stages_table(report, model)
    report.write(args.json)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
