"""What streaming a model takes, for `--dry-run`: bytes on its device, bytes that wait, bytes moved.

Sizes are those of the configs. Seconds are those of scoring, which stand beside (see estimate).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.run.calibration_cost import calibration_cost
from orchestrator.run.estimate import Rates, tokens_of
from orchestrator.study.experiment import Asked
from orchestrator.study.model_config import is_known, model_config
from orchestrator.study.model_size import size_of
from orchestrator.study.models import ModelEntry
from quantizers.dimensions import dimensions
from quantizers.units import format_bytes


@dataclass(frozen=True)
class StreamingCost:
    """Of one model. In bytes, but for `blocks`."""

    blocks: int
    around: int  # on its device: embeddings, norms and head
    block: int  # on its device: one block
    waiting: int  # hidden states of all settings and calibrations, in memory and on disk
    hessians: int  # of a block, where settings read calibrations

    @property
    def moved(self) -> int:
        """To the device and back, of hidden states."""
        return 2 * self.waiting * (self.blocks - 1)


@dataclass(frozen=True)
class Windows:
    """Tokens that are read, of every setting together; calibrations' among them."""

    tokens: float
    calibrated: bool = False


def streaming_cost(
    config: Mapping[str, Any], n_params: int, windows: Windows, itemsize: int
) -> StreamingCost | None:
    """itemsize: bytes of a value in the compute dtype. None where the config does not tell sizes.

    A block's share is that of the parameters that are not embeddings, positions or the head.
    """
    sizes, vocabulary = dimensions(config), config.get("vocab_size")
    if sizes is None or vocabulary is None:
        return None
    around = int(vocabulary) * sizes.embedding * (1 + sizes.head)
    if config.get("model_type") in ("gpt2", "opt"):  # learned positions
        places = config.get("n_positions") or config.get("max_position_embeddings") or 0
        around += int(places) * sizes.hidden
    return StreamingCost(
        sizes.layers,
        itemsize * around,
        itemsize * (n_params - around) // sizes.layers,
        int(itemsize * sizes.hidden * windows.tokens),
        4 * sum(d * d for d in sizes.block) if windows.calibrated else 0,
    )


def streaming_lines(
    asked: Sequence[Asked], names: Sequence[str], rates: Rates | None
) -> Iterator[str]:
    """A line for each of the named models. asked: what is to do."""
    for name in names:
        mine = [(e, protocols) for e, protocols in asked if e.model.name == name]
        first = mine[0][0]
        itemsize = 4 if first.compute_dtype == "float32" else 2
        size = size_of(first.model)
        known = {} if rates is None else rates.tokens
        tokens = sum(tokens_of(p, known) or 0 for _, protocols in mine for p in protocols)
        calibrated = {e.calibration: e for e, _ in mine if e.calibration is not None}
        tokens += sum(calibration_cost(e, None).tokens for e in calibrated.values())
        tokens += sum(calibration_cost(e, None).tokens for e, _ in mine if e.setting.is_sequential)
        cost = None
        if size is not None:
            windows = Windows(tokens, bool(calibrated))
            cost = streaming_cost(model_config(first.model), size, windows, itemsize)
        if cost is None:
            yield f"streaming {name}: {len(mine)} settings; {_why_unknown(first.model)}"
            continue
        parts = [
            f"{len(mine)} settings through {cost.blocks} blocks",
            f"{format_bytes(cost.around + cost.block)} of weights at a time beside a batch "
            f"({format_bytes(cost.block)} of them a block)",
            f"{format_bytes(cost.waiting)} of hidden states wait, "
            f"{format_bytes(cost.moved)} of them moved",
        ]
        parts += [f"{format_bytes(cost.hessians)} of Hessians"] if cost.hessians else []
        yield f"streaming {name}: {', '.join(parts)}"


def _why_unknown(model: ModelEntry) -> str:
    """The hub is not asked by a dry run, but its config.json is a small file."""
    if size_of(model) is None:
        return "its sizes are unknown: give n_params in models.yaml"
    if is_known(model_config(model)):
        return "its sizes are unknown: config.json does not tell them in a known way"
    revision = f" --revision {model.revision}" if model.revision else ""
    return f"its sizes are unknown here: hf download {model.hub} config.json{revision}"
