"""Where a model's weights are, and what can be told of them before they are read. No torch here.

kbit quantizes whole causal language models from their 16-bit (or wider) weights. Adapters, weights
that are quantized already and formats it does not read are refused by name, with the way out.
"""

from __future__ import annotations

import fnmatch
import json
import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quantizers.plain import reason

STEMS = {"safetensors": "model.safetensors", "bin": "pytorch_model.bin"}
# What the quantizers of other projects leave beside the weights.
_QUANTIZER_FILES = {
    "quantize_config.json": "GPTQ",
    "quant_config.json": "AWQ",
    "hf_quant_config.json": "ModelOpt",
}
# Endings of the tensors that stand for one quantized weight: GPTQ and AWQ, compressed-tensors,
# bitsandbytes, fp8.
_QUANTIZED_ENDINGS = (
    ".qweight",
    ".qzeros",
    ".g_idx",
    ".weight_packed",
    ".weight_scale",
    ".weight_scale_inv",
    ".weight_zero_point",
    ".SCB",
    ".weight.absmax",
    ".weight.quant_map",
)
_FLOATS = ("F64", "F32", "F16", "BF16")
_OTHER_FORMATS = {
    "*.gguf": "GGUF",
    "tf_model.h5": "TensorFlow weights",
    "flax_model.msgpack": "Flax weights",
    "consolidated.*": "the weights of the authors' own code",
    "*.ckpt": "a training checkpoint",
    "*.pt": "a PyTorch file of unknown layout",
    "*.pth": "a PyTorch file of unknown layout",
}


class UnusableModel(ValueError):
    """A model that can be scored at no setting: one line with file, reason and the way out."""


@dataclass(frozen=True)
class Checkpoint:
    """A model as its user names it. `source`: a local directory or a hub id; `tokenizer`: another
    one's, if not its own, on the hub with `@revision`; `dtype`: the load dtype, float16 or
    bfloat16."""

    name: str
    source: str
    revision: str | None = None
    tokenizer: str | None = None
    dtype: str = "float16"
    weights: str = "safetensors"  # | "bin"
    gpus: int = 1
    trust_remote_code: bool = False


def check_folder(directory: Path, weights: str) -> list[Path]:
    """The weight files of a local checkpoint, those that `from_pretrained` reads.

    Raises UnusableModel where they are missing, truncated, of another format, quantized already,
    or an adapter's. Of weight files it reads the headers alone.
    """
    if directory.suffix == ".gguf" and directory.is_file():
        raise UnusableModel(
            f"{directory} is GGUF, which kbit does not read; kbit convert {directory.name} "
            "--output DIR dequantizes it to a directory"
        )
    if not directory.is_dir():
        raise UnusableModel(f"{directory} is not a directory; correct its `path`")
    check_names({file.name for file in directory.iterdir()}, weights, str(directory))
    check_config(_json_object(directory / "config.json"), f"{directory / 'config.json'}")
    files = _weight_files(directory, weights)
    if weights == "safetensors":
        for file in files:
            _check_tensors(_safetensors_header(file), file)
    return files


def count_stored(directory: Path) -> int:
    """Elements of all tensors in the safetensors files of a local checkpoint, by their headers.

    Raises UnusableModel where they are missing or damaged.
    """
    files = _weight_files(directory, "safetensors")
    shapes = (t["shape"] for file in files for t in _safetensors_header(file).values())
    return sum(math.prod(shape) for shape in shapes)


def check_names(names: Collection[str], weights: str, where: str) -> None:
    """What the names of its files say of a checkpoint. Raises UnusableModel as check_folder."""
    if "adapter_config.json" in names:
        raise UnusableModel(
            f"{where}/adapter_config.json makes this an adapter, which kbit does not read: merge "
            "it into its base model (peft's merge_and_unload) and save that, or move the file away"
        )
    for file, method in _QUANTIZER_FILES.items():
        if file in names:
            raise UnusableModel(_quantized(method, f"{where}/{file}"))
    stem = STEMS[weights]
    for file, wanted in (
        ("config.json", ("config.json",)),
        (f"weight file {stem}", (stem, f"{stem}.index.json")),
    ):
        if not any(name in names for name in wanted):
            raise UnusableModel(f"{file} is missing in {where}{_instead(names, weights)}")


def check_config(config: Mapping[str, Any], where: str) -> None:
    """Raises UnusableModel when a config.json says that its weights are quantized."""
    parts = [config, *(part for part in config.values() if isinstance(part, dict))]
    for part in parts:
        for key in ("quantization_config", "compression_config"):
            found = part.get(key)
            if isinstance(found, dict) and found:
                method = str(found.get("quant_method") or found.get("quantization_method") or key)
                if bits := found.get("bits") or found.get("w_bit"):
                    method += f", {bits} bit"
                raise UnusableModel(_quantized(method, f"{key} of {where}"))


def _quantized(method: str, where: str) -> str:
    return (
        f"its weights are quantized already ({method}: {where}); kbit quantizes 16-bit weights: "
        "give the original checkpoint"
    )


def _weight_files(directory: Path, weights: str) -> list[Path]:
    """In the order in which `from_pretrained` looks: one file, else an index of several."""
    single = directory / STEMS[weights]
    if single.is_file():
        return [single]
    index = directory / f"{STEMS[weights]}.index.json"
    shards = _json_object(index).get("weight_map")
    if not isinstance(shards, dict) or not shards:
        raise UnusableModel(f"{index} is not a weight index: it lacks `weight_map`")
    files = sorted({directory / str(file) for file in shards.values()})
    for file in files:
        if not file.is_file():
            raise UnusableModel(f"weight file {file} is missing")
    return files


def _instead(names: Collection[str], weights: str) -> str:
    """What a checkpoint without the right files holds, and what to do with it."""
    other = "bin" if weights == "safetensors" else "safetensors"
    stem = STEMS[other]
    if stem in names or f"{stem}.index.json" in names:
        return f", but {stem} is there: set `weights: {other}`"
    for pattern, what in _OTHER_FORMATS.items():
        if found := sorted(fnmatch.filter(names, pattern)):
            advice = "give the checkpoint in the hub's format (config.json and model.safetensors)"
            if what == "GGUF":
                advice = f"kbit convert {found[0]} --output DIR dequantizes it"
            return f": {found[0]} is {what}, which kbit does not read; {advice}"
    return ""


def _json_object(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise UnusableModel(f"{file} cannot be read as JSON: {reason(error)}") from None
    if not isinstance(content, dict):
        raise UnusableModel(f"{file} is not a JSON object")
    return content


def _safetensors_header(file: Path) -> dict[str, Any]:
    """The tensors a file says it holds: 8 bytes of length, JSON, tensor data. Checks its length."""
    problem = UnusableModel(f"{file} is truncated or not safetensors; copy it again")
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if size < 8 or 8 + length > size:
            raise problem
        content = stream.read(length)
    try:
        tensors = {k: v for k, v in json.loads(content).items() if k != "__metadata__"}
        end = max((tensor["data_offsets"][1] for tensor in tensors.values()), default=0)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise problem from None
    if 8 + length + end != size:
        raise problem
    return tensors


def _check_tensors(tensors: Mapping[str, Any], file: Path) -> None:
    for name, tensor in tensors.items():
        kind = tensor.get("dtype")
        if name.endswith(_QUANTIZED_ENDINGS) or (name.endswith(".weight") and kind not in _FLOATS):
            raise UnusableModel(_quantized(f"{name} of type {kind}", str(file)))


def listed(names: Iterable[str], most: int = 3) -> str:
    """A few names, and how many more there are."""
    ordered = sorted(names)
    more = len(ordered) - most
    return ", ".join(ordered[:most]) + (f" and {more} more" if more > 0 else "")
