"""The table of finished runs: one row a model, appended at once; weights may be gone, rows stay."""

from __future__ import annotations

import csv
import os
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from training.errors import Diverged
from training.recipe import Recipe
from training.study import Run

_MEASURED = (
    "n_params",
    "linear_params",
    "tokens_seen",
    "heldout_loss",
    "heldout_tokens",
    "training_loss",
    "clipped_steps",
    "seconds",
    "device",
    "sha256",
)
_RECIPE = tuple(f.name for f in fields(Recipe))
COLUMNS = (
    *("run", "family", "size", "variant", "seed", "step", "status", "error"),
    *_MEASURED,
    *("skipped_steps", "gradient_norm_quantiles", "text", "tokenizer", "digest"),
    *(name for name in _RECIPE if name != "seed"),
)


@dataclass(frozen=True)
class Source:
    """What a run is trained on: versions of text and tokenizer."""

    text: str
    tokenizer: str


class RunTable:
    """Rows of `path`. One process appends; any may read."""

    def __init__(self, path: Path, source: Source) -> None:
        self.path, self.source = path, source
        self._drop_half_row()
        self.rows = self._read()

    def finished(self, run: Run) -> bool:
        """Whether the table has this run with this text and tokenizer, also as diverged."""
        last = str(run.recipe.steps)
        return any(
            row["digest"] == run.recipe.digest
            and (row["text"], row["tokenizer"]) == (self.source.text, self.source.tokenizer)
            and (row["step"] == last or row["status"] == "diverged")
            for row in self.rows
        )

    def add(self, run: Run, outcome: list[dict[str, Any]] | Diverged) -> None:
        """Append the manifests of a finished run, all of its steps in one write."""
        if isinstance(outcome, Diverged):
            rows = [{"status": "diverged", "error": str(outcome)}]
        else:
            rows = [_measured(manifest) for manifest in outcome]
        shared = {
            "run": run.name,
            "family": run.family,
            "size": run.size,
            "variant": run.variant,
            "text": self.source.text,
            "tokenizer": self.source.tokenizer,
            "digest": run.recipe.digest,
            **run.recipe.as_dict(),
        }
        self._append([{c: str({**shared, **row}.get(c, "")) for c in COLUMNS} for row in rows])

    def _append(self, rows: list[dict[str, str]]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        new = not self.path.exists()
        with self.path.open("a", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            if new:
                writer.writeheader()
            writer.writerows(rows)
            file.flush()
            os.fsync(file.fileno())
        self.rows += rows

    def _read(self) -> list[dict[str, str]]:
        if not self.path.exists():
            return []
        with self.path.open(newline="") as file:
            reader = csv.DictReader(file)
            if reader.fieldnames != list(COLUMNS):
                raise ValueError(f"{self.path}: not a table of runs of this version")
            return list(reader)

    def _drop_half_row(self) -> None:
        """A process that was killed while it wrote may have left a row without an end."""
        if not self.path.exists():
            return
        content = self.path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            os.truncate(self.path, whole)


def _measured(manifest: dict[str, Any]) -> dict[str, Any]:
    row = {name: manifest[name] for name in _MEASURED}
    quantiles = " ".join(f"{q}:{v:.4g}" for q, v in manifest["gradient_norms"].items())
    skipped = " ".join(map(str, manifest["skipped_steps"]))
    counted = {"skipped_steps": skipped, "gradient_norm_quantiles": quantiles}
    return {"step": manifest["step"], "status": "done", **row, **counted}


def write_models_file(path: Path, runs: list[Run], tokenizer: Path) -> int:
    """A models.yaml of the models whose weights are here, for `kbit sweep --models`.

    A family is one variant, seed and step in all its sizes, so that no curve joins two runs.
    Returns the number of models.
    """
    families: dict[str, Any] = {}
    for run in runs:
        for step in run.steps_kept:
            folder = Path(run.name) / (f"step-{step:06d}" if step != run.recipe.steps else "")
            if not (path.parent / folder / "manifest.json").exists():
                continue
            trained = {"variant": run.variant, "seed": run.recipe.seed, "step": step}
            told = f"{run.family} {run.variant} seed {run.recipe.seed} step {step}"
            shared = {"tokenizer": str(tokenizer), "context": run.recipe.context, **trained}
            family = families.setdefault(told, {**shared, "models": []})
            name = model_name(run, step)
            family["models"].append({"name": name, "path": str(folder), "run": run.name})
    partial = path.with_suffix(".partial")
    partial.write_text(yaml.safe_dump({"families": families}, sort_keys=False))
    os.replace(partial, path)
    return sum(len(family["models"]) for family in families.values())


def model_name(run: Run, step: int) -> str:
    """Of the model that a run left after `step` steps, in models.yaml and in results."""
    return f"{run.name}-{step}"
