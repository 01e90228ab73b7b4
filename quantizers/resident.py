"""A language model that stays in memory while its weights go from one setting to the next."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from quantizers.calibration import Statistics
from quantizers.in_place import InPlace
from quantizers.packed import sixteen_bit
from quantizers.setting import Setting
from quantizers.size import ModelBits, StoredSize
from quantizers.stack import Stack
from quantizers.wiring import Wiring, wiring_of


class ResidentModel(InPlace):
    """A causal LM that a setting can be applied to and taken from again, bit for bit.

    Parameters live on their own devices in `compute_dtype`.
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

        Raises ValueError for a parameter that overflows 16 bit, and for a `compute_dtype` that
        does not hold the values of the 16-bit type.
        """
        half = sixteen_bit(load_dtype)
        if torch.promote_types(half, compute_dtype) != compute_dtype:
            raise ValueError(f"compute dtype {compute_dtype} does not hold weights in {half}")
        self.n_params: int = sum(p.numel() for p in model.parameters())
        for name, parameter in model.named_parameters():
            rounded = parameter.data.to(half)
            if not torch.equal(torch.isfinite(rounded), torch.isfinite(parameter.data)):
                raise ValueError(f"{name}: a weight overflows 16 bit; load the model in bfloat16")
            parameter.data = rounded.to(compute_dtype)
        wiring: Wiring | str
        try:
            wiring = wiring_of(model)
        except ValueError as error:
            wiring = str(error)  # its 16-bit weights can be scored all the same
        super().__init__(model, wiring, load_dtype)

    @torch.no_grad()
    def apply(
        self,
        setting: Setting,
        statistics: Mapping[str, Statistics] | None = None,
        stack: Stack | None = None,
        windows: Tensor | None = None,
    ) -> ModelBits:
        """Make the model that of `setting`, starting from the originals whatever it held: fold,
        round, put in place, round what the matrices read.

        statistics: of the 16-bit model on calibration text, by `Site.input`, for the settings that
        need them (at `setting.basis`: those that rotate read those of the rotated model); stack:
        settings that follow, rounded together with this one; windows: int64 [n, length], the
        calibration's token ids, for sequential Hessians. On an error the originals are back.

        Raises ValueError for NaN or inf in a weight, for an absmax or a folded parameter beyond 16
        bit, for outliers, folding or a policy in an architecture whose wiring does not allow them,
        for a folding that changes the function, and for a model that cannot be quantized.
        """
        size = StoredSize(setting)
        self.put(setting, size, statistics, stack, windows)
        wiring = self._wiring
        n_linear = wiring.n_linear if isinstance(wiring, Wiring) else None
        return size.model_bits(self.n_params, n_linear)
