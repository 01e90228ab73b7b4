"""What settings ask of an architecture that it cannot do, as its config.json tells."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from orchestrator.errors import InputError
from orchestrator.study.experiment import Experiment
from orchestrator.study.model_config import is_known, model_config
from quantizers.architectures import problem


def check_architectures(experiments: Iterable[Experiment], where: Path) -> None:
    """Raises InputError naming model and setting. A model whose config.json is not here yet is not
    judged: its worker stores what it finds as failed."""
    for experiment in experiments:
        setting = experiment.setting
        if setting.is_weight_only and setting.attention_bits is None:
            continue
        config = model_config(experiment.model)
        if is_known(config) and (said := problem(setting, config)):
            raise InputError(
                f"{where}: model {experiment.model.name} at {setting.label}: {said}, or leave the "
                "model out of that grid (`models: [...]`)"
            )
