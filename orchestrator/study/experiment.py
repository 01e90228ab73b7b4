"""What is measured, and how: experiments and protocols, each with a stable id."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from evaluation.measurement import Measurement
from orchestrator.study.calibrations import Calibration
from orchestrator.study.models import ModelEntry
from quantizers.setting import Setting


def content_id(value: Any) -> str:
    """sha256 of the canonical JSON of a value."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class Protocol:
    """How one task or corpus is measured: what two rows must share to be comparable.

    `source` is what the evaluation is given: the task's name, or a corpus's name or file;
    `data_files` the local copy of its data, if any (its content counts, its place does not).
    """

    task: str
    kind: str  # "task" | "corpus" | "sample" (a few items of either, for adaptive sweeps)
    settings: dict[str, Any] = field(hash=False)
    source: str
    data_files: str | None = None

    @cached_property
    def id(self) -> str:
        return content_id({"task": self.task, "kind": self.kind, **self.settings})


@dataclass(frozen=True)
class Experiment:
    """A model at one quantization setting, computed in one dtype."""

    model: ModelEntry
    revision: str
    setting: Setting
    compute_dtype: str
    calibration: Calibration | None = None  # that the setting's label of it stands for
    groups_are_blocks: bool = False  # its groups divide all rows: `group: 64` is `64`, one id

    @cached_property
    def id(self) -> str:
        setting = replace(self.setting, by_row=False) if self.groups_are_blocks else self.setting
        return content_id(
            {
                "model": self.model.identity,
                "revision": self.revision,
                "load_dtype": self.model.dtype,
                "quantization": setting.identity(),
                "compute_dtype": self.compute_dtype,
            }
        )


Asked = tuple[Experiment, list[Protocol]]  # what a sweep asks for of an experiment

SAMPLE = "_sample"  # what the metrics of a sample end in


def as_sample(measured: Measurement) -> Measurement:
    """A measurement as a sample's: metrics of its own, so that no analysis takes it for more."""
    metrics = [measured.metric(name) for name in measured.items]
    return replace(
        measured,
        metrics=tuple(replace(metric, name=metric.name + SAMPLE) for metric in metrics),
        items={name + SAMPLE: scores for name, scores in measured.items.items()},
    )
