"""What the calibrations of a sweep will take, for `--dry-run`: bytes of statistics and seconds.

A pass over n tokens costs what scoring them does, and H = (2/n) sum x x^T of inputs of d channels
d^2 multiplications a token beside the model's one a parameter. Sizes are those of the configs; what
is in the cache already is not collected again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from orchestrator.run.estimate import Rates, rate_of
from orchestrator.study.calibrations import MOST_BY_DEFAULT, Calibration
from orchestrator.study.experiment import Experiment
from orchestrator.study.model_config import context_of, model_config
from orchestrator.study.models import ModelEntry
from quantizers.dimensions import Dimensions, dimensions
from quantizers.units import format_bytes

FEW = 10  # tokens an input, below which GPTQ was seen to do worse than nearest (README)
_TOKEN_MAXIMA = 640 * 8  # bytes of an input's histogram


@dataclass(frozen=True)
class CalibrationCost:
    """Of one calibration on one model. None: not known."""

    tokens: int
    size: int | None  # bytes that are kept
    block: int | None  # bytes that the Hessians of a block take
    seconds: float | None
    widest: int | None = None  # inputs of the widest matrix

    @property
    def is_short(self) -> bool:
        """Whether there are few tokens for what is estimated of them."""
        return self.widest is not None and self.tokens < FEW * self.widest


def calibration_cost(experiment: Experiment, rates: Rates | None) -> CalibrationCost:
    """Of the calibration that an experiment reads."""
    model, calibration = experiment.model, experiment.calibration
    assert calibration is not None
    tokens = calibration.windows * _length(calibration, model)
    sizes = dimensions(model_config(model))
    if sizes is None:
        return CalibrationCost(tokens, None, None, None)
    inputs = _inputs(sizes)
    squares = sum(d * d for d in inputs)
    rate = None if rates is None else rate_of(rates, model, experiment.compute_dtype)
    seconds = None
    if rate is not None:
        seconds = rate.a_token * tokens * (1 + squares / rate.n_params)
    kept = 4 * squares + sum(8 * d + _TOKEN_MAXIMA for d in inputs)
    return CalibrationCost(tokens, kept, 4 * sum(d * d for d in sizes.block), seconds, max(inputs))


def calibration_lines(
    experiments: Iterable[Experiment], names: dict[str, str], rates: Rates | None
) -> Iterator[str]:
    """A line for each calibration that experiments read. names: label -> name."""
    read: dict[str, dict[str, Experiment]] = {}
    for_hessians: set[str] = set()
    for experiment in experiments:
        if experiment.setting.calibration is not None:
            models = read.setdefault(experiment.setting.calibration, {})
            models.setdefault(experiment.model.name, experiment)
            if experiment.setting.needs_hessians:
                for_hessians.add(experiment.setting.calibration)
    for label, models in read.items():
        costs = [calibration_cost(experiment, rates) for experiment in models.values()]
        known = [c.size for c in costs if c.size is not None]
        seconds = [c.seconds for c in costs if c.seconds is not None]
        blocks = [c.block for c in costs if c.block is not None]
        parts = [f"{sum(c.tokens for c in costs):,} tokens"]
        if known:
            most, block = format_bytes(max(known)), format_bytes(max(blocks))
            parts += [f"{format_bytes(sum(known))} of statistics, of one model at most {most}"]
            parts[-1] += f" (a block after another, {block}, where half the free memory is less)"
        if seconds:
            parts += [f"about {sum(seconds):.2g} s"]
        elif known:
            parts += ["seconds unknown, nothing comparable is measured yet"]
        if lacking := len(costs) - len(known):
            parts += [
                f"of {lacking} models the sizes are unknown (no config.json of a known kind here)"
            ]
        if (short := sum(cost.is_short for cost in costs)) and label in for_hessians:
            parts += [f"on {short} models fewer than {FEW} tokens an input: GPTQ may overfit"]
        name = names.get(label, label)
        yield f"calibration {name}: once for each of {len(costs)} models: {', '.join(parts)}"


def _inputs(sizes: Dimensions) -> list[int]:
    """Channels of everything that is recorded."""
    return [*sizes.block * sizes.layers, *([sizes.hidden] if sizes.head else [])]


def _length(calibration: Calibration, model: ModelEntry) -> int:
    return calibration.length or min(context_of(model) or MOST_BY_DEFAULT, MOST_BY_DEFAULT)
