"""Log-probabilities of given tokens: plain torch's, and the CUDA kernel's own source on the CPU."""

import shutil

import pytest
import torch

from quantizers import kernels
from quantizers.kernels import launches, reference
from quantizers.kernels.build import Instance
from tests.quantizers.cuda_on_cpu.run import Emulator

DTYPES = (torch.float16, torch.bfloat16, torch.float32)
needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
# Less than a vector, rows that begin at every offset, a thread's first and second vectors.
COLUMNS = (1, 3, 8, 257, 2047, 2048, 4099, 12_289)


@pytest.fixture(scope="module")
def emulator(tmp_path_factory):
    instances = [Instance("logprob", (dtype,)) for dtype in DTYPES]
    return Emulator(instances, tmp_path_factory.mktemp("logprob"))


def example(columns, dtype, rows=9, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, columns, generator=generator).mul(5).to(dtype)
    targets = torch.randint(columns, (rows,), generator=generator)
    targets[::2] = logits[::2].argmax(dim=-1)
    return logits, targets


def exact(logits, targets):
    """In float64, and by argmax."""
    logprobs = logits.double().log_softmax(dim=-1).gather(1, targets[:, None])[:, 0]
    return logprobs, logits.argmax(dim=-1) == targets


def emulated(emulator, logits, targets, greedy=True):
    launch, logprobs, flags = launches.token_logprobs(logits, targets, greedy)
    logprobs.fill_(7)
    emulator.run(launch)
    return logprobs, flags


@needs_compiler
@pytest.mark.parametrize("columns", COLUMNS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_logprobs_are_those_of_float64(emulator, dtype, columns):
    logits, targets = example(columns, dtype)
    expected, likeliest = exact(logits, targets)
    for logprobs, flags in (
        kernels.token_logprobs(logits, targets, greedy=True),
        emulated(emulator, logits, targets),
    ):
        torch.testing.assert_close(logprobs.double(), expected, rtol=1e-6, atol=1e-6)
        assert torch.equal(flags, likeliest)


@needs_compiler
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_first_of_equal_logits_is_the_likeliest_wherever_the_other_is(emulator, dtype):
    places = [0, 1, 7, 8, 250, 2047, 2048, 2300, 4098]
    pairs = [(a, b) for a in places for b in places if a != b]
    logits = torch.zeros(len(pairs), 4099, dtype=dtype)
    for row, pair in enumerate(pairs):
        logits[row, list(pair)] = 3
    targets = torch.tensor([target for target, _ in pairs])
    expected = [target < other for target, other in pairs]
    for flags in (
        kernels.token_logprobs(logits, targets, greedy=True)[1],
        emulated(emulator, logits, targets)[1],
    ):
        assert flags.tolist() == expected


@needs_compiler
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_rows_that_are_not_finite_are_as_in_torch(emulator, dtype):
    inf, nan = torch.inf, torch.nan
    rest, whole = slice(3, None), slice(None)
    cases = [  # (what stands where), and the target
        ([(5, nan)], 5), ([(5, nan)], 6), ([(5, nan), (9, nan)], 9), ([(9, nan), (700, nan)], 9),
        ([(5, nan), (9, inf)], 9), ([(5, inf)], 5), ([(5, inf), (9, inf)], 9), ([(5, -inf)], 5),
        ([(9, -inf)], 5), ([(rest, -inf)], 2), ([(rest, -inf)], 800), ([(whole, -inf)], 0),
        ([(whole, -inf)], 4), ([(whole, nan)], 0), ([(whole, nan)], 4),
    ]  # fmt: skip
    logits, _ = example(1001, dtype, rows=len(cases))
    for row, (values, _) in zip(logits, cases, strict=True):
        for place, value in values:
            row[place] = value
    targets = torch.tensor([target for _, target in cases])
    expected, likeliest = exact(logits, targets)
    for logprobs, flags in (
        kernels.token_logprobs(logits, targets, greedy=True),
        emulated(emulator, logits, targets),
    ):
        torch.testing.assert_close(
            logprobs.double(), expected, rtol=1e-6, atol=1e-6, equal_nan=True
        )
        assert torch.equal(flags, likeliest)


@needs_compiler
def test_flags_are_left_out_where_nobody_asks(emulator):
    logits, targets = example(999, torch.float16)
    logprobs, flags = emulated(emulator, logits, targets, greedy=False)
    assert flags is None
    assert torch.equal(logprobs, emulated(emulator, logits, targets)[0])


@needs_compiler
def test_a_token_beyond_the_vocabulary_is_nan_and_nothing_else_is_read(emulator):
    logits, _ = example(100, torch.float16, rows=2)
    logprobs, flags = emulated(emulator, logits, torch.tensor([100, -1]))
    assert logprobs.isnan().all() and not flags.any()


def test_greedy_is_the_first_of_equal_logits_and_nan_is_the_largest():
    logits = torch.tensor(
        [[0.0, 2.0, 2.0], [0.0, 2.0, 2.0], [1.0, 1.0, 1.0], [1.0, torch.nan, 3.0], [0.0, 3.0, 1.0]]
    )
    targets = torch.tensor([1, 2, 0, 2, 1])
    expected = logits.argmax(dim=-1) == targets
    logprobs, greedy = kernels.token_logprobs(logits, targets, greedy=True)
    assert greedy is not None
    assert greedy.tolist() == expected.tolist() == [True, False, True, False, True]
    reference = logits.log_softmax(dim=-1)[torch.arange(5), targets]
    torch.testing.assert_close(logprobs, reference, equal_nan=True)


def test_what_the_kernel_does_not_cover():
    logits, targets = example(100, torch.float64)
    assert launches.token_logprobs(logits, targets, True) is None
    assert launches.token_logprobs(torch.empty(0, 9), targets[:0], True) is None
    logprobs, flags = kernels.token_logprobs(torch.empty(0, 9), targets[:0], True)
    assert logprobs.shape == flags.shape == (0,)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"logits": torch.zeros(9)}, "logits: must be floating"),
        ({"logits": torch.zeros(9, 4).int()}, "logits: must be floating"),
        ({"targets": torch.zeros(8).long()}, r"targets: must be int64 \[9\]"),
        ({"targets": torch.zeros(9).int()}, "not torch.int32"),
        ({"targets": torch.zeros(9, device="meta").long()}, "targets: is on meta"),
    ],
)
def test_arguments_that_disagree(change, message):
    logits, targets = example(4, torch.float32)
    with pytest.raises(ValueError, match=message):
        kernels.token_logprobs(**{"logits": logits, "targets": targets, "greedy": True, **change})


@pytest.mark.parametrize("vocabulary", [2048, 49_152, 128_256])
@pytest.mark.parametrize("path", [kernels, reference], ids=["cpu", "reference"])
def test_large_vocabularies_are_within_1e_6_of_float64(path, vocabulary):
    """torch's own log_softmax is off by 4e-6 on average at the largest."""
    generator = torch.Generator().manual_seed(vocabulary)
    logits = torch.randn(32, vocabulary, generator=generator).mul(3)
    targets = torch.randint(vocabulary, (32,), generator=generator)
    expected, _ = exact(logits, targets)
    logprobs, _ = path.token_logprobs(logits, targets, greedy=False)
    rounding = expected.abs() * 2**-24  # to the fp32 result
    assert ((logprobs.double() - expected).abs() <= 5e-7 + rounding).all()
    assert abs((logprobs.double() - expected).mean()) <= 2e-7
