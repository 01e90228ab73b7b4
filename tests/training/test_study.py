"""Study files expand to runs that are told apart; the table of runs survives its weights."""

import pytest
import yaml

from orchestrator.paths import ROOT
from orchestrator.study.models import load_models
from training.errors import Diverged
from training.run_table import COLUMNS, RunTable, Source, write_models_file
from training.study import StudyFile, expand

MANIFEST = {
    "n_params": 10,
    "linear_params": 5,
    "tokens_seen": 100,
    "heldout_loss": 4.5,
    "heldout_tokens": 50,
    "training_loss": 4.0,
    "clipped_steps": 0,
    "skipped_steps": [1, 2],
    "gradient_norms": {"0.5": 0.4},
    "seconds": 1.0,
    "device": "x86_64",
    "sha256": "ab",
}


def study(**changes) -> StudyFile:
    values = {
        "tokenizer": "tokenizer",
        "output": "out",
        "recipe": {"family": "neox", "size": "64x2", "steps": 40, "warmup_steps": 4},
        "variants": [{}],
        "seeds": [0],
    }
    return StudyFile.model_validate({**values, **changes})


def test_lists_are_factors_and_runs_are_ordered_by_seed():
    asked = study(
        recipe={"family": "neox", "size": ["64x2", "64x4"], "steps": 40, "warmup_steps": 4},
        variants=[{}, {"weight_decay": [0.01, 1.0], "clip_norm": ["none", {"median": 0.5}]}],
        seeds=[1, 2],
        keep=[0.25, 0.5],
    )
    runs = expand(asked)
    assert len(runs) == 2 * 2 * (1 + 4)
    assert [r.recipe.seed for r in runs] == [1] * 10 + [2] * 10
    assert len({r.name for r in runs}) == len({r.recipe.digest for r in runs}) == len(runs)
    first = runs[0]
    assert (first.name, first.keep, first.steps_kept) == (
        "neox-64x2-control-s1",
        (10, 20),
        (10, 20, 40),
    )
    variants = {r.variant for r in runs}
    assert "weight_decay=0.01 clip_norm=none" in variants
    assert "weight_decay=1 clip_norm=0.5median" in variants
    assert runs[2].recipe.clip_norm is None and runs[3].recipe.clip_norm == {"median": 0.5}


def test_rates_are_the_ladders_or_multiples_of_them():
    runs = expand(study(variants=[{}, {"learning_rate": {"times": 4}}, {"learning_rate": 0.001}]))
    assert [r.recipe.learning_rate for r in runs] == [0.01, 0.04, 0.001]


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"variants": [{}, {"weight_decay": 0.1}]}, r"variants.1 .*neox-64x2-control-s0, as varia"),
        ({"variants": [{"dropout": [0.1, 0.1]}]}, r"variants.0 \(seed 0\) asks for"),
        ({"seeds": [1, 1]}, "asks for neox-64x2-control-s1"),
        ({"variants": [{"dropout": 1.0}]}, "variants.0: dropout: must be"),
        ({"variants": [{"dropout": []}]}, "dropout: an empty list"),
        ({"variants": [{"dtype": "fp16", "norm_dtype": "fp16"}]}, "unknown field 'norm_dtype'"),
        ({"variants": [{"dropuot": 0.1}]}, "variants.0: unknown field 'dropuot'"),
        ({"variants": [{"size": "64"}]}, "size '64' is not hidden size x layers"),
        ({"variants": [{"family": "rwkv"}]}, "family 'rwkv' is not one of"),
        ({"variants": [{"seed": 3}]}, "seed: set by"),
        ({"variants": [{"steps": "many"}]}, "variants.0: "),
        ({"variants": [{"learning_rate": {"tims": 4}}]}, "learning_rate: a number or"),
        ({"variants": [{"steps": True}]}, "steps: takes a whole number, not True"),
        ({"variants": [{"learning_rate": {"times": True}}]}, "learning_rate: a number or"),
        ({"variants": [{"learning_rate": float("inf")}]}, "learning_rate: takes a number, not inf"),
        ({"variants": [{"betas": []}]}, "betas: an empty list"),
        ({"variants": [{"family": {}}]}, "family '{}' is not one of"),
        ({"seeds": [-1]}, "seed: must be 0 or more"),
        ({"keep": [1.0]}, "keep: 1.0 is not"),
        ({"recipe": {"family": "neox"}}, "variants.0: size: missing"),
    ],
)
def test_what_cannot_be_is_refused_with_its_place(changes, problem):
    with pytest.raises(ValueError, match=problem):
        expand(study(**changes))


def test_the_shipped_study_has_the_papers_variants_and_more():
    content = yaml.safe_load((ROOT / "sweeps/training.yaml").read_text())
    runs = expand(StudyFile.model_validate(content))
    per_seed = [r for r in runs if r.recipe.seed == 1 and r.size == "64x2"]
    assert len(per_seed) == 17 and len(runs) == 17 * 2 * 5
    doses = {r.recipe.weight_decay for r in per_seed if r.recipe.clip_norm == 1.0}
    assert doses == {0.001, 0.01, 0.1, 0.3, 1.0}
    assert {r.recipe.dropout for r in per_seed} == {0.0, 0.1, 0.4, 0.8}
    assert {r.recipe.dtype for r in per_seed} == {"bf16", "fp16"}


def test_rows_outlive_weights_and_half_a_row(tmp_path):
    path, source = tmp_path / "runs.csv", Source("text", "tokenizer")
    runs = expand(study(seeds=[0, 1, 2], keep=[0.5]))
    table = RunTable(path, source)
    table.add(runs[0], [{**MANIFEST, "step": 20}, {**MANIFEST, "step": 40}])
    table.add(runs[1], Diverged("step 7: loss nan, gradient norm nan"))
    assert [table.finished(r) for r in runs] == [True, True, False]
    with path.open("a") as file:
        file.write("neox-64x2-control-s2,neox,64x2")  # killed while it wrote
    again = RunTable(path, source)
    assert [again.finished(r) for r in runs] == [True, True, False]
    again.add(runs[2], [{**MANIFEST, "step": 20}, {**MANIFEST, "step": 40}])
    assert len(path.read_text().splitlines()) == 1 + 5
    rows = RunTable(path, source).rows
    assert [(r["run"], r["step"], r["status"]) for r in rows][1:3] == [
        ("neox-64x2-control-s0", "40", "done"),
        ("neox-64x2-control-s1", "", "diverged"),
    ]
    assert rows[0]["skipped_steps"] == "1 2" and rows[0]["weight_decay"] == "0.1"
    other = RunTable(path, Source("another text", "tokenizer"))
    assert not any(map(other.finished, runs))


def test_a_table_of_other_columns_is_refused(tmp_path):
    path = tmp_path / "runs.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="not a table of runs"):
        RunTable(path, Source("t", "t"))
    assert len(set(COLUMNS)) == len(COLUMNS)


def test_no_family_of_the_models_file_joins_two_runs(tmp_path):
    asked = study(
        recipe={"family": "neox", "size": ["64x2", "64x4"], "steps": 40, "warmup_steps": 4},
        variants=[{}, {"dropout": 0.1}],
        seeds=[0, 1],
        keep=[0.5],
    )
    runs = expand(asked)
    for run in runs[:-1]:
        for folder in ("", "step-000020"):
            path = tmp_path / run.name / folder
            path.mkdir(parents=True, exist_ok=True)
            (path / "manifest.json").write_text("{}")
    count = write_models_file(tmp_path / "models.yaml", runs, tmp_path / "tokenizer")
    families = load_models(tmp_path / "models.yaml")
    assert count == 14 and len(families) == 2 * 2 * 2
    for entries in families.values():
        sizes = [entry.name.split("-")[1] for entry in entries]
        assert len(set(sizes)) == len(sizes)
    assert [e.name for e in families["neox dropout=0.1 seed 0 step 20"]] == [
        "neox-64x2-dropout=0.1-s0-20",
        "neox-64x4-dropout=0.1-s0-20",
    ]
    entry = families["neox dropout=0.1 seed 0 step 20"][0]
    assert (entry.run, entry.variant) == ("neox-64x2-dropout=0.1-s0", "dropout=0.1")
    assert (entry.seed, entry.step) == (0, 20)
