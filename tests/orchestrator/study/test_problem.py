"""Values of the wrong kind in files: what the key takes and what was given, in plain words."""

import math
import re

import pytest
from pydantic import ValidationError

from orchestrator.errors import InputError
from orchestrator.study.calibrations import Calibration, Source
from orchestrator.study.grid import expand
from orchestrator.study.models import ModelEntry, load_models
from orchestrator.study.problem import first_problem
from orchestrator.study.spec import FACTORS, Compute, Corpus, Grid, Sweep, TaskEntry, load_sweep
from orchestrator.study.strict import Strict
from training.study import StudyFile

SWEEP = {"name": "s", "models": ["m"], "grids": [{"bits": 4}], "corpora": ["wikitext2"]}
MODEL = {"family": "f", "name": "m", "hub": "x/y"}
STUDY = {"tokenizer": "t", "output": "o", "recipe": {}, "variants": [{}], "seeds": [0]}


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"compute": {"streaming": "maybe"}}, "compute.streaming: takes auto, true or false, not"),
        ({"compute": {"streaming": [1]}}, "compute.streaming: takes auto, true or false, not [1]"),
        (
            {"corpora": [{"name": "c4", "bos": "maybe"}]},
            "corpora.0.bos: takes auto, true or false, not 'maybe'",
        ),
        ({"compute": {"device": "gpu"}}, "compute.device: takes auto, cpu or cuda, not 'gpu'"),
        ({"strategy": "fast"}, "strategy: takes full or adaptive, not 'fast'"),
        (
            {"compute": {"hidden_memory": "lots"}},
            "compute.hidden_memory: takes a size such as 64GiB, not 'lots'",
        ),
        (
            {"compute": {"hidden_memory": "3 foo"}},
            "compute.hidden_memory: takes a size such as 64GiB, not '3 foo'",
        ),
        ({"compute": {"workers": 1.5}}, "compute.workers: takes a whole number, not 1.5"),
        ({"compute": {"timeout": "long"}}, "compute.timeout: takes a number, not 'long'"),
        ({"compute": 3}, "compute: takes a mapping, not 3"),
        ({"calibrations": 3}, "calibrations: takes a mapping, not 3"),
        ({"grids": 4}, "grids: takes a list, not 4"),
        ({"name": 4}, "name: takes text, not 4"),
        ({"limits": 4}, "limits: unknown key"),
        ({"limit": 0}, "limit: takes numbers from 1 on, not 0"),
        ({"compute": {"timeout": 0}}, "compute.timeout: takes numbers above 0.0, not 0"),
        ({"compute": {"timeout": math.inf}}, "compute.timeout: takes a finite number, not inf"),
        ({"context": True}, "context: takes a whole number, not True"),
        ({"models": []}, "models: an empty list asks for nothing"),
        ({"calibrations": {"c": {}}}, "calibrations.c.corpus: missing"),
        (
            {"calibrations": {"c": {"corpus": "sotu", "seed": -1}}},
            "calibrations.c.seed: takes numbers from 0 on, not -1",
        ),
        ({"corpora": []}, "top level: nothing to measure; give tasks, corpora or both"),
    ],
    ids=lambda value: None if isinstance(value, str) else "-".join(value),
)
def test_sweeps(changed: dict, said: str) -> None:
    with pytest.raises(ValidationError) as error:
        Sweep.model_validate(SWEEP | changed)
    assert first_problem(error.value).startswith(said)


def test_models_and_training_studies() -> None:
    with pytest.raises(ValidationError) as error:
        ModelEntry.model_validate(MODEL | {"trust_remote_code": "perhaps"})
    assert first_problem(error.value) == "trust_remote_code: takes true or false, not 'perhaps'"
    with pytest.raises(ValidationError) as error:
        StudyFile.model_validate(STUDY | {"seeds": ["one"]})
    assert first_problem(error.value) == "seeds.0: takes a whole number, not 'one'"


def test_long_values_are_cut() -> None:
    with pytest.raises(ValidationError) as error:
        Sweep.model_validate(SWEEP | {"limit": "x" * 5000})
    assert len(first_problem(error.value)) < 100


# What a file of each kind has at least.
FILES: dict[type[Strict], dict] = {
    Sweep: SWEEP,
    Grid: {"bits": 4},
    TaskEntry: {"name": "piqa"},
    Corpus: {"name": "c4"},
    Compute: {},
    Calibration: {"corpus": "sotu"},
    Source: {"name": "sotu"},
    ModelEntry: MODEL,
    StudyFile: STUDY,
}
WRONG = [True, -1, 0, 1.5, math.nan, math.inf, "", "x", None, [], [[]], {}, {"x": 1}, {1: 2}]
PROGRAMMERS = re.compile("Input should|should be|should have|validation|Field required|Traceback")


def test_every_kind_of_file_is_here() -> None:
    assert set(Strict.__subclasses__()) == set(FILES)


@pytest.mark.parametrize("kind", FILES, ids=lambda kind: kind.__name__)
def test_no_value_of_any_key_is_answered_in_a_programmers_words(kind: type[Strict]) -> None:
    for name in kind.model_fields:
        for value in WRONG:
            try:
                made = kind.model_validate(FILES[kind] | {name: value})
            except ValidationError as error:
                said = first_problem(error)
                assert not PROGRAMMERS.search(said) and "\n" not in said and name in said, said
            else:
                assert (value is True) == (getattr(made, name) is True), f"{name}: {value!r}"


STUDY_TEXT = """
models: [sotu-neox-32x2]
grids:
  - {{{factors}}}
tasks: sotu
"""


TRUE = ["true", "[true]", "{group: true}", "{gptq: {damping: true}}", "{token: true}"]
TRUE += ["{smoothquant: true}", "{hadamard: {seed: true}}", "{4: true}", "{by_type: true}"]
OTHER = [
    "-1",
    "0",
    "4.5",
    ".nan",
    ".inf",
    "x",
    '""',
    "null",
    "[]",
    "[[]]",
    "{}",
    "{x: 1}",
    "{1: x}",
]
OTHER += ["{x: {y: 1}}", "{gptq: {}}", "{token: {v0: 1}}", "[4, {}]"]


@pytest.mark.parametrize("factor", FACTORS)
def test_true_is_no_number_in_a_grid(factor: str, tmp_path) -> None:
    """Nor one inside what a factor is spelled with; where it is what is asked for, it is taken.
    Whatever else is written is taken, or refused in a line that names the grid."""
    path = tmp_path / "study.yaml"
    for value in (*TRUE, *OTHER):
        factors = f"bits: {value}" if factor == "bits" else f"bits: 4, {factor}: {value}"
        path.write_text(STUDY_TEXT.format(factors=factors))
        try:
            expand(load_sweep(path), load_models(), path, on_gpu=False)
        except InputError as error:
            said = str(error)
            assert "\n" not in said and not PROGRAMMERS.search(said), said
            assert "grids.0: " in said and (factor in said or value not in TRUE), said
        else:
            taken = factor == "centered" and value in ("true", "[true]")
            assert taken or value in OTHER, f"{factor}: {value}"
