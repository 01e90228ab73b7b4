"""`kbit figures`: the paper's figures from a database, one file each."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from analysis.curves.scaling import AXES
from kbit.database import add_db, open_store
from orchestrator.arguments import belongs_to
from orchestrator.errors import InputError
from orchestrator.outputs import folder_to_fill, results_folder
from quantizers.plain import reason

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from orchestrator.store.store import Store

EXAMPLE = (
    "example: kbit figures --db results/demo.db --format png --output results/figures\n"
    "PNG and SVG need a Chrome or Chromium browser on this machine."
)
WIDTH = 1200  # px; heights are the figures' own
WEIGHTS = "figure-06-codes-on-weights"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_db(parser)
    parser.add_argument("--format", choices=("html", "png", "svg"), default="html")
    parser.add_argument("--output", type=Path, help="folder (default: figures/ in the results)")
    parser.add_argument(
        "--only", action="append", metavar="NAME", help="figures whose name holds this"
    )
    parser.add_argument(
        "--axis", choices=tuple(AXES), default="total", help="what counts as size (default: total)"
    )
    parser.add_argument(
        "--weights", type=Path, help="model folder for figure 6 (default: one of the database's)"
    )


def run(args: argparse.Namespace) -> int:
    from analysis.claims.four_bit.figures import FIGURES
    from analysis.documents.markup import drawable
    from orchestrator.store.reading import mark_screened, read_results

    if args.format != "html":
        need_renderer("or take html")
    folder = folder_to_fill(args.output) if args.output else results_folder() / "figures"
    store = open_store(args.db)
    results = drawable(mark_screened(read_results(store), store))
    if results.empty:
        raise InputError(f"{store.url}: no results yet; run a sweep first")
    figures: dict[str, Callable[[], go.Figure]] = {
        name: partial(draw, results, axis=args.axis) for name, draw in FIGURES.items()
    }
    figures[WEIGHTS] = partial(weights_figure_of, store, args.weights)
    figures["figure-16-speed"] = partial(_speed_figure, results)
    wanted = args.only or [""]
    names = [name for name in sorted(figures) if any(part in name for part in wanted)]
    if not names:
        raise InputError(f"--only {', '.join(wanted)}: figures are {', '.join(sorted(figures))}")
    if WEIGHTS not in names:
        belongs_to(f"--only {WEIGHTS}", {"--weights": args.weights})
    written = write_figures({name: figures[name] for name in names}, folder, args.format)
    print(f"{written} figures: {folder}")
    return 0


def write_figures(draw: Mapping[str, Callable[[], go.Figure]], folder: Path, suffix: str) -> int:
    """Write figures as FOLDER/NAME.SUFFIX: html (self-contained), png (twice the pixels) or svg.

    What cannot be drawn (ValueError) is said and left out; returns how many are written. Raises
    InputError where the folder or the browser fails.
    """
    import plotly.io

    figures: dict[Path, go.Figure] = {}
    for name, make in draw.items():
        try:
            figures[folder / f"{name}.{suffix}"] = make()
        except ValueError as error:
            print(f"left out {name}: {error}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if suffix == "html":
            for path, figure in figures.items():
                figure.write_html(path, include_plotlyjs=True)
        elif figures:  # all at once: a browser takes seconds to start
            plotly.io.write_images(
                list(figures.values()),
                list(figures),
                width=WIDTH,
                height=[figure.layout.height for figure in figures.values()],  # else 500 for all
                scale=2 if suffix == "png" else 1,
            )
    except (RuntimeError, ValueError, OSError) as error:
        raise InputError(f"{folder}: figures cannot be written: {reason(error)[:200]}") from None
    return len(figures)


def need_renderer(instead: str) -> None:
    """Raises InputError (one line, ending in what to do `instead`) where images cannot be made."""
    from choreographer.browsers.chromium import Chromium

    if not Chromium.find_browser(skip_local=False):
        raise InputError(
            f"PNG and SVG need a Chrome or Chromium browser (set BROWSER_PATH), {instead}"
        )


def illustrations(store: Store, results: pd.DataFrame) -> dict[str, go.Figure]:
    """Figures 6 and 16, which are not scaling curves, where there is what they show."""
    made: dict[str, go.Figure] = {}
    with suppress(ValueError):
        made[WEIGHTS] = weights_figure_of(store)
    with suppress(ValueError):
        made["figure-16-speed"] = _speed_figure(results)
    return made


def weights_figure_of(store: Store, folder: Path | None = None) -> go.Figure:
    """Figure 6 on the largest matrix of a model folder, or of the largest model of the database.

    Raises ValueError where its weights are not on this machine.
    """
    from safetensors.torch import load_file

    from analysis.figures.illustrations import codes_on_weights, weights_figure
    from orchestrator.store.reading import model_sources

    given = [folder] if folder else [Path(source) for source in model_sources(store).values()]
    found = [path for path in given if (path / "model.safetensors").is_file()]
    if not found:
        where = str(folder) if folder else "any model of the database"
        raise ValueError(f"no model.safetensors of {where} on this machine; give --weights FOLDER")
    path = max(found, key=lambda path: (path / "model.safetensors").stat().st_size)
    weights = load_file(path / "model.safetensors")
    # The largest matrix inside the blocks: embeddings are not what is quantized by default.
    inside = {name: w for name, w in weights.items() if w.dim() == 2 and ".layers." in name}
    inside = inside or {name: w for name, w in weights.items() if w.dim() == 2}
    name = max(inside, key=lambda n: inside[n].numel())
    return weights_figure(codes_on_weights(inside[name]), of=f"{path.name}, {name}")


def _speed_figure(results: pd.DataFrame) -> go.Figure:
    from analysis.answers.latency import speedups
    from analysis.figures.illustrations import speed_figure

    speeds = speedups(results)
    return speed_figure(speeds, of=speeds["model"].iloc[0])
