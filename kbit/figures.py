"""`kbit figures`: the paper's figures from a database, one file each."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from analysis.curves import AXES
from kbit.database import add_db, open_store
from orchestrator.errors import InputError
from orchestrator.paths import results_dir

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from orchestrator.store import Store

EXAMPLE = (
    "example: kbit figures --db results/demo.db --format png --output results/figures\n"
    "PNG and SVG need a Chrome or Chromium browser and `pip install 'kbit-scaling[figures]'`."
)
WIDTH = 1200  # px; heights are the figures' own


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
    parser.add_argument(
        "--speed",
        type=Path,
        help="CSV for figure 16: kind (roofline or measured), bits, batch, speedup",
    )


def run(args: argparse.Namespace) -> int:
    from analysis.paper_figures import FIGURES
    from orchestrator.reading import read_results

    if args.format != "html":
        _need_renderer()
    store = open_store(args.db)
    results = read_results(store)
    if results.empty:
        raise InputError(f"{store.url}: no results yet; run a sweep first")
    figures: dict[str, Callable[[], go.Figure]] = {
        name: partial(draw, results, axis=args.axis) for name, draw in FIGURES.items()
    }
    figures["figure-06-codes-on-weights"] = partial(_weights_figure, store, args.weights)
    figures["figure-16-speed"] = partial(_speed_figure, args.speed)
    wanted = args.only or [""]
    names = [name for name in sorted(figures) if any(part in name for part in wanted)]
    if not names:
        raise InputError(f"--only {', '.join(wanted)}: figures are {', '.join(sorted(figures))}")
    folder = (args.output or results_dir() / "figures").resolve()
    folder.mkdir(parents=True, exist_ok=True)
    written = 0
    for name in names:
        try:
            figure = figures[name]()
        except ValueError as error:
            print(f"left out {name}: {error}")
            continue
        write_figure(figure, folder / f"{name}.{args.format}")
        written += 1
    print(f"{written} figures: {folder}")
    return 0


def write_figure(figure: go.Figure, path: Path) -> None:
    """Write one figure by its suffix: .html (self-contained), .png (twice the pixels) or .svg."""
    if path.suffix == ".html":
        figure.write_html(path, include_plotlyjs=True)
        return
    try:
        figure.write_image(path, width=WIDTH, scale=2 if path.suffix == ".png" else 1)
    except (RuntimeError, ValueError, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{path.name}: the browser could not draw it: {reason}") from None


def _need_renderer() -> None:
    """Raises InputError (one line) where PNG and SVG cannot be made."""
    try:
        import kaleido  # noqa: F401
        from choreographer.browsers.chromium import Chromium
    except ImportError:
        raise InputError(
            "--format png and svg need kaleido: pip install 'kbit-scaling[figures]', or take html"
        ) from None
    if not Chromium.find_browser(skip_local=False):
        raise InputError(
            "--format png and svg need a Chrome or Chromium browser (set BROWSER_PATH), "
            "or take html"
        )


def _weights_figure(store: Store, folder: Path | None) -> go.Figure:
    from safetensors.torch import load_file

    from analysis.illustrations import codes_on_weights, weights_figure
    from orchestrator.reading import model_sources

    given = [folder] if folder else [Path(source) for source in model_sources(store).values()]
    found = [path for path in given if (path / "model.safetensors").is_file()]
    if not found:
        where = str(folder) if folder else "any model of the database"
        raise ValueError(f"no model.safetensors of {where} on this machine; give --weights FOLDER")
    weights = load_file(found[-1] / "model.safetensors")
    # The largest matrix inside the blocks: embeddings are not what is quantized by default.
    inside = {name: w for name, w in weights.items() if w.dim() == 2 and ".layers." in name}
    inside = inside or {name: w for name, w in weights.items() if w.dim() == 2}
    name = max(inside, key=lambda n: inside[n].numel())
    return weights_figure(codes_on_weights(inside[name]), of=f"{found[-1].name}, {name}")


def _speed_figure(path: Path | None) -> go.Figure:
    import pandas as pd

    from analysis.illustrations import speed_figure

    if path is None:
        raise ValueError("speed is measured on a GPU: give --speed FILE.csv")
    try:
        return speed_figure(pd.read_csv(path))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from None
