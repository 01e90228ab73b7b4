"""`kbit study`: a study written up as Markdown, from results that are committed with it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.claims.papers import PAPERS
from kbit.database import open_store
from kbit.figures import need_renderer, write_figures
from kbit.sites import QUANTITIES
from orchestrator.errors import InputError
from orchestrator.outputs import file_to_write, folder_to_fill, writing
from orchestrator.paths import IS_CHECKOUT, ROOT, real, results_dir

EXAMPLE = (
    "example: kbit study docs/embedded-study --db results/embedded.db\n"
    "         kbit study                          # again, from the committed results alone\n"
    "         kbit study --paper gptq             # another paper's claims, on its own results\n"
    "Writes FOLDER.md. FOLDER holds results.csv.gz and items.npz, which --db renews, and figures."
)

# Of what was recorded of single matrices, the other columns of a setting are in the results.
SITE_COLUMNS = ["experiment_id", "model", "folding", "activations", "site", "quantity"]
SITE_COLUMNS += ["value", "label"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "folder",
        type=Path,
        nargs="?",
        help="where the study's results lie (default: the paper's own, below docs/, "
        "or with --db below results/)",
    )
    parser.add_argument(
        "--paper",
        choices=tuple(PAPERS),
        default="four-bit",
        help="whose claims are tested (default: four-bit)",
    )
    parser.add_argument(
        "--db", action="append", help="take the results from this database (may be repeated)"
    )
    parser.add_argument("--title", help="the document's heading (default: the folder's name)")
    parser.add_argument(
        "--text-only", action="store_true", help="leave the figures as they are (no browser needed)"
    )


def run(args: argparse.Namespace) -> int:
    from analysis.claims.paper import Study
    from analysis.documents.study import study_document
    from analysis.documents.study_data import read_study, read_tables

    paper = PAPERS[args.paper]
    # What a database holds must not replace a committed study unless that is asked for by name.
    kept = ROOT / "docs" if IS_CHECKOUT and not args.db else results_dir()
    usual = kept / paper.folder
    folder = real(args.folder or usual)
    folder_to_fill(folder, "FOLDER")
    document = file_to_write(folder.with_suffix(".md"), "document")
    if not args.text_only:
        need_renderer("or give --text-only")
    if args.db:
        with writing(folder, "FOLDER"):
            _renew(folder, args.db)
    try:
        study = Study(*read_study(folder), read_tables(folder))
    except FileNotFoundError as error:
        raise InputError(f"{error.filename}: no such file; give --db to take results") from None
    except ValueError as error:
        raise InputError(f"{error}; give --db to take the results anew") from None
    if not args.text_only:
        draw = {name: partial(make, study) for name, make in paper.figures.items()}
        write_figures(draw, folder, "svg")
    shown = {path.stem: f"{folder.name}/{path.name}" for path in sorted(folder.glob("*.svg"))}
    try:
        named = paper.title if folder == usual else folder.name.replace("-", " ")
        text = study_document(paper, study, args.title or named[0].upper() + named[1:], shown)
    except ValueError as error:
        raise InputError(f"{folder}: {error}") from None
    with writing(document, "document"):
        document.write_text(text, encoding="utf-8")
    print(f"study: {document}")
    return 0


def _renew(folder: Path, databases: list[str]) -> None:
    """Write the results of the databases, which must not share experiments, to the folder."""
    from analysis.documents.study_data import write_study, write_table
    from orchestrator.store.reading import (
        mark_screened,
        read_item_scores,
        read_results,
        read_site_records,
    )

    stores = [open_store(db) for db in databases]
    frames = [mark_screened(read_results(store), store) for store in stores]
    ids_in = [set(frame["experiment_id"]) for frame in frames]
    for i, ids in enumerate(ids_in):
        for j in range(i):
            if ids & ids_in[j]:
                raise InputError(f"{databases[j]} and {databases[i]} hold the same experiments")
    results = pd.concat(frames, ignore_index=True)
    if results.empty:
        raise InputError(f"{', '.join(databases)}: no results yet; run a sweep first")

    def scores(
        ids: Sequence[str], task: str, metric: str, protocol: str | None = None
    ) -> dict[str, np.ndarray]:
        found = (read_item_scores(store, ids, task, metric, protocol) for store in stores)
        return {id_: items for each in found for id_, items in each.items()}

    write_study(folder, results, scores)
    sites = pd.concat([read_site_records(store, QUANTITIES) for store in stores])
    if len(sites):
        write_table(folder, "sites", sites[SITE_COLUMNS])
