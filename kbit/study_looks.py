"""What the models of a training study look like: metrics beside their scores, a row a matrix."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from kbit.study_file import OpenedStudy
from orchestrator.errors import InputError
from orchestrator.study.models import ModelEntry

if TYPE_CHECKING:
    from orchestrator.store.store import Store


def scored_rows(folder: Path) -> pd.DataFrame:
    """The rows that are stored; none where there is no study yet."""
    from analysis.curves.metrics import COLUMNS, RUN_COLUMNS
    from analysis.documents.study_data import read_study

    try:
        return read_study(folder)[0]
    except FileNotFoundError:
        return pd.DataFrame(columns=[*COLUMNS, *RUN_COLUMNS])
    except ValueError as error:
        raise InputError(str(error)) from None


def look_at(
    study: OpenedStudy, entry: ModelEntry, store: Store, scored: pd.DataFrame
) -> pd.DataFrame:
    """Metrics of weights and activations, stored as measurements of the model at 16 bit; their
    values matrix by matrix, with quantiles of weights and gains: rows of the table `matrices`."""
    import torch

    from evaluation.statistics.model_analysis import ModelAnalysis
    from evaluation.statistics.outlier_dimensions import WINDOWS
    from kbit.analyze import as_measurement
    from kbit.model_windows import model_and_windows
    from kbit.record import store_measurements
    from quantizers.setting import Setting

    device = "cuda" if torch.cuda.is_available() else "cpu"
    model, windows, protocol = model_and_windows(entry, _corpus(study), device, windows=WINDOWS)
    analysis = ModelAnalysis(model, windows)
    measured = as_measurement(analysis, protocol, _searched_threshold(scored, entry))
    name = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    store_measurements(store, entry, Setting.make(16), device, name, [measured])
    sites = pd.DataFrame(analysis.sites()).merge(pd.DataFrame(analysis.distributions()), on="site")
    return sites.assign(
        model=entry.name,
        family=entry.family,
        run=entry.run,
        variant=entry.variant,
        seed=entry.seed,
    )


def _corpus(study: OpenedStudy) -> str:
    """The text that the ladder scores."""
    from orchestrator.study.spec import load_sweep

    return next(c.source for path in study.ladder for c in load_sweep(path).corpora)


def _searched_threshold(scored: pd.DataFrame, entry: ModelEntry) -> float | None:
    """That of the smallest model of the control with this model's seed, if it is stored."""
    control = (scored["variant"] == "control") & (scored["seed"] == entry.seed)
    found = scored[control & (scored["metric"] == "outlier_threshold_searched")]
    return None if found.empty else float(found.sort_values("n_params")["value"].iloc[0])
