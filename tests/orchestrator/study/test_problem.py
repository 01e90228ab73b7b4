"""Values of the wrong kind in files: what the key takes and what was given, in plain words."""

import pytest
from pydantic import ValidationError

from orchestrator.study.models import ModelEntry
from orchestrator.study.problem import first_problem
from orchestrator.study.spec import Sweep
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
