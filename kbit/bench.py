"""`kbit bench latency MODEL`: how fast a model generates in each format, and how fast it could.

Appendix E of the paper: with few sequences at a time, generation is bound by reading the weights,
so that latency follows their bits. The roofline is that bound: the bytes of the weights that one
step reads over the bandwidth of a copy on the same device in the same run.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from kbit.chosen_models import chosen_model
from kbit.output import add_format, print_frame
from orchestrator.arguments import belongs_to, does_nothing_beside, whole
from orchestrator.errors import InputError
from orchestrator.paths import database_url
from orchestrator.store.store import Store

if TYPE_CHECKING:
    from evaluation.measurement import Measurement
    from evaluation.speed.decoding import StepTime
    from orchestrator.study.models import ModelEntry
    from quantizers.setting import Setting

EXAMPLE = (
    "example: kbit bench latency sotu-neox-128x4 --bits 16 4 3 --batch 1 4 16 --db results/d.db\n"
    "         kbit bench latency sotu-neox-128x4 --bits 16 --integer w8a8 w4a8 --shapes table6\n"
    "On a GPU the packed weights are multiplied as they are; on the CPU every step dequantizes\n"
    "them, which shows that the path works, not that it is fast."
)


INTEGER_FORMATS: dict[str, dict[str, Any]] = {
    "w8a8": {"bits": 8, "block_size": "row", "activations": {"token": 8}},
    "w4a8": {"bits": 4, "block_size": {"group": 128}, "activations": {"token": 8}},
    "llm-int8": {"bits": 8, "block_size": "row", "activations": "decomposed"},
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    kinds = parser.add_subparsers(dest="bench", required=True, metavar="WHAT")
    latency = kinds.add_parser("latency", help="tokens a second of generation, by precision")
    latency.add_argument("model", help="a name of models.yaml")
    latency.add_argument("--models", type=Path, help="another models.yaml")
    latency.add_argument("--bits", type=whole(2, 16), nargs="+", default=[16, 8, 4, 3, 2])
    latency.add_argument(
        "--integer",
        nargs="+",
        default=[],
        choices=tuple(INTEGER_FORMATS),
        help="also weights and activations as integers; llm-int8 splits off large activations",
    )
    latency.add_argument("--data-type", help="default: float")
    latency.add_argument("--block-size", type=whole(1), help="default: 64")
    latency.add_argument("--batch", type=whole(1), nargs="+", help="default: 1 2 4 8 16")
    latency.add_argument(
        "--shapes",
        nargs="+",
        metavar="BxIxO",
        help="context and self-decoding apart, for batch x tokens in x tokens out: 8x1024x1; "
        "table6: the six of Ahmadian et al.",
    )
    latency.add_argument("--steps", type=whole(1), default=16, help="tokens timed (default: 16)")
    latency.add_argument("--db", help="also store the latencies, for kbit optimal and figure 16")
    add_format(latency)


def run(args: argparse.Namespace) -> int:
    if args.shapes:
        does_nothing_beside("--shapes", {"--batch": args.batch})
    if min(args.bits) == 16:
        belongs_to(
            "--bits below 16", {"--data-type": args.data_type, "--block-size": args.block_size}
        )
    import torch

    from evaluation.speed.decoding import seconds_a_step
    from evaluation.speed.roofline import bytes_a_step, copy_bandwidth
    from kbit.bench_serving import print_serving, serve_shapes, shapes_of
    from kbit.record import store_measurements

    entry = chosen_model(args.model, args.models)
    store = Store.create(database_url(args.db)) if args.db else None
    try:
        settings = [
            _config(bits, args.data_type or "float", args.block_size or 64) for bits in args.bits
        ]
        settings += [_integer(name) for name in args.integer]
        shapes = shapes_of(args.shapes or [])
    except ValueError as error:
        raise InputError(str(error)) from None
    device = "cuda" if torch.cuda.is_available() else "cpu"
    device_name = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    if shapes:
        served = []
        for setting in settings:
            model = packed_model(entry, setting, device)
            found = serve_shapes(model, shapes, args.steps, device_name)
            served += [(setting, serving) for serving, _ in found]
            if store is not None:
                stored = [measurement for _, measurement in found]
                store_measurements(store, entry, setting, device, device_name, stored)
        print_serving(served, args.format)
        return 0
    bandwidth = copy_bandwidth(device)
    rows: list[dict[str, Any]] = []
    for setting in settings:
        model = packed_model(entry, setting, device)
        size = bytes_a_step(model)
        measured = []
        for batch in args.batch or (1, 2, 4, 8, 16):
            step = seconds_a_step(model, batch, args.steps)
            seconds, roofline = step.seconds, batch * bandwidth / size
            rows.append(
                {
                    "bits": setting.bits,
                    "setting": setting.label,
                    "batch": batch,
                    "tokens_per_second": batch / seconds,
                    "ms_per_step": seconds * 1000,
                    "weight_bytes": size,
                    "roofline": roofline,
                    "of_roofline": batch / seconds / roofline,
                    "graph": step.graph,
                }
            )
            measured.append(_measurement(batch, step, size / bandwidth, args.steps, device_name))
        if store is not None:
            store_measurements(store, entry, setting, device, device_name, measured)
    frame = pd.DataFrame(rows)
    print_frame(frame, args.format)
    if args.format == "table":
        print(f"\n{entry.name} on {device_name}, copy bandwidth {bandwidth / 1e9:.1f} GB/s")
        print("roofline: tokens a second if a step only read its weight_bytes at that bandwidth")
    return 0


def _measurement(
    batch: int, step: StepTime, roofline: float, steps: int, device: str
) -> Measurement:
    """One latency as the database keeps it; `roofline` in seconds a step."""
    from analysis.answers.latency import LATENCY, ROOFLINE, latency_task
    from evaluation.measurement import Measurement, Metric
    from evaluation.speed.decoding import PROMPT_TOKENS

    metrics = (
        Metric(LATENCY, step.seconds * 1000, None, steps),
        Metric(ROOFLINE, roofline * 1000, None, steps),
    )
    protocol = {"device": device, "batch": batch, "steps": steps, "prompt": PROMPT_TOKENS}
    if step.graph:
        protocol["graph"] = True
    return Measurement(latency_task(batch), protocol, metrics)


def _config(bits: int, data_type: str, block_size: int) -> Setting:
    from quantizers.setting import Setting

    return Setting.make(bits, data_type, block_size=block_size)


def _integer(name: str) -> Setting:
    from quantizers.setting import Setting

    factors = dict(INTEGER_FORMATS[name])
    return Setting.make(factors.pop("bits"), "int", **factors)


def packed_model(entry: ModelEntry, setting: Setting, device: str) -> Any:
    """The model with its linear layers packed; on the CPU the rest computes in fp32."""
    import torch

    from orchestrator.run.worker import quiet_libraries
    from quantizers.integer_linear import pack_integers
    from quantizers.linear import pack_linears
    from quantizers.loading import load_model

    quiet_libraries()
    load_dtype = getattr(torch, entry.dtype)
    model, _ = load_model(entry.checkpoint, device)
    if setting.activation_format is None:
        pack_linears(model, setting, load_dtype)
    else:
        pack_integers(model, setting, load_dtype)
    return model.to(torch.float32) if device == "cpu" else model
