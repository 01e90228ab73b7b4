"""The harness's tasks on local files, and one clear line for each way to get them wrong."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pandas
import pytest

from evaluation.data.local_files import read_rows
from evaluation.engine.language_model import LanguageModel
from evaluation.protocols import task_protocol
from evaluation.tasks.data import data_version
from evaluation.tasks.data_files import local_files
from evaluation.tasks.loaded_task import load_task
from evaluation.tasks.local_tasks import build_task
from evaluation.tasks.zero_shot import evaluate_zero_shot
from tests.evaluation.tasks.test_zero_shot import tiny

OWN = Path(__file__).parents[1] / "own_items"
PIQA = str(OWN / "piqa.jsonl")


def write_rows(path: Path, rows: list[dict]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def arguments_of(name: str, data_files: str) -> list[tuple[str, ...]]:
    return [request.args for request in load_task(name, None, data_files).requests]


def test_prompts_are_the_harness_own():
    assert arguments_of("piqa", PIQA)[0] == (
        "Question: Keep a door from slamming in the wind.\nAnswer:",
        " Push a wedge of wood under it.",
    )
    # The task's own preprocessing runs: brackets go, the second sentence is capitalised.
    assert arguments_of("hellaswag", str(OWN / "hellaswag.jsonl"))[4][0] == (
        "Repairing a bicycle: A boy turns a bicycle upside down. He spins the wheel. Then he"
    )
    assert arguments_of("copa", str(OWN / "copa.jsonl"))[2][0] == "The streets were wet because"
    assert arguments_of("storycloze_2016", str(OWN))[0][1].startswith(" An hour later")
    assert "A. femur\nB. humerus" in arguments_of("mmlu_anatomy", str(OWN))[0][0]


def test_rows_in_the_processed_form_give_the_same_requests(tmp_path):
    for name in ("hellaswag", "arc_easy"):
        own = load_task(name, None, str(OWN))
        rows = [
            {
                "query" if name == "hellaswag" else "question": document.get("query")
                or document["question"],
                "choices": own.task.doc_to_choice(document),
                "gold": int(own.task.doc_to_target(document)),
            }
            for document, _ in own.items
        ]
        path = write_rows(tmp_path / f"{name}.jsonl", rows)
        assert arguments_of(name, path) == arguments_of(name, str(OWN))
        processed = load_task(name, None, path)
        for (document, _), row in zip(processed.items, rows, strict=True):
            answers = [(-float(i != row["gold"]), False) for i in range(len(row["choices"]))]
            assert processed.task.process_results(document, answers)["acc"] == 1
            answers[row["gold"]] = (-2.0, False)
            assert processed.task.process_results(document, answers)["acc"] == 0


def test_a_folder_holds_a_file_a_task_or_a_copy_of_the_data_set(tmp_path):
    rows = read_rows(Path(PIQA))
    assert local_files("piqa", str(OWN)) == (OWN / "piqa.jsonl",)
    # As the hub lays data sets out: split files, below data/ or the configuration's name.
    copy = tmp_path / "copy"
    (copy / "data").mkdir(parents=True)
    pandas.DataFrame(rows[:2]).to_parquet(copy / "data" / "validation-00000-of-00002.parquet")
    pandas.DataFrame(rows[2:]).to_parquet(copy / "data" / "validation-00001-of-00002.parquet")
    pandas.DataFrame(rows[:1]).to_parquet(copy / "data" / "train-00000-of-00001.parquet")
    assert arguments_of("piqa", str(copy)) == arguments_of("piqa", PIQA)
    anatomy = write_rows(
        tmp_path / "mmlu" / "anatomy" / "test.jsonl", read_rows(OWN / "mmlu_anatomy.jsonl")
    )
    assert local_files("mmlu_anatomy", str(tmp_path / "mmlu")) == (Path(anatomy),)
    with pytest.raises(ValueError, match=r"no .*mmlu_virology\.\* or .*virology/test"):
        local_files("mmlu_virology", str(tmp_path / "mmlu"))


def test_identity_follows_the_content_not_the_place(tmp_path):
    rows = read_rows(Path(PIQA))
    copy = write_rows(tmp_path / "elsewhere.jsonl", rows)
    before = task_protocol("piqa", None, copy)
    (tmp_path / "moved.jsonl").write_bytes(Path(copy).read_bytes())
    assert task_protocol("piqa", None, str(tmp_path / "moved.jsonl")) == before
    assert before["data"].startswith("sha256 ") and before != task_protocol("piqa")
    write_rows(tmp_path / "elsewhere.jsonl", rows[:-1])
    assert task_protocol("piqa", None, copy) != before


@pytest.mark.parametrize(
    ("name", "rows", "message"),
    [
        ("piqa", [{"goal": "a", "sol1": "b", "label": 0}], r"lacks sol2.*columns are goal, sol1"),
        ("piqa", [{"goal": "a", "sol1": "b", "sol2": "c"}], r"row 1: 'label' is none of 2 choic"),
        ("piqa", [{"goal": "a", "sol1": "b", "sol2": "c", "label": 2}], r"index out of range"),
        ("winogrande", [{"sentence": "a _ b", "option1": "x", "option2": "y"}], r"answer"),
        ("hellaswag", [{"ctx": "a", "endings": ["b"], "label": "0"}], r"it lacks ctx_a"),
        ("lambada_openai", [{"txt": "one two"}], r"lacks text; its columns are txt"),
        ("paralex", [{"question": "one"}], r"lacks paraphrase"),
        ("piqa", [], r"is empty"),
    ],
)
def test_wrong_columns_are_one_line_before_anything_is_scored(tmp_path, name, rows, message):
    path = write_rows(tmp_path / "rows.jsonl", rows)
    for function in (data_version, build_task, lambda n, p: task_protocol(n, None, p)):
        with pytest.raises(ValueError, match=message) as caught:
            function(name, path)
        assert "\n" not in str(caught.value)
        assert path in str(caught.value) and name in str(caught.value)


def test_a_later_row_that_lacks_a_column_or_an_answer_is_found(tmp_path):
    rows = read_rows(Path(PIQA)) * 3
    lacking = write_rows(tmp_path / "a.jsonl", [*rows, {"goal": "a", "sol1": "b", "label": 0}])
    with pytest.raises(ValueError, match="row 16 lacks sol2"):
        build_task("piqa", lacking)
    unanswered = write_rows(tmp_path / "b.jsonl", [*rows, rows[0] | {"label": -1}])
    with pytest.raises(ValueError, match="row 16: -1 is none of 2 choices"):
        build_task("piqa", unanswered)


@pytest.mark.parametrize(
    ("data_files", "message"),
    [
        (str(OWN / "absent.jsonl"), "absent.jsonl for task 'piqa': no such file"),
        (str(Path(__file__)), r"test_local_tasks.py: give one of \.jsonl"),
        (None, "'paralex' is not on the hub.*question and paraphrase"),
    ],
)
def test_missing_data_is_one_line(data_files, message):
    with pytest.raises(ValueError, match=message):
        data_version("piqa" if data_files else "paralex", data_files)


def test_few_shot_tasks_need_the_whole_data_set(tmp_path):
    path = write_rows(tmp_path / "rows.jsonl", [{"sentence": "s", "label": 1}])
    with pytest.raises(ValueError, match="shows examples from another split"):
        build_task("leaderboard_mmlu_pro", path)


def test_paralex_is_the_mean_probability_of_a_byte():
    (result,) = evaluate_zero_shot(tiny(), ["paralex"], None, {"paralex": str(OWN)})
    loaded = load_task("paralex", None, str(OWN))
    answers = LanguageModel(tiny()).loglikelihood(loaded.requests)
    n_bytes = [len(f" {row['paraphrase']}".encode()) for row in read_rows(OWN / "paralex.jsonl")]
    expected = [math.exp(v / n) for (v, _), n in zip(answers, n_bytes, strict=True)]
    assert result.items["byte_likelihood"] == pytest.approx(expected, rel=1e-5)
    assert result.metric("byte_likelihood").value == pytest.approx(sum(expected) / 3, rel=1e-5)
    bits = -sum(v for v, _ in answers) / math.log(2) / sum(n_bytes)
    assert result.metric("bits_per_byte").value == pytest.approx(bits, rel=1e-5)
    assert loaded.requests[1].args[1] == " By whom was the village's first well dug?"


def test_labels_that_are_numpys_integers_are_scored_as_in_the_harness(tmp_path):
    """toxigen's are computed by its own code; `isinstance(label, int)` is false of them."""
    texts = ["They are all alike.", "The tea was cold.", "Nobody likes them.", "It rained."]
    ratings = [(5.0, 4.0), (1.0, 1.0), (3.0, 3.0), (2.0, 1.5)]
    rows = [
        {"text": text, "toxicity_ai": machine, "toxicity_human": human}
        for text, (machine, human) in zip(texts, ratings, strict=True)
    ]
    path = write_rows(tmp_path / "toxigen.jsonl", rows)
    engine = tiny()
    (result,) = evaluate_zero_shot(engine, ["toxigen"], None, {"toxigen": path})
    loaded = load_task("toxigen", None, path)
    answers = LanguageModel(engine).loglikelihood(loaded.requests)
    judged = [loaded.task.process_results(doc, answers[where]) for doc, where in loaded.items]
    gold = [loaded.task.doc_to_target(doc) for doc, _ in loaded.items]
    assert gold == [1, 0, 1, 0] and not isinstance(gold[0], int)
    for metric in ("acc", "acc_norm"):
        assert result.items[metric].tolist() == [item[metric] for item in judged]
