"""`kbit demo`: the main job on the embedded models, from the sweep to the report."""

from __future__ import annotations

import argparse

from orchestrator.paths import results_dir

EXAMPLE = (
    "example: kbit demo\n"
    "The same as kbit sweep demo, kbit optimal and kbit report, one after another: about five\n"
    "minutes on two CPU cores. Database and report go to results/."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--executor", choices=("ray", "local"), default="ray")


def run(args: argparse.Namespace) -> int:
    from kbit.cli import main

    db = str(results_dir() / "demo.db")
    return (
        main(["sweep", "demo", "--db", db, "--executor", args.executor])
        or main(["optimal", "--db", db])
        or main(["report", "--db", db])
    )
