"""The sums that most of GPTQ's time goes into on the CPU, kept in registers while they grow.

Import it late: Numba takes half a second. All of it is one file because Numba compiles anew when
the file of a function changes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import binding, ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

from quantizers.rounding.gptq_loops import BLOCK, TILE

_GROUP = 4  # columns whose sums are in registers at a time
_NEAR = 64  # errors that stay in the first cache while all columns of a block take them
# Lanes at a time: as many as registers hold of _GROUP columns, the errors and a ratio.
_STRIP = 64 if binding.get_host_cpu_features().get("avx512f") else 16
_LANES = ir.VectorType(ir.FloatType(), _STRIP)
_INT, _LONG = ir.IntType(32), ir.IntType(64)
_FLOAT_BYTES = 4  # all that an address is known to be a multiple of
_ONE_ROUNDING = ("contract",)  # of a product and a sum, where the processor has that


def panels(ratios: NDArray[np.float32]) -> NDArray[np.float32]:
    """What `add_up` reads of the ratios [n, n] of a Factor, in the order that it reads it: by
    block, group, step before the block, column of the group; columns beyond n are 0."""
    n, parts = len(ratios), [np.empty(0, np.float32)]
    for begin in range(BLOCK, n, BLOCK):
        block = ratios[begin : begin + BLOCK, :begin]
        block = np.pad(block, ((0, BLOCK - len(block)), (0, 0)))
        parts.append(block.reshape(-1, _GROUP, begin).transpose(0, 2, 1).ravel())
    return np.concatenate(parts)


def add_up(panels, begin, errors, sums):  # type: ignore[no-untyped-def]
    """sums[j] = what the columns before `begin`, a multiple of BLOCK, take off column begin + j.

    panels: of the function of that name; errors: fp32 [n * TILE]; sums: fp32 [BLOCK * TILE], rows
    after one another. Errors are added in the order of steps, whatever vectors the processor has.
    """
    sums[:] = 0
    first = begin * (begin - BLOCK) // 2  # of the block's panel
    for k in range(0, begin, _NEAR):
        count = min(_NEAR, begin - k)
        for group in range(BLOCK // _GROUP):
            place = first + (group * begin + k) * _GROUP
            for lane in range(0, TILE, _STRIP):
                at, to = k * TILE + lane, group * _GROUP * TILE + lane
                _add_products(errors, at, panels, place, sums, to, count)  # type: ignore[call-arg]


@intrinsic
def _add_products(typing_context, *given):  # type: ignore[no-untyped-def]
    """(errors, at, panels, place, sums, to, count): for each column c of a group add panels[place +
    4 k + c] errors[at + TILE k:] to sums[to + TILE c:], k < count one after another, in all lanes.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        values = [builder.extract_value(arguments[0], i) for i in range(len(given))]
        errors, panels, sums = (
            context.make_array(given[i])(context, builder, values[i]).data for i in (0, 2, 4)
        )
        _, at, _, place, _, to, count = values
        targets = [_lanes(builder, sums, to, _LONG(c * TILE)) for c in range(_GROUP)]
        held = [cgutils.alloca_once_value(builder, _load(builder, target)) for target in targets]
        with cgutils.for_range(builder, count) as loop:
            step = builder.mul(loop.index, _LONG(TILE))
            error = _load(builder, _lanes(builder, errors, at, step))
            first = builder.add(place, builder.mul(loop.index, _LONG(_GROUP)))
            for c, total in enumerate(held):
                ratio = builder.load(builder.gep(panels, [builder.add(first, _LONG(c))]))
                product = builder.fmul(_splat(builder, ratio), error, flags=_ONE_ROUNDING)
                added = builder.fadd(builder.load(total), product, flags=_ONE_ROUNDING)
                builder.store(added, total)
        for target, total in zip(targets, held, strict=True):
            builder.store(builder.load(total), target).align = _FLOAT_BYTES
        return context.get_dummy_value()

    return types.void(types.StarArgTuple.from_types(given)), generate


def _lanes(builder: Any, data: Any, first: Any, further: Any) -> Any:
    """The address of the lanes from data[first + further] on."""
    at = builder.gep(data, [builder.add(first, further)])
    return builder.bitcast(at, _LANES.as_pointer())


def _load(builder: Any, at: Any) -> Any:
    loaded = builder.load(at)
    loaded.align = _FLOAT_BYTES
    return loaded


def _splat(builder: Any, value: Any) -> Any:
    undefined = ir.Constant(_LANES, ir.Undefined)
    one = builder.insert_element(undefined, value, _INT(0))
    mask = ir.Constant(ir.VectorType(_INT, _STRIP), [0] * _STRIP)
    return builder.shuffle_vector(one, undefined, mask)
