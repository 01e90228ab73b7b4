"""A resident model and the statistics of it that settings read: collected once, then kept."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from evaluation.calibration_text import calibration_windows
from evaluation.data.cache_folder import cache_directory
from evaluation.engine.engine import Engine
from orchestrator.run.provenance import device_name
from orchestrator.study.calibrations import Calibration
from orchestrator.study.experiment import Experiment
from quantizers.calibration import Statistics, collect, free_memory, site_inputs
from quantizers.kept_statistics import KeptStatistics, statistics_key
from quantizers.resident import ResidentModel
from quantizers.setting import Setting
from quantizers.size import ModelBits
from quantizers.stack import Stack

# What GPTQ holds of each weight of a site beside the packed matrix: codes and errors on a CPU; on a
# GPU also weights, scales and means in the order of its columns.
_WORKING_BYTES = {"cpu": 8, "cuda": 40}

Read = tuple[KeptStatistics, Tensor]  # of a calibration: statistics, windows of token ids


class _Lost(Exception):
    """Statistics are gone from the cache while the model no longer has its 16-bit weights."""


class Calibrated:
    """Applies experiments to a resident model, with the statistics that they ask for."""

    def __init__(self, resident: ResidentModel, engine: Engine, device: str) -> None:
        """device: "cpu" | "cuda"."""
        self.resident = resident
        self._engine = engine
        self._device = device
        self._stack = Stack()
        self._kept: dict[tuple[Calibration, Setting], Read | ValueError] = {}
        self._may_collect = False

    def apply(self, experiment: Experiment, together: Sequence[Setting] = ()) -> ModelBits:
        """together: settings to be rounded in one go with this one, as far as memory allows.

        Raises ValueError as `ResidentModel.apply`, `calibration_windows` and `collect` do: what
        a calibration fails of, every experiment that asks for it fails of."""
        resident, calibration = self.resident, experiment.calibration
        if not experiment.setting.needs_statistics or calibration is None:
            return resident.apply(experiment.setting)
        setting, (statistics, windows) = experiment.setting, self._read(experiment, calibration)
        if setting not in self._stack:
            self._stack = Stack()  # what it holds goes first
            self._stack = Stack(self._fitting(setting, together))
        try:
            return resident.apply(setting, statistics, self._stack, windows)
        except _Lost:
            self._complete(statistics, setting.basis)
            return resident.apply(setting, statistics, self._stack, windows)

    def _fitting(self, setting: Setting, together: Sequence[Setting]) -> list[Setting]:
        """The setting, and as many of the others as half the free memory holds: all their matrices
        packed, those of one input while they are rounded."""
        if setting not in together:
            return [setting]
        model = self.resident.model
        sizes = [site.weight.numel() for site in self.resident.wiring.linear]
        working = _WORKING_BYTES[self._device] * max(sizes)
        room = free_memory(model.device) // 2 // (2 * sum(sizes) + working)
        first = together.index(setting)  # those before it are done, or another worker's
        return list(together[first : first + max(1, room)])

    def statistics(self, experiment: Experiment, calibration: Calibration) -> KeptStatistics:
        """Of the 16-bit model, as an experiment reads them. Raises ValueError as `apply`."""
        return self._read(experiment, calibration)[0]

    def _read(self, experiment: Experiment, calibration: Calibration) -> Read:
        basis = experiment.setting.basis
        if (calibration, basis) not in self._kept:
            try:
                made = self._make(experiment, calibration)
                self._complete(made[0], basis)
                self._kept[calibration, basis] = made
            except ValueError as error:
                self._kept[calibration, basis] = error.with_traceback(None)
        kept = self._kept[calibration, basis]
        if isinstance(kept, ValueError):
            raise kept
        return kept

    def _make(self, experiment: Experiment, calibration: Calibration) -> Read:
        entry, windows = experiment.model, read_windows(self._engine, calibration)
        basis = experiment.setting.basis
        turned = "" if basis.is_baseline else f" {basis.folding}"
        key = statistics_key(
            f"{entry.identity}@{experiment.revision}{turned}",
            windows,
            f"{entry.dtype} {experiment.compute_dtype}",
            "cpu" if self._device == "cpu" else device_name(self._device),
        )
        statistics = KeptStatistics(
            cache_directory() / "calibration" / key,
            site_inputs(self.resident.wiring),
            lambda: self._collect(windows),
        )
        return statistics, windows

    def _complete(self, statistics: KeptStatistics, basis: Setting) -> None:
        """Read everything once, so that what is missing is collected of the 16-bit model at
        `basis`."""
        self.resident.apply(basis)
        self._may_collect = True
        try:
            for name in statistics:
                statistics[name]
        finally:
            self._may_collect = False

    @torch.no_grad()
    def _collect(self, windows: Tensor) -> Iterator[tuple[str, Statistics]]:
        if not self._may_collect:
            raise _Lost
        resident = self.resident
        yield from collect(resident.model, resident.wiring, windows)


def read_windows(engine: Engine, calibration: Calibration) -> Tensor:
    """int64 [windows, length], the tokens of a calibration for an engine's model. Raises ValueError
    as `calibration_windows`, and for tokens that the model has no embeddings for."""
    n_embeddings = len(engine.model.get_input_embeddings().weight)
    text = calibration.text(engine.context)
    windows = calibration_windows(text, engine.encoder.tokenizer, n_embeddings)
    if int(windows.max()) >= n_embeddings:
        raise ValueError(
            f"calibration: its text has token {int(windows.max())}, the model has "
            f"{n_embeddings} embeddings; give the matching `tokenizer:` in models.yaml"
        )
    return windows
