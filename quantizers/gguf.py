"""GGUF files, dequantized: `transformers` and the `gguf` package read them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import pre_tokenizers

from quantizers.checkpoint import UnusableModel
from quantizers.gguf_file import check_gguf
from quantizers.loading import in_one_line
from quantizers.soundness import check_vocabulary, not_finite


@dataclass(frozen=True)
class Dequantized:
    """A model of a GGUF file in a 16-bit type. types: how many of its tensors are stored how."""

    model: Any
    tokenizer: Any
    types: dict[str, int]


def read_gguf(file: Path, dtype: torch.dtype) -> Dequantized:
    """Weights dequantized in fp32, then rounded to `dtype` (float16, bfloat16).

    Raises UnusableModel as `check_gguf` does, for what is no model that `transformers` knows, and
    for weights that overflow.
    """
    check_gguf(file)
    from gguf import GGUFReader
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    source = {"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name}
    with in_one_line(str(file)):
        reader = GGUFReader(file)
        types = Counter(tensor.tensor_type.name for tensor in reader.tensors)
        tokenizer = AutoTokenizer.from_pretrained(**source)
        _split_as(reader.get_field("tokenizer.ggml.pre"), tokenizer)
        model = AutoModelForCausalLM.from_pretrained(
            **source, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
        )
    check_vocabulary(model, tokenizer)
    model = model.to(dtype)  # type: ignore[arg-type]
    if (found := not_finite(model, dtype)) is not None:
        key, kind = found
        raise UnusableModel(f"{file}: {key} holds {kind} in {str(dtype).removeprefix('torch.')}")
    return Dequantized(model, tokenizer, dict(types))


def _split_as(field: Any, tokenizer: Any) -> None:
    """`transformers` splits text as GPT-2 where it does not know the name that the file has of its
    way; SmolLM's takes digits apart first, which shows where more than one space comes before."""
    if field is not None and field.contents() == "smollm":
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Digits(individual_digits=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
            ]
        )
