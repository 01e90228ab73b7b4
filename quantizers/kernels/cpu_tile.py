"""Products of int8 by tiles whose sums stay in registers, for Numba, made of LLVM's own vectors.

A step takes four columns: a vector holds those of 16 rows of W, a word those of a row of x, and
each of the 16 sums gets four products more: one instruction with AVX-512 VNNI (`vpdpbusd`, of
unsigned and signed bytes: hence W + 128), else two products of pairs of 16-bit values, which LLVM
finds an instruction for wherever there is one (`vpmaddwd`). All whole numbers, none saturate.

Imports Numba, which takes half a second: import this where it is needed.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from quantizers.integers import PANEL
from quantizers.kernels.jit import features

LANES = 16  # sums of a vector
VNNI, PLAIN = "AVX-512 VNNI", "products of 16-bit pairs"

_BYTE, _SHORT, _INT, _LONG = (ir.IntType(bits) for bits in (8, 16, 32, 64))
_INTS, _PRODUCTS = (ir.VectorType(_INT, n) for n in (LANES, 2 * LANES))
_SHORTS, _FLOATS = ir.VectorType(_SHORT, 2 * LANES), ir.VectorType(ir.FloatType(), LANES)


def instructions() -> str:
    """What a step is made of on this processor."""
    return VNNI if {"avx512f", "avx512vnni"} <= features() else PLAIN


def widest() -> tuple[int, int]:
    """(rows of x, vectors) of the largest tile: sums, weights and x fill the registers."""
    return (6, 4) if {"avx512f", "avx512bw"} <= features() else (4, 1)


@cache
def product_of(kind: str, most: int, vectors: int) -> Callable[..., None]:
    """The product for tiles of at most `most` rows of x (4 or 6), `vectors` times LANES rows of
    W."""
    rows = vectors * LANES
    plain = kind == PLAIN

    def multiply(x, w, y, group, first, last):  # type: ignore[no-untyped-def]
        """y [tokens, padded rows] of the strips of `rows` rows first to last; zeros before.

        x: (int8 [tokens, d_in], 128 times the sums of its groups, int32 [tokens, groups], fp32
        scales [tokens]); w: (tiles, fp32 scales [groups, padded rows], fp32 bias [d_out] or []).
        """
        values, totals, x_scales = x
        tiles, scales, bias = w
        (tokens, columns), (groups, width) = values.shape, scales.shape
        for strip in range(first, last):
            row = strip * rows
            panel = row // PANEL * PANEL * columns + row % PANEL * 4
            token = 0
            while token < tokens:
                left = tokens - token
                taken = most if left >= most else 4 if left >= 4 else 2 if left >= 2 else 1
                for g in range(groups):
                    begin = g * group
                    place = (
                        token * columns + begin,
                        token * groups + g,
                        panel + begin * PANEL,
                        g * width + row,
                        token * width + row,
                        (min(columns, begin + group) - begin) // 4,
                    )
                    if most == 6 and taken == 6:
                        _tile(plain, 6, vectors, values, totals, tiles, scales, y, place)  # type: ignore[call-arg]
                    elif taken == 4:
                        _tile(plain, 4, vectors, values, totals, tiles, scales, y, place)  # type: ignore[call-arg]
                    elif taken == 2:
                        _tile(plain, 2, vectors, values, totals, tiles, scales, y, place)  # type: ignore[call-arg]
                    else:
                        _tile(plain, 1, vectors, values, totals, tiles, scales, y, place)  # type: ignore[call-arg]
                for t in range(token, token + taken):
                    result, scale = y[t, row : row + rows], x_scales[t]
                    for i in range(rows):
                        result[i] *= scale
                    if bias.size:
                        for i in range(min(rows, bias.size - row)):
                            result[i] += bias[row + i]
                token += taken

    return multiply


@intrinsic(prefer_literal=True)
def _tile(typing_context: Any, *given: Any) -> Any:
    """(plain, tokens, vectors, x, totals, tiles, scales, y, place): add to a tile of y its sums
    over a group of columns, times the group's scales, in one rounding.

    place: where in the arrays, taken flat, the tile begins, and how many steps of four columns."""
    plain, tokens, vectors = (bool(given[0].literal_value), *(g.literal_value for g in given[1:3]))

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        arguments = [builder.extract_value(arguments[0], i) for i in range(len(given))]
        arrays = [context.make_array(t)(context, builder, a) for t, a in
                  zip(given[3:8], arguments[3:8], strict=True)]  # fmt: skip
        at = [builder.extract_value(arguments[8], i) for i in range(6)]
        strides = [builder.extract_value(arrays[i].shape, 1) for i in (0, 1, 4)]

        def lines(i: int, stride: Any) -> list[Any]:
            """Where each of the tile's rows of an array begins."""
            begin = builder.gep(arrays[i].data, [at[i]])
            return [builder.gep(begin, [builder.mul(stride, _LONG(t))]) for t in range(tokens)]

        x, totals, y = (lines(i, s) for i, s in zip((0, 1, 4), strides, strict=True))
        begins = [_splat(builder, builder.neg(builder.load(total))) for total in totals]
        tile = builder.gep(arrays[2].data, [at[2]])
        sums = _sums(builder, plain, begins, (x, tile, at[5], vectors))
        scales = builder.gep(arrays[3].data, [at[3]])
        fused = _function(builder, "llvm.fma.v16f32", _FLOATS, [_FLOATS] * 3)
        for t in range(tokens):
            for v in range(vectors):
                here = [_LONG(v * LANES)]
                into = builder.gep(y[t], here)
                before, by = (_load(builder, p, _FLOATS) for p in (into, builder.gep(scales, here)))
                after = builder.call(fused, [builder.sitofp(sums[t][v], _FLOATS), by, before])
                builder.store(after, builder.bitcast(into, _FLOATS.as_pointer())).align = 4
        return context.get_dummy_value()

    return types.void(types.StarArgTuple.from_types(given)), generate


def _sums(builder: Any, plain: bool, begins: list[Any], operands: tuple[Any, ...]) -> Any:
    """A loop over the steps: sums [tokens][vectors], each from its token's begin on."""
    x, tile, steps, vectors = operands
    before, loop, after = (
        builder.block, builder.append_basic_block("step"), builder.append_basic_block("summed")
    )  # fmt: skip
    builder.branch(loop)
    builder.position_at_end(loop)
    step = builder.phi(_LONG)
    step.add_incoming(_LONG(0), before)
    sums = [[builder.phi(_INTS) for _ in range(vectors)] for _ in begins]
    from_here = builder.gep(tile, [builder.mul(step, _LONG(4 * PANEL))])
    weights = [
        _load(builder, builder.gep(from_here, [_LONG(4 * LANES * v)]), _INTS)
        for v in range(vectors)
    ]
    if plain:
        weights = [_halves(builder, w, builder.lshr) for w in weights]
    for token, (begin, row) in enumerate(zip(begins, sums, strict=True)):
        word = _load(builder, builder.gep(x[token], [builder.mul(step, _LONG(4))]), _INT)
        columns = _splat(builder, word)
        if plain:
            columns = _halves(builder, columns, builder.ashr)
        for v, old in enumerate(row):
            old.add_incoming(begin, before)
            new = _step(builder, old, weights[v], columns)
            old.add_incoming(new, loop)
            row[v] = new
    following = builder.add(step, _LONG(1))
    step.add_incoming(following, loop)
    builder.cbranch(builder.icmp_signed("<", following, steps), loop, after)
    builder.position_at_end(after)
    return sums


def _step(builder: Any, sums: Any, weights: Any, columns: Any) -> Any:
    """Sums plus the products of four columns: of whole vectors, or of their halves."""
    if not isinstance(weights, tuple):
        name = "llvm.x86.avx512.vpdpbusd.512"
        dot = _function(builder, name, _INTS, [_INTS] * 3)
        return builder.call(dot, [sums, weights, columns])
    for w, x in zip(weights, columns, strict=True):
        products = builder.mul(builder.sext(w, _PRODUCTS), builder.sext(x, _PRODUCTS))
        even, odd = (
            builder.shuffle_vector(products, products, ir.Constant(_INTS, [*range(i, 32, 2)]))
            for i in (0, 1)
        )
        sums = builder.add(sums, builder.add(even, odd))
    return sums


def _halves(builder: Any, x: Any, shift: Callable[[Any, Any], Any]) -> tuple[Any, Any]:
    """The even and the odd bytes of a vector as 16-bit values, their signs as `shift` has them."""
    eight, pairs = ir.Constant(_SHORTS, [8] * 2 * LANES), builder.bitcast(x, _SHORTS)
    return shift(builder.shl(pairs, eight), eight), shift(pairs, eight)


def _splat(builder: Any, x: Any) -> Any:
    one = builder.insert_element(ir.Constant(_INTS, ir.Undefined), x, _INT(0))
    return builder.shuffle_vector(one, one, ir.Constant(_INTS, [0] * LANES))


def _load(builder: Any, at: Any, kind: Any) -> Any:
    loaded = builder.load(builder.bitcast(at, kind.as_pointer()))
    loaded.align = 1
    return loaded


def _function(builder: Any, name: str, returned: Any, taken: list[Any]) -> Any:
    module = builder.module
    return module.globals.get(name) or ir.Function(module, ir.FunctionType(returned, taken), name)
