"""From a sweep to experiments: every model x quantization setting, each with a stable id."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path

from evaluation.protocols import perplexity_protocol, task_protocol
from evaluation.text.corpora import corpus_name
from orchestrator.errors import InputError, ModelInputError
from orchestrator.study.calibration_check import check_windows
from orchestrator.study.calibrations import Calibration
from orchestrator.study.context_check import check_context
from orchestrator.study.data_check import check_data
from orchestrator.study.experiment import Asked, Experiment, Protocol
from orchestrator.study.identity import Identified, check_available, identify
from orchestrator.study.model_config import begins_with_bos, model_config, scoring_keys
from orchestrator.study.models import ModelEntry
from orchestrator.study.refusals import Refused, find_refusals
from orchestrator.study.spec import FACTORS, Grid, Sweep, select_models
from orchestrator.study.stacking_check import check_stacking
from orchestrator.study.streaming_check import check_streaming
from quantizers.data_types import base_type
from quantizers.dimensions import groups_are_blocks
from quantizers.setting import Setting


@dataclass
class Plan:
    """What a sweep asks for: experiments, protocols, and what of it cannot be done."""

    experiments: list[Experiment]
    protocols: dict[str, list[Protocol]]  # by model name: the context may differ
    broken: dict[str, ModelInputError]
    models: dict[str, Identified]  # those that are not broken, by name
    refused: Refused = field(default_factory=dict)

    def problem(self, experiment: Experiment) -> ModelInputError | str | None:
        """Why an experiment cannot be done: its model is broken, or refuses the setting."""
        name = experiment.model.name
        return self.broken.get(name) or self.refused.get((name, experiment.setting))

    @property
    def feasible(self) -> list[Experiment]:
        return [e for e in self.experiments if self.problem(e) is None]

    @property
    def asked(self) -> list[Asked]:
        """Every experiment with its protocols."""
        return [(e, self.protocols[e.model.name]) for e in self.experiments]


def grid_settings(grid: Grid, calibrations: Mapping[str, Calibration], where: str) -> list[Setting]:
    """The distinct settings of one grid. Raises InputError naming the grid."""
    if grid.recipe:
        parts = [grid_settings(part, calibrations, where) for part in grid.of_recipes()]
        return list(dict.fromkeys(setting for part in parts for setting in part))
    names = [name for name in FACTORS if name not in ("exponent_bits", "clip_weighting")]
    settings: dict[Setting, None] = {}
    try:
        labels = {name: _label(name, calibrations) for name in grid.choices("calibration")}
        for values in product(*map(grid.choices, names)):
            factors = dict(zip(names, values, strict=True))
            factors["calibration"] = labels[factors["calibration"]]
            is_float = base_type(str(factors["data_type"])) == "float"
            exponents = grid.exponent_choices(factors["bits"]) if is_float else [None]
            weightings = grid.weighting_choices(factors["scales"])
            for exponent, weighting in product(exponents, weightings):
                setting = Setting.make(**factors, exponent_bits=exponent, clip_weighting=weighting)
                if setting.needs_statistics and setting.calibration is None:
                    raise ValueError(
                        f"{setting.label}: reads calibration text, none is named; add "
                        "`calibration: NAME` here and a mapping `calibrations: {NAME: {corpus: "
                        "...}}` to the sweep"
                    )
                if (a := setting.activation_format) is not None and not a.is_causal:
                    raise ValueError(
                        f"activations: {a.name} scales a token by later ones and by its batch, so "
                        "no score of it counts; it is for latency alone: choose token or tensor"
                    )
                settings[setting] = None
    except ValueError as error:
        raise InputError(f"{where}: {error}") from None
    return list(settings)


def _label(name: object, calibrations: Mapping[str, Calibration]) -> str | None:
    if name is None:
        return None
    if not isinstance(name, str) or name not in calibrations:
        known = ", ".join(calibrations) or "none"
        raise ValueError(f"calibration: {name!r} is not among the sweep's calibrations ({known})")
    return calibrations[name].label


def expand(
    sweep: Sweep,
    families: dict[str, list[ModelEntry]],
    where: Path,
    on_gpu: bool,
) -> Plan:
    """Every experiment of a sweep, largest model first, each setting once per model.

    A model whose local weights are unusable lands in `broken`, a setting that some models cannot
    have in `refused`, the rest of the study stays. Raises InputError for what `check_study` and
    `find_refusals` refuse.
    """
    settings = check_study(sweep, families, where)
    calibrations: dict[str | None, Calibration] = {c.label: c for c in sweep.calibrations.values()}
    plan = Plan([], {}, {}, {})
    for entry in sorted(settings, key=lambda e: e.n_params or 0, reverse=True):
        model = Identified(entry, entry.revision or "main", None)
        try:
            model = plan.models[entry.name] = identify(entry)
        except ModelInputError as error:
            plan.broken[entry.name] = error
        plan.protocols[entry.name] = sweep_protocols(sweep, model.entry, on_gpu)
        compute_dtype = entry.dtype if on_gpu else "float32"
        # The hub's config may come only with its weights, and would change ids when it does.
        config = model_config(model.entry) if model.entry.path is not None else {}
        asked = [
            Experiment(
                model.entry,
                model.revision,
                s,
                compute_dtype,
                calibrations.get(s.calibration),
                groups_are_blocks(config, s),
            )
            for s in settings[entry]
        ]
        once: dict[str, Experiment] = {}
        for experiment in asked:
            once.setdefault(experiment.id, experiment)
        plan.experiments += once.values()
    plan.refused = find_refusals(plan.feasible, where)
    if sweep.compute.streaming is True:
        check_streaming(plan.feasible, where)
    return plan


def as_stored(plan: Plan, revision_of: Callable[[Identified], str]) -> Plan:
    """The plan with the ids of a database, which may know models by an earlier revision."""
    revisions = {name: revision_of(model) for name, model in plan.models.items() if model.earlier}
    if not revisions:
        return plan
    experiments = [
        replace(e, revision=revisions.get(e.model.name, e.revision)) for e in plan.experiments
    ]
    return replace(plan, experiments=experiments)


def drop_unavailable(plan: Plan, names: Collection[str]) -> None:
    """Models of these names that can be had neither from the hub nor from the local cache, or not
    in a format that kbit reads, land in `broken`. Fetches no weights."""
    for name, model in list(plan.models.items()):
        if name in names:
            try:
                check_available(model.entry)
            except ModelInputError as error:
                plan.broken[name] = error
                del plan.models[name]


def check_study(
    sweep: Sweep, families: dict[str, list[ModelEntry]], where: Path
) -> dict[ModelEntry, dict[Setting, None]]:
    """Each model a sweep names, as listed, with its distinct settings; no model is read.

    Raises InputError for unknown names and impossible settings first, which takes no time, then for
    windows that a model cannot read and data that cannot be scored.
    """
    settings = chosen_settings(sweep, families, where)
    check_context(settings, sweep.context, where)
    check_windows(settings, sweep.calibrations, where)
    if sweep.compute.stacking is True:
        check_stacking((setting for each in settings.values() for setting in each), where)
    check_data(sweep, where)
    return settings


def chosen_settings(
    sweep: Sweep, families: dict[str, list[ModelEntry]], where: Path
) -> dict[ModelEntry, dict[Setting, None]]:
    """Each model with its distinct settings. Raises InputError as above."""
    chosen = select_models(sweep.models, families, f"{where}: models")
    settings: dict[str, dict[Setting, None]] = {entry.name: {} for entry in chosen}
    for index, grid in enumerate(sweep.grids):
        place = f"{where}: grids.{index}"
        names = set(settings)
        if grid.models is not None:
            narrowed = select_models(grid.models, families, f"{place}.models")
            names &= {entry.name for entry in narrowed}
        given = grid_settings(grid, sweep.calibrations, place)
        for name in names:
            settings[name].update(dict.fromkeys(given))
    return {entry: settings[entry.name] for entry in chosen}


def sweep_protocols(sweep: Sweep, entry: ModelEntry, on_gpu: bool) -> list[Protocol]:
    """The measurements asked of every experiment on a model: zero-shot tasks, then corpora."""
    config, context = model_config(entry), sweep.context or entry.context
    keys = scoring_keys(config, on_gpu)
    tasks = [
        Protocol(
            name,
            "task",
            task_protocol(name, sweep.limit, data_files) | {"context": context} | keys,
            name,
            data_files,
        )
        for name, data_files in sweep.task_data().items()
    ]
    corpora = [
        Protocol(
            corpus_name(corpus.name),
            "corpus",
            perplexity_protocol(
                corpus.name,
                context,
                corpus.max_tokens,
                corpus.local_copy,
                begins_with_bos(corpus.bos, config),
            )
            | keys,
            corpus.source,
            corpus.local_copy,
        )
        for corpus in sweep.corpora
    ]
    return tasks + corpora


def count_table(plan: Plan) -> list[tuple[str, str, str, int]]:
    """Rows (family, bits, data type, experiments) and a total, for `--dry-run`."""
    counts = Counter(
        (e.model.family, e.setting.bits, e.setting.data_type or "-") for e in plan.experiments
    )
    rows = [(f, str(k), t, n) for (f, k, t), n in sorted(counts.items())]
    return [*rows, ("total", "", "", sum(counts.values()))]
