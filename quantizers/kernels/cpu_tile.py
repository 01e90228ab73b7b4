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
        scales [tokens]); w: (tiles, fp32 scales [groups, padded rows], fp32 bias [padded rows]).
        """
        (tokens, columns), (groups, width) = x[0].shape, w[1].shape
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
                        token,
                        row,
                        g + 1 == groups,
                    )
                    if most == 6 and taken == 6:
                        _tile(plain, 6, vectors, x, w, y, place)  # type: ignore[call-arg]
                    elif taken == 4:
                        _tile(plain, 4, vectors, x, w, y, place)  # type: ignore[call-arg]
                    elif taken == 2:
                        _tile(plain, 2, vectors, x, w, y, place)  # type: ignore[call-arg]
                    else:
                        _tile(plain, 1, vectors, x, w, y, place)  # type: ignore[call-arg]
                token += taken

    return multiply


@intrinsic(prefer_literal=True)
def _tile(typing_context: Any, *given: Any) -> Any:
    """(plain, tokens, vectors, x, w, y, place): add to a tile of y its sums over a group of
    columns, times the group's scales, in one rounding; after the last group scales of x and bias.

    place: the tile's first element in x, in totals, in tiles, in scales, in y, how many steps of
    four columns, the first row of x, of W, and whether the group is the last."""
    plain, tokens, vectors = (bool(given[0].literal_value), *(g.literal_value for g in given[1:3]))

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        arguments = [builder.extract_value(arguments[0], i) for i in range(len(given))]

        def array(kind: Any, value: Any) -> Any:
            return context.make_array(kind)(context, builder, value)

        operands = [
            array(kind, builder.extract_value(arguments[i], j))
            for i in (3, 4)
            for j, kind in enumerate(given[i])
        ]
        values, totals, x_scales, tiles, scales, bias = operands
        y = array(given[5], arguments[5])
        at = [builder.extract_value(arguments[6], i) for i in range(9)]

        def lines(of: Any, begin: Any) -> list[Any]:
            """Where each of the tile's rows of an array begins."""
            first, stride = builder.gep(of.data, [begin]), builder.extract_value(of.shape, 1)
            return [builder.gep(first, [builder.mul(stride, _LONG(t))]) for t in range(tokens)]

        begins = [
            _splat(builder, builder.neg(builder.load(total))) for total in lines(totals, at[1])
        ]
        tile = builder.gep(tiles.data, [at[2]])
        sums = _sums(builder, plain, begins, (lines(values, at[0]), tile, at[5], vectors))
        results = [
            [builder.gep(line, [_LONG(v * LANES)]) for v in range(vectors)]
            for line in lines(y, at[4])
        ]
        fused = _function(builder, "llvm.fma.v16f32", _FLOATS, [_FLOATS] * 3)
        factors = _vectors(builder, builder.gep(scales.data, [at[3]]), vectors)
        for row, into in zip(sums, results, strict=True):
            for some, factor, to in zip(row, factors, into, strict=True):
                before = _load(builder, to, _FLOATS)
                after = builder.call(fused, [builder.sitofp(some, _FLOATS), factor, before])
                _store(builder, after, to)
        with builder.if_then(at[8]):
            added = _vectors(builder, builder.gep(bias.data, [at[7]]), vectors)
            for t, into in enumerate(results):
                scale = builder.load(builder.gep(x_scales.data, [builder.add(at[6], _LONG(t))]))
                for to, more in zip(into, added, strict=True):
                    scaled = builder.fmul(_load(builder, to, _FLOATS), _splat(builder, scale))
                    _store(builder, builder.fadd(scaled, more), to)
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
    kind = ir.VectorType(x.type, LANES)
    one = builder.insert_element(ir.Constant(kind, ir.Undefined), x, _INT(0))
    return builder.shuffle_vector(one, one, ir.Constant(_INTS, [0] * LANES))


def _vectors(builder: Any, at: Any, count: int) -> list[Any]:
    """Floats from there on."""
    return [_load(builder, builder.gep(at, [_LONG(v * LANES)]), _FLOATS) for v in range(count)]


def _store(builder: Any, x: Any, to: Any) -> None:
    builder.store(x, builder.bitcast(to, x.type.as_pointer())).align = 4


def _load(builder: Any, at: Any, kind: Any) -> Any:
    loaded = builder.load(builder.bitcast(at, kind.as_pointer()))
    loaded.align = 1
    return loaded


def _function(builder: Any, name: str, returned: Any, taken: list[Any]) -> Any:
    module = builder.module
    return module.globals.get(name) or ir.Function(module, ir.FunctionType(returned, taken), name)
