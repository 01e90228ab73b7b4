"""A study's results as two files to commit: the flat rows, and compact per-item scores.

`results.csv.gz` has the columns of every CSV here. `items.npz` holds what paired comparisons need:
an array per task and metric, a row per experiment in the CSV's order of first appearance. Other
CSV files beside them are the study's tables of what is no score.
"""

import gzip
import io
import lzma
import os
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import pandas as pd

from analysis.curves.metrics import COLUMNS, RUN_COLUMNS, SCREENED
from analysis.noise.bootstrap import ItemScores
from evaluation.tasks.sets import TASK_SETS
from quantizers.plain import reason
from quantizers.setting import ADDED_COLUMNS

_T = TypeVar("_T")
_STEP = 1e-3  # nats: far below the differences of a window's loss that precisions make
# "16" is one, too.
_WORDS = {name: str for name, value in ADDED_COLUMNS.items() if isinstance(value, str)}
_INTEGERS = ("n_params", "exponent_bits", "block_size", "total_bits", "quantized_bits")
_RUN_INTEGERS = ("seed", "step")


def write_study(folder: Path, results: pd.DataFrame, scores: ItemScores) -> None:
    """Write both files of `results` (the flat view) and the items of its tasks to `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    beside = [
        name for name in (*RUN_COLUMNS, SCREENED) if name in results and results[name].notna().any()
    ]
    order = ["family", "n_params", "bits", "experiment_id"]  # 16 bit first: the others are near it
    up = [True, True, False, True]
    results = results[[*COLUMNS, *beside]].sort_values(order, ascending=up, kind="stable")
    text = results.to_csv(index=False, float_format="%.9g").encode()
    experiments = results.drop_duplicates("experiment_id")
    ids = experiments["experiment_id"].tolist()
    _, first, model = np.unique(experiments["model"], return_index=True, return_inverse=True)
    base = first[model]  # the row of its model that each one is told as a difference from
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_LZMA) as file:
        for task, metric in _scored(results):
            found = scores(ids, task, metric, None)
            if found:
                member = zipfile.ZipInfo(f"{task}.{metric}.npy")
                member.compress_type = zipfile.ZIP_LZMA
                buffer = io.BytesIO()
                np.save(buffer, _encode(ids, base, found))
                file.writestr(member, buffer.getvalue())
    # No time stamp: the same results are the same bytes.
    _replace(folder / "results.csv.gz", gzip.compress(text, mtime=0))
    _replace(folder / "items.npz", archive.getvalue())


def add_to_study(folder: Path, results: pd.DataFrame, scores: ItemScores) -> None:
    """Add the rows and items of experiments that the folder does not hold yet."""
    if not (folder / "results.csv.gz").exists():
        write_study(folder, results, scores)
        return
    before, stored = read_study(folder)

    def both(
        ids: Sequence[str], task: str, metric: str, protocol: str | None = None
    ) -> Mapping[str, np.ndarray]:
        return {**stored(ids, task, metric, protocol), **scores(ids, task, metric, protocol)}

    write_study(folder, pd.concat([before, results], ignore_index=True), both)


def read_study(folder: Path) -> tuple[pd.DataFrame, ItemScores]:
    """The flat rows and the item scores that write_study wrote.

    Scores of losses are rounded to 0.001 nats. An experiment without items gives none. Raises
    FileNotFoundError without the files, and ValueError, naming the file, for one that is damaged.
    """
    results = _intact(_read_rows, folder / "results.csv.gz")
    items = _intact(_read_items, folder / "items.npz")
    place = {id_: i for i, id_ in enumerate(results["experiment_id"].unique())}
    if any(len(rows) != len(place) for rows in items.values()):
        raise ValueError(f"{folder / 'items.npz'} is of other experiments than results.csv.gz")

    def scores(
        ids: Sequence[str], task: str, metric: str, protocol: str | None = None
    ) -> Mapping[str, np.ndarray]:
        stored = items.get(f"{task}.{metric}")
        if stored is None:
            return {}
        known = {id_: stored[place[id_]] for id_ in ids if id_ in place}
        return {id_: row for id_, row in known.items() if np.isfinite(row).all()}

    return results, scores


def read_tables(folder: Path) -> dict[str, pd.DataFrame]:
    """What else a study keeps: its other CSV files, by name (`sites.csv.gz` -> sites)."""
    paths = [*folder.glob("*.csv"), *folder.glob("*.csv.gz")]
    return {
        path.name.split(".")[0]: _intact(pd.read_csv, path)
        for path in sorted(paths)
        if path.name != "results.csv.gz"
    }


def _replace(path: Path, content: bytes) -> None:
    """Write a file whole, or not at all."""
    partial = path.with_suffix(".partial")
    partial.write_bytes(content)
    os.replace(partial, path)


def write_table(folder: Path, name: str, rows: pd.DataFrame) -> None:
    """Keep `rows` beside a study's results, as read_tables finds them."""
    text = rows.to_csv(index=False, float_format="%.6g").encode()
    _replace(folder / f"{name}.csv.gz", gzip.compress(text, mtime=0))


def add_to_table(folder: Path, name: str, rows: pd.DataFrame, key: str) -> None:
    """Add rows to a table, in the place of those with the same `key`."""
    before = read_tables(folder).get(name)
    if before is not None:
        rows = pd.concat([before[~before[key].isin(rows[key])], rows], ignore_index=True)
    write_table(folder, name, rows)


def _intact(read: Callable[[Path], _T], path: Path) -> _T:
    try:
        return read(path)
    except FileNotFoundError:
        raise
    except (
        OSError,
        EOFError,
        ValueError,
        KeyError,
        zlib.error,
        lzma.LZMAError,
        zipfile.BadZipFile,
    ) as error:
        raise ValueError(f"{path} cannot be read: {reason(error)}") from None


def _read_rows(path: Path) -> pd.DataFrame:
    results = pd.read_csv(path, dtype=_WORDS)
    added = {name: value for name, value in ADDED_COLUMNS.items() if name not in results}
    results = results.assign(**added)
    if missing := [column for column in COLUMNS if column not in results]:
        raise ValueError(f"it lacks the column(s) {', '.join(missing)}")
    for name in RUN_COLUMNS:
        if name not in results:
            results[name] = pd.NA
    return results.astype(dict.fromkeys((*_INTEGERS, *_RUN_INTEGERS), "Int64"))


def _read_items(path: Path) -> dict[str, npt.NDArray[np.float32]]:
    with np.load(path) as file:
        return {name: _decode(file[name]) for name in file.files}


def _scored(results: pd.DataFrame) -> list[tuple[str, str]]:
    """(task, metric) that curves are made of and that `results` hold."""
    there = set(zip(results["task"], results["metric"], strict=True))
    zero_shot = {pair for tasks in TASK_SETS.values() for pair in tasks.items()}
    return sorted(pair for pair in there if pair in zero_shot or pair[1] == "cross_entropy")


def _encode(
    ids: Sequence[str], base: npt.NDArray[np.intp], found: Mapping[str, np.ndarray]
) -> npt.NDArray[np.int32]:
    """Scores in steps, int32 [n, items + 2]; all but a model's first as differences from it.

    Two columns follow: 1 where there are scores of the usual number, all finite and of a size that
    steps can hold; and the row of the model's first.
    """
    lengths = [len(x) for x in found.values()]
    n = max(set(lengths), key=lengths.count)
    table = np.full((len(ids), n), np.nan)
    for i, id_ in enumerate(ids):
        if len(found.get(id_, ())) == n:
            table[i] = found[id_]
    known = (np.abs(table) < 1e5).all(axis=1)  # False for NaN and inf as well
    steps = np.round(np.where(known[:, None], table, 0) / _STEP).astype(np.int32)
    differs = base != np.arange(len(ids))
    steps[differs] -= steps[base[differs]]
    return np.column_stack([steps, known.astype(np.int32), base.astype(np.int32)])


def _decode(stored: npt.NDArray[np.int32]) -> npt.NDArray[np.float32]:
    steps, known, base = stored[:, :-2].copy(), stored[:, -2], stored[:, -1]
    differs = base != np.arange(len(base))
    steps[differs] += steps[base[differs]]
    return np.where(known[:, None] == 1, steps * np.float32(_STEP), np.nan).astype(np.float32)
