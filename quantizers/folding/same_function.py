"""Whether a norm and a matrix behind it, or two matrices, still compute what they did, on a few
tokens."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

N_TOKENS = 8
_TOLERANCE, _TOLERANCE_OF_OUTLIERS, _OUTLIER = 1e-5, 1e-4, 64
_ROUNDINGS = 8  # of a 16-bit type, one after another


def norm_inputs(model: Any, norms: Iterable[str]) -> Iterator[tuple[str, Tensor]]:
    """What reaches each norm, fp32 [tokens, d], of a few tokens that are always the same."""
    seen: dict[str, Tensor] = {}
    handles = [
        model.get_submodule(norm).register_forward_pre_hook(
            lambda _, inputs, norm=norm: seen.__setitem__(norm, inputs[0].flatten(0, -2).float())
        )
        for norm in norms
    ]
    _run(model, handles)
    yield from seen.items()


def pair_inputs(
    model: Any, divisors: Mapping[str, Tensor], readers: Iterable[str]
) -> Iterator[tuple[str, Tensor, Tensor]]:
    """What reaches each reader, fp32 [tokens, d], of the same tokens: before, and where what
    modules give is divided (name -> [d_out]), all else being as it was."""
    before: dict[str, Tensor] = {}
    after: dict[str, Tensor] = {}

    def watch(seen: dict[str, Tensor], name: str) -> Any:
        def record(_module: Any, inputs: tuple[Tensor, ...]) -> Any:
            seen[name] = inputs[0].flatten(0, -2).float()
            # What comes later reads what it did, so that errors of rounding do not add up.
            return None if seen is before else (before[name].view_as(inputs[0]).to(inputs[0]),)

        return record

    def divide(rows: Tensor) -> Any:
        return lambda _module, _inputs, output: output / rows.to(output)

    for seen in (before, after):
        handles = [
            model.get_submodule(name).register_forward_pre_hook(watch(seen, name))
            for name in readers
        ]
        if seen is after:
            handles += [
                model.get_submodule(name).register_forward_hook(divide(rows))
                for name, rows in divisors.items()
            ]
        _run(model, handles)
    yield from ((name, before[name], after[name]) for name in before)


def _run(model: Any, handles: list[Any]) -> None:
    """A few tokens, always the same, with hooks that go again."""
    vocabulary = model.get_input_embeddings().weight.shape[0]
    ids = torch.randint(vocabulary, (1, N_TOKENS), generator=torch.Generator().manual_seed(0))
    try:
        model(ids.to(model.device), use_cache=False)
    finally:
        for handle in handles:
            handle.remove()


def check_outputs(
    before: Tensor,
    after: Tensor,
    scales: Tensor,
    place: str,
    computed: torch.dtype = torch.float32,
) -> None:
    """Raise ValueError unless max|after - before| <= 1e-5 max|before| (1e-4 where channels differ
    by 64 and more); scales: of the channels that were folded; place: what computed them; computed:
    a type whose own rounding is allowed for, where it was not fp32."""
    error, size = float((after - before).abs().max()), float(before.abs().max())
    scales = scales[scales > 0]
    apart = len(scales) and float(scales.max()) >= _OUTLIER * float(scales.min())
    limit = _TOLERANCE_OF_OUTLIERS if apart else _TOLERANCE
    if computed != torch.float32:
        limit = max(limit, _ROUNDINGS * torch.finfo(computed).eps)
    if not error <= limit * size:
        raise ValueError(
            f"folding: {place} changes by {error / size:.1e} of its largest output, more than "
            f"{limit:g}"
        )
