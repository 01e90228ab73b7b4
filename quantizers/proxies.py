"""Which input dimensions of which site stay in 16 bit (proxy quantization, paper, section 3)."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from quantizers.outliers import outlier_columns, unit_stds
from quantizers.wiring import Site, Wiring


class Proxies:
    """The columns to keep, by the weight spread of the units that produce them.

    `original` gives the 16-bit weights [d_out, d_in] of a site, whatever the model holds by then.
    Spreads are measured once a site, on the CPU, so that every device keeps the same columns.
    """

    def __init__(self, wiring: Wiring, original: Callable[[Site], Tensor]) -> None:
        self._sites = {site.name: site for site in wiring.linear}
        self._original = original
        self._stds: dict[str, Tensor] = {}

    def columns(self, site: Site, fraction: float) -> Tensor | None:
        """int64 [c], ascending; None without outliers or a producer."""
        if not fraction or site.producer is None:
            return None
        name = site.producer.site
        if name not in self._stds:
            self._stds[name] = unit_stds(self._original(self._sites[name]).cpu())
        return outlier_columns(self._stds[name][site.producer.rows], fraction)
