"""Channel scales: what a norm puts out is divided by s, every matrix that reads it multiplied.

reader(norm(x)) = W ((g y + b)) = (W diag(s)) ((g/s) y + b/s),   y the normalized x

Between two matrices, where what is between them passes it on, rows are divided instead.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from quantizers.calibration import Statistics
from quantizers.folding.fold import narrow
from quantizers.folding.same_function import check_outputs, norm_inputs, pair_inputs
from quantizers.undo import UndoLog
from quantizers.wiring import Site, Wiring


@dataclass(frozen=True)
class Pair:
    """A matrix whose rows are divided, and what reads them multiplied. fp32, on the CPU."""

    columns: Tensor  # [d_in] of the reader
    source: str  # the site that produces them ...
    rows: Tensor  # ... and what its rows are divided by, [d_out]


@dataclass(frozen=True)
class Folding:
    """The channel scales of a model, by norm: fp32 [d], on the CPU; and between matrices, by the
    site that reads. Empty: nothing is folded."""

    scales: Mapping[str, Tensor]
    pairs: Mapping[str, Pair] = field(default_factory=dict)

    def touches(self, site: Site) -> bool:
        return self.scale(site) is not None or site.name in self._rows

    def reads_folded(self, site: Site) -> bool:
        return self.scale(site) is not None

    def weight(self, site: Site) -> Tensor:
        """What a site is to hold, in fp32 [d_out, d_in], while the model holds the originals."""
        weight, s, rows = site.weight.float(), self.scale(site), self._rows.get(site.name)
        weight = weight if s is None else weight * s.to(weight.device)
        return weight if rows is None else weight / rows.to(weight.device)[:, None]

    def scale(self, site: Site) -> Tensor | None:
        """s of what a site reads, if it is folded."""
        if site.name in self.pairs:
            return self.pairs[site.name].columns
        return None if site.norm is None else self.scales.get(site.norm)

    def row_scale(self, site: Site) -> Tensor | None:
        return self._rows.get(site.name)

    @cached_property
    def _rows(self) -> dict[str, Tensor]:
        """What rows are divided by, by the site that holds them."""
        return {pair.source: pair.rows for pair in self.pairs.values()}

    def channel_max(self, site: Site, seen: Statistics) -> Tensor:
        """seen: the input before folding."""
        s = self.scale(site)
        return seen.channel_max if s is None else seen.channel_max / s

    def statistics(
        self, given: Mapping[str, Statistics], wiring: Wiring
    ) -> Mapping[str, Statistics]:
        """Those of what the sites read now, by `Site.input`; no new pass is needed.

        The histogram of token maxima does not follow from what was collected: it is empty.
        """
        found = {site.input: self.scale(site) for site in wiring.linear}
        return _Divided(given, {name: s for name, s in found.items() if s is not None})

    @torch.no_grad()
    def check(self, model: Any, wiring: Wiring) -> None:
        """See `Fold`; in fp32, while the model holds the originals."""
        for norm, x in norm_inputs(model, self.scales):
            s = self.scales[norm].to(x.device)
            plain = copy.deepcopy(model.get_submodule(norm)).float()
            folded = copy.deepcopy(plain)
            for parameter in folded.parameters():
                parameter.div_(s)
            y_plain, y_folded = plain(x), folded(x)
            for site in wiring.readers(norm):
                before, after = y_plain @ site.weight.float().T, y_folded @ self.weight(site).T
                if site.name in self._rows:
                    after = after * self._rows[site.name].to(after.device)
                check_outputs(before, after, s, f"{site.name} behind {norm}")
        self._check_pairs(model, wiring)

    @torch.no_grad()
    def _check_pairs(self, model: Any, wiring: Wiring) -> None:
        """What is between two matrices runs in the model's type, whose rounding is allowed for."""
        if not self.pairs:
            return
        readers = {site.name: site for site in wiring.linear if site.name in self.pairs}
        for name, before, after in pair_inputs(model, self._rows, readers):
            site, pair = readers[name], self.pairs[name]
            weight, s = site.weight.float(), pair.columns.to(before.device)
            y_before, y_after = before @ weight.T, after @ (weight * s).T
            place = f"{name} behind {pair.source}"
            check_outputs(y_before, y_after, pair.columns, place, site.parameter.dtype)

    @torch.no_grad()
    def put(self, model: Any, log: UndoLog, dtype: torch.dtype) -> int:
        """Divide gains and biases in place, in fp32."""
        for name, rows in self._rows.items():
            bias = getattr(model.get_submodule(name), "bias", None)
            if bias is not None:
                log.will_change(bias)
                bias.copy_(narrow(bias.float() / rows.to(bias.device), dtype, f"{name}.bias"))
        for norm, s in self.scales.items():
            for name, parameter in model.get_submodule(norm).named_parameters():
                log.will_change(parameter)
                divided = parameter.float() / s.to(parameter.device)
                parameter.copy_(narrow(divided, dtype, f"{norm}.{name}"))
        return 0


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
