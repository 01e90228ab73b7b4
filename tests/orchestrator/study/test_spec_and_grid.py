"""Sweep files: what they expand to, and one clear line for each mistake."""

from pathlib import Path

import pytest

from orchestrator.errors import InputError
from orchestrator.paths import ROOT
from orchestrator.study.grid import expand
from orchestrator.study.models import load_models
from orchestrator.study.spec import load_sweep

GOOD = """
models: [sotu-neox-32x2]
grids:
  - {bits: [16, 4], data_type: float, block_size: 64}
tasks: sotu
limit: 10
"""


def sweep_file(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "study.yaml"
    path.write_text(text)
    return path


def plan_of(path: Path):
    return expand(load_sweep(path), load_models(), path, on_gpu=False)


def protocol_ids(tmp_path: Path, text: str) -> set[str]:
    protocols = plan_of(sweep_file(tmp_path, text)).protocols
    return {p.id for asked in protocols.values() for p in asked}


def test_baseline_appears_once_and_ids_are_stable(tmp_path):
    text = GOOD + "  \n"
    doubled = text.replace(
        "tasks:", "  - {bits: 16}\n  - {bits: 4, data_type: float, exponent_bits: 2}\ntasks:"
    )
    plan, again = plan_of(sweep_file(tmp_path, text)), plan_of(sweep_file(tmp_path, doubled))
    assert [e.setting.bits for e in plan.experiments] == [16, 4]
    # 4 bit defaults to two exponent bits: asking for them by name is the same experiment.
    assert [e.id for e in again.experiments] == [e.id for e in plan.experiments]


def test_models_are_chosen_by_patterns_too(tmp_path):
    text = GOOD.replace("[sotu-neox-32x2]", '["sotu-*-32x2", sotu-neox-64x2]')
    text = text.replace("block_size: 64}", 'block_size: 64, models: ["*-64x2"]}\n  - bits: 16')
    found = {
        (e.model.name, e.setting.bits) for e in plan_of(sweep_file(tmp_path, text)).experiments
    }
    small = {(f"sotu-{family}-32x2", 16) for family in ("neox", "opt", "llama", "bloom")}
    assert found == small | {("sotu-neox-64x2", 16), ("sotu-neox-64x2", 4)}


def test_ids_follow_what_changes_a_score_and_nothing_else(tmp_path):
    base = {e.id for e in plan_of(sweep_file(tmp_path, GOOD)).experiments}
    more_workers = GOOD + "compute: {workers: 1, threads_per_worker: 2}\nname: other\n"
    assert {e.id for e in plan_of(sweep_file(tmp_path, more_workers)).experiments} == base
    other_block = GOOD.replace("64}", "32}")
    assert len({e.id for e in plan_of(sweep_file(tmp_path, other_block)).experiments} & base) == 1
    assert not protocol_ids(tmp_path, GOOD) & protocol_ids(tmp_path, GOOD.replace("10", "9"))


def test_local_revision_follows_the_weights(tmp_path):
    plan = plan_of(sweep_file(tmp_path, GOOD))
    assert plan.experiments[0].revision.startswith("local-")
    assert not plan.broken


def test_paper_sweep_has_the_paper_scale():
    path = ROOT / "sweeps" / "paper.yaml"
    plan = plan_of(path)
    measurements = len(plan.experiments) * 4
    assert 0.8 * 35_000 <= measurements <= 1.2 * 35_000
    assert len({e.id for e in plan.experiments}) == len(plan.experiments)
    assert {e.model.family for e in plan.experiments} == {
        "opt",
        "pythia",
        "gpt2",
        "bloom",
        "bloomz",
    }


def test_exponent_bits_by_precision(tmp_path):
    grid = "{bits: [3, 4], data_type: [int, float], exponent_bits: {3: 2, 4: [2, 3]}}"
    text = GOOD.replace("{bits: [16, 4], data_type: float, block_size: 64}", grid)
    found = [
        (e.setting.bits, e.setting.data_type, e.setting.exponent_bits)
        for e in plan_of(sweep_file(tmp_path, text)).experiments
    ]
    assert found == [
        (3, "int", None),
        (3, "float", 2),
        (4, "int", None),
        (4, "float", 2),
        (4, "float", 3),
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("limit: 10", "limits: 10"), r"study\.yaml: limits: unknown key"),
        (("block_size: 64", "blocksize: 64"), r"grids\.0: blocksize: unknown key"),
        (("sotu-neox-32x2", "sotu-nex"), r"models: no family or model 'sotu-nex'.*sotu-neox"),
        (("data_type: float", "data_type: flaot"), r"grids\.0: data_type: 'flaot'"),
        (("tasks: sotu", "tasks: sotu_blnk"), r"tasks\.0: .*sotu_blank"),
        (("bits: [16, 4]", "bits: 17"), r"grids\.0: bits: 17"),
        (("bits: [16, 4]", "bits: 1"), r"grids\.0: bits: 1"),
        (("block_size: 64", "exponent_bits: 4"), r"exponent_bits: 4 does not fit a 4-bit float"),
        (("bits: [16, 4]", "bits: '4'"), r"grids\.0: bits: '4'"),
        (("bits: [16, 4]", "bits: []"), r"grids\.0: bits: an empty list"),
        (("bits: [16, 4], ", ""), r"grids\.0: bits: missing"),
        (("block_size: 64", "block_size: []"), r"grids\.0: block_size: an empty list"),
        (("block_size: 64", "exponent_bits: {'4': 1}"), r"grids\.0: exponent_bits: '4' is none"),
        (("block_size: 64", "exponent_bits: {3: 1}"), r"grids\.0: exponent_bits: 3 is none"),
        (("block_size: 64", "exponent_bits: {4: []}"), r"grids\.0: exponent_bits: 4: an empty"),
        (("block_size: 64", "exponent_bits: '2'"), r"exponent_bits: '2' does not fit"),
        (("block_size: 64", "exponent_bits: defualt"), r"exponent_bits: 'defualt' does not fit"),
        (("block_size: 64", "block_size: 0"), r"block_size: 0"),
        (("block_size: 64", "outlier_fraction: 1.5"), r"outlier_fraction: 1\.5"),
        (("limit: 10", "limit: 0"), r"limit"),
        (("tasks: sotu", "tasks: gsm8k"), r"tasks\.0: .*'gsm8k' generates text"),
        (("tasks: sotu", "tasks: [sotu, {name: piqa, files: x}]"), r"tasks\.1\.files: unknown key"),
        (
            ("tasks: sotu", "tasks: [sotu, {name: piqa, data_files: absent.jsonl}]"),
            r"tasks\.1: .*absent\.jsonl for task 'piqa': no such file",
        ),
        (
            ("tasks: sotu", "tasks: {name: piqa, data_files: study.yaml}"),
            r"tasks\.0: .*give one of \.jsonl",
        ),
        (("tasks: sotu", "tasks: paralex"), r"tasks\.0: .*'paralex' is not on the hub"),
        (("tasks: sotu", "tasks: leaderboard_bbh_"), r"tasks\.0: .*did you mean leaderboard_bbh"),
        (
            ("tasks: sotu", "corpora: {name: c4, data_files: absent.txt}"),
            r"corpora\.0: .*absent\.txt.*neither a file",
        ),
        (("tasks: sotu", "corpora: no-such-corpus"), r"corpora\.0: .*no-such-corpus"),
        (("data_type: float", "data_type: int, exponent_bits: 2"), r"only the float data type"),
        (("tasks: sotu", "corpora: []"), r"nothing to measure"),
        (("tasks: sotu", "tasks: sotu\nstrategy: adaptive"), r"adaptive samples a corpus"),
        (("[sotu-neox-32x2]", "[]"), r"models: "),
        (("grids:", "grids: []\nother:"), r"grids: "),
        (("grids:", "grids: ["), r"not valid YAML"),
        (("limit: 10", "10: limit"), r"study\.yaml: 10: a key is text"),
        (("block_size: 64", "64: block_size"), r"grids\.0\.64: a key is text"),
    ],
)
def test_mistakes_are_one_line_with_file_key_and_reason(tmp_path, change, message):
    path = sweep_file(tmp_path, GOOD.replace(*change))
    with pytest.raises(InputError, match=message) as error:
        plan_of(path)
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    "factor",
    [
        "data_type: int",
        "block_size: 64",
        "block_size: row",
        "outlier_fraction: 0.02",
        "centered: true",
        "scope: all",
        "scales: clipped",
        "rounding: gptq",
        "attention_bits: 8",
    ],
)
def test_a_factor_of_weights_alone_needs_weights_below_16_bit(tmp_path, factor):
    given = "{bits: [16, 4], data_type: float, block_size: 64}"
    for bits in ("16", "[16]"):
        path = sweep_file(tmp_path, GOOD.replace(given, f"{{bits: {bits}, {factor}}}"))
        name = factor.partition(":")[0]
        with pytest.raises(InputError, match=f"grids.0: .*{name}: does nothing at 16 bit"):
            load_sweep(path)
    if "gptq" not in factor and "attention" not in factor:
        path = sweep_file(tmp_path, GOOD.replace(given, f"{{bits: [16, 4], {factor}}}"))
        assert len(plan_of(path).experiments) == 2
    kept = GOOD.replace(given, "{bits: 16, activations: {token: 8}}")
    assert plan_of(sweep_file(tmp_path, kept)).experiments[0].setting.activations == "token 8"


def test_a_recipe_at_16_bit_is_what_it_does_beside_weights(tmp_path):
    text = GOOD.replace(
        "{bits: [16, 4], data_type: float, block_size: 64}", "{recipe: vectorwise-w8a8, bits: 16}"
    )
    (experiment,) = plan_of(sweep_file(tmp_path, text)).experiments
    assert experiment.setting.label == "16-bit A8 token"


@pytest.mark.parametrize("timeout", [".inf", ".nan", "-1", "0"])
def test_a_timeout_is_a_number_of_seconds(tmp_path, timeout):
    path = sweep_file(tmp_path, GOOD + f"compute: {{timeout: {timeout}}}\n")
    with pytest.raises(InputError, match=r"compute\.timeout: "):
        load_sweep(path)


def test_local_data_reaches_the_jobs_by_content(tmp_path, monkeypatch):
    items = tmp_path / "items.jsonl"
    items.write_text('{"goal": "g", "sol1": "a", "sol2": "b", "label": 1}\n')
    (tmp_path / "web.txt").write_text("some text")
    monkeypatch.chdir("/")  # relative paths are the sweep file's, wherever the command is typed
    local = "tasks: [{name: piqa, data_files: ./items.jsonl}, copa]\n"
    corpora = "corpora: [{name: c4, data_files: web.txt}, web.txt]\n"
    text = GOOD.replace("tasks: sotu\n", local + corpora)
    (protocols,) = plan_of(sweep_file(tmp_path, text)).protocols.values()
    piqa, copa, c4, web = protocols
    assert (piqa.task, piqa.source, piqa.data_files) == ("piqa", "piqa", str(items))
    assert copa.data_files is None and copa.settings["data"] == "aps/super_glue/copa"
    assert (c4.task, c4.source) == ("c4", "c4")
    assert c4.data_files == str(tmp_path / "web.txt") == web.source
    assert web.task == "web.txt" and web.settings["data"] == c4.settings["data"]
    ids = {p.id for p in protocols}
    items.write_text('{"goal": "other", "sol1": "a", "sol2": "b", "label": 1}\n')
    (changed,) = plan_of(sweep_file(tmp_path, text)).protocols.values()
    assert len(ids - {p.id for p in changed}) == 1


def test_sets_and_groups_are_expanded_and_local_data_wins(tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"question": "one?", "paraphrase": "a?"}\n')
    tasks = f"tasks: [intriguing, mmlu_stem, {{name: paralex, data_files: {rows}}}]"
    sweep = load_sweep(sweep_file(tmp_path, GOOD.replace("tasks: sotu", tasks)))
    data = sweep.task_data()
    assert len(data) == 7 + 19 and "storycloze_2016" in data and "mmlu_anatomy" in data
    assert {name: path for name, path in data.items() if path} == {"paralex": str(rows)}
    assert len(load_sweep(sweep_file(tmp_path, GOOD.replace("sotu\n", "fptq\n"))).tasks) == 1


def test_a_corpus_asked_for_twice_is_scored_once(tmp_path):
    once = "corpora: [{name: sotu, max_tokens: 2000}, {name: sotu, max_tokens: 1000}]\n"
    twice = once.replace("[", "[{name: sotu, max_tokens: 2000}, ")
    read = [load_sweep(sweep_file(tmp_path, GOOD + text)).corpora for text in (once, twice)]
    assert len(read[0]) == 2 and read[0] == read[1]


def test_missing_file_is_one_line(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        load_sweep(tmp_path / "none.yaml")
