"""The `compressed-tensors` format of other inference engines, for settings that it can express.

Integers in rows or in groups along rows, symmetric: `pack-quantized` for rounded weights (W4A16,
W8A16), `int-quantized` for 8-bit weights that read 8-bit tokens (W8A8). Its scales are
absmax / (2^(k-1) - 1), its weights code times scale. Codes are ours; weights differ by what ours
are rounded to 16 bit, at most half a unit in the last place.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from quantizers.export.expressible import check_expressible
from quantizers.outliers import PackedMatrix
from quantizers.packed import PackedTensor
from quantizers.packing import pack, unpack
from quantizers.setting import Setting
from quantizers.wiring import Site

_MOST_BITS = 8
_TOKEN_8 = "token 8"  # the text of activations: {token: 8}


class CompressedTensors:
    """Its scales are written in fp32."""

    def __init__(self) -> None:
        self._names: set[str] = set()
        self._group: int | None = None  # None: a scale a row
        self._rounds_inputs = False

    def check(self, setting: Setting) -> None:
        rounds = setting.activation_format is not None
        fits_w8a8 = setting.bits == 8 and setting.block_size is None and setting.by_row
        needs = (
            (setting.data_type != "int", "data type int"),
            (setting.bits > _MOST_BITS, f"at most {_MOST_BITS} bits"),
            (setting.attention_bits is not None, "one width"),
            (setting.kv != "16", "16-bit keys and values"),
            (setting.centered, "no centering"),
            (setting.outlier_fraction, "no outlier columns"),
            (setting.scope != "linear", "scope linear"),
            (setting.folding_method is not None, "no folding"),
            (setting.block_size is None and not setting.by_row, "blocks of rows (row, or groups)"),
            (rounds and (setting.activations != _TOKEN_8 or not fits_w8a8),
             "activations of 16 bit, or {token: 8} beside 8 bit a row"),
        )  # fmt: skip
        check_expressible(setting, "compressed-tensors", needs)
        self._group = setting.block_size
        self._rounds_inputs = rounds

    def tensors(self, site: Site, matrix: PackedMatrix) -> Mapping[str, Tensor]:
        body = matrix.body
        d_out, d_in = body.shape
        if site.transposed:
            raise ValueError(f"{site.name}: compressed-tensors knows nn.Linear alone, not Conv1D")
        if self._group is not None and d_in % self._group:
            raise ValueError(
                f"{site.name}: groups of {self._group} do not divide its rows of {d_in}"
            )
        self._names.add(site.name)
        top = 2 ** (body.bits - 1) - 1
        scale = body.absmax.float().view(d_out, -1) / top
        codes = _codes(body, top)
        if self._rounds_inputs:
            return {"weight": codes.to(torch.int8), "weight_scale": scale}
        return {
            "weight_packed": _packed(codes + top + 1, body.bits),
            "weight_scale": scale,
            "weight_shape": torch.tensor([d_out, d_in]),
        }

    def config(self, setting: Setting, model: Any) -> Mapping[str, Any]:
        linear = (n for n, module in model.named_modules() if isinstance(module, nn.Linear))
        weights = {
            "num_bits": setting.bits,
            "type": "int",
            "symmetric": True,
            "dynamic": False,
            "strategy": "channel" if self._group is None else "group",
            "group_size": self._group,
        }
        tokens = {
            "num_bits": 8, "type": "int", "symmetric": True, "dynamic": True, "strategy": "token",
        }  # fmt: skip
        scheme = {
            "targets": ["Linear"],
            "weights": weights,
            "input_activations": tokens if self._rounds_inputs else None,
        }
        return {
            "quantization_config": {
                "quant_method": "compressed-tensors",
                "format": "int-quantized" if self._rounds_inputs else "pack-quantized",
                "quantization_status": "compressed",
                "config_groups": {"group_0": scheme},
                "ignore": [name for name in linear if name not in self._names],
            }
        }


def _codes(body: PackedTensor, top: int) -> Tensor:
    """Signed integers [d_out, d_in], int64, from -top to top."""
    return (unpack(body.words, body.bits, body.n) - top).view(body.shape)


def _packed(unsigned: Tensor, bits: int) -> Tensor:
    """Each row a little-endian stream of its own: int32 [d_out, ceil(d_in bits / 32)]."""
    d_out, d_in = unsigned.shape
    padded = nn.functional.pad(unsigned, (0, -d_in % 32))
    words = pack(padded.flatten(), bits).view(d_out, -1)
    return words[:, : -(-d_in * bits // 32)].contiguous()
