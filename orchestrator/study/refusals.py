"""Settings that some models of a sweep cannot have, as far as files tell before any work.

Where other models have the setting, the sweep goes on without those: they are stored as failed,
with the reason, as a worker would. What none of its models can have is a mistake in the sweep.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

from orchestrator.errors import InputError
from orchestrator.study.architecture_check import architecture_refusals
from orchestrator.study.calibration_check import window_refusals
from orchestrator.study.experiment import Experiment
from quantizers.setting import Setting

Refused = Mapping[tuple[str, Setting], str]  # model name, setting -> why


def find_refusals(experiments: list[Experiment], where: object) -> Refused:
    """Raises InputError, naming model and setting, for a setting that is refused by every model it
    is asked of."""
    refused: dict[tuple[str, Setting], str] = {}
    for refusals in (architecture_refusals, window_refusals):
        for experiment, reason in refusals(experiments):
            refused.setdefault((experiment.model.name, experiment.setting), reason)
    asked = Counter(experiment.setting for experiment in experiments)
    by_setting = Counter(setting for _, setting in refused)
    for (model, setting), reason in refused.items():
        if by_setting[setting] == asked[setting]:
            raise InputError(f"{where}: model {model} at {setting.label}: {reason}")
    return refused


def refusal_lines(refused: Refused) -> Iterator[str]:
    """A line for each reason of each model."""
    counts = Counter((model, reason) for (model, _), reason in refused.items())
    for (model, reason), n in counts.items():
        them = "1 experiment of it is" if n == 1 else f"{n} experiments of it are"
        yield f"model {model}: {reason}; {them} not run"
