"""Folding into norms: what a norm puts out is divided by s, every matrix that reads it multiplied.

reader(norm(x)) = W ((g y + b)) = (W diag(s)) ((g/s) y + b/s),   y the normalized x
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from quantizers.calibration import Statistics
from quantizers.folding.awq import awq
from quantizers.folding.logarithmic import logarithmic
from quantizers.folding.method import Method
from quantizers.folding.smoothquant import smoothquant
from quantizers.undo import UndoLog
from quantizers.wiring import Site, Wiring

N_TOKENS = 8  # that the function is compared on
_TOLERANCE, _TOLERANCE_OF_OUTLIERS, _OUTLIER = 1e-5, 1e-4, 64


@dataclass(frozen=True)
class Folding:
    """The channel scales of a model, by norm: fp32 [d], on the CPU. Empty: nothing is folded."""

    scales: Mapping[str, Tensor]

    def weight(self, site: Site) -> Tensor:
        """What a site is to hold, in fp32 [d_out, d_in], while the model holds the originals."""
        weight, s = site.weight.float(), self.scale(site)
        return weight if s is None else weight * s.to(weight.device)

    def scale(self, site: Site) -> Tensor | None:
        """s of the norm that a site reads, if it is folded."""
        return None if site.norm is None else self.scales.get(site.norm)

    def maximum(self, site: Site, seen: Statistics) -> float:
        """The largest magnitude that a site reads now; seen: its input before folding."""
        s = self.scale(site)
        return seen.maximum if s is None else float((seen.channel_max / s).max())

    def statistics(
        self, given: Mapping[str, Statistics], wiring: Wiring
    ) -> Mapping[str, Statistics]:
        """Those of what the sites read now, by `Site.input`; no new pass is needed.

        The histogram of token maxima does not follow from what was collected: it is empty.
        """
        found = {site.input: self.scale(site) for site in wiring.linear}
        return _Divided(given, {name: s for name, s in found.items() if s is not None})


NO_FOLDING = Folding({})


class _Divided(Mapping[str, Statistics]):
    """Statistics divided by channel scales when they are asked for: Hessians are large."""

    def __init__(self, given: Mapping[str, Statistics], scales: Mapping[str, Tensor]) -> None:
        self._given, self._scales = given, scales

    def __getitem__(self, name: str) -> Statistics:
        found = self._given[name]
        if name not in self._scales:
            return found
        s = self._scales[name]
        return replace(
            found,
            channel_max=found.channel_max / s,
            channel_mean=found.channel_mean / s,
            token_max=found.token_max.new_empty(0),
            hessian=found.hessian / s / s[:, None],
        )

    def __contains__(self, name: object) -> bool:
        return name in self._given

    def __iter__(self) -> Iterator[str]:
        return iter(self._given)

    def __len__(self) -> int:
        return len(self._given)


def foldable(wiring: Wiring) -> list[str]:
    """The norms before QKV and before the MLP, in forward order.

    Raises ValueError where they are not known or others than linear maps read them.
    """
    norms = list(dict.fromkeys(site.norm for site in wiring.linear if site.norm is not None))
    if norms:
        return norms
    if not wiring.knows_norms:
        raise ValueError(
            f"folding: the wiring of architecture {wiring.architecture!r} is not known; set it to "
            "none"
        )
    raise ValueError(
        f"folding: in this {wiring.architecture!r} the residual stream reads what the norms put "
        "out, not linear maps alone; set it to none"
    )


def choose(
    method: Method,
    wiring: Wiring,
    statistics: Mapping[str, Statistics],
    wanted: Callable[[Statistics], bool] = lambda _: True,
    rounded: Callable[[Tensor], Tensor] | None = None,
) -> Folding:
    """One s for each norm whose output's statistics are `wanted`, over all that read it.

    rounded: what a matrix dequantizes to, in fp32, which AWQ asks for.

    Raises ValueError as `foldable` does, and where the calibration did not see the norm's output.
    """
    scales = {}
    for norm in foldable(wiring):
        readers = wiring.readers(norm)
        name = next((s.input for s in readers if s.input in statistics), None)
        if name is None:
            raise ValueError(f"folding: the calibration does not see what {norm} puts out")
        seen = statistics[name]
        if not wanted(seen):
            continue
        weights = [site.weight for site in readers]
        if method.alpha is None:
            assert rounded is not None
            scales[norm] = awq(seen, weights, rounded)
        elif method.name == "smoothquant":
            scales[norm] = smoothquant(seen, weights, method.alpha)
        else:
            scales[norm] = logarithmic(seen, method.alpha)
    return Folding(scales)


@torch.no_grad()
def check_function(model: Any, wiring: Wiring, folding: Folding) -> None:
    """Raise ValueError where a folded norm and its readers compute anything else than before.

    In fp32, on what a few tokens give each norm; max|after - before| <= 1e-5 max|before| (1e-4
    where channels differ by 64 and more). To be called while the model holds the originals.
    """
    for norm, x in _norm_inputs(model, folding.scales):
        s = folding.scales[norm].to(x.device)
        plain = copy.deepcopy(model.get_submodule(norm)).float()
        folded = copy.deepcopy(plain)
        for parameter in folded.parameters():
            parameter.div_(s)
        y_plain, y_folded = plain(x), folded(x)
        for site in wiring.readers(norm):
            before = y_plain @ site.weight.float().T
            after = y_folded @ folding.weight(site).T
            error, size = float((after - before).abs().max()), float(before.abs().max())
            limit = _TOLERANCE if s.max() < _OUTLIER * s.min() else _TOLERANCE_OF_OUTLIERS
            if not error <= limit * size:
                raise ValueError(
                    f"folding: {site.name} behind {norm} changes by {error / size:.1e} of its "
                    f"largest output, more than {limit:g}"
                )


def _norm_inputs(model: Any, norms: Iterable[str]) -> Iterator[tuple[str, Tensor]]:
    """What reaches each norm, fp32 [tokens, d], of a few tokens that are always the same."""
    seen: dict[str, Tensor] = {}
    handles = [
        model.get_submodule(norm).register_forward_pre_hook(
            lambda _, inputs, norm=norm: seen.__setitem__(norm, inputs[0].flatten(0, -2).float())
        )
        for norm in norms
    ]
    vocabulary = model.get_input_embeddings().weight.shape[0]
    ids = torch.randint(vocabulary, (1, N_TOKENS), generator=torch.Generator().manual_seed(0))
    try:
        model(ids.to(model.device), use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    yield from seen.items()


@torch.no_grad()
def fold_norms(model: Any, folding: Folding, log: UndoLog, dtype: torch.dtype) -> None:
    """Divide gains and biases in place, in fp32, then rounded once to the 16-bit `dtype`.

    Raises ValueError for one that overflows.
    """
    for norm, s in folding.scales.items():
        for name, parameter in _parameters(model, norm):
            log.will_change(parameter)
            parameter.copy_(narrow(parameter.float() / s.to(parameter.device), dtype, name))


def narrow(values: Tensor, dtype: torch.dtype, name: str) -> Tensor:
    """Rounded once to a 16-bit type. Raises ValueError, by name, for one that overflows."""
    rounded = values.to(dtype)
    if not torch.isfinite(rounded).all():
        raise ValueError(f"{name}: overflows {str(dtype).removeprefix('torch.')} when folded")
    return rounded


def _parameters(model: Any, norm: str) -> Iterator[tuple[str, nn.Parameter]]:
    for name, parameter in model.get_submodule(norm).named_parameters():
        yield f"{norm}.{name}", parameter
