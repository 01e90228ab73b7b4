"""From a checkpoint to a GGUF file that llama.cpp loads, one matrix in memory at a time."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from quantizers.calibration import Statistics
from quantizers.checkpoint import Checkpoint
from quantizers.export.conversion import Exported, complete, exportable, others, packed_in_turn
from quantizers.export.gguf_blocks import NAMES, Gguf, blocks_of, check_rows
from quantizers.export.gguf_model import Names, add_numbers, check_config
from quantizers.export.gguf_vocabulary import add_vocabulary
from quantizers.loading import auto_class
from quantizers.setting import Setting
from quantizers.shards import open_shards
from quantizers.size import StoredSize
from quantizers.wiring import wiring_of

_KINDS = {torch.float16: "F16", torch.bfloat16: "BF16", torch.float32: "F32"}


def check_gguf_model(checkpoint: Checkpoint) -> None:
    """Raises ValueError, before weights are read, for an architecture that is not written."""
    model = exportable(checkpoint)
    check_config(model.config)
    names = Names(model.config)
    for name, parameter in model.named_parameters():
        if names[name] and parameter.dim() > 1:
            check_rows(name, parameter.shape[-1])


@torch.no_grad()
def export_gguf(
    checkpoint: Checkpoint,
    setting: Setting,
    output: Path,
    statistics: Mapping[str, Statistics] | None = None,
) -> Exported:
    """Write the model at `setting` to the file `output`, or over it once all is written.

    Matrices in scope become Q4_0 or Q8_0, others stay in 16 bit, norms and biases become fp32.
    Rounded to the model's 16-bit type, as they are scored, all weights are those of `setting`.
    statistics: as of `export`.

    Raises UnusableModel as `open_shards` does; ValueError for a setting, architecture or tokenizer
    that is not written, and for a matrix whose weights would be others.
    """
    Gguf().check(setting)
    check_gguf_model(checkpoint)
    model, tokenizer, shards = open_shards(checkpoint)
    wiring, size = wiring_of(model), StoredSize(setting)
    sites = wiring.in_scope(setting.scope)
    left = others(model, sites)
    with complete(output) as partial:
        file = _File(model.config, int(setting.bits))
        file.describe(checkpoint.name, tokenizer, model.config.vocab_size)
        for site in sites:
            file.announce(site.weight_name, site.weight, packed=True)
        for name in left:
            file.announce(name, model.get_parameter(name))
        file.open(partial)
        try:
            for site, matrix in packed_in_turn(wiring, setting, shards, statistics):
                size.add(matrix, site.weight.numel())
                file.write(site.weight_name, blocks_of(matrix, site.weight_name))
            for name in left:
                file.write(name, shards[name])
        finally:
            file.close()
        n_bytes = partial.stat().st_size
    bits = size.model_bits(sum(p.numel() for p in model.parameters()))
    return Exported(bits, n_bytes, auto_class(model.config).__name__)


class _File:
    """GGUF has the numbers first, then what tensors there are, then these in that order."""

    def __init__(self, config: Any, bits: int) -> None:
        from gguf import GGML_QUANT_VERSION, GGMLQuantizationType, GGUFWriter, LlamaFileType

        self._kinds = GGMLQuantizationType
        self._packed = self._kinds[NAMES[bits]]
        self._names = Names(config)
        self._writer = GGUFWriter(None, self._names.architecture)
        self._writer.add_file_type(LlamaFileType[f"MOSTLY_{self._packed.name}"])
        self._writer.add_quantization_version(GGML_QUANT_VERSION)
        add_numbers(self._writer, config)

    def describe(self, name: str, tokenizer: Any, rows: int) -> None:
        self._writer.add_name(name)
        add_vocabulary(self._writer, tokenizer, rows)

    def announce(self, name: str, like: Tensor, *, packed: bool = False) -> None:
        """A tensor that will be written, of a shape and, unless it is packed, a type."""
        from gguf import GGML_QUANT_SIZES

        kind = self._packed if packed else self._kinds[_KINDS[_stored_as(like)]]
        in_block, n_bytes = GGML_QUANT_SIZES[kind]
        self._writer.add_tensor_info(
            self._names[name],
            like.shape,
            np.dtype(np.float32),  # read where no kind is given
            like.numel() // in_block * n_bytes,
            raw_dtype=kind,
        )

    def open(self, path: Path) -> None:
        self._writer.write_header_to_file(path)
        self._writer.write_kv_data_to_file()
        self._writer.write_ti_data_to_file()

    def write(self, name: str, tensor: Tensor) -> None:
        """The next of those announced; of packed ones the bytes [d_out, bytes of a row]."""
        stored = tensor if tensor.dtype == torch.uint8 else tensor.to(_stored_as(tensor))
        in_order = self._names.in_order(self._names[name], stored).contiguous()
        self._writer.write_tensor_data(in_order.view(torch.uint8).numpy())

    def close(self) -> None:
        self._writer.close()


def _stored_as(tensor: Tensor) -> torch.dtype:
    """llama.cpp adds and multiplies what is no matrix in fp32."""
    return tensor.dtype if tensor.dim() > 1 else torch.float32
