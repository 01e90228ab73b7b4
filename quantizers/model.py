"""A language model that stays in memory while its weights go from one precision to the next."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from quantizers.architectures import (
    Matrix,
    embedding_matrices,
    knows_producers,
    linear_matrices,
)
from quantizers.outliers import (
    dequantize_matrix,
    outlier_columns,
    quantize_matrix,
    unit_stds,
)
from quantizers.packed import sixteen_bit
from quantizers.setting import Setting


@dataclass(frozen=True)
class ModelBits:
    """The size of a model at one precision, in bits. Tied weights count once."""

    n_params: int
    total_bits: int  # everything; parameters that are not quantized at 16
    quantized_bits: int  # the matrices in scope and their tables; at 16 bit those of scope "linear"
    nominal_bits: float  # n_params * bits_per_param
    bits_per_param: float  # k + 16/B (+ 16/B) + p (16 - k)


class ResidentModel:
    """A causal LM whose weight matrices can be quantized in place and restored bit for bit.

    The 16-bit originals of the matrices stay on the CPU. Parameters live on their own devices in
    `compute_dtype`; quantization runs where the parameter is.
    """

    def __init__(
        self,
        model: Any,
        load_dtype: torch.dtype = torch.float16,
        compute_dtype: torch.dtype = torch.float32,
    ) -> None:
        """Take over a `transformers` causal LM, in any floating dtype and on any device.

        Its parameters are rounded to the 16-bit type of `load_dtype` (fp32: fp16), then widened to
        `compute_dtype`; buffers stay as they are. Dequantized weights are rounded to `load_dtype`.

        Raises ValueError for a parameter that overflows 16 bit and for layers that cannot be
        quantized (see `linear_matrices`).
        """
        self.model = model
        self.load_dtype = load_dtype
        self._linear = linear_matrices(model)
        self._embeddings = embedding_matrices(model)
        self.n_params: int = sum(p.numel() for p in model.parameters())
        self._originals: dict[str, Tensor] = {}
        matrices = {id(m.parameter): m for m in self._linear + self._embeddings}
        for name, parameter in model.named_parameters():
            rounded = parameter.data.to(sixteen_bit(load_dtype))
            if not torch.equal(torch.isfinite(rounded), torch.isfinite(parameter.data)):
                raise ValueError(f"{name}: a weight overflows 16 bit; load the model in bfloat16")
            if id(parameter) in matrices:
                self._originals[matrices[id(parameter)].name] = rounded.to("cpu", copy=True)
            parameter.data = rounded.to(compute_dtype)
        self._stds: dict[str, Tensor] = {}
        self._modified: set[str] = set()

    @torch.no_grad()
    def apply(self, setting: Setting) -> ModelBits:
        """Give the model the weights of `setting`, starting from the originals whatever it held.

        Each matrix in scope is packed and dequantized from the packed form, one at a time. On an
        error the originals are back in place.

        Raises ValueError for NaN or inf in a weight, for an absmax beyond 16 bit, and for outliers
        in an architecture whose wiring is not known.
        """
        if setting.outlier_fraction and not knows_producers(self.model):
            raise ValueError(
                f"outlier_fraction: proxy quantization does not know the wiring of architecture "
                f"{self.model.config.model_type!r}; set it to 0"
            )
        if setting.bits == 16:
            self.restore()
            return self._baseline_bits(setting)
        matrices = self._linear + (self._embeddings if setting.scope == "all" else [])
        self._put_back(self._modified - {m.name for m in matrices})
        table_bytes = stored_bytes = n_quantized = 0
        try:
            for matrix in matrices:
                packed = quantize_matrix(
                    self._output_by_input(matrix),
                    setting,
                    self._columns(matrix, setting.outlier_fraction),
                    name=f"{matrix.name}.weight",
                )
                self._modified.add(matrix.name)
                restored = dequantize_matrix(packed)
                matrix.parameter.data.copy_(restored.T if matrix.transposed else restored)
                stored_bytes += packed.bytes_stored
                n_quantized += restored.numel()
                # A quantile table belongs to its matrix; all others serve the whole model.
                own_table = setting.data_type == "quantile" or not table_bytes
                table_bytes += packed.body.codebook.nbytes if own_table else 0
        except BaseException:
            self.restore()
            raise
        quantized_bits = 8 * (stored_bytes + table_bytes)
        return ModelBits(
            n_params=self.n_params,
            total_bits=quantized_bits + 16 * (self.n_params - n_quantized),
            quantized_bits=quantized_bits,
            nominal_bits=self.n_params * setting.bits_per_param,
            bits_per_param=setting.bits_per_param,
        )

    @torch.no_grad()
    def restore(self) -> None:
        """Put the 16-bit weights back, bit for bit."""
        self._put_back(set(self._modified))

    def _put_back(self, names: set[str]) -> None:
        for matrix in self._linear + self._embeddings:
            if matrix.name in names:
                matrix.parameter.data.copy_(self._originals[matrix.name])
        self._modified -= names

    def _baseline_bits(self, setting: Setting) -> ModelBits:
        n_linear = sum(m.parameter.numel() for m in self._linear)
        return ModelBits(
            n_params=self.n_params,
            total_bits=16 * self.n_params,
            quantized_bits=16 * n_linear,
            nominal_bits=self.n_params * setting.bits_per_param,
            bits_per_param=setting.bits_per_param,
        )

    def _output_by_input(self, matrix: Matrix) -> Tensor:
        """The original, [d_out, d_in] row-major in the load dtype, on the parameter's device."""
        original = self._originals[matrix.name].to(matrix.parameter.device, self.load_dtype)
        return original.T.contiguous() if matrix.transposed else original

    def _columns(self, matrix: Matrix, fraction: float) -> Tensor | None:
        """Input dimensions of `matrix` to keep in 16 bit; None without outliers or a producer."""
        if not fraction or matrix.producer is None:
            return None
        return outlier_columns(
            self._unit_stds(matrix.producer.matrix)[matrix.producer.rows], fraction
        )

    def _unit_stds(self, name: str) -> Tensor:
        """Std of each row of a matrix, from its original on the CPU: the same on every device."""
        if name not in self._stds:
            matrix = next(m for m in self._linear if m.name == name)
            original = self._originals[name]
            self._stds[name] = unit_stds(original.T if matrix.transposed else original)
        return self._stds[name]
