"""What reaches the matrices of a model on calibration text, collected once for all settings.

One pass of the 16-bit model over windows of tokens; where the Hessians of all sites do not fit in
memory, blocks are taken one after another, each in a pass that ends behind it.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from quantizers.expert_inputs import watched
from quantizers.wiring import Site, Wiring

TOKENS_A_BATCH = 2048  # fixed: sums depend on how tokens are batched
TOKEN_MAX_BINS = 640  # of a sixteenth of an octave, from 2^-24 to 2^16
_LOWEST, _BINS_AN_OCTAVE = -24, 16


@dataclass(frozen=True, eq=False)
class Statistics:
    """Of the n tokens x [d_in] that reach one site input. On the CPU."""

    n_tokens: int
    channel_max: Tensor  # fp32 [d_in], max |x_j|
    channel_mean: Tensor  # fp32 [d_in], mean |x_j|
    token_max: Tensor  # int64 [TOKEN_MAX_BINS], tokens by their max |x_j|, see `token_max_bin`
    hessian: Tensor  # fp32 [d_in, d_in], (2/n) sum x x^T
    # Of keys and values that are made of this input, fp32 [n], max |k_j|; [0] where none are.
    keys: Tensor = field(default_factory=lambda: torch.empty(0))
    values: Tensor = field(default_factory=lambda: torch.empty(0))

    @property
    def maximum(self) -> float:
        """The largest |x_j| of all."""
        return float(self.channel_max.max())

    def token_range(self, share: float) -> float:
        """What max |x_j| is not above in this share of the tokens, 0 < share <= 1, told to a
        sixteenth of an octave: the upper end of a bin."""
        tokens = self.token_max.cumsum(0)
        last = int((tokens < share * tokens[-1]).sum())
        return min(2.0 ** (_LOWEST + (last + 1) / _BINS_AN_OCTAVE), self.maximum)


def token_max_bin(maximum: Tensor) -> Tensor:
    """The bin of each token maximum: int64, a sixteenth of an octave wide, ends included."""
    octaves = torch.log2(maximum.float()) - _LOWEST
    return (octaves * _BINS_AN_OCTAVE).floor().nan_to_num().clamp(0, TOKEN_MAX_BINS - 1).long()


def site_inputs(wiring: Wiring) -> dict[str, Site]:
    """The sites at which inputs are recorded, one for all that share one, by `Site.input`.

    In forward order, the output head last. Each expert has inputs of its own.
    """
    sites = [*wiring.linear, *(site for site in wiring.embeddings if site.kind == "head")]
    return {site.name: site for site in sites if site.input == site.name}


def collect(
    model: Any,
    wiring: Wiring,
    windows: Tensor,
    memory: int | None = None,
    names: Collection[str] | None = None,
) -> Iterator[tuple[str, Statistics]]:
    """The statistics of every site input, in forward order, as they are complete.

    windows: int64 [n, length], token ids; memory: bytes that Hessians may take at a time, by
    default half of what is free; names: of the inputs that are wanted, None: all. Raises ValueError
    for windows that are none, for an input that is not finite and for one that no token reaches,
    both by name. An expert that no token is sent to reads zeros.
    """
    if windows.dim() != 2 or windows.shape[1] < 1 or not len(windows):
        raise ValueError(f"calibration: windows of shape {tuple(windows.shape)} hold no tokens")
    memory = free_memory(model.device) // 2 if memory is None else memory
    inputs = site_inputs(wiring)
    if names is not None:
        inputs = {name: site for name, site in inputs.items() if name in names}
    for group in _groups(inputs, memory):
        recorders = {
            name: _Recorder(site, [s for s in wiring.linear if s.input == name])
            for name, site in group.items()
        }
        with _exact_products():
            for batch in windows.split(max(1, TOKENS_A_BATCH // windows.shape[1])):
                _run(model, batch, recorders)
        for name in group:
            yield name, recorders.pop(name).statistics(name)


def _groups(inputs: dict[str, Site], memory: int) -> Iterator[dict[str, Site]]:
    """Neighbours whose Hessians fit in `memory` together; at least one at a time."""
    group: dict[str, Site] = {}
    taken = 0
    for name, site in inputs.items():
        size = 4 * site.weight.shape[1] ** 2
        if group and taken + size > memory:
            yield group
            group, taken = {}, 0
        group[name] = site
        taken += size
    yield group


class _Reached(Exception):
    """Everything asked for was recorded: the rest of the model need not run."""


@torch.no_grad()
def _run(model: Any, batch: Tensor, recorders: dict[str, _Recorder]) -> None:
    cached = [(site, recorder) for recorder in recorders.values() for site in recorder.cached]
    experts = [r.site for r in recorders.values() if r.site.expert is not None]
    mixtures = {site.module for site in experts}
    left: set[object] = {name for name, r in recorders.items() if r.site.expert is None}
    left |= {*mixtures, *(site.name + " gives" for site, _ in cached)}

    def entering(name: str, recorder: _Recorder) -> Any:
        def record(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            recorder.add(inputs[0])
            _tick(left, name)

        return record

    def leaving(site: Site, recorder: _Recorder) -> Any:
        def record(_module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
            recorder.add_cached(site, output)
            _tick(left, site.name + " gives")

        return record

    hooks = [
        recorder.site.module.register_forward_pre_hook(entering(name, recorder))
        for name, recorder in recorders.items()
        if recorder.site.expert is None
    ]
    hooks += [m.register_forward_hook(lambda m, *_: _tick(left, m)) for m in mixtures]
    hooks += [site.module.register_forward_hook(leaving(site, r)) for site, r in cached]
    try:
        with watched(experts, lambda name, x: recorders[name].add(x)):
            model(batch.to(model.device), use_cache=False)
    except _Reached:
        pass
    finally:
        for handle in hooks:
            handle.remove()


def _tick(left: set[object], done: object) -> None:
    left.discard(done)
    if not left:
        raise _Reached


class _Recorder:
    """Sums up what one matrix reads, where the matrix is, and what the cache keeps of what is made
    of it."""

    def __init__(self, site: Site, readers: Iterable[Site]) -> None:
        self.site = site
        self.cached = [s for s in readers if s.keys is not None or s.values is not None]
        self._cached_max = {"keys": torch.empty(0), "values": torch.empty(0)}
        self._n_tokens = 0
        self._d_in = site.weight.shape[1]
        self._device = site.parameter.device
        self._max = torch.zeros(self._d_in, device=self._device)
        self._sum = torch.zeros(self._d_in, dtype=torch.float64, device=self._device)
        self._token_max = torch.zeros(TOKEN_MAX_BINS, dtype=torch.int64, device=self._device)
        self._products = torch.zeros(self._d_in, self._d_in, device=self._device)

    def add(self, inputs: Tensor) -> None:
        x = inputs.detach().flatten(0, -2).to(self._device, torch.float32)
        size = x.abs()
        self._n_tokens += len(x)
        self._max = torch.maximum(self._max, size.amax(dim=0))  # NaN and inf stay
        self._sum += size.sum(dim=0, dtype=torch.float64)
        bins = token_max_bin(size.amax(dim=1))
        self._token_max += torch.bincount(bins, minlength=TOKEN_MAX_BINS)
        self._products.addmm_(x.T, x)

    def add_cached(self, site: Site, output: Tensor) -> None:
        """output: what a site gives, [..., d_out]."""
        size = output.detach().flatten(0, -2).float().abs().amax(dim=0)
        for name, rows in (("keys", site.keys), ("values", site.values)):
            if rows is not None:
                seen, before = size[rows.to(size.device)].cpu(), self._cached_max[name]
                self._cached_max[name] = torch.maximum(seen, before) if len(before) else seen

    def statistics(self, name: str) -> Statistics:
        if not self._n_tokens and self.site.expert is None:
            raise ValueError(f"calibration: no token reaches {name}")
        if not torch.isfinite(self._max).all() or not torch.isfinite(self._products).all():
            raise ValueError(
                f"calibration: what {name} reads is not finite; load the model in bfloat16"
            )
        return Statistics(
            n_tokens=self._n_tokens,
            channel_max=self._max.cpu(),
            channel_mean=(self._sum / max(1, self._n_tokens)).float().cpu(),
            token_max=self._token_max.cpu(),
            hessian=self._products.mul_(2 / max(1, self._n_tokens)).cpu(),
            **self._cached_max,
        )


@contextmanager
def _exact_products() -> Iterator[None]:
    """fp32 products without TF32, whatever the program asked for."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def free_memory(device: torch.device) -> int:
    """Bytes."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
