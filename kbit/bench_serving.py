"""`kbit bench latency MODEL --shapes`: context decoding and self-decoding apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from kbit.output import print_frame
from orchestrator.errors import InputError

if TYPE_CHECKING:
    from evaluation.measurement import Measurement
    from evaluation.speed.serving import Serving, Shape
    from quantizers.setting import Setting


def shapes_of(spelled: Sequence[str]) -> list[Shape]:
    """Of 8x1024x1, or table6 for its six. Raises ValueError."""
    from evaluation.speed.serving import TABLE_6, Shape

    shapes: list[Shape] = []
    for text in spelled:
        shapes += TABLE_6 if text == "table6" else (Shape.parse(text),)
    return list(dict.fromkeys(shapes))


def serve_shapes(
    model: Any, shapes: Sequence[Shape], steps: int, device_name: str
) -> list[tuple[Serving, Measurement]]:
    """What each shape takes, and the same as the database keeps it. Raises InputError for one that
    is too long for the model."""
    from evaluation.speed.serving import check_positions, serve

    try:
        check_positions(model, shapes)
    except ValueError as error:
        raise InputError(str(error)) from None
    found = [serve(model, shape, steps) for shape in shapes]
    return [(serving, _measurement(serving, steps, device_name)) for serving in found]


def _measurement(serving: Serving, steps: int, device_name: str) -> Measurement:
    from analysis.answers.serving import CONTEXT, LATENCY, PEAK, RATE, STEP, serving_task
    from evaluation.measurement import Measurement, Metric
    from evaluation.speed.serving import REPEATS

    shape = serving.shape
    timed = min(steps, shape.output - 1)
    metrics = [
        Metric(CONTEXT, serving.context * 1000, None, REPEATS),
        Metric(LATENCY, serving.latency * 1000, None, timed or REPEATS),
        Metric(RATE, serving.tokens_per_second, None, timed or REPEATS),
    ]
    if serving.step is not None:
        metrics.append(Metric(STEP, serving.step * 1000, None, timed))
    if serving.peak is not None:
        metrics.append(Metric(PEAK, serving.peak, None, 1))
    protocol: dict[str, Any] = {"device": device_name, "shape": str(shape), "steps": steps}
    return Measurement(serving_task(str(shape)), protocol, tuple(metrics))


def print_serving(served: Sequence[tuple[Setting, Serving]], form: str) -> None:
    """Ratios are over the setting at 16 bit, where it was measured with them."""
    full = {serving.shape: serving for setting, serving in served if setting.is_baseline}
    rows = []
    for setting, serving in served:
        base = full.get(serving.shape)
        row = {
            "setting": setting.label,
            "shape": str(serving.shape),
            "context_ms": serving.context * 1000,
            "step_ms": None if serving.step is None else serving.step * 1000,
            "latency_ms": serving.latency * 1000,
            "tokens_per_second": serving.tokens_per_second,
            "peak_bytes": serving.peak,
            "gain": None if base is None else base.latency / serving.latency,
            "less_memory": None if base is None else _memory_saved(serving, base),
            "graph": serving.graph,
        }
        rows.append(row)
    print_frame(pd.DataFrame(rows), form)
    if form == "table":
        print("gain: times as fast as 16 bit, so also in tokens a second; less_memory: share saved")
        print("a step is timed in the middle of the output")


def _memory_saved(serving: Serving, base: Serving) -> float | None:
    """Share of the peak; None on a CPU."""
    if serving.peak is None or base.peak is None:
        return None
    return 1 - serving.peak / base.peak
