"""From a checkpoint to a directory of packed weights, one matrix in memory at a time."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from quantizers.calibration import Statistics
from quantizers.checkpoint import Checkpoint
from quantizers.export.writer import ShardWriter
from quantizers.loading import auto_class, in_one_line, located, skeleton
from quantizers.outliers import PackedMatrix
from quantizers.plan import packed_sites
from quantizers.proxies import Proxies
from quantizers.setting import Setting
from quantizers.shards import Shards, open_shards
from quantizers.size import ModelBits, StoredSize
from quantizers.soundness import check_says_causal
from quantizers.wiring import Site, Wiring, wiring_of


class Format(Protocol):
    """How packed matrices are written."""

    def check(self, setting: Setting) -> None:
        """Raises ValueError for a setting that the format cannot express."""

    def tensors(self, site: Site, matrix: PackedMatrix) -> Mapping[str, Tensor]:
        """What stands in the file for a site's weight, by the end of its name. Raises ValueError
        for a matrix that the format cannot hold."""

    def config(self, setting: Setting, model: Any) -> Mapping[str, Any]:
        """The changes to config.json, after all matrices were given."""


@dataclass(frozen=True)
class Exported:
    """What was written: the size by kbit's count, the bytes of the weight files, and the class of
    `transformers` that loads them."""

    bits: ModelBits
    file_bytes: int
    loader: str


@torch.no_grad()
def export(
    checkpoint: Checkpoint,
    setting: Setting,
    output_format: Format,
    output: Path,
    statistics: Mapping[str, Statistics] | None = None,
) -> Exported:
    """Write the model at `setting` to the directory `output`, which must not hold anything.

    statistics: of the 16-bit model, by `Site.input`, for settings that need them. Memory holds one
    matrix, and what waits for its file (512 MiB). On an error nothing is left.

    Raises UnusableModel as `open_shards` does, and for encoders; ValueError for what cannot be
    exported: 16 bit, folding, rounded activations, experts, and what the format cannot express.
    """
    if setting.bits == 16:
        raise ValueError("16 bit is the checkpoint itself: there is nothing to export")
    output_format.check(setting)
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ValueError(f"{output} exists and is not an empty directory")
    exportable(checkpoint)
    model, tokenizer, shards = open_shards(checkpoint)
    with complete(output) as folder:
        folder.mkdir(parents=True)
        writer = ShardWriter(folder)
        bits = _write(model, setting, shards, output_format, writer, statistics)
        writer.close()
        tokenizer.save_pretrained(folder)
        model.generation_config.save_pretrained(folder)
        changes = output_format.config(setting, model)
        config = json.loads(model.config.to_json_string(use_diff=False))
        config |= {"dtype": checkpoint.dtype, **changes}
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        n_bytes = sum(f.stat().st_size for f in folder.glob("*.safetensors"))
        return Exported(bits, n_bytes, auto_class(model.config).__name__)


def _write(
    model: Any,
    setting: Setting,
    shards: Shards,
    output_format: Format,
    writer: ShardWriter,
    statistics: Mapping[str, Statistics] | None,
) -> ModelBits:
    """Every tensor of the model, once."""
    size, wiring = StoredSize(setting), wiring_of(model)
    for site, matrix in packed_in_turn(wiring, setting, shards, statistics):
        size.add(matrix, site.weight.numel())
        for end, tensor in output_format.tensors(site, matrix).items():
            writer.add(f"{site.name}.{end}", tensor)
    for name in others(model, wiring.in_scope(setting.scope)):
        writer.add(name, shards[name])
    return size.model_bits(sum(p.numel() for p in model.parameters()))


def packed_in_turn(
    wiring: Wiring,
    setting: Setting,
    shards: Shards,
    statistics: Mapping[str, Statistics] | None,
) -> Iterator[tuple[Site, PackedMatrix]]:
    """The matrices in scope, each packed when it is asked for. Raises as `packed_sites` does."""

    def weight(site: Site) -> Tensor:
        stored = shards[site.weight_name]
        return (stored.T if site.transposed else stored).contiguous()

    return packed_sites(wiring, setting, Proxies(wiring, weight), weight, statistics)


def others(model: Any, sites: Iterable[Site]) -> list[str]:
    """Names of the model's parameters that are not those of `sites`, and of its buffers that a
    checkpoint has; tied ones once."""
    packed, persistent = {id(site.parameter) for site in sites}, set(model.state_dict())
    names = [name for name, p in model.named_parameters() if id(p) not in packed]
    return names + [name for name, _ in model.named_buffers() if name in persistent]


def exportable(checkpoint: Checkpoint) -> Any:
    """The model without its weights, before these are looked for: those of most mixtures are
    rearranged on loading. Raises as `export` does for what cannot be exported at any setting."""
    checkpoint = located(checkpoint)
    with in_one_line(checkpoint.source):
        model = skeleton(checkpoint)
    check_says_causal(model)
    if any(site.expert is not None for site in wiring_of(model).linear):
        raise ValueError(
            f"model {checkpoint.name}: export packs linear layers, not the experts of "
            f"{model.config.model_type!r}; no part of a mixture is exported"
        )
    return model


@contextmanager
def complete(output: Path) -> Iterator[Path]:
    """A path beside `output`, of a file or a folder, that takes its name when all is written."""
    partial = output.with_name(f"{output.name}.partial")
    _remove(partial)
    try:
        yield partial
        if output.is_dir():
            output.rmdir()
        partial.replace(output)
    finally:
        _remove(partial)


def _remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
