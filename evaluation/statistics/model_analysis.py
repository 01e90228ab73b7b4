"""Weights and activations of a model, site by site, on fixed windows of text.

*Intriguing properties of quantization at scale*, section 5 and appendix B: what the inputs of the
linear maps, the norms before them and their weights look like, and how far 8-bit vector-wise
quantization is off.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from evaluation.statistics import tensor_metrics as metrics
from evaluation.statistics.outlier_dimensions import (
    Z_THRESHOLD,
    OutlierCount,
    OutlierScan,
    z_scores,
)
from quantizers.wiring import Site, wiring_of

KINDS = ("qkv", "attention_output", "up", "down")
# The inputs that outlier dimensions are counted in, three a block; all of the model's width.
SCANNED = ("qkv", "attention_output", "up")
QUANTILES = (0.0, 0.001, 0.01, 0.25, 0.5, 0.75, 0.99, 0.999, 1.0)  # of weights and gains
BITS = 8  # of the quantization that errors are stated for: a row of X, a row of W
# Metrics of a site's input, as means over windows; the others are of weights and norms.
ACTIVATION_METRICS = (
    "rmse",
    "relative_rmse",
    "relative_output_error",
    "token_std",
    "token_crest",
    "max_to_median",
    "token_kurtosis",
    "neuron_kurtosis",
)


class ModelAnalysis:
    """Statistics of every site, and scans for outlier dimensions, of one model."""

    def __init__(self, model: Any, windows: Sequence[Sequence[int]]) -> None:
        """Runs the windows (token ids each) through the model. One window's input of one site is
        held at a time, and of the scans a row a token and layer.

        Raises ValueError for an architecture whose wiring is not known.
        """
        wiring = wiring_of(model)
        self._model = model
        self._sites = [site for site in wiring.linear if site.kind in KINDS and site.expert is None]
        if not self._sites:
            raise ValueError(f"{wiring.architecture}: what feeds its matrices is not known")
        self._quantized = {site.name: vectorwise(site.weight.float()) for site in self._sites}
        self._sums: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
        self.magnitudes, self.z_scores = OutlierScan(), OutlierScan()
        self.n_windows, self.n_tokens = len(windows), sum(map(len, windows))
        for window in windows:
            self._read(window)

    def sites(self) -> list[dict[str, Any]]:
        """A row a site in forward order: names, the metrics of its input, weights and norm."""
        return [
            {
                "site": site.name,
                "block": _block(site.name),
                "kind": site.kind,
                **{name: self._mean(site.name, name) for name in ACTIVATION_METRICS},
                "weight_std": metrics.weight_std(site.weight),
                "weight_kurtosis": metrics.weight_kurtosis(site.weight),
                "spectral_norm": metrics.spectral_norm(site.weight),
                "gain_std": self._gain_std(site),
            }
            for site in self._sites
        ]

    def distributions(self) -> list[dict[str, Any]]:
        """A row a site as in `sites`: QUANTILES of its weights and of the gain of the norm that it
        reads (`weight_q0.5`, `gain_q0.5`; no gain where it reads none)."""
        rows = []
        for site in self._sites:
            row = {"site": site.name, **_quantiles("weight", site.weight)}
            if site.norm is not None:
                row |= _quantiles("gain", self._model.get_submodule(site.norm).weight)
            rows.append(row)
        return rows

    def outliers(self, searched_threshold: float | None = None) -> dict[str, OutlierCount]:
        """Outlier dimensions by each rule. The searched threshold is that of the smallest model of
        a study; None: of this one, where it leaves one dimension by construction."""
        searched = searched_threshold
        if searched is None:
            searched = self.magnitudes.searched_threshold()
        return {
            "above 6.0": self.magnitudes.count(),
            "searched": self.magnitudes.count(searched),
            "z-score": self.z_scores.count(Z_THRESHOLD),
        }

    def _mean(self, site: str, name: str) -> float:
        return self._sums[site][name] / self.n_windows

    def _gain_std(self, site: Site) -> float | None:
        if site.norm is None:
            return None
        return metrics.gain_std(self._model.get_submodule(site.norm).weight)

    @torch.no_grad()
    def _read(self, window: Sequence[int]) -> None:
        device = next(self._model.parameters()).device
        layers: dict[str, Tensor] = {}
        hooks = [
            site.module.register_forward_pre_hook(self._hook(site, layers)) for site in self._sites
        ]
        try:
            self._model(input_ids=torch.tensor([list(window)], device=device), use_cache=False)
        finally:
            for hook in hooks:
                hook.remove()
        self.magnitudes.add_window([x.abs() for x in layers.values()])
        self.z_scores.add_window([z_scores(x) for x in layers.values()])

    def _hook(self, site: Site, layers: dict[str, Tensor]) -> Any:
        def hook(module: Any, inputs: tuple[Tensor, ...]) -> None:
            x = inputs[0].reshape(-1, inputs[0].shape[-1]).float()
            if site.kind in SCANNED and site.input == site.name:
                layers[site.name] = x.cpu()
            self._add(site, x)

        return hook

    def _add(self, site: Site, x: Tensor) -> None:
        sums, x_hat = self._sums[site.name], vectorwise(x)
        sums["rmse"] += metrics.rmse(x, x_hat)
        sums["relative_rmse"] += metrics.relative_rmse(x, x_hat)
        sums["relative_output_error"] += metrics.relative_output_error(
            x, site.weight.float(), x_hat, self._quantized[site.name]
        )
        for name in ACTIVATION_METRICS[3:]:
            sums[name] += getattr(metrics, name)(x)


def vectorwise(rows: Tensor, bits: int = BITS) -> Tensor:
    """Each row rounded to symmetric integers of its own scale, max / (2^(bits-1) - 1), halves to
    even, and back. An all-zero row stays."""
    levels = 2 ** (bits - 1) - 1
    scale = rows.abs().amax(dim=1, keepdim=True) / levels
    scale = torch.where(scale == 0, torch.ones_like(scale), scale)
    return (rows / scale).round() * scale


def _quantiles(name: str, values: Tensor) -> dict[str, float]:
    found = np.quantile(values.detach().float().cpu().numpy(), QUANTILES)
    return {f"{name}_q{q:g}": float(value) for q, value in zip(QUANTILES, found, strict=True)}


def _block(name: str) -> int | None:
    """The number of the decoder block in a module's name."""
    match = re.search(r"\.(\d+)\.", name)
    return int(match[1]) if match else None
