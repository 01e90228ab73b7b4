"""What settings ask of an architecture that it cannot do, as its config.json tells."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from orchestrator.study.experiment import Experiment
from orchestrator.study.model_config import is_known, model_config
from quantizers.architectures import problem


def architecture_refusals(experiments: Iterable[Experiment]) -> Iterator[tuple[Experiment, str]]:
    """Each experiment that cannot be, and why. A model whose config.json is not here yet is not
    judged: its worker stores what it finds as failed."""
    for experiment in experiments:
        setting = experiment.setting
        if setting.is_weight_only and setting.attention_bits is None:
            continue
        config = model_config(experiment.model)
        if is_known(config) and (said := problem(setting, config)):
            yield experiment, said
