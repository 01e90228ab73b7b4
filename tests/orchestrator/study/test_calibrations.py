"""Calibrations of sweep files: what they expand to, one line for a mistake, one pass for all."""

import json
import multiprocessing
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from safetensors.numpy import save_file

from orchestrator.errors import InputError
from orchestrator.paths import ROOT
from orchestrator.run import calibrating, stacking
from orchestrator.store.reading import read_site_records
from orchestrator.store.store import Store
from orchestrator.study.grid import expand
from orchestrator.study.models import load_models
from orchestrator.study.refusals import refusal_lines
from orchestrator.study.spec import load_sweep
from orchestrator.sweep import main
from quantizers import kept_statistics
from quantizers.calibration import collect
from quantizers.rounding import one_shot
from quantizers.rounding.gptq import gptq

SWEEP = {
    "models": ["sotu-neox-32x2"],
    "grids": [
        {"bits": [16, 3], "data_type": "int", "block_size": [64, None],
         "rounding": ["nearest", "gptq"], "calibration": "own"},
    ],
    "calibrations": {"own": {"corpus": "sotu", "windows": 4, "length": 64}},
    "corpora": [{"name": "sotu", "max_tokens": 600}],
}  # fmt: skip


GPTQ_QUANTITIES = ("loss", "loss_nearest", "damping", "dead")


def written(tmp_path: Path, **changes) -> Path:
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump({**SWEEP, **changes}))
    return path


def experiments(tmp_path: Path, **changes):
    path = written(tmp_path, **changes)
    return expand(load_sweep(path), load_models(), path, on_gpu=False).experiments


def grid(**factors):
    return [{"bits": 3, "data_type": "int", "calibration": "own", **factors}]


def test_a_calibration_enters_ids_only_where_it_is_read(tmp_path):
    found = experiments(tmp_path)
    without = experiments(tmp_path, grids=[{"bits": [16, 3], "data_type": "int",
                                            "block_size": [64, None]}])  # fmt: skip
    plain = [e for e in found if not e.setting.needs_statistics]
    assert {e.id for e in plain} == {e.id for e in without} and len(found) == 5
    assert all(e.calibration is None and e.setting.calibration is None for e in plain)
    read = [e for e in found if e.setting.needs_statistics]
    assert {e.setting.calibration.partition(" #")[0] for e in read} == {"sotu 4x64"}
    assert {e.calibration.windows for e in read} == {4}


def test_ids_follow_the_text_not_its_name(tmp_path):
    def ids(name="own", **options):
        text = {"corpus": "sotu", "windows": 4, "length": 64} | options
        grids = grid(rounding="gptq", calibration=name)
        return {e.id for e in experiments(tmp_path, grids=grids, calibrations={name: text})}

    ids_ = [ids(), ids(seed=1), ids(windows=5), ids(length=65), ids(corpus="random")]
    assert ids("another") == ids_[0]
    assert len(set.union(*ids_)) == 5
    several = grid(rounding="gptq", calibration=["own", "rand"])
    both = SWEEP["calibrations"] | {"rand": {"corpus": "random", "windows": 4, "length": 64}}
    found = {e.id for e in experiments(tmp_path, grids=several, calibrations=both)}
    assert found == ids_[0] | ids_[4]


def test_a_local_text_goes_by_its_content(tmp_path):
    text = tmp_path / "text.txt"
    calibrations = {"own": {"corpus": "text.txt", "windows": 2, "length": 64}}

    def ids(content):
        text.write_text(content)
        return {e.id for e in experiments(
            tmp_path, grids=grid(rounding="gptq"), calibrations=calibrations
        )}  # fmt: skip

    one = ids("of the people, by the people. " * 100)
    assert ids("for the people, by the people. " * 100) != one
    assert ids("of the people, by the people. " * 100) == one


def test_every_option_of_rounding_is_a_factor(tmp_path):
    rounding = ["nearest", "gptq", {"gptq": {"order": False}}, {"gptq": {"damping": 0.1}}]
    scales = {"scales": ["absmax", "clipped"], "clip_weighting": ["plain", "hessian"]}
    found = experiments(tmp_path, grids=grid(rounding=rounding, **scales))
    assert len({e.id for e in found}) == 4 * 3  # absmax has no weighting
    nearest = [e for e in found if e.setting.method == "rtn"]
    assert sum(e.setting.calibration is not None for e in nearest) == 1  # clipped by the Hessian


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"grids": grid(rounding="gptq", calibration=None)}, "add `calibration: NAME`"),
        ({"grids": grid(rounding="gptq", calibration="pile")}, "'pile' is not among"),
        ({"grids": grid(rounding="gptq2")}, "rounding: 'gptq2' is not one of nearest, gptq"),
        ({"grids": grid(rounding={"gptq": {"act": 1}})}, "rounding: gptq has no option 'act'"),
        ({"grids": grid(rounding={"gptq": {"damping": 2}})}, "damping 2 is not from 0 to 1"),
        ({"grids": grid(rounding={"gptq": {"order": 3}})}, "order 3 is neither true nor false"),
        ({"grids": grid(rounding={"gptq": {"hessian": "block"}})},
         "hessian 'block' is not one of original, sequential"),
        ({"grids": grid(rounding={"gptq": {"dead": "keep"}})}, "dead 'keep' is not one of nearest"),
        ({"grids": grid(rounding={"gptq": {"hessian": "sequential"}}, folding="smoothquant")},
         "hessian sequential takes no folding"),
        ({"calibrations": {"own": {"corpus": "sotu", "length": 257}}},
         "windows of 257 tokens exceed the 256"),
        ({"calibrations": {"own": {"corpus": "other.txt", "windows": 10**6}}},
         "1000000 windows of 256 take 256000000"),
        ({"calibrations": {"own": {"corpus": "no.txt"}}}, "'no.txt' is neither a file nor one"),
        ({"calibrations": {"own": {"corpus": "sotu", "sentences": 3}}}, "sentences: unknown key"),
        ({"calibrations": {"own": {"corpus": "sotu", "windows": 0}}}, "calibrations.own.windows"),
        ({"calibrations": {"own": {"corpus": "scored.txt"}}, "corpora": ["scored.txt"]},
         "calibrations.own: "),
        ({"grids": grid(rounding=["gptq", {"gptq": {"hessian": "sequential"}}]),
          "compute": {"stacking": True}}, "with `hessian: sequential` its inputs depend on how it"),
        ({"grids": grid(rounding="gptq", folding="awq"), "compute": {"stacking": True}},
         "cannot be stacked: its folding, awq, may go by how weights are rounded"),
        ({"grids": grid(rounding="nearest", scales="clipped", clip_weighting="hessian"),
          "compute": {"stacking": True}}, "stacking is true, but no setting is rounded by GPTQ"),
        ({"compute": {"stacking": "always"}}, "compute.stacking: takes auto, true or false"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line_before_any_model(tmp_path, capsys, monkeypatch, changes, said):
    monkeypatch.setattr("orchestrator.run.stages.Stages.run", lambda _: pytest.fail("work began"))
    if "windows of 256 take" not in said:  # all but that is known before any text is tokenized
        monkeypatch.setattr(
            "orchestrator.sweep.expand", lambda *_, **__: pytest.fail("models read")
        )
    for name in ("scored", "other"):
        (tmp_path / f"{name}.txt").write_text(f"Fellow citizens of {name}. " * 1000)
    monkeypatch.chdir(tmp_path)
    path = written(tmp_path, **changes)
    assert main([str(path), "--db", str(tmp_path / "t.db"), "--executor", "local"]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1, error


def test_windows_that_one_model_cannot_read_leave_the_others(tmp_path):
    """Its other settings, and all of the model with the longer context."""
    for name, context in (("long", 128), ("short", 32)):
        (folder := tmp_path / name).mkdir()
        config = {"model_type": "gpt_neox", "max_position_embeddings": context}
        (folder / "config.json").write_text(json.dumps(config))
        save_file({"no": np.zeros(1)}, folder / "model.safetensors")
    entries = [{"name": name, "path": name} for name in ("long", "short")]
    models = tmp_path / "models.yaml"
    models.write_text(yaml.safe_dump({"families": {"f": {"models": entries}}}))
    changes = {"models": ["f"], "calibrations": {"own": {"corpus": "random", "length": 64}}}
    path = written(tmp_path, **changes)
    plan = expand(load_sweep(path), load_models(models), path, on_gpu=False)
    refused = [e for e in plan.experiments if plan.problem(e)]
    assert {e.model.name for e in refused} == {"short"}
    assert all(e.setting.needs_statistics for e in refused)
    assert 0 < len(refused) < len(plan.experiments) / 2
    assert len(plan.feasible) == len(plan.experiments) - len(refused)
    [line] = refusal_lines(plan.refused)
    assert line.startswith("model short: ") and "windows of 64 tokens exceed the 32" in line


def test_the_same_text_under_another_name_is_scored_text(tmp_path):
    for name in ("scored.txt", "copy.txt"):
        (tmp_path / name).write_text("Fellow citizens. " * 1000)
    calibrations = {"own": {"corpus": "copy.txt", "windows": 1, "length": 8}}
    with pytest.raises(InputError, match="is scored by this sweep"):
        experiments(tmp_path, calibrations=calibrations, corpora=["scored.txt"])


class Counted:
    """A worker; every collection of statistics adds a line to a file."""

    def __init__(self, log: Path) -> None:
        self.log, self.worker = log, None

    def run(self, job):
        if self.worker is None:
            from orchestrator.run.worker import Worker

            self.worker, log = Worker(), self.log

            def counted(*args):
                with log.open("a") as file:
                    file.write("collected\n")
                return collect(*args)

            calibrating.collect = counted
        return self.worker.run(job)


def sweep_counted(log: Path, *arguments: str) -> int:
    """A sweep; every collection of statistics adds a line to a file."""
    return main(list(arguments), lambda: Counted(log))


RAY_PROGRAM = """
import sys
from pathlib import Path
from tests.orchestrator.study.test_calibrations import sweep_counted
sys.exit(sweep_counted(Path(sys.argv[1]), *sys.argv[2:]))
"""


def losses(*databases: Path) -> pd.Series:
    tables = [Store.open(f"sqlite:///{path}").results() for path in databases]
    rows = pd.concat(tables)
    rows = rows[rows["metric"] == "cross_entropy"]
    return rows.set_index("experiment_id")["value"].sort_index()


def at_once(log: Path, *commands: list[str]) -> None:
    """Several sweeps at the same time, each in a process of its own."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.orchestrator.study.test_calibrations"])  # torch, once
    with ProcessPoolExecutor(len(commands), context) as pool:
        codes = [pool.submit(sweep_counted, log, *command) for command in commands]
        assert [code.result() for code in codes] == [0] * len(commands)


@pytest.mark.parametrize("workers", ["local", pytest.param("ray", marks=pytest.mark.slow)])
def test_one_pass_for_all_settings_and_workers(tmp_path, monkeypatch, workers):
    cache, log = tmp_path / "cache", tmp_path / "log"
    monkeypatch.setenv("KBIT_CACHE", str(cache))
    monkeypatch.setattr(calibrating, "collect", collect)  # to be put back
    halves = [
        [{"bits": bits, "data_type": ["int", "float", "dynamic", "quantile"],
          "block_size": [8, 64, "row", None], "rounding": "gptq", "calibration": "own"}]
        for bits in ([2, 3], [4, 5])
    ]  # fmt: skip
    short = {"corpora": [{"name": "sotu", "max_tokens": 100}], "compute": {"workers": 2}}
    paths = [tmp_path / f"{name}.yaml" for name in ("all", "one", "two")]
    for path, grids in zip(paths, [sum(halves, []), *halves], strict=True):
        path.write_text(yaml.safe_dump({**SWEEP, **short, "grids": grids}))

    def command(path: Path, db: str, executor: str = "local") -> list[str]:
        return [str(path), "--db", str(tmp_path / db), "--executor", executor]

    def collected() -> int:
        return len(log.read_text().splitlines())

    if workers == "ray":  # which leaves its token and connection in the process that starts it
        arguments = [sys.executable, "-c", RAY_PROGRAM, log, *command(paths[0], "1.db", "ray")]
        subprocess.run(arguments, cwd=ROOT, check=True)
        first = losses(tmp_path / "1.db")
    else:
        at_once(log, command(paths[1], "1.db"), command(paths[2], "2.db"))
        first = losses(tmp_path / "1.db", tmp_path / "2.db")
    assert len(first) == 64 and collected() == 1
    sorted((cache / "calibration").rglob("*.npz"))[3].unlink()
    monkeypatch.setattr(stacking, "MOST", 1)  # nor do settings that are rounded together differ
    assert sweep_counted(log, *command(paths[0], "3.db")) == 0
    assert collected() == 2
    pd.testing.assert_series_equal(losses(tmp_path / "3.db"), first, check_exact=True)


def test_stacking_is_only_how_the_work_is_laid_out(tmp_path, monkeypatch):
    monkeypatch.setenv("KBIT_CACHE", str(tmp_path / "cache"))
    rounded: list[int] = []

    def counted(problems, factor):
        rounded.append(len(problems))
        return gptq(problems, factor)

    monkeypatch.setattr(one_shot, "gptq", counted)
    grids = grid(rounding="gptq", block_size=[64, None], data_type=["int", "float"])
    together = {}
    for asked in (True, False):
        rounded.clear()
        path = written(tmp_path, grids=grids, compute={"stacking": asked})
        db = tmp_path / f"{asked}.db"
        assert main([str(path), "--db", str(db), "--executor", "local"]) == 0
        together[asked] = losses(db), set(rounded)
    pd.testing.assert_series_equal(together[True][0], together[False][0], check_exact=True)
    assert (together[True][1], together[False][1]) == ({4}, {1})


def test_what_is_lost_on_the_way_is_collected_of_the_16_bit_model(tmp_path, monkeypatch):
    cache, path = tmp_path / "cache", written(tmp_path)
    monkeypatch.setenv("KBIT_CACHE", str(cache))
    assert main([str(path), "--db", str(tmp_path / "one.db"), "--executor", "local"]) == 0
    read, lost = kept_statistics._read, []

    def losing(file: Path):
        """Of the second setting's pass the fourth file is gone: three sites are rounded by then."""
        lost.append(file)
        return None if len(lost) == 12 else read(file)

    monkeypatch.setattr(kept_statistics, "_read", losing)
    assert main([str(path), "--db", str(tmp_path / "two.db"), "--executor", "local"]) == 0
    assert len(lost) > 12
    one, two = losses(tmp_path / "one.db"), losses(tmp_path / "two.db")
    pd.testing.assert_series_equal(two, one, check_exact=True)


def test_what_a_calibration_fails_of_is_stored(tmp_path, monkeypatch):
    calls = []

    def failing(*_):
        calls.append(1)
        raise ValueError("calibration: what gpt_neox.layers.0 reads is not finite")

    monkeypatch.setattr(calibrating, "collect", failing)
    monkeypatch.setenv("KBIT_CACHE", str(tmp_path / "cache"))
    path = written(tmp_path)
    assert main([str(path), "--db", str(tmp_path / "t.db"), "--executor", "local"]) == 1
    attempts = Store.open(f"sqlite:///{tmp_path / 't.db'}").attempts()
    failed = attempts[attempts["status"] == "failed"]
    assert set(failed["method"]) == {"gptq"} and len(failed) == 2 and len(calls) == 1
    assert failed["error"].str.contains("gpt_neox.layers.0 reads is not finite").all()
    assert set(attempts.loc[attempts["status"] == "done", "method"]) == {"none", "rtn"}


def test_a_hessian_that_cannot_be_factored_is_a_stored_failure(tmp_path, monkeypatch):
    """Of the settings that read it, though all damping was tried; the others are scored, and what
    GPTQ did at each of their matrices is stored."""

    def bent(*args):
        for name, statistics in collect(*args):
            if name.endswith("layers.1.mlp.dense_4h_to_h"):
                statistics.hessian[0, 1] = statistics.hessian[1, 0] = 1e6
            yield name, statistics

    monkeypatch.setattr(calibrating, "collect", bent)
    monkeypatch.setenv("KBIT_CACHE", str(tmp_path / "cache"))
    both = [*grid(rounding="gptq", block_size=[64, None]), *grid(rounding="nearest")]
    path = written(tmp_path, grids=both)
    arguments = [str(path), "--executor", "local", "--db"]
    assert main([*arguments, str(tmp_path / "bent.db")]) == 1
    attempts = Store.open(f"sqlite:///{tmp_path / 'bent.db'}").attempts()
    failed = attempts[attempts["status"] == "failed"]
    assert set(failed["method"]) == {"gptq"} and len(failed) == 2 and len(attempts) == 3
    said = "layers.1.mlp.dense_4h_to_h.weight: the Hessian cannot be factored, even with 10 of"
    assert failed["error"].str.contains(said).all()
    monkeypatch.setattr(calibrating, "collect", collect)
    monkeypatch.setenv("KBIT_CACHE", str(tmp_path / "another"))
    assert main([*arguments, str(tmp_path / "sound.db")]) == 0
    records = read_site_records(Store.open(f"sqlite:///{tmp_path / 'sound.db'}"), GPTQ_QUANTITIES)
    assert len(records) == 2 * 8 * 4 and set(records["quantity"]) == set(GPTQ_QUANTITIES)
    assert records["value"].notna().all() and set(records["method"]) == {"gptq"}


def planned(name: str):
    path = ROOT / "sweeps" / f"{name}.yaml"
    return expand(load_sweep(path), load_models(), path, on_gpu=False).experiments


@pytest.mark.parametrize(("name", "experiments"), [("gptq", 408), ("gptq-embedded", 5052)])
def test_the_sweeps_that_ship_can_be_planned(name, experiments):
    found = planned(name)
    assert len({e.id for e in found}) == experiments
    assert all((e.calibration is None) != e.setting.needs_statistics for e in found)
