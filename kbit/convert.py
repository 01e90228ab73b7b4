"""`kbit convert`: a GGUF file as a 16-bit checkpoint, which sweeps can read."""

from __future__ import annotations

import argparse
from pathlib import Path

from orchestrator.outputs import folder_to_fill, writing
from quantizers.gguf_file import check_gguf

EXAMPLE = (
    "example: kbit convert model-Q8_0.gguf --output model-16-bit\n"
    "Then, in models.yaml: {name: my-model, path: model-16-bit}\n"
    "Its baseline is the file's weights as they are: what was lost when they were quantized stays\n"
    "lost, so compare it with models that come from 16 bit only where that is said."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, help="a .gguf file")
    parser.add_argument("--output", type=Path, required=True, help="a directory to be made")
    parser.add_argument("--dtype", choices=("float16", "bfloat16"), default="float16")


def run(args: argparse.Namespace) -> int:
    output = folder_to_fill(args.output, new=True)
    check_gguf(args.file)
    import torch

    from orchestrator.run.worker import quiet_libraries
    from quantizers.gguf import read_gguf

    quiet_libraries()
    read = read_gguf(args.file, getattr(torch, args.dtype))
    with writing(output):
        read.model.save_pretrained(output)
        read.tokenizer.save_pretrained(output)
    stored = ", ".join(f"{count} {name}" for name, count in sorted(read.types.items()))
    print(f"{output}: {stored} tensors, dequantized to {args.dtype}")
    return 0
