"""Channel scales: what a norm puts out is divided by s, every matrix that reads it multiplied.

reader(norm(x)) = W ((g y + b)) = (W diag(s)) ((g/s) y + b/s),   y the normalized x
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from quantizers.calibration import Statistics
from quantizers.folding.fold import narrow
from quantizers.folding.same_function import check_outputs, norm_inputs
from quantizers.undo import UndoLog
from quantizers.wiring import Site, Wiring


@dataclass(frozen=True)
class Folding:
    """The channel scales of a model, by norm: fp32 [d], on the CPU. Empty: nothing is folded."""

    scales: Mapping[str, Tensor]

    def touches(self, site: Site) -> bool:
        return self.scale(site) is not None

    def reads_folded(self, site: Site) -> bool:
        return self.scale(site) is not None

    def weight(self, site: Site) -> Tensor:
        """What a site is to hold, in fp32 [d_out, d_in], while the model holds the originals."""
        weight, s = site.weight.float(), self.scale(site)
        return weight if s is None else weight * s.to(weight.device)

    def scale(self, site: Site) -> Tensor | None:
        """s of what a site reads, if it is folded."""
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
                check_outputs(before, after, s, f"{site.name} behind {norm}")

    @torch.no_grad()
    def put(self, model: Any, log: UndoLog, dtype: torch.dtype) -> int:
        """Divide gains and biases in place, in fp32."""
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
