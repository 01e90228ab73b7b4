"""Which norms can be folded, and the channel scales that a method gives what reads them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from quantizers.calibration import Statistics
from quantizers.folding.awq import awq
from quantizers.folding.logarithmic import logarithmic
from quantizers.folding.method import AWQ, Method
from quantizers.folding.scales import Folding, Pair
from quantizers.folding.smoothquant import smoothquant
from quantizers.wiring import Wiring


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
    """One s for each norm whose output's statistics are `wanted`, over all that read it; by AWQ
    also one for what values give the attention output, and up a down projection where it passes.

    rounded: what a matrix dequantizes to, in fp32, which AWQ asks for.

    Raises ValueError as `foldable` does, and where the calibration did not see the norm's output.
    """
    scales = {}
    for norm in foldable(wiring):
        readers = wiring.readers(norm)
        name = next((s.input for s in readers if s.input in statistics and s.expert is None), None)
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
    if method.name != AWQ or rounded is None:
        return Folding(scales)
    return Folding(scales, _of_pairs(wiring, statistics, wanted, rounded))


def _of_pairs(
    wiring: Wiring,
    statistics: Mapping[str, Statistics],
    wanted: Callable[[Statistics], bool],
    rounded: Callable[[Tensor], Tensor],
) -> dict[str, Pair]:
    """By the site that reads. Each is searched by itself, of the original weights."""
    sites = {site.name: site for site in wiring.linear}
    pairs = {}
    for site in wiring.linear:
        source = site.producer
        if source is None or not source.passes or site.input not in statistics:
            continue
        if not wanted(seen := statistics[site.input]):
            continue
        s = awq(seen, [site.weight], rounded, source.rows)
        rows = torch.ones(len(sites[source.site].weight))
        rows[source.rows] = s
        pairs[site.name] = Pair(s, source.site, rows)
    return pairs
