"""Products of whole numbers: exact, and the same bits whichever instructions computed them."""

import pytest
import torch

from quantizers.integers import Codes, IntegerWeight
from quantizers.kernels import integer_products, reference, round_rows
from quantizers.kernels.integer_products import exact_sums, integer_product

G = torch.Generator().manual_seed(0)


@pytest.fixture(params=["integer", "float"])
def instructions(request, monkeypatch):
    """What sums of products are computed by on this CPU."""
    if request.param == "float":
        monkeypatch.setattr(integer_products, "cpu_unsupported", lambda: "for a test")
    elif (reason := integer_products.cpu_unsupported()) is not None:
        pytest.skip(reason)
    return request.param


@pytest.mark.parametrize(
    ("bits", "columns"), [(8, 1040), (8, 1041), (8, 2500), (4, 3000), (13, 70), (8, 3)]
)
@pytest.mark.parametrize("tokens", [1, 3, 40])
def test_sums_are_those_of_int64_even_where_fp32_alone_would_round(
    instructions, bits, columns, tokens
):
    limit = 2 ** (bits - 1) - 1
    x = torch.full((tokens, columns), 127, dtype=torch.int8)
    x[0] = torch.randint(-127, 128, (columns,), generator=G)
    x[-1, -1] = 126  # odd sums beyond 2^24
    w = torch.full((5, columns), limit, dtype=torch.int16 if bits > 8 else torch.int8)
    w[1] = torch.randint(-limit, limit + 1, (columns,), generator=G)
    w[2] = -limit
    weight = IntegerWeight(w, torch.ones(5, 1), columns, limit)
    sums = exact_sums(x, weight, slice(None), 127 * limit)
    assert torch.equal(sums.long(), x.long() @ w.long().T)


@pytest.mark.parametrize("group", [32, 48, 128, 700])
def test_both_kinds_of_instructions_give_the_same_bits(monkeypatch, group):
    if integer_products.cpu_unsupported() is not None:
        pytest.skip("one kind here")
    x = Codes(
        torch.randint(-127, 128, (33, 700), generator=G, dtype=torch.int8),
        torch.rand(33, 1, generator=G),
        127,
    )
    w = IntegerWeight(
        torch.randint(-7, 8, (24, 700), generator=G, dtype=torch.int8),
        torch.rand(24, -(-700 // group), generator=G),
        group,
        7,
    )
    integer = integer_product(x, w)
    monkeypatch.setattr(integer_products, "cpu_unsupported", lambda: "for a test")
    assert torch.equal(integer_product(x, w), integer)


def test_no_rows_give_none(instructions):
    w = IntegerWeight(torch.ones(5, 64, dtype=torch.int8), torch.ones(5, 1), 64, 1)
    x = Codes(torch.empty(0, 64, dtype=torch.int8), torch.empty(0, 1), 127)
    assert integer_product(x, w).shape == (0, 5)


def test_a_library_that_is_wrong_is_not_used(monkeypatch):
    integer_products.library_unsupported.cache_clear()
    right = torch._int_mm
    monkeypatch.setattr(torch, "_int_mm", lambda x, w: right(x, w) + 1)
    assert "not exact" in integer_products.library_unsupported(torch.device("cpu"))
    integer_products.library_unsupported.cache_clear()


def plain(x, w):
    """As plain torch has it: group after group, fp32(sum) times its scale added in one rounding."""
    result = torch.zeros(len(x.values), len(w.values))
    for g, begin in enumerate(range(0, w.values.shape[1], w.group)):
        part = slice(begin, begin + w.group)
        sums = (x.values[:, part].long() @ w.values[:, part].long().T).float()
        result.addcmul_(sums, w.scales[:, g].expand_as(sums))
    return result.mul_(x.scale)


@pytest.mark.parametrize("group", [32, 48, 700], ids=str)
@pytest.mark.parametrize("tokens", [1, 4, 5, 40])
def test_every_path_has_the_bits_of_plain_torch(instructions, tokens, group):
    x = Codes(
        torch.randint(-127, 128, (tokens, 700), generator=G, dtype=torch.int8),
        torch.rand(tokens, 1, generator=G),
        127,
    )
    values = torch.randint(-127, 128, (37, 700), generator=G, dtype=torch.int8)
    w = IntegerWeight(values, torch.rand(37, -(-700 // group), generator=G), group, 127)
    assert torch.equal(integer_product(x, w), plain(x, w))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("limit", [127, 7])
def test_rows_are_rounded_as_in_plain_torch(dtype, limit):
    x = torch.randn(9, 333, generator=G).mul(torch.logspace(-4, 4, 9)[:, None]).to(dtype)
    x[1], x[2, 5], x[3, 332], x[4, 0] = 0, torch.nan, torch.inf, -torch.inf
    x[5, :3] = torch.tensor([0.5, 1.5, -2.5]) * x[5].abs().amax() / limit
    for fixed in (None, 0.0078125 * 3, 0.0):
        codes = round_rows(x, limit, fixed)
        given = None if fixed is None else torch.tensor([fixed])
        expected = reference.round_rows(x, limit, given)
        assert torch.equal(codes.values, expected.values)
        assert torch.equal(codes.scale.view(torch.int32), expected.scale.view(torch.int32))
