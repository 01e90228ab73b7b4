"""Products of whole numbers: exact, and the same bits whichever instructions computed them."""

import pytest
import torch

from quantizers.integers import Codes, IntegerWeight
from quantizers.kernels import cpu_integers, cpu_tile, integer_products, reference, round_rows
from quantizers.kernels.integer_products import exact_sums, integer_product

G = torch.Generator().manual_seed(0)
PATHS = ["vnni", "pairs", "narrow pairs", "float"]


@pytest.fixture(params=PATHS)
def path(request, monkeypatch):
    """What computes sums of products on this CPU, and in which tiles."""
    if request.param == "vnni" and cpu_tile.instructions() != cpu_tile.VNNI:
        pytest.skip("no AVX-512 VNNI here")
    if request.param == "float":
        monkeypatch.setattr(cpu_integers, "unsupported", lambda: "for a test")
    elif request.param != "vnni":
        monkeypatch.setattr(cpu_tile, "instructions", lambda: cpu_tile.PLAIN)
    if request.param == "narrow pairs":
        monkeypatch.setattr(cpu_tile, "widest", lambda: (4, 1))
    return request.param


@pytest.mark.parametrize(
    ("bits", "columns"), [(8, 1040), (8, 1041), (8, 2500), (4, 3000), (13, 70), (8, 3)]
)
@pytest.mark.parametrize("tokens", [1, 3, 40])
def test_sums_are_those_of_int64_even_where_fp32_alone_would_round(path, bits, columns, tokens):
    limit = 2 ** (bits - 1) - 1
    x = torch.full((tokens, columns), 127, dtype=torch.int8)
    x[0] = torch.randint(-127, 128, (columns,), generator=G)
    x[-1, -1] = 126  # odd sums beyond 2^24
    w = torch.full((5, columns), limit, dtype=torch.int16 if bits > 8 else torch.int8)
    w[1] = torch.randint(-limit, limit + 1, (columns,), generator=G)
    w[2] = -limit
    exact = x.long() @ w.long().T
    assert torch.equal(exact_sums(x, w, 127 * limit).long(), exact)
    # A sum beyond 2^24 is rounded once, to fp32.
    weight = IntegerWeight(w, torch.ones(5, 1), columns, limit)
    found = integer_product(Codes(x, torch.ones(tokens, 1), 127), weight)
    assert torch.equal(found, exact.float())


def test_no_rows_give_none(path):
    w = IntegerWeight(torch.ones(5, 64, dtype=torch.int8), torch.ones(5, 1), 64, 1)
    x = Codes(torch.empty(0, 64, dtype=torch.int8), torch.empty(0, 1), 127)
    assert integer_product(x, w).shape == (0, 5)
    x = Codes(torch.ones(3, 64, dtype=torch.int8), torch.ones(3, 1), 127)
    w = IntegerWeight(torch.empty(0, 64, dtype=torch.int8), torch.empty(0, 1), 64, 1)
    assert integer_product(x, w).shape == (3, 0)


def test_a_kernel_that_is_wrong_is_not_used(monkeypatch):
    assert cpu_integers.unsupported() is None
    multiply = cpu_integers.multiply
    monkeypatch.setattr(cpu_integers, "multiply", lambda *given: multiply(*given) + 1)
    assert "not exact" in cpu_integers.unsupported.__wrapped__()


def test_the_weights_a_kernel_reads_are_whole_panels_of_bytes():
    values = torch.randint(-127, 128, (70, 10), generator=G, dtype=torch.int8)
    w = IntegerWeight(values, torch.ones(70, 1), 10, 127)
    tiles = w.tiles.view(2, 3, 64, 4).int() - 128
    found = tiles.permute(0, 2, 1, 3).reshape(128, 12)
    assert torch.equal(found[:70, :10], values.int())
    assert not found[70:].any() and not found[:, 10:].any()
    assert w.scales_of_panels.tolist() == [[1.0] * 70 + [0.0] * 58]


def test_a_library_that_is_wrong_is_not_used(monkeypatch):
    integer_products.library_unsupported.cache_clear()
    right = torch._int_mm
    monkeypatch.setattr(torch, "_int_mm", lambda x, w: right(x, w) + 1)
    assert "not exact" in integer_products.library_unsupported(torch.device("cpu"))
    integer_products.library_unsupported.cache_clear()


def plain(x, w, bias):
    """As plain torch has it: group after group, fp32(sum) times its scale added in one rounding."""
    result = torch.zeros(len(x.values), len(w.values))
    for g, begin in enumerate(range(0, w.values.shape[1], w.group)):
        part = slice(begin, begin + w.group)
        sums = (x.values[:, part].long() @ w.values[:, part].long().T).float()
        result.addcmul_(sums, w.scales[:, g].expand_as(sums))
    return result.mul_(x.scale) + bias


# Groups of whole steps of four columns and others, rows of several, one or no whole panel.
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(("group", "d_in"), [(32, 700), (48, 702), (700, 700), (30, 700), (41, 41)])
@pytest.mark.parametrize(("tokens", "d_out"), [(1, 37), (4, 192), (13, 130), (40, 16)])
def test_every_path_has_the_bits_of_plain_torch(
    path, monkeypatch, tokens, d_out, group, d_in, threads
):
    monkeypatch.setattr(cpu_integers, "_PIECE", 1)  # else one thread takes so little
    x = Codes(
        torch.randint(-127, 128, (tokens, d_in), generator=G, dtype=torch.int8),
        torch.rand(tokens, 1, generator=G),
        127,
    )
    x.scale[0] = torch.nan
    values = torch.randint(-127, 128, (d_out, d_in), generator=G, dtype=torch.int8)
    w = IntegerWeight(values, torch.rand(d_out, -(-d_in // group), generator=G), group, 127)
    bias, before = torch.randn(d_out, generator=G), torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        found = integer_product(x, w, bias), integer_product(x, w)
    finally:
        torch.set_num_threads(before)
    assert found[0][0].isnan().all()
    assert torch.equal(found[0][1:], plain(x, w, bias)[1:])
    assert torch.equal(found[1][1:], plain(x, w, torch.zeros(d_out))[1:])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("limit", [127, 7])
def test_rows_are_rounded_as_in_plain_torch(dtype, limit):
    x = torch.randn(9, 333, generator=G).mul(torch.logspace(-4, 4, 9)[:, None]).to(dtype)
    x[1], x[2, 5], x[3, 332], x[4, 0] = 0, torch.nan, torch.inf, -torch.inf
    x[5, :3] = torch.tensor([0.5, 1.5, -2.5]) * x[5].abs().amax() / limit
    x[6, :2] = torch.tensor([1e-30, -1e-30])  # far below a static scale, and beyond it
    for fixed in (None, 0.0078125 * 3, 0.0, 1e-38, 3e38, float("inf")):
        codes = round_rows(x, limit, fixed)
        given = None if fixed is None else torch.tensor([fixed])
        expected = reference.round_rows(x, limit, given)
        assert torch.equal(codes.values, expected.values)
        assert torch.equal(codes.scale.view(torch.int32), expected.scale.view(torch.int32))
