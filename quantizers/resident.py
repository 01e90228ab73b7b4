"""A language model that stays in memory while its weights go from one setting to the next."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from quantizers.activations.cache import RoundedCache, cached_rows, check_cache
from quantizers.activations.cache_format import CacheFormat
from quantizers.activations.layer import QuantizedInput
from quantizers.activations.policy import site_formats, to_be_folded
from quantizers.activations.products import integer_weight
from quantizers.activations.records import clamped, input_record
from quantizers.calibration import Statistics
from quantizers.folding.fold import Fold, narrow
from quantizers.folding.norms import choose
from quantizers.folding.rotation import rotate
from quantizers.folding.scales import NO_FOLDING
from quantizers.outliers import PackedMatrix, dequantize_matrix, quantize_matrix
from quantizers.packed import sixteen_bit
from quantizers.plan import SiteRecords, check_plan, packed_sites
from quantizers.proxies import Proxies
from quantizers.sequential import SequentialInputs
from quantizers.setting import Setting
from quantizers.size import ModelBits, StoredSize, baseline_bits
from quantizers.stack import Stack
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
        self.layers: dict[str, QuantizedInput] = {}  # those that round what they read, by site
        self._records: SiteRecords = {}  # of the setting that was applied
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

    @property
    def arithmetic(self) -> str | None:
        """What the products of rounded inputs are computed in: integer, float, or mixed over the
        sites; None where no input is rounded."""
        found = {"float" if layer.integers is None else "integer" for layer in self.layers.values()}
        return "mixed" if len(found) > 1 else next(iter(found), None)

    @property
    def records(self) -> SiteRecords:
        """What is known of single matrices at this setting, and of what they have read since."""
        read = {name: clamped(layer) for name, layer in self.layers.items()}
        return {name: found | read.get(name, {}) for name, found in self._records.items()}

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
        self.undo()
        if setting.is_baseline:
            return self._baseline_bits()
        check_plan(self.wiring, setting, statistics)
        try:
            return self._apply(setting, statistics or {}, stack, windows)
        except BaseException:
            self.undo()
            raise

    def undo(self) -> None:
        """Put the 16-bit model back, bit for bit."""
        self._log.undo()
        self.layers, self._records = {}, {}

    def _apply(
        self,
        setting: Setting,
        statistics: Mapping[str, Statistics],
        stack: Stack | None,
        windows: Tensor | None,
    ) -> ModelBits:
        wiring, activations = self.wiring, setting.activation_format
        if setting.cache is not None:
            check_cache(wiring)
        folding = self._folding(setting, statistics)
        formats = (
            {} if activations is None else site_formats(activations, wiring, statistics, folding)
        )
        seen = folding.statistics(statistics, wiring)
        if setting.is_sequential:
            if windows is None:
                raise ValueError(f"{setting.label}: needs the windows of its calibration")
            seen = SequentialInputs(self.model, wiring, windows)
        size, extra_bits = StoredSize(setting), 0
        for site, packed in self._sites(setting, folding, seen, stack):
            site_format = formats.get(site.name)
            integers = None
            if packed is not None:
                size.add(packed, site.weight.numel())
                integers = integer_weight(packed, setting.data_type) if site_format else None
            rounded = self._weight(site, folding) if packed is None else self._restored(packed)
            twice = packed is not None and site_format is not None and site_format.keeps_originals
            held = self._weight(site, folding) if twice else rounded
            if packed is not None or folding.touches(site):
                self._put(site, held)
            if site_format is None:
                continue
            apart = rounded.to(site.parameter.dtype) if twice and integers is None else None
            layer = QuantizedInput(site.module, site_format, integers, apart)
            self.layers[site.name] = layer
            record = input_record(site, layer, statistics.get(site.input), folding)
            self._records.setdefault(site.name, {}).update(record)
            extra_bits += 32 * (site_format.maximum is not None)
            extra_bits += 16 * site_format.held_twice(rounded) if packed is not None else 0
        for router in wiring.routers:
            if folding.touches(router):
                self._put(router, self._weight(router, folding))
        extra_bits += folding.put(self.model, self._log, sixteen_bit(self.load_dtype))
        for layer in self.layers.values():
            self._log.set_forward(layer.module, layer)
        if setting.cache is not None:
            extra_bits += self._round_cache(setting.cache, statistics, folding)
        bits = self._baseline_bits() if setting.keeps_weights else size.model_bits(self.n_params)
        return replace(bits, total_bits=bits.total_bits + extra_bits)

    def _round_cache(
        self, cache: CacheFormat, statistics: Mapping[str, Statistics], folding: Fold
    ) -> int:
        """Returns the bits of static scales."""
        static = 0
        for site in self.wiring.linear:
            parts = cached_rows(site, cache, statistics, folding)
            if parts:
                rounded = RoundedCache(site.module.forward, cache.bits, parts)
                self._log.set_forward(site.module, rounded)
            static += sum(part.maximum is not None for part in parts)
            ranges = {part.name: part.maximum for part in parts if part.maximum is not None}
            if ranges:
                self._records.setdefault(site.name, {}).update(ranges)
        return 32 * static

    def _folding(self, setting: Setting, statistics: Mapping[str, Statistics]) -> Fold:
        """What the setting makes of norms and their readers, checked to be the same function."""
        method = setting.folding_method
        if method is None:
            return NO_FOLDING
        nearest = replace(setting, method="rtn", clip_weighting="plain")
        chosen: Fold
        if method.seed is not None:
            chosen = rotate(self.model, self.wiring, method.seed)
        else:
            chosen = choose(
                method,
                self.wiring,
                statistics,
                to_be_folded(setting.activation_format),
                lambda weight: dequantize_matrix(quantize_matrix(weight, nearest)),
            )
        chosen.check(self.model, self.wiring)
        return chosen

    def _sites(
        self,
        setting: Setting,
        folding: Fold,
        statistics: Mapping[str, Statistics],
        stack: Stack | None,
    ) -> Iterator[tuple[Site, PackedMatrix | None]]:
        """Every site that changes, with its packed matrix if it has one."""
        if setting.keeps_weights:
            return ((site, None) for site in self.wiring.linear)

        def weight(site: Site) -> Tensor:
            touched = folding.touches(site)
            return folding.weight(site).contiguous() if touched else self._weight(site, folding)

        return packed_sites(
            self.wiring, setting, self._proxies, weight, statistics, stack, self._records
        )

    def _restored(self, packed: PackedMatrix) -> Tensor:
        """In the load dtype; what was folded was packed in fp32."""
        weight = dequantize_matrix(packed)
        if weight.dtype == self.load_dtype:
            return weight
        return narrow(weight, self.load_dtype, "a quantized matrix")

    def _put(self, site: Site, weight: Tensor) -> None:
        self._log.will_change(site.parameter)
        site.weight.copy_(weight)

    def _baseline_bits(self) -> ModelBits:
        known = isinstance(self._wiring, Wiring)
        n_linear = sum(s.weight.numel() for s in self.wiring.linear) if known else None
        return baseline_bits(self.n_params, n_linear)

    def _weight(self, site: Site, folding: Fold) -> Tensor:
        """What a site holds in 16 bit, while the model holds the originals: [d_out, d_in] row-major
        in the load dtype."""
        if not folding.touches(site):
            return site.weight.to(self.load_dtype).contiguous()
        return narrow(folding.weight(site), self.load_dtype, site.weight_name).contiguous()

    def _original(self, site: Site) -> Tensor:
        """The 16-bit weights before any change, [d_out, d_in]."""
        stored = self._log.original(site.parameter)
        stored = stored if site.expert is None else stored[site.expert]
        return stored.T if site.transposed else stored
