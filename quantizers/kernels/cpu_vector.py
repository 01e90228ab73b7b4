"""The CPU path's decoder for processors with AVX-512 VBMI (Intel since 2019, AMD since 2022).

Any table of up to 256 fp32 values stands in registers as four planes of bytes, so that one
permutation looks a byte of 64 values up at once; the bytes are then interleaved. Codes of any width
reach their bytes by one permutation and one `vpmultishiftqb`. Import it late: Numba takes half a
second. All of it is one file because Numba compiles anew when the file of a function changes.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from torch import Tensor

from quantizers.granularity import Blocks
from quantizers.kernels.cpu_packed import BF16, FP16, KINDS, Arrays, bits_of, typed
from quantizers.kernels.cpu_threads import in_threads
from quantizers.kernels.jit import compiled, features

GROUP = 64  # codes taken at once
_LOADED = 64  # bytes read for a group, whatever the width: masked loads are slow

_BYTE, _INT, _LONG, _FLOAT = ir.IntType(8), ir.IntType(32), ir.IntType(64), ir.FloatType()
_BYTES, _INTS, _FLOATS = (ir.VectorType(t, n) for t, n in ((_BYTE, 64), (_INT, 16), (_FLOAT, 16)))


@cache
def runs_here() -> bool:
    return {"avx512f", "avx512bw", "avx512vbmi"} <= features()


def decode(packed: Arrays, out: Tensor) -> int:
    """Fill the first elements of out, at an address that 64 divides; returns how many."""
    n = covered(packed.words.size, packed.bits, packed.blocks)
    if n == 0:
        return 0
    absmax, mean = packed.constants
    values = bits_of(out[:n])
    signature = f"void(u4[::1], f4[::1], f4[::1], u1[::1], i8, i8, {typed(values)})"
    decoder = decoder_of(packed.bits, KINDS[out.dtype], int(mean.size > 0))
    fill = compiled(decoder, signature)
    shift = (packed.blocks.size - 1).bit_length()  # element >> shift is its block
    args = (packed.words, absmax, mean, planes_of(packed.table), shift)
    in_threads(n, lambda first, last: fill(*args, first, values[first:last]))
    return n


def covered(n_words: int, bits: int, blocks: Blocks) -> int:
    """How many of a tensor's n elements it decodes, from the first on; the rest is for others.

    Blocks are powers of two from 16 up, or one the whole tensor.
    """
    n, size = blocks.n, blocks.size
    if size < n and (size < 16 or size & (size - 1) or not blocks.equal):
        return 0
    loads = (4 * n_words - _LOADED) // (GROUP * bits // 8) + 1  # those that stay in the stream
    return GROUP * max(0, min(n // GROUP, loads))


def planes_of(table: np.ndarray) -> np.ndarray:
    """First bytes of all values [>= 64], then their second bytes, ...; table: fp32 [2^k]."""
    padded = np.zeros(max(64, table.size), np.float32)
    padded[: table.size] = table
    return padded.view(np.uint8).reshape(-1, 4).T.ravel()


@cache
def decoder_of(bits: int, kind: int, centered: int) -> Callable[..., None]:
    """A decoder to FP32, FP16 or BF16, for blocks with a mean or without."""

    def fill(words, absmax, mean, planes, shift, start, out):  # type: ignore[no-untyped-def]
        """Fill out (fp32, or the bits of 16-bit values), whole groups, from element `start` on.

        words: the whole stream; out: that part alone; planes: of `planes_of`.
        """
        element, to = np.uintp(start), np.uintp(0)
        word = np.uintp(start // GROUP * (GROUP * bits // 32))
        by = np.uintp(shift)
        for _ in range(out.size // GROUP):
            a, b = element >> by, (element + np.uintp(16)) >> by
            c, d = (element + np.uintp(32)) >> by, (element + np.uintp(48)) >> by
            _decode_group(  # type: ignore[call-arg]
                bits, kind, centered, words, word, planes, absmax, mean, a, b, c, d, out, to
            )
            word += np.uintp(GROUP * bits // 32)
            element += np.uintp(GROUP)
            to += np.uintp(GROUP)
        _fence()  # type: ignore[call-arg]

    return fill


@intrinsic
def _fence(typing_context: Any) -> Any:
    """Stores past the caches are seen by other threads from here on."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        builder.call(_function(builder, "llvm.x86.sse.sfence", ir.VoidType(), []), [])
        return context.get_dummy_value()

    return types.void(), generate


@intrinsic(prefer_literal=True)
def _decode_group(typing_context: Any, *given: Any) -> Any:
    """(bits, kind, centered, words, word, planes, absmax, mean, a, b, c, d, out, to): decode GROUP
    codes from words[word:] to out[to:]; a is the block of the first 16, b of the next, ..."""
    bits, kind, centered = given[:3]
    width, rounded, shifted = bits.literal_value, kind.literal_value, centered.literal_value

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        arguments = [builder.extract_value(arguments[0], i) for i in range(len(given))]

        def data(i: int) -> Any:
            return context.make_array(given[i])(context, builder, arguments[i]).data

        scales, means = data(6), data(7)
        codes = _codes(builder, width, builder.gep(data(3), [arguments[4]]))
        parts = []
        values = _interleaved(builder, _looked_up(builder, width, codes, data(5)))
        for value, owner in zip(values, arguments[8:12], strict=True):
            value = builder.fmul(value, _splat(builder, builder.gep(scales, [owner])))
            if shifted:
                value = builder.fadd(value, _splat(builder, builder.gep(means, [owner])))
            parts.append(_rounded(builder, rounded, value))
        if parts[0].type.count * 2 * 2 == _LOADED:  # 16-bit values: two parts a store
            parts = [_joined(builder, *parts[:2]), _joined(builder, *parts[2:])]
        for i, part in enumerate(parts):
            at = builder.add(arguments[13], _LONG(i * part.type.count))
            _store_past_caches(builder, part, builder.gep(data(12), [at]))
        return context.get_dummy_value()

    return types.void(types.StarArgTuple.from_types(given)), generate


def _function(builder: Any, name: str, returned: Any, taken: list[Any]) -> Any:
    module = builder.module
    return module.globals.get(name) or ir.Function(module, ir.FunctionType(returned, taken), name)


def _constant(values: Any) -> Any:
    return ir.Constant(_BYTES, [int(value) for value in values])


def _shuffled(builder: Any, x: Any, y: Any, order: Any) -> Any:
    mask = ir.Constant(ir.VectorType(_INT, len(order)), [int(i) for i in order])
    return builder.shuffle_vector(x, y, mask)


def _load_bytes(builder: Any, at: Any) -> Any:
    loaded = builder.load(builder.bitcast(at, _BYTES.as_pointer()))
    loaded.align = 1
    return loaded


def _codes(builder: Any, bits: int, at: Any) -> Any:
    """64 codes, a byte each, in the order that `_interleaved` puts right.

    That works in lanes of 16 bytes: lane i of its j-th result comes from the four codes 4 j ... of
    lane i, which therefore are those of the values 16 j + 4 i on. Four codes begin on a byte or in
    its middle, and their bits lie in the four bytes from there.
    """
    source, shift = np.empty(64, int), np.empty(64, int)
    for byte in range(0, 64, 4):
        lane, result = byte // 16, byte % 16 // 4
        begin = (16 * result + 4 * lane) * bits
        i = np.arange(4)
        source[byte + i] = np.minimum(begin // 8 + i, _LOADED - 1)
        shift[byte + i] = byte % 8 * 8 + begin % 8 + i * bits  # in the 8 bytes that it shares
    loaded = _load_bytes(builder, at)
    moved = _shuffled(builder, loaded, loaded, source)
    name = "llvm.x86.avx512.pmultishift.qb.512"
    fields = builder.call(
        _function(builder, name, _BYTES, [_BYTES, _BYTES]), [_constant(shift), moved]
    )
    return builder.and_(fields, _constant([2**bits - 1] * 64))


def _looked_up(builder: Any, bits: int, codes: Any, planes: Any) -> list[Any]:
    """The first bytes of the codes' values, the second ones, ..."""
    size = max(64, 2**bits)
    one = _function(builder, "llvm.x86.avx512.permvar.qi.512", _BYTES, [_BYTES, _BYTES])
    two = _function(builder, "llvm.x86.avx512.vpermi2var.qi.512", _BYTES, [_BYTES] * 3)
    never_written = builder.module.add_metadata([])

    def part(plane: int, i: int) -> Any:
        loaded = _load_bytes(builder, builder.gep(planes, [_LONG(plane * size + 64 * i)]))
        loaded.set_metadata("invariant.load", never_written)
        return loaded

    def pair(plane: int, i: int) -> Any:
        return builder.call(two, [part(plane, i), codes, part(plane, i + 1)])

    if bits <= 6:
        return [builder.call(one, [part(plane, 0), codes]) for plane in range(4)]
    if bits == 7:
        return [pair(plane, 0) for plane in range(4)]
    upper = builder.icmp_signed("<", codes, _constant([0] * 64))
    return [builder.select(upper, pair(plane, 2), pair(plane, 0)) for plane in range(4)]


def _interleaved(builder: Any, planes: list[Any]) -> list[Any]:
    """Four times 16 fp32 values from the four planes of their bytes."""

    def halves(x: Any, y: Any) -> list[Any]:
        """Elements of x and y in turns: the lower half of each lane, and the upper one."""
        n = x.type.count
        a_lane = n // 4
        low = [lane * a_lane + i for lane in range(4) for i in range(a_lane // 2)]
        both = np.stack([low, np.add(low, n)], axis=1).ravel()
        return [_shuffled(builder, x, y, both + upper * a_lane // 2) for upper in (0, 1)]

    words = ir.VectorType(ir.IntType(16), 32)
    first, second = (
        [builder.bitcast(half, words) for half in halves(*planes[i : i + 2])] for i in (0, 2)
    )
    return [
        builder.bitcast(part, _FLOATS)
        for low, high in zip(first, second, strict=True)
        for part in halves(low, high)
    ]


def _splat(builder: Any, at: Any) -> Any:
    """The fp32 value there, 16 times."""
    one = builder.insert_element(ir.Constant(_FLOATS, ir.Undefined), builder.load(at), _INT(0))
    return _shuffled(builder, one, one, [0] * 16)


def _joined(builder: Any, x: Any, y: Any) -> Any:
    return _shuffled(builder, x, y, range(2 * x.type.count))


def _rounded(builder: Any, kind: int, x: Any) -> Any:
    """fp32 to what is stored, to the nearest, ties to even."""
    if kind == FP16:
        return builder.fptrunc(x, ir.VectorType(ir.HalfType(), 16))
    if kind != BF16:
        return x

    def all_of(value: int) -> Any:
        return ir.Constant(_INTS, [value] * 16)

    raw = builder.bitcast(x, _INTS)
    even = builder.and_(builder.lshr(raw, all_of(16)), all_of(1))
    near = builder.lshr(builder.add(builder.add(raw, all_of(0x7FFF)), even), all_of(16))
    nan = builder.fcmp_unordered("uno", x, x)
    half = builder.select(nan, all_of(0x7FC0), near)
    return builder.trunc(half, ir.VectorType(ir.IntType(16), 16))


def _store_past_caches(builder: Any, x: Any, to: Any) -> None:
    """The result is larger than a cache, and is not read into it first."""
    stored = builder.store(x, builder.bitcast(to, x.type.as_pointer()))
    stored.align = 64
    stored.set_metadata("nontemporal", builder.module.add_metadata([_INT(1)]))
