"""What cannot be scored block by block, as far as the plan and config.json tell."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from evaluation.engine.model_config import Config
from orchestrator.errors import InputError
from orchestrator.study.experiment import Experiment
from orchestrator.study.model_config import is_known, model_config
from quantizers.architectures import streaming_problem
from quantizers.dimensions import dimensions
from quantizers.setting import Setting


def check_streaming(experiments: Iterable[Experiment], where: Path) -> None:
    """Raises InputError naming model and setting. A model whose config.json is not here yet is not
    judged: its worker stores what it finds as failed."""
    for experiment in experiments:
        if said := streaming_refusal(experiment):
            raise InputError(
                f"{where}: model {experiment.model.name} at {experiment.setting.label}: {said}; "
                "set compute.streaming to false, or leave that out"
            )


def streaming_refusal(experiment: Experiment) -> str | None:
    """Why an experiment cannot be scored block by block; None: nothing says so."""
    config = model_config(experiment.model)
    problem = streaming_problem(config) if is_known(config) else None
    return problem or _setting_problem(experiment.setting, config)


def _setting_problem(setting: Setting, config: Config) -> str | None:
    if setting.is_rotated:
        return "streaming: hadamard turns the stream that all blocks share"
    if not setting.needs_statistics:
        return None
    if setting.is_sequential and not setting.is_weight_only:
        return "streaming: hessian sequential goes with weights alone"
    sizes = dimensions(config)
    if sizes is None:
        return None
    if setting.scope == "all" and sizes.head:
        return "streaming: what the output head reads of calibration text is not collected"
    if sizes.embedding != sizes.hidden:
        return "streaming: what its projections read of calibration text is not collected"
    return None
