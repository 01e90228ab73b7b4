"""GPTQ of whole models against the published algorithm in fp64: every architecture, data type and
block size, centered or not, with outlier columns or without, fused and grouped QKV, Conv1D."""

import math
from itertools import product

import numpy as np
import pytest
import torch

from quantizers.blockwise import spread
from quantizers.calibration import collect
from quantizers.outliers import quantize_matrix
from quantizers.resident import ResidentModel
from quantizers.setting import Setting
from quantizers.stack import Stack
from tests.quantizers.tiny_models import VOCAB, tiny_model

WINDOWS = torch.randint(VOCAB, (40, 30), generator=torch.Generator().manual_seed(1))
ARCHITECTURES = ("gpt2", "opt", "gpt_neox", "bloom", "llama")
WIDTHS = {"int": 3, "float": 4, "dynamic": 4, "quantile": 3}
BLOCKS = (1, 7, 64, 100, "row", None, {"group": 7})
MARGIN = 1e-6  # relative: nearer to the middle between two codes, either may be right


def published(weight, hessian, nearest, columns):
    """Frantar et al. 2022 with the scales of rounding to nearest, a plain loop in fp64.

    Returns what each weight becomes, and which rows came too close to call, both in place.
    """
    body, kept = nearest.body, columns.tolist()
    free = [c for c in range(weight.shape[1]) if c not in kept]
    scale, mean = np.zeros(weight.shape), np.zeros(weight.shape)
    scale[:, free] = spread(body.absmax.double(), body.blocks).view(body.shape).numpy()
    if body.mean is not None:
        mean[:, free] = spread(body.mean.double(), body.blocks).view(body.shape).numpy()
    table = body.codebook.numpy()
    middle = ((table[1:] + table[:-1]) * np.float32(0.5)).astype(float)
    h = hessian.double().numpy().copy()
    dead = np.diag(h) == 0  # units that a ReLU never lets through
    h[~dead, ~dead] += 0.01 * np.diag(h)[~dead].mean()
    h[dead, dead] = 1
    steps = np.array([*sorted(free, key=lambda c: -float(hessian[c, c])), *kept])
    upper = np.linalg.cholesky(np.linalg.inv(h[np.ix_(steps, steps)])).T
    left = weight.double().numpy()[:, steps].copy()
    close = np.zeros(len(left), bool)
    for i, column in enumerate(steps):
        w, m, c = left[:, i].copy(), scale[:, column], mean[:, column]
        if column in kept:
            value = w
        else:
            x = np.divide(w - c, m, out=np.zeros_like(w), where=m > 0)
            codes = np.searchsorted(middle, x)
            gap = np.abs(x[:, None] - middle).min(1) * m if len(middle) else np.inf
            close |= (m > 0) & (gap < MARGIN * np.maximum(m, np.abs(w)))
            value = table[codes] * m.astype(np.float32)
            value = value if body.mean is None else value + c.astype(np.float32)
        value = torch.from_numpy(value).half().double().numpy()
        left[:, i] = value
        left[:, i + 1 :] -= np.outer((w - value) / upper[i, i], upper[i, i + 1 :])
    return left[:, np.argsort(steps)], close


@pytest.fixture(scope="module")
def calibrated():
    """By architecture: a resident model, what reaches its matrices, and the original matrices."""
    made = {}
    for name in ARCHITECTURES:
        resident = ResidentModel(tiny_model(name, layers=2))
        statistics = dict(collect(resident.model, resident.wiring, WINDOWS))
        weights = {site.name: site.weight.half().contiguous() for site in resident.wiring.linear}
        made[name] = resident, statistics, weights
    return made


@pytest.mark.parametrize("half", [0, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("data_type", WIDTHS)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_weights_are_those_of_the_published_algorithm(calibrated, architecture, data_type, half):
    """Every pair of factors meets in the first half, every combination in both."""
    resident, statistics, weights = calibrated[architecture]
    sites = [site for site in resident.wiring.linear if ".1." in site.name]  # has a block before it
    every = product(BLOCKS, (False, True), (0.0, 0.1))
    skipped = (half + list(WIDTHS).index(data_type)) % 2
    factors = [
        {"block_size": block, "centered": centered, "outlier_fraction": fraction}
        for i, (block, centered, fraction) in enumerate(every)
        if (i + i // 2) % 2 != skipped
    ]
    given = [
        Setting.make(WIDTHS[data_type], data_type, rounding="gptq", **factor) for factor in factors
    ]
    stack, compared, sure = Stack(given), 0, 0
    for setting, factor in zip(given, factors, strict=True):
        resident.apply(setting, statistics, stack)
        nearest = Setting.make(WIDTHS[data_type], data_type, **factor)
        for site in sites:
            columns = resident._proxies.columns(site, setting.outlier_fraction)
            packed = quantize_matrix(weights[site.name], nearest, columns)
            count = math.ceil(setting.outlier_fraction * site.weight.shape[1])
            assert len(packed.columns) == count
            expected, close = published(
                weights[site.name], statistics[site.input].hessian, packed, packed.columns
            )
            found = site.weight.double().numpy()
            body = [c for c in range(found.shape[1]) if c not in packed.columns.tolist()]
            assert np.array_equal(found[~close][:, body], expected[~close][:, body]), (
                setting.label,
                site.name,
            )
            np.testing.assert_allclose(found[~close], expected[~close], rtol=2e-3, atol=1e-4)
            compared, sure = compared + len(close), sure + int((~close).sum())
    resident.undo()
    assert sure > 0.9 * compared
