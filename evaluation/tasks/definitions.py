"""What defines a task: prompts, choices, right answers, metrics. Scores depend on these, not on the
version of the harness that they came with.

Ids name the harness by which tasks were first scored. Under another version they stay where the
definition is the same byte for byte: known for the tasks of our sets, by digests of that version.
"""

from __future__ import annotations

import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any

from evaluation.tasks.index import HARNESS, harness_folder, task_config
from evaluation.tasks.sets import OWN_TASKS

FIRST = "lm-eval 0.4.13"
# What does not change a score, or has its own place in a protocol.
_ASIDE = (
    "tag", "group", "task_alias", "metadata", "should_decontaminate", "doc_to_decontamination_query"
)  # fmt: skip


@cache
def harness_in_ids(name: str) -> str:
    """What a protocol says of the harness for a task: the first version, or where the installed
    one may define the task otherwise, the definition's digest."""
    if HARNESS == FIRST or name in OWN_TASKS:
        return FIRST
    digest = definition_digest(name)
    return FIRST if digest == KNOWN.get(name) else f"lm-eval task {digest}"


def definition_digest(name: str) -> str:
    """16 hex digits of a task's definition: its file with all it includes, and the source files of
    the functions that it names. Raises ValueError for an unknown task."""
    config = {key: value for key, value in task_config(name).items() if key not in _ASIDE}
    text = json.dumps(_located(config), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _located(value: Any) -> Any:
    """With functions as (place below the harness's folder, digest of the file)."""
    if isinstance(value, dict):
        return {str(key): _located(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_located(part) for part in value]
    if isinstance(value, str) and value.startswith(str(harness_folder())):
        source = Path(value).with_suffix(".py")
        found = hashlib.sha256(source.read_bytes()).hexdigest() if source.is_file() else None
        return [str(Path(value).relative_to(harness_folder())), found]
    return value


def _known(table: str) -> dict[str, str]:
    names_and_digests = table.split()
    return dict(zip(names_and_digests[::2], names_and_digests[1::2], strict=True))


KNOWN = _known(
    """
    arc_easy c4aa97f15e6e1b6c
    copa d5bf05e6ab20b47b
    hellaswag 7571e5bd889fdf62
    lambada_openai 4057e53e06e9aaa5
    mmlu_abstract_algebra 3b3ea7ad51e5083e
    mmlu_anatomy 1ad0069329ca50ea
    mmlu_astronomy 07681e4bbce969b5
    mmlu_business_ethics 076453af208b3512
    mmlu_clinical_knowledge b54b7fcf4b430796
    mmlu_college_biology 0dfa1629981aad76
    mmlu_college_chemistry acf29fdaccc68bf7
    mmlu_college_computer_science 6703681ff9715b59
    mmlu_college_mathematics 6c51506ec9e2def9
    mmlu_college_medicine bee2f1c4fb6d8b1c
    mmlu_college_physics 020bc96b7b92d93a
    mmlu_computer_security 9cb202f974c4a9bc
    mmlu_conceptual_physics 60fcf2f38199173a
    mmlu_econometrics ce7e6edfca34605a
    mmlu_electrical_engineering 44f54faf5ba8a39f
    mmlu_elementary_mathematics bf7d8840d3338ec6
    mmlu_formal_logic 9593e1d899158fc5
    mmlu_global_facts 1eabad359e9b9090
    mmlu_high_school_biology 56eeed96f6dcd26d
    mmlu_high_school_chemistry f71691a80c23045d
    mmlu_high_school_computer_science 233ea6895eaacc41
    mmlu_high_school_european_history 0bf065533cf21404
    mmlu_high_school_geography 830dfaaa0e236fa6
    mmlu_high_school_government_and_politics c8531e231ee10cb1
    mmlu_high_school_macroeconomics af48005186305e3b
    mmlu_high_school_mathematics c96e567a7a110b0a
    mmlu_high_school_microeconomics 2dd6dd204026fb36
    mmlu_high_school_physics 17ed3e6a47876954
    mmlu_high_school_psychology 249e7f50378d40d4
    mmlu_high_school_statistics 50bea97f0e405c57
    mmlu_high_school_us_history e963efd24b70f259
    mmlu_high_school_world_history 4e29c443f480a349
    mmlu_human_aging e6516a980c1718c7
    mmlu_human_sexuality 2e2382bc4487ba9f
    mmlu_international_law 8ed206dcdf149342
    mmlu_jurisprudence 69cac4016d8c4c40
    mmlu_logical_fallacies 75d98393c723bcab
    mmlu_machine_learning 33e836fb8db59eb8
    mmlu_management cee19cc89209766f
    mmlu_marketing c96699d12ca4ccb7
    mmlu_medical_genetics 5280980f15917e50
    mmlu_miscellaneous 0483b10fbbcee74f
    mmlu_moral_disputes fc425ccf4cb0d24b
    mmlu_moral_scenarios 86ae28d1fd07b18a
    mmlu_nutrition 8e7fbb46e3587914
    mmlu_philosophy d337ec98c578234e
    mmlu_prehistory 96f87dc38ce22425
    mmlu_professional_accounting ccbd195938683ffe
    mmlu_professional_law fb28c4996ab3c68b
    mmlu_professional_medicine d958b888a664ea55
    mmlu_professional_psychology c56b0c06e6c97544
    mmlu_public_relations 2faf5d1d76208838
    mmlu_security_studies 672187ec80772ce1
    mmlu_sociology b0025799df9751d0
    mmlu_us_foreign_policy 92948294aab414e2
    mmlu_virology dfce664d24088be6
    mmlu_world_religions 50fb01b98dfc4e95
    piqa 03302f1addd3a5fe
    storycloze_2016 9f7c4acba7521ce3
    winogrande c7f71a8bc363226c
    """
)
"""Task -> digest of its definition in the first version."""
