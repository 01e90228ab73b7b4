"""The `kbit` command: one subcommand a question.

Bad input ends with one line on standard error and exit code 2; a database that is gone with 3;
Ctrl-C with 130.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
from collections.abc import Callable
from functools import partial
from importlib import import_module

from kbit import sources
from orchestrator.arguments import Parser
from orchestrator.run.interrupt import run_program

# Subcommand -> (module with add_arguments and run, one-line help). Modules are imported when used:
# `kbit --help` must not wait for torch.
COMMANDS = {
    "demo": ("kbit.demo", "the main job on the embedded models: sweep, answer, report"),
    "sweep": ("orchestrator.sweep", "run the experiments a sweep file asks for"),
    "status": ("kbit.status", "what a database holds: done, failed, by family and precision"),
    "results": ("kbit.results", "the rows of the flat results view"),
    "optimal": ("kbit.optimal", "which model size and precision is best for a memory budget"),
    "report": ("kbit.report", "one self-contained HTML file with figures and tables"),
    "export": ("kbit.export", "a model at one setting, as a directory that transformers loads"),
    "figures": ("kbit.figures", "the paper's figures as PNG, SVG or HTML files"),
    "import": ("kbit.importing", "other people's numbers, from CSV or lm-eval JSON"),
    "sites": ("kbit.sites", "ranges, formats and what clamps, where activations are rounded"),
    "convert": ("kbit.convert", "a GGUF file as a 16-bit checkpoint"),
    "merge": ("kbit.merge", "several databases in one, by the ids of their experiments"),
    "compare": ("kbit.compare", "what two databases measured differently, item by item"),
    "export-dataset": ("kbit.export_dataset", "the results as Parquet files with a data card"),
    "recipes": ("kbit.recipes", "what the names in a sweep file's `recipe` stand for"),
    "doctor": ("kbit.doctor", "what the kernels found here, and why a path is not taken"),
    "analyze": ("kbit.analyze", "what weights and activations of models look like"),
    "plant": ("kbit.plant", "write models with planted outliers, to sweep like any"),
    "outliers": ("kbit.outliers", "do weights tell where large features are (table 2)"),
    "study": ("kbit.study", "a document: each claim of the paper on these results"),
    "bench": ("kbit.bench", "how fast a model generates at each precision"),
    "train": ("kbit.train", "train one of the embedded models from its recipe"),
    "train-study": ("kbit.train_study", "train the variants that a study file asks for"),
    "qat": ("kbit.qat", "train a model to compute with few bits (LLM-QAT)"),
    "score-study": ("kbit.score_study", "quantize and score what a training study has left"),
}


# Their matrix products are small: waking BLAS threads costs more than it saves. They end soon, too:
# collecting garbage among millions of rows takes a fifth of their time and frees nothing.
_SHORT = ("optimal", "report", "figures", "study")


def main(argv: list[str] | None = None) -> int:
    if argv is None:
        return run_program(lambda: main(sys.argv[1:]))
    if argv[:1] and argv[0] in _SHORT:
        gc.disable()
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    parser = Parser(
        prog="kbit",
        description="k-bit inference scaling laws: which model size, at which precision, "
        "is best for a memory budget?",
        epilog="example: kbit sweep sweeps/demo.yaml && kbit optimal --budget 1MiB",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    run: Callable[[argparse.Namespace], int] | None = None
    for name, (module_name, help_line) in COMMANDS.items():
        if argv[:1] == [name]:
            module = import_module(module_name)
            command = commands.add_parser(
                name,
                help=help_line,
                description=help_line,
                epilog=module.EXAMPLE,
                formatter_class=argparse.RawDescriptionHelpFormatter,
            )
            module.add_arguments(command)
            run = module.run
        else:
            commands.add_parser(name, help=help_line)
    args = parser.parse_args(argv)
    assert run is not None

    from orchestrator.run.endings import ending

    try:
        return ending(partial(_answer, run, args))
    finally:
        sources.databases.clear()
        gc.enable()


def _answer(run: Callable[[argparse.Namespace], int], args: argparse.Namespace) -> int:
    code = run(args)
    for url in dict.fromkeys(sources.databases):
        print(f"database: {url}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
