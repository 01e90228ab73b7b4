"""Ids never change: those of the committed study, and of the sweeps that ship, are pinned."""

import hashlib
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import yaml

from orchestrator.paths import ROOT
from orchestrator.study.experiment import Experiment
from orchestrator.study.grid import expand
from orchestrator.study.models import load_models
from orchestrator.study.spec import load_sweep
from quantizers.granularity import Granularity
from quantizers.setting import Setting

# Revisions under which the committed study was measured; they did not know the tokenizer yet.
STUDY_REVISIONS = {
    "sotu-neox-32x2": "local-18a79c2387c9dfb46349d600",
    "sotu-neox-32x4": "local-dd85cad7eb9b1fb12191a2f5",
    "sotu-neox-64x2": "local-ca855f0e404f2e9db7391f7d",
    "sotu-neox-64x4": "local-0c740c7ef172855ea9298378",
    "sotu-neox-128x2": "local-e9bd9301afdf1c43398a7b47",
    "sotu-neox-128x4": "local-0f5c6e48041a9bcafd907749",
    "sotu-opt-32x2": "local-671b963ed013e32c5e67a99b",
    "sotu-opt-32x4": "local-b5ee046b0864e20fde541e71",
    "sotu-opt-64x2": "local-f7609e6df0ee15daf4bc2702",
    "sotu-opt-64x4": "local-8ca805dcf5b56944999c12b2",
    "sotu-opt-128x2": "local-ba7fbdd29381459725f6a826",
    "sotu-opt-128x4": "local-48ebcf12e775a010bfc154f1",
}


@pytest.fixture(scope="module")
def study() -> pd.DataFrame:
    rows = pd.read_csv(ROOT / "docs" / "embedded-study" / "results.csv.gz")
    return rows.drop_duplicates("experiment_id")


def test_ids_of_the_committed_study_follow_from_its_rows(study):
    models = {entry.name: entry for entries in load_models().values() for entry in entries}
    assert len(study) == 3672
    for row in study.to_dict("records"):
        setting = Setting.from_row(row)
        revision = STUDY_REVISIONS[row["model"]]
        made = Experiment(models[row["model"]], revision, setting, "float32")
        assert made.id == row["experiment_id"], setting
        assert setting.bits_per_param == pytest.approx(row["bits_per_param"])


def test_its_sweep_asks_for_the_experiments_of_the_committed_study(study):
    plan = plan_of(ROOT / "sweeps" / "embedded.yaml")
    then = {replace(e, revision=STUDY_REVISIONS[e.model.name]).id for e in plan}
    assert then == set(study["experiment_id"])


@pytest.mark.parametrize(
    ("sweep", "experiments", "digest"),
    [
        ("demo", 192, "d5ea0eb550a638e136bcbb95999a34db972725eccd81924f673d86692b500c57"),
        ("embedded", 3672, "a4ddc0fea824cb75d76838425a836e44d6a6bf39e50c07f8a78cb18d0f9992a1"),
        ("adaptive", 588, "6c91222a77c80e38a760fbb1ac30aba7d81bdc74a4c74d6ab2188e8bdc03c699"),
    ],
)
def test_ids_of_the_sweeps_that_ship(sweep, experiments, digest):
    ids = sorted(e.id for e in plan_of(ROOT / "sweeps" / f"{sweep}.yaml"))
    assert len(set(ids)) == experiments
    assert hashlib.sha256("\n".join(ids).encode()).hexdigest() == digest


EARLIER_DEMO = """
models: [sotu-neox, sotu-opt]
grids:
  - bits: 16
  - {bits: [2, 3, 4, 5, 6, 8], data_type: float, block_size: 64}
  - {bits: [3, 4, 5, 6], data_type: float, block_size: 64, scope: all}
tasks: sotu
"""


def test_the_demo_has_the_experiments_of_its_earlier_grid(tmp_path):
    (tmp_path / "demo.yaml").write_text(EARLIER_DEMO)
    earlier = {e.id for e in plan_of(tmp_path / "demo.yaml")}
    digest = "28ffa92378155c09fab13e7f711c90b0c1f4c463957535b4ce03df411ece7031"
    assert hashlib.sha256("\n".join(sorted(earlier)).encode()).hexdigest() == digest
    assert len(earlier & {e.id for e in plan_of(ROOT / "sweeps" / "demo.yaml")}) == 12 * 8


def plan_of(path: Path) -> list[Experiment]:
    return expand(load_sweep(path), load_models(), path, on_gpu=False).experiments


def test_groups_that_divide_all_rows_and_plain_blocks_are_one_experiment(tmp_path):
    """Rows of 64 and 256, of which 48 divides none."""
    sizes = [64, {"group": 64}, 48, {"group": 48}]
    path = tmp_path / "study.yaml"
    grids = [{"bits": 4, "data_type": "int", "block_size": sizes}]
    study = {"models": ["sotu-neox-64x2"], "grids": grids, "tasks": "sotu"}
    path.write_text(yaml.safe_dump(study))
    found = expand(load_sweep(path), load_models(), path, on_gpu=False).experiments
    assert [e.setting.granularity for e in found] == [
        Granularity(64), Granularity(48), Granularity(48, by_row=True),
    ]  # fmt: skip
    assert found[0].id == replace(found[0], groups_are_blocks=True).id
    grids[0]["block_size"] = {"group": 64}
    path.write_text(yaml.safe_dump(study))
    [alone] = expand(load_sweep(path), load_models(), path, on_gpu=False).experiments
    assert alone.setting.by_row and alone.id == found[0].id
