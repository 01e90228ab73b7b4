"""Models with planted outliers, as folders that a sweep can score: a study's positive control."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kbit.analyze import parse_plant
from kbit.study_file import OpenedStudy
from orchestrator.study.models import ModelEntry


def write_planted(study: OpenedStudy) -> Path:
    """The last model of the study's first run, each of its `plants` in turn, below its output.

    Returns their models.yaml.
    """
    import yaml

    from analysis.claims.intriguing.runs import PLANTED
    from quantizers.loading import load_model
    from quantizers.plant import plant

    run, folder = study.runs[0], study.place.output / "planted"
    tokenizer, seed, step = str(study.place.tokenizer), run.recipe.seed, run.recipe.steps
    path, families = str(study.place.output / run.name), {}
    for told in study.plants:
        entry = ModelEntry(family=run.family, name=run.name, path=path, tokenizer=tokenizer)
        model: Any = load_model(entry.checkpoint, "cpu")[0]
        model.float()
        plant(model, *parse_plant(told), seed)
        model.half().save_pretrained(folder / told)
        name = f"{run.name} {PLANTED}{told}"
        families[f"{run.family} {PLANTED}{told} seed {seed} step {step}"] = {
            "tokenizer": tokenizer,
            "context": run.recipe.context,
            "variant": PLANTED + told,
            "seed": seed,
            "step": step,
            "models": [{"name": name, "path": told, "run": name}],
        }
    models = folder / "models.yaml"
    models.write_text(yaml.safe_dump({"families": families}, sort_keys=False))
    return models
