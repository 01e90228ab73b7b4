"""A language model that stays in memory while its weights go from one setting to the next."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from quantizers.calibration import Statistics
from quantizers.outliers import dequantize_matrix
from quantizers.packed import sixteen_bit
from quantizers.plan import packed_sites
from quantizers.proxies import Proxies
from quantizers.setting import Setting
from quantizers.size import ModelBits, StoredSize, baseline_bits
from quantizers.undo import UndoLog
from quantizers.wiring import Site, Wiring, wiring_of


class ResidentModel:
    """A causal LM that a setting can be applied to and taken from again, bit for bit.

    Parameters live on their own devices in `compute_dtype`; quantization runs where they are. What
    a setting changes is kept on the CPU in 16 bit.
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
        self.model = model
        self.load_dtype = load_dtype
        self.n_params: int = sum(p.numel() for p in model.parameters())
        for name, parameter in model.named_parameters():
            rounded = parameter.data.to(half)
            if not torch.equal(torch.isfinite(rounded), torch.isfinite(parameter.data)):
                raise ValueError(f"{name}: a weight overflows 16 bit; load the model in bfloat16")
            parameter.data = rounded.to(compute_dtype)
        self._log = UndoLog(half)
        self._wiring: Wiring | str
        try:
            self._wiring = wiring_of(model)
        except ValueError as error:
            self._wiring = str(error)  # its 16-bit weights can be scored all the same
        else:
            self._proxies = Proxies(self._wiring, self._original)

    @property
    def wiring(self) -> Wiring:
        """Raises ValueError for a model that cannot be quantized (see `wiring_of`)."""
        if isinstance(self._wiring, str):
            raise ValueError(self._wiring)
        return self._wiring

    @torch.no_grad()
    def apply(
        self, setting: Setting, statistics: Mapping[str, Statistics] | None = None
    ) -> ModelBits:
        """Give the model the weights of `setting`, starting from the originals whatever it held.

        statistics: of the 16-bit model on calibration text, by `Site.input`, for the settings that
        need them. On an error the originals are back in place.

        Raises ValueError for NaN or inf in a weight, for an absmax beyond 16 bit, for outliers in
        an architecture whose wiring is not known, and for one that cannot be quantized.
        """
        self.undo()
        if setting.bits == 16:
            known = isinstance(self._wiring, Wiring)
            n_linear = sum(s.weight.numel() for s in self.wiring.linear) if known else None
            return baseline_bits(self.n_params, n_linear)
        try:
            return self._round(setting, statistics)
        except BaseException:
            self.undo()
            raise

    def undo(self) -> None:
        """Put the 16-bit model back, bit for bit."""
        self._log.undo()

    def _round(self, setting: Setting, statistics: Mapping[str, Statistics] | None) -> ModelBits:
        """Pack each matrix in scope and put what the packed form gives in its place."""
        size = StoredSize(setting)
        given = self.wiring, setting, self._proxies, self._weight, statistics
        for site, packed in packed_sites(*given):
            restored = dequantize_matrix(packed)
            size.add(packed, restored.numel())
            self._log.will_change(site.parameter)
            site.weight.copy_(restored)
        return size.model_bits(self.n_params)

    def _weight(self, site: Site) -> Tensor:
        """What the model holds, [d_out, d_in] row-major in the load dtype."""
        return site.weight.to(self.load_dtype).contiguous()

    def _original(self, site: Site) -> Tensor:
        """The 16-bit weights before any change, [d_out, d_in]."""
        stored = self._log.original(site.parameter)
        stored = stored if site.expert is None else stored[site.expert]
        return stored.T if site.transposed else stored
