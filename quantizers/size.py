"""The size of a model at one setting, counted from what was stored."""

from __future__ import annotations

from dataclasses import dataclass, replace

from quantizers.data_types import base_type
from quantizers.outliers import PackedMatrix
from quantizers.setting import Setting


@dataclass(frozen=True)
class ModelBits:
    """The size of a model at one precision, in bits. Tied weights count once."""

    n_params: int
    total_bits: int  # everything; parameters that are not quantized at 16
    # the matrices in scope and their tables; at 16 bit those of scope "linear"; None: unknown
    quantized_bits: int | None
    nominal_bits: float  # n_params * bits_per_param
    bits_per_param: float  # k + 16/B (+ 16/B) + p (16 - k)


def baseline_bits(n_params: int, n_linear: int | None) -> ModelBits:
    """The size at 16 bit; `n_linear` weights would be quantized below."""
    return ModelBits(
        n_params=n_params,
        total_bits=16 * n_params,
        quantized_bits=None if n_linear is None else 16 * n_linear,
        nominal_bits=n_params * 16.0,
        bits_per_param=16.0,
    )


class StoredSize:
    """Adds up packed matrices. A quantile table belongs to its matrix, any other to the model."""

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self._matrix_bytes = self._table_bytes = self._n_quantized = 0
        self._blocks = self._n_in_blocks = self._index_bits = 0
        self._tables: set[int] = set()  # widths of those that belong to the model
        self.extra_bits = 0  # that the model holds more: scales of inputs, biases, weights twice

    def add(self, packed: PackedMatrix, n_weights: int) -> None:
        """Count one matrix of `n_weights`."""
        self._matrix_bytes += packed.bytes_stored
        self._n_quantized += n_weights
        self._blocks += packed.body.blocks.count
        self._n_in_blocks += packed.body.n
        self._index_bits += packed.body.bits * packed.body.n
        own_table = base_type(self._setting.data_type) == "quantile"
        if own_table or packed.body.bits not in self._tables:
            self._table_bytes += packed.body.codebook.nbytes
            self._tables.add(packed.body.bits)

    def model_bits(self, n_params: int, n_linear: int | None = None) -> ModelBits:
        """The size of the model of `n_params` parameters, those not added at 16 bit; n_linear: see
        `baseline_bits`."""
        if self._setting.keeps_weights:
            baseline = baseline_bits(n_params, n_linear)
            return replace(baseline, total_bits=baseline.total_bits + self.extra_bits)
        quantized = 8 * (self._matrix_bytes + self._table_bytes)
        setting = self._setting
        per_param, n = setting.bits_per_param, self._n_in_blocks
        bits = setting.bits if setting.attention_bits is None or not n else self._index_bits / n
        if setting.by_row and n:  # as many as the model's rows make
            per_param = setting.bits_with(16 * self._blocks / n, bits)
        elif bits != setting.bits:
            constants = 0.0 if setting.block_size is None else 16 / setting.block_size
            per_param = setting.bits_with(constants, bits)
        return ModelBits(
            n_params=n_params,
            total_bits=quantized + 16 * (n_params - self._n_quantized) + self.extra_bits,
            quantized_bits=quantized,
            nominal_bits=n_params * per_param,
            bits_per_param=per_param,
        )
