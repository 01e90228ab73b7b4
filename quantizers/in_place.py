"""Matrices in memory that a setting is put into, and taken from again: a model's, or a part's."""

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
from quantizers.size import StoredSize
from quantizers.stack import Stack
from quantizers.undo import UndoLog
from quantizers.wiring import Site, Wiring


class InPlace:
    """The matrices of a wiring, which a setting can be put into and taken from again, bit for bit.

    Quantization runs where they are. What a setting changes is kept on the CPU in 16 bit.
    """

    def __init__(
        self,
        model: Any,
        wiring: Wiring | str,
        load_dtype: torch.dtype,
        proxies: Proxies | None = None,
    ) -> None:
        """model: holds the matrices, with values of the 16-bit type of `load_dtype`, to which
        dequantized weights are rounded; wiring: of all or some of them, or why there is none;
        proxies: those of the whole model, where the matrices are a part of it.
        """
        self.model = model
        self.load_dtype = load_dtype
        self.layers: dict[str, QuantizedInput] = {}  # those that round what they read, by site
        self._caches: dict[str, RoundedCache] = {}  # those that round keys and values, by site
        self._records: SiteRecords = {}  # of the setting that was put into them
        self._log = UndoLog(sixteen_bit(load_dtype))
        self._wiring = wiring
        if isinstance(wiring, Wiring):
            self._proxies = proxies or Proxies(wiring, self._original)

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
        for name, cache in self._caches.items():
            read[name] = read.get(name, {}) | cache.clamped
        return {name: found | read.get(name, {}) for name, found in self._records.items()}

    @torch.no_grad()
    def put(
        self,
        setting: Setting,
        size: StoredSize,
        statistics: Mapping[str, Statistics] | None = None,
        stack: Stack | None = None,
        windows: Tensor | None = None,
    ) -> None:
        """Make the matrices those of `setting`, starting from the originals whatever they held, and
        add what is stored of them to `size`. Arguments and errors as `ResidentModel.apply` has
        them. On an error the originals are back."""
        self.undo()
        if setting.is_baseline:
            return
        check_plan(self.wiring, setting, statistics)
        try:
            self._put_all(setting, size, statistics or {}, stack, windows)
        except BaseException:
            self.undo()
            raise

    def undo(self) -> None:
        """Put the 16-bit model back, bit for bit."""
        self._log.undo()
        self.layers, self._caches, self._records = {}, {}, {}

    def _put_all(
        self,
        setting: Setting,
        size: StoredSize,
        statistics: Mapping[str, Statistics],
        stack: Stack | None,
        windows: Tensor | None,
    ) -> None:
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
            size.extra_bits += 32 * (site_format.maximum is not None)
            size.extra_bits += 16 * site_format.held_twice(rounded) if packed is not None else 0
        for router in wiring.routers:
            if folding.touches(router):
                self._put(router, self._weight(router, folding))
        size.extra_bits += folding.put(self.model, self._log, sixteen_bit(self.load_dtype))
        for layer in self.layers.values():
            self._log.set_forward(layer.module, layer)
        if setting.cache is not None:
            size.extra_bits += self._round_cache(setting.cache, statistics, folding)

    def _round_cache(
        self, cache: CacheFormat, statistics: Mapping[str, Statistics], folding: Fold
    ) -> int:
        """Returns the bits of static scales."""
        static = 0
        for site in self.wiring.linear:
            parts = cached_rows(site, cache, statistics, folding)
            if parts:
                rounded = RoundedCache(site.module.forward, cache.bits, parts)
                self._caches[site.name] = rounded
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
