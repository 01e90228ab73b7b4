"""kbit's own format: the buffers of packed layers under the layers' names, every setting exact."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from quantizers.linear import layer_tensors
from quantizers.outliers import PackedMatrix
from quantizers.setting import Setting
from quantizers.wiring import Site

METHOD = "kbit"  # what `quant_method` in config.json says


class KBitFormat:
    """See `quantizers.export.hf` for what reads it."""

    def __init__(self) -> None:
        self._layouts: dict[str, dict[str, Any]] = {}
        self._dtype = "float16"

    def check(self, setting: Setting) -> None:
        if not setting.is_weight_only:
            raise ValueError(
                f"{setting.label}: exported layers neither fold nor round what they read"
            )

    def tensors(self, site: Site, matrix: PackedMatrix) -> Mapping[str, Tensor]:
        d_out, d_rest = matrix.body.shape
        self._dtype = str(matrix.body.dtype).removeprefix("torch.")
        self._layouts[site.name] = {
            "kind": "embedding" if site.kind == "embedding" else "linear",
            "shape": [d_out, d_rest + matrix.columns.numel()],
            "bits": matrix.body.bits,
            "columns": matrix.columns.numel(),
            "codebook": matrix.body.codebook.numel(),
        }
        return {name: t for name, t in layer_tensors(matrix).items() if t is not None}

    def config(self, setting: Setting, model: Any) -> Mapping[str, Any]:
        return {
            "quantization_config": {
                "quant_method": METHOD,
                "bits": setting.bits,
                "load_dtype": self._dtype,
                "setting": setting.row(),
                "layers": self._layouts,
            }
        }
