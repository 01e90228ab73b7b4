"""`kbit import`: other people's numbers into the same database."""

from __future__ import annotations

import argparse
from pathlib import Path

from orchestrator.errors import InputError
from orchestrator.paths import database_url
from orchestrator.store.imported_row import KNOWN, REQUIRED

EXAMPLE = (
    "example: kbit import published.csv --db results/published.db --source paper-table-3\n"
    "         kbit import results_2026.json --set family=llama --set n_params=6738415616 \\\n"
    "             --set bits=4 --set data_type=float --set block_size=64\n"
    f"A CSV needs the columns {', '.join(REQUIRED)} and bits or total_bits;\n"
    f"others are {', '.join(c for c in KNOWN if c not in REQUIRED)}.\n"
    "bits may be a fraction (1.58), block_size a number, row or group:128. A perplexity is a\n"
    "cross-entropy too, its logarithm. lm-eval's filters, but for `none`, stay in the name of a\n"
    "metric: exact_match,strict-match.\n"
    "One bad row, and nothing is imported."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, help="a CSV, or the JSON that lm-eval writes")
    parser.add_argument("--db", help="database to add to (default: results/kbit.db)")
    parser.add_argument("--source", help="name that marks the rows (default: the file's)")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="COLUMN=VALUE",
        help="a column that the file lacks (may be repeated)",
    )


def run(args: argparse.Namespace) -> int:
    from orchestrator.store.importing import read_import, store_rows
    from orchestrator.store.store import Store

    defaults = {}
    for text in args.set:
        column, equals, value = text.partition("=")
        if not equals:
            raise InputError(f"--set {text!r}: write COLUMN=VALUE")
        defaults[column.strip()] = value.strip()
    rows = read_import(args.file, args.source or args.file.name[:64], defaults)
    store = Store.create(database_url(args.db))
    new = store_rows(store, rows)
    experiments = len({row.experiment["id"] for row in rows})
    logarithms = any(row.measurement["metric"] == "perplexity" for row in rows)
    print(
        f"{new} of {len(rows)} rows are new, of {experiments} experiments "
        f"(source {rows[0].experiment['source']!r}): {store.url}"
        + ("\nperplexities of corpora count as cross-entropies too: their logarithms" * logarithms)
    )
    return 0
