"""The sums of errors that GPTQ's column loop takes off each block of columns."""

import importlib.util
from importlib import import_module

import numba
import numpy as np
import pytest
from llvmlite import binding

from quantizers.rounding.gptq_loops import BLOCK, TILE

SIGNATURE = "void(f4[::1], i8, f4[::1], f4[::1])"


def module(monkeypatch, features):
    """The module as a processor with these features would have it."""
    monkeypatch.setattr(binding, "get_host_cpu_features", lambda: features)
    spec = importlib.util.find_spec("quantizers.rounding.gptq_sums")
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


@pytest.fixture(scope="module")
def case():
    """Ratios [n, n] of a last block that is not whole, and errors [n, TILE]."""
    generator = np.random.default_rng(0)
    n = 5 * BLOCK + 7
    ratios = np.tril(generator.standard_normal((n, n)), -1).astype(np.float32)
    return ratios, generator.standard_normal((n, TILE)).astype(np.float32)


def sums_of(made, case):
    """fp32 [n, TILE]: what all columns before its block take off each column."""
    ratios, errors = case
    n, found = len(ratios), []
    loop = numba.njit(SIGNATURE, fastmath={"contract"})(made.add_up)
    panels = made.panels(ratios)
    for begin in range(0, n, BLOCK):
        sums = np.full(BLOCK * TILE, np.nan, np.float32)
        loop(panels, begin, errors.ravel(), sums)
        found.append(sums.reshape(BLOCK, TILE)[: n - begin])
    return np.concatenate(found)


def test_sums_are_those_of_the_columns_before_a_block(case):
    ratios, errors = case
    found = sums_of(import_module("quantizers.rounding.gptq_sums"), case)
    for begin in range(0, len(ratios), BLOCK):
        expected = ratios[begin : begin + BLOCK, :begin].astype(float) @ errors[:begin]
        np.testing.assert_allclose(found[begin : begin + BLOCK], expected, atol=1e-4)
    assert not found[:BLOCK].any()


def test_wide_and_narrow_vectors_give_the_same_bits(monkeypatch, case):
    wide = sums_of(module(monkeypatch, {"avx512f": True}), case)
    narrow = sums_of(module(monkeypatch, {}), case)
    assert wide.tobytes() == narrow.tobytes()
