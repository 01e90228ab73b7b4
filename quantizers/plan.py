"""What a setting makes of a model's matrices, one after the other: the plan that all follow."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from torch import Tensor

from quantizers.calibration import Statistics
from quantizers.outliers import PackedMatrix, quantize_matrix
from quantizers.proxies import Proxies
from quantizers.rounding.one_shot import Request, one_shot
from quantizers.setting import Setting
from quantizers.wiring import Site, Wiring


def check_plan(
    wiring: Wiring, setting: Setting, statistics: Mapping[str, Statistics] | None = None
) -> None:
    """Raise ValueError for a setting that an architecture does not allow."""
    if setting.outlier_fraction and not wiring.knows_producers:
        raise ValueError(
            f"outlier_fraction: proxy quantization does not know the wiring of architecture "
            f"{wiring.architecture!r}; set it to 0"
        )
    if not setting.needs_statistics:
        return
    if statistics is None:
        raise ValueError(f"{setting.label}: needs a calibration, none is given")
    for site in wiring.in_scope(setting.scope):
        if site.kind != "embedding" and site.input not in statistics:
            raise ValueError(f"{setting.label}: calibration does not see what {site.name} reads")


def packed_sites(
    wiring: Wiring,
    setting: Setting,
    proxies: Proxies,
    weight: Callable[[Site], Tensor],
    statistics: Mapping[str, Statistics] | None = None,
) -> Iterator[tuple[Site, PackedMatrix]]:
    """Every site in scope with its packed matrix, in forward order, made when it is asked for.

    weight: gives what is to be quantized, [d_out, d_in] row-major in the load dtype; statistics: by
    `Site.input`. GPTQ takes sites that read the same input together; embeddings, which read none,
    are rounded to nearest. Raises ValueError, naming the matrix, as `quantize_matrix` and
    `one_shot` do.
    """
    check_plan(wiring, setting, statistics)
    sites = wiring.in_scope(setting.scope)
    made: dict[Site, PackedMatrix] = {}

    def columns_of(site: Site) -> Tensor | None:
        return proxies.columns(site, setting.outlier_fraction)

    for site in sites:
        hessian = None
        if setting.needs_hessians and statistics is not None and site.kind != "embedding":
            hessian = statistics[site.input].hessian
        if setting.method != "gptq" or hessian is None:
            packed = quantize_matrix(
                weight(site), setting, columns_of(site), site.weight_name, hessian
            )
        else:
            if site not in made:
                readers = [s for s in sites if s.kind != "embedding" and s.input == site.input]
                requests = [
                    Request(s.weight_name, weight(s), setting, columns_of(s)) for s in readers
                ]
                rounded = one_shot(requests, hessian)
                made |= {s: done.matrix for s, done in zip(readers, rounded, strict=True)}
            packed = made.pop(site)
        yield site, packed
