"""What a setting makes of a model's matrices, one after the other: the plan that all follow."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from quantizers.calibration import Statistics
from quantizers.outliers import PackedMatrix, quantize_matrix
from quantizers.proxies import Proxies
from quantizers.rounding.one_shot import OneShot, Request, one_shot
from quantizers.sequential import SequentialInputs
from quantizers.setting import Setting
from quantizers.stack import Stack
from quantizers.wiring import Site, Wiring

SiteRecords = dict[str, dict[str, float | str]]  # site -> quantity -> what was found


def check_plan(
    wiring: Wiring, setting: Setting, statistics: Mapping[str, Statistics] | None = None
) -> None:
    """Raise ValueError for a setting that an architecture does not allow."""
    if setting.outlier_fraction and not wiring.knows_producers:
        raise ValueError(
            f"outlier_fraction: proxy quantization does not know the wiring of architecture "
            f"{wiring.architecture!r}; set it to 0"
        )
    if setting.attention_bits is not None and not wiring.knows_norms:
        raise ValueError(
            f"attention_bits: the wiring of architecture {wiring.architecture!r} is not known; "
            "leave it out"
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
    stack: Stack | None = None,
    records: SiteRecords | None = None,
) -> Iterator[tuple[Site, PackedMatrix]]:
    """Every site in scope with its packed matrix, in forward order, made when it is asked for.

    weight: gives what is to be quantized, [d_out, d_in] row-major in the load dtype; statistics: by
    `Site.input`. GPTQ takes sites that read the same input together, and the settings of `stack`;
    embeddings, which read none, are rounded to nearest; records: takes how GPTQ went at each site.
    Raises ValueError, naming the matrix, as `quantize_matrix` and `one_shot` do, and for sequential
    Hessians where the statistics are not of that kind.
    """
    check_plan(wiring, setting, statistics)
    if setting.is_sequential and not isinstance(statistics, SequentialInputs):
        raise ValueError(
            f"{setting.label}: needs a model whose weights are put in place as they go"
        )
    sites = wiring.in_scope(setting.scope)
    stack = stack or Stack()

    def columns_of(site: Site, setting: Setting = setting) -> Tensor | None:
        return proxies.columns(site, setting.outlier_fraction)

    def one_shot_at(settings: Sequence[Setting], site: Site, hessian: Tensor) -> None:
        """Into the stack, at every one of these settings, what reads the input of a site."""
        readers = [s for s in sites if s.kind != "embedding" and s.input == site.input]
        weights = [weight(reader) for reader in readers]
        places = [(chosen, i) for chosen in settings for i in range(len(readers))]
        rounded = one_shot(
            [
                Request(
                    readers[i].weight_name,
                    weights[i],
                    chosen.at(readers[i].kind),
                    columns_of(readers[i], chosen),
                )
                for chosen, i in places
            ],
            hessian,
        )
        for (chosen, i), done in zip(places, rounded, strict=True):
            stack.keep(chosen, readers[i].name, done)

    def recorded(site: Site, made: OneShot) -> PackedMatrix:
        if records is not None:
            records.setdefault(site.name, {}).update(made.record)
        return made.matrix

    for site in sites:
        if (made := stack.take(setting, site.name)) is not None:
            yield site, recorded(site, made)
            continue
        hessian = None
        if setting.needs_hessians and statistics is not None and site.kind != "embedding":
            hessian = statistics[site.input].hessian
        if setting.method != "gptq" or hessian is None:
            columns = columns_of(site)
            yield (
                site,
                quantize_matrix(
                    weight(site), setting.at(site.kind), columns, site.weight_name, hessian
                ),
            )
            continue
        companions = stack.companions(setting)
        try:
            one_shot_at(companions, site, hessian)
        except (ValueError, MemoryError, torch.OutOfMemoryError):
            if len(companions) == 1:
                raise
            stack.dissolve()  # whose fault it is shows when each is rounded alone
            one_shot_at([setting], site, hessian)
        made = stack.take(setting, site.name)
        assert made is not None
        yield site, recorded(site, made)
