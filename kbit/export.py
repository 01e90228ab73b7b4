"""`kbit export`: a model at one setting as a directory that `transformers` loads."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import yaml

from analysis.curves.metrics import METRICS
from kbit.database import add_db, open_store
from kbit.export_answer import best_to_export, writer
from orchestrator.arguments import belongs_to, does_nothing_beside
from orchestrator.errors import InputError
from orchestrator.outputs import file_to_write, folder_to_fill, writing
from orchestrator.study.identity import Identified, identify
from orchestrator.study.models import ModelEntry
from orchestrator.study.spec import FACTORS
from quantizers.gguf_file import check_package
from quantizers.setting import Setting

if TYPE_CHECKING:
    from quantizers.calibration import Statistics
    from quantizers.export.conversion import Exported

EXAMPLE = """\
example: kbit export my-model --bits 4 --data-type float --block-size 64 --output my-model-4bit
         kbit export --from-answer --budget 4GiB --db results/my-sweep.db --output best
         kbit export my-model --bits 4 --data-type int --block-size '{group: 128}' \\
             --format compressed-tensors --output my-model-w4a16
         kbit export my-model --dtype bfloat16 --bits 4 --data-type int --block-size 32 \\
             --format gguf --output my-model-Q4_0.gguf
Load it:
    import kbit
    from transformers import AutoModelForCausalLM
    model = AutoModelForCausalLM.from_pretrained("best")"""
# Options that are factors of a sweep's grid, and what they are by default.
_FACTORS = {**FACTORS, "bits": 4}
del _FACTORS["calibration"]  # an option of its own: there is no sweep to name one
FORMATS = ("kbit", "compressed-tensors", "gguf")


class _Choice(NamedTuple):
    model: ModelEntry
    setting: Setting
    said: str  # what a database holds of it


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model", nargs="?", help="a name of models.yaml, or a local directory in the hub's format"
    )
    factors = parser.add_argument_group("setting", "factors as in a sweep file")
    for name, usual in _FACTORS.items():
        factors.add_argument(
            f"--{name.replace('_', '-')}", type=_yaml, metavar="VALUE", help=f"default: {usual}"
        )
    factors.add_argument(
        "--calibration", type=_yaml, help="for gptq: sotu, a file, or {corpus: sotu, windows: 64}"
    )
    answer = parser.add_argument_group("answer", "model and setting that a database says are best")
    answer.add_argument("--from-answer", action="store_true", help="the best that fits --budget")
    answer.add_argument("--budget", help="memory for the weights: 300KiB, 4GiB, or bits")
    answer.add_argument("--family", help="only this family")
    answer.add_argument("--metric", choices=tuple(METRICS), help="default: zero_shot")
    answer.add_argument("--task", help="a task, task set or corpus")
    add_db(parser)
    parser.add_argument("--models", type=Path, help="another models.yaml")
    parser.add_argument(
        "--dtype", choices=("float16", "bfloat16"), help="of a directory; default: float16"
    )
    parser.add_argument("--format", choices=FORMATS, default="kbit")
    parser.add_argument(
        "--output", type=Path, required=True, help="a directory to be made; gguf: a .gguf file"
    )


def _yaml(text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a value of YAML") from None


def run(args: argparse.Namespace) -> int:
    output = _place(args)
    choice = _answer(args) if args.from_answer else _asked(args)
    model, setting, said = choice
    print(f"{model.name} at {setting.label}{said}", flush=True)
    from orchestrator.run.worker import quiet_libraries

    quiet_libraries()
    try:
        done = _export(choice, args, output)
    except ValueError as error:
        raise InputError(str(error)) from None
    print(
        f"{output}: {done.file_bytes:,} bytes of weights, {done.bits.total_bits / 8:,.0f} by "
        "kbit's count (16-bit constants, one table a model)"
    )
    if done.loader != "AutoModelForCausalLM":  # which does not know models that also see
        print(f"load it by {done.loader}")
    return 0


def _place(args: argparse.Namespace) -> Path:
    if args.format != "gguf":
        return folder_to_fill(args.output)
    check_package()
    if args.output.suffix != ".gguf":
        raise InputError(f"--output {args.output}: a GGUF file's name ends in .gguf")
    return file_to_write(args.output)


def _export(choice: _Choice, args: argparse.Namespace, output: Path) -> Exported:
    from quantizers.export.conversion import export, exportable
    from quantizers.export.gguf_blocks import Gguf
    from quantizers.export.gguf_file import check_gguf_model, export_gguf

    model, setting, _ = choice
    written = writer(args.format)
    written.check(setting)
    if setting.needs_statistics:  # before text is read; the export itself begins so, too
        check_model = check_gguf_model if isinstance(written, Gguf) else exportable
        check_model(model.checkpoint)
    statistics = _statistics(identify(model), setting, args)
    with writing(output):
        if isinstance(written, Gguf):
            return export_gguf(model.checkpoint, setting, output, statistics)
        return export(model.checkpoint, setting, written, output, statistics)


def _asked(args: argparse.Namespace) -> _Choice:
    """What the options say."""
    if args.model is None:
        raise InputError("give a model, or --from-answer with --budget")
    answer = ("budget", "family", "metric", "task", "db")
    belongs_to("--from-answer", {f"--{name}": getattr(args, name) for name in answer})
    given = {name: getattr(args, name) for name in _FACTORS}
    factors: dict[str, Any] = {
        name: _FACTORS[name] if v is None else v for name, v in given.items()
    }
    try:
        label = _calibration(args).label if args.calibration else None
        setting = Setting.make(**factors, calibration=label)
    except ValueError as error:
        raise InputError(str(error)) from None
    if not setting.needs_statistics:
        belongs_to("a method that reads text (gptq)", {"--calibration": args.calibration})
    return _Choice(_entry(args), setting, "")


def _answer(args: argparse.Namespace) -> _Choice:
    """The best that fits, of what a database holds and the format can express."""
    if args.budget is None:
        raise InputError("--from-answer: give --budget")
    if given := [name for name in ("model", *_FACTORS) if getattr(args, name) is not None]:
        raise InputError(f"--from-answer: the answer says {given[0]}; leave it out")
    belongs_to("a directory, and no answer", {"--dtype": args.dtype})
    from kbit.chosen_models import chosen_model
    from orchestrator.store.reading import read_results
    from orchestrator.study.experiment import Experiment

    store = open_store(args.db)
    results = read_results(store)
    best = best_to_export(results, args, store.url)
    entry = chosen_model(best.model, args.models)  # never a folder of that name
    model = identify(entry)
    revision = store.revision_of(model)
    ids = {
        Experiment(model.entry, revision, best.setting, dtype).id
        for dtype in ("float32", entry.dtype)
    }
    if not ids & set(results["experiment_id"]):
        raise InputError(
            f"{best.model}: its files are not those that were measured; give the models.yaml of "
            "the sweep, or sweep again"
        )
    metric = args.metric or "zero_shot"
    return _Choice(entry, best.setting, f": {metric} {best.value:.4f} in {store.url}")


def _entry(args: argparse.Namespace) -> ModelEntry:
    from kbit.chosen_models import chosen_model

    name = args.model
    if os.path.isdir(name) or name.endswith(".gguf"):
        does_nothing_beside(f"the folder {name}", {"--models": args.models})
        folder = Path(name).resolve()
        entry = ModelEntry(family=folder.name, name=folder.name, path=str(folder))
        return entry.model_copy(update={"dtype": args.dtype or entry.dtype})
    belongs_to("a directory; models.yaml says that of a name", {"--dtype": args.dtype})
    return chosen_model(name, args.models)


def _calibration(args: argparse.Namespace) -> Any:
    from pydantic import ValidationError

    from orchestrator.study.calibrations import Calibration
    from orchestrator.study.problem import first_problem

    given = args.calibration
    try:
        return Calibration.model_validate(given if isinstance(given, dict) else {"corpus": given})
    except ValidationError as error:
        raise InputError(f"--calibration: {first_problem(error)}") from None


def _statistics(
    model: Identified, setting: Setting, args: argparse.Namespace
) -> Mapping[str, Statistics] | None:
    """Of the 16-bit model held whole, for settings that read calibration text."""
    if not setting.needs_statistics:
        return None
    if not args.calibration:
        raise InputError(f"{setting.label}: reads calibration text; name it by --calibration")
    calibration = _calibration(args)
    if calibration.label != setting.calibration:
        raise InputError(
            f"--calibration: this is {calibration.label}, the setting was made on "
            f"{setting.calibration}"
        )
    import torch

    from evaluation.engine.engine import Engine
    from orchestrator.run.calibrating import Calibrated
    from orchestrator.study.experiment import Experiment
    from quantizers.loading import load_model
    from quantizers.resident import ResidentModel

    device = "cuda" if torch.cuda.is_available() else "cpu"
    entry, dtype = model.entry, getattr(torch, model.entry.dtype)
    loaded, tokenizer = load_model(entry.checkpoint, device)
    compute_dtype = entry.dtype if device == "cuda" else "float32"
    resident = ResidentModel(loaded, dtype, getattr(torch, compute_dtype))
    experiment = Experiment(entry, model.revision, setting, compute_dtype, calibration)
    engine = Engine(resident.model, tokenizer)
    return Calibrated(resident, engine, device).statistics(experiment, calibration)
