"""`kbit sweep --dry-run`: what a sweep asks for, how much of it is stored, how long the rest takes.

Starts nothing and writes nothing.
"""

from __future__ import annotations

import sys
from pathlib import Path

from orchestrator.errors import InputError
from orchestrator.run.calibration_cost import calibration_lines
from orchestrator.run.estimate import Rates, estimate, measured_rates, newest_dtype
from orchestrator.run.streaming_choice import streamed_models
from orchestrator.run.streaming_cost import streaming_lines
from orchestrator.store.measured import missing_protocols
from orchestrator.store.store import Store
from orchestrator.study.grid import Plan, as_stored, count_table, expand
from orchestrator.study.models import ModelEntry
from orchestrator.study.refusals import refusal_lines
from orchestrator.study.spec import Sweep


def dry_run(sweep: Sweep, families: dict[str, list[ModelEntry]], where: Path, url: str) -> int:
    """Print it. Experiments count as stored in the compute dtype of the database's newest rows,
    unless the sweep names its device.

    Returns the exit code: 2 where some model cannot be used, 1 where one cannot have a setting, as
    the sweep would. Raises InputError for bad input, and SweepStopped when the database does not
    answer.
    """
    try:
        store = Store.open(url)
    except InputError as error:
        store, absent = None, error
    on_gpu = sweep.compute.device == "cuda"
    if sweep.compute.device == "auto" and store is not None:
        on_gpu = newest_dtype(store) not in (None, "float32")
    plan = expand(sweep, families, where, on_gpu)
    if store is not None:
        plan = as_stored(plan, store.revision_of)
    for problem in (*plan.broken.values(), *refusal_lines(plan.refused)):
        print(f"error: {problem}", file=sys.stderr, flush=True)
    _print_counts(plan, sweep)
    rates = None if store is None else measured_rates(store)
    names = {c.label: name for name, c in sweep.calibrations.items()}
    for line in calibration_lines(plan.feasible, names, rates):
        print(line)
    device = "cuda" if on_gpu else "cpu"
    asked = [(e, protocols) for e, protocols in plan.asked if plan.problem(e) is None]
    for line in streaming_lines(asked, [*streamed_models(asked, sweep.compute, device)], rates):
        print(line)
    if store is None or rates is None:
        print(f"worker-hours: unknown, no earlier rows to judge by ({absent})")
    else:
        _print_rest(plan, store, rates)
    return 2 if plan.broken else 1 if plan.refused else 0


def _print_counts(plan: Plan, sweep: Sweep) -> None:
    rows = [("family", "bits", "data type", "experiments"), *count_table(plan)]
    for family, bits, data_type, count in rows:
        print(f"{family:<16} {bits:>4}  {data_type:<10} {count:>11}")
    n_tasks = len(sweep.task_names())
    n = len(plan.experiments)
    print(
        f"{n} experiments x {n_tasks} zero-shot tasks = {n * n_tasks} zero-shot measurements, "
        f"and {n * len(sweep.corpora)} perplexity measurements"
    )


def _print_rest(plan: Plan, store: Store, rates: Rates) -> None:
    """How many experiments are stored and to do, and the worker-hours of both."""
    usable = [(e, asked) for e, asked in plan.asked if plan.problem(e) is None]
    everything = missing_protocols(usable, set())
    missing = missing_protocols(usable, store.stored_measurements())
    known = {asked for asked, why in store.failures().items() if not why.cause.mendable}
    failed = len(missing) - len(missing_protocols(missing, known))
    note = f", {failed} of these failed before" if failed else ""
    print(f"{len(usable) - len(missing)} stored, {len(missing)} to do{note}, in {store.url}")
    whole, rest = estimate(rates, everything), estimate(rates, missing)
    if whole is None or rest is None:
        print("worker-hours: unknown, nothing comparable is measured there yet")
        return
    scaled = f"; {whole.scaled} models never run, scaled by parameters" if whole.scaled else ""
    print(
        f"about {whole.hours:.2g} worker-hours for the whole grid, {rest.hours:.2g} for what is to "
        f"do, by the rates of {rates.measurements} earlier measurements{scaled}"
    )
