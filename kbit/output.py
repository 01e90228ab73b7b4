"""Printing a DataFrame as a table for people, or as CSV or JSON for programs."""

from __future__ import annotations

import argparse
import sys

import pandas as pd
from rich.console import Console
from rich.table import Table


def add_format(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--format", choices=("table", "csv", "json"), default="table")


def print_frame(frame: pd.DataFrame, style: str) -> None:
    """Write a frame to standard output. JSON is a list of objects with null for missing values."""
    if style == "csv":
        frame.to_csv(sys.stdout, index=False)
    elif style == "json":
        print(frame.to_json(orient="records", indent=1))
    else:
        _print_table(frame)


def _print_table(frame: pd.DataFrame) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in frame.columns:
        numeric = pd.api.types.is_numeric_dtype(frame[name])
        table.add_column(str(name), justify="right" if numeric else "left", no_wrap=numeric)
    for row in frame.itertuples(index=False):
        table.add_row(*(_cell(value) for value in row))
    # Not a terminal: as wide as the table needs, so that nothing is cut from a file or a pipe.
    console = _console()
    if not console.is_terminal:
        console = _console(width=10_000)
    console.print(table)


def _console(width: int | None = None) -> Console:
    """Shows text as it is: names are other people's."""
    return Console(highlight=False, markup=False, emoji=False, width=width)


def _cell(value: object) -> str:
    if value is None or pd.isna(value):  # type: ignore[call-overload]
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.5g}" if isinstance(value, float) else str(value)
