"""What a setting makes of a model's matrices, one after the other: the plan that all follow."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from torch import Tensor

from quantizers.outliers import PackedMatrix, quantize_matrix
from quantizers.proxies import Proxies
from quantizers.setting import Setting
from quantizers.wiring import Site, Wiring


def check_plan(wiring: Wiring, setting: Setting) -> None:
    """Raise ValueError for a setting that an architecture does not allow."""
    if setting.outlier_fraction and not wiring.knows_producers:
        raise ValueError(
            f"outlier_fraction: proxy quantization does not know the wiring of architecture "
            f"{wiring.architecture!r}; set it to 0"
        )


def packed_sites(
    wiring: Wiring, setting: Setting, proxies: Proxies, weight: Callable[[Site], Tensor]
) -> Iterator[tuple[Site, PackedMatrix]]:
    """Every site in scope with its packed matrix, in forward order, made when it is asked for.

    weight: gives what is to be quantized, [d_out, d_in] row-major in the load dtype. Raises
    ValueError, naming the matrix, as `quantize_matrix` does.
    """
    check_plan(wiring, setting)
    for site in wiring.in_scope(setting.scope):
        columns = proxies.columns(site, setting.outlier_fraction)
        yield site, quantize_matrix(weight(site), setting, columns, site.weight_name)
