"""Every claim of FPTQ on three studies whose truth is given, and its tables from rows."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import pytest

from analysis.claims.claim import FAILS, HOLDS, UNRESOLVED, Exhibit, Table
from analysis.claims.fptq.paper import PAPER
from analysis.claims.fptq.planted import REMEDIES
from analysis.claims.fptq.recipes import accuracies
from analysis.claims.fptq.sites import kind_of, ranges
from analysis.claims.paper import Study
from quantizers.recipes import RECIPES
from quantizers.setting import Setting
from tests.analysis.claims.made import made_study, made_verdict, verdicts

TEXT, RANDOM = "pile_cc 512x512 #0123456789ab", "random 512x512 #ba9876543210"
LOUD = 3.0


def recipe(name: str, text: str = TEXT, **changes: object) -> Setting:
    setting = replace(RECIPES[name].setting, **changes)  # type: ignore[arg-type]
    return replace(setting, calibration=text if setting.needs_statistics else None)


verdict = partial(made_verdict, PAPER)


PARTS = "Every part of FPTQ helps"
RANDOM_TOKENS = "Random tokens calibrate as well as text"
WITH_GPTQ = "GPTQ on top of FPTQ does not help"
ALPHA = "Alpha 1 is the best suppression"
LOSSLESS = "FPTQ's W4A8 is within one percent of 16 bit"
AS_W8A8 = "FPTQ's W4A8 is within one percent of SmoothQuant's W8A8"
PLANTED = "Under planted outliers static scales lose what the remedies keep"
RANGES = "Inputs of the down projection span more than those of the attention output"


def components(fptq: float) -> dict[Setting, float]:
    losses = {"sq-w4a8-tensor": 0.5, "smoothquant-w4a8": 0.1, "sq-w4a8-fine": 0.05, "fptq": fptq}
    return {recipe(name): loss for name, loss in losses.items()}


def test_the_order_of_table_10() -> None:
    assert verdict(PARTS, components(0.03)) == HOLDS
    assert verdict(PARTS, components(0.07)) == FAILS  # equalization makes it worse
    assert verdict(PARTS, components(0.03), LOUD) == UNRESOLVED


def texts(random: float) -> dict[Setting, float]:
    return {recipe("fptq"): 0.05, recipe("fptq", RANDOM): random}


def test_random_tokens() -> None:
    assert verdict(RANDOM_TOKENS, texts(0.052)) == HOLDS
    assert verdict(RANDOM_TOKENS, texts(0.04)) == HOLDS
    assert verdict(RANDOM_TOKENS, texts(0.08)) == FAILS
    assert verdict(RANDOM_TOKENS, texts(0.052), LOUD) == UNRESOLVED


def test_gptq_beside_fptq() -> None:
    both = {recipe("fptq"): 0.05, recipe("fptq-gptq"): 0.08}
    assert verdict(WITH_GPTQ, both) == HOLDS
    assert verdict(WITH_GPTQ, both, LOUD) == UNRESOLVED
    assert verdict(WITH_GPTQ, {recipe("fptq"): 0.05, recipe("fptq-gptq"): 0.02}) == FAILS


def test_llm_qat_is_another_model() -> None:
    trained = recipe("vectorwise-w8a8", bits=4)

    def study(loss: float, error: float = 1e-4) -> Study:
        ours = made_study({recipe("fptq"): 0.05}, error)
        qat = made_study({trained: loss}, error, ["opt llm-qat W4A8"])
        made = qat.results["model"].str.replace("opt llm-qat W4A8", "opt") + "-llm-qat-w4a8"
        rows = pd.concat([ours.results, qat.results.assign(model=made)], ignore_index=True)

        def scores(
            ids: Sequence[str], task: str, metric: str, protocol: str | None = None
        ) -> Mapping[str, np.ndarray]:
            parts = (
                found.scores(_own(found, ids), task, metric, protocol) for found in (ours, qat)
            )
            return {id_: items for each in parts for id_, items in each.items()}

        return Study(rows, scores)

    title = "FPTQ beats LLM-QAT, which is trained"
    assert verdicts(PAPER.claims(study(0.08)))[title] == HOLDS
    assert verdicts(PAPER.claims(study(0.02)))[title] == FAILS
    assert verdicts(PAPER.claims(study(0.08, LOUD)))[title] == UNRESOLVED


def _own(study: Study, ids: Sequence[str]) -> list[str]:
    return [id_ for id_ in ids if id_ in set(study.results["experiment_id"])]


def alphas(half: float) -> dict[Setting, float]:
    others = {"logarithmic 0.5": half, "logarithmic 1.5": 0.09}
    changed = {recipe("fptq", folding=name): loss for name, loss in others.items()}
    return {recipe("fptq"): 0.05} | changed


def test_alpha() -> None:
    assert verdict(ALPHA, alphas(0.07)) == HOLDS
    assert verdict(ALPHA, alphas(0.03)) == FAILS
    assert verdict(ALPHA, alphas(0.07), LOUD) == UNRESOLVED


def with_accuracy(right: Mapping[str, float], n: int = 400) -> Study:
    """LAMBADA on n items by recipe; the same items are easy for all."""
    names = [name for name in right if name != "16 bit"]
    study = made_study({recipe(name): 0.01 for name in names}, families=["llama"])
    rows, items = [], {}
    for row in study.results.drop_duplicates("experiment_id").to_dict("records"):
        name = "16 bit" if row["bits"] == 16 else next(
            n for n in names if recipe(n).label == Setting.from_row(row).label
        )  # fmt: skip
        count = round(right[name] * n)
        items[row["experiment_id"]] = (np.arange(n) < count).astype(np.float32)
        cells = {"task": "lambada_openai", "metric": "acc", "value": count / n, "stderr": 0.02}
        rows.append(row | cells | {"n_items": n})

    def scores(
        ids: Sequence[str], task: str, metric: str, protocol: str | None = None
    ) -> Mapping[str, np.ndarray]:
        return {i: items[i] for i in ids}

    return Study(pd.DataFrame(rows), scores)


def accuracy(fptq: float, n: int = 400) -> Study:
    return with_accuracy({"16 bit": 0.75, "smoothquant-w8a8": 0.75, "fptq": fptq}, n)


@pytest.mark.parametrize("title", [LOSSLESS, AS_W8A8])
def test_within_one_percent(title: str) -> None:
    assert verdicts(PAPER.claims(accuracy(0.7475)))[title] == HOLDS
    assert verdicts(PAPER.claims(accuracy(0.65)))[title] == FAILS
    assert verdicts(PAPER.claims(accuracy(0.725, n=40)))[title] == UNRESOLVED


def planted(remedy: float, error: float = 1e-4) -> Study:
    settings = {
        name: RECIPES[label].setting if label in RECIPES else None
        for name, label in REMEDIES.items()
    }
    static = Setting.make(8, "int", block_size="row", activations={"tensor": 8}, calibration=TEXT)
    folded = {
        "logarithmic equalization": replace(static, folding="logarithmic 1.0"),
        "rotation": replace(static, folding="hadamard 0"),
    }
    losses = {static: 0.7}
    for name, setting in settings.items():
        found = setting or folded[name]
        text = TEXT if found.needs_statistics else None
        losses[replace(found, calibration=text)] = remedy
    return made_study(losses, error, families=["neox planted 4x64", "opt planted 4x64"])


def test_remedies_of_planted_outliers() -> None:
    assert verdicts(PAPER.claims(planted(0.01)))[PLANTED] == HOLDS
    assert verdicts(PAPER.claims(planted(0.9)))[PLANTED] == FAILS
    assert verdicts(PAPER.claims(planted(0.01, LOUD)))[PLANTED] == UNRESOLVED
    (claim,) = [c for c in PAPER.claims(planted(0.01)) if c.title == PLANTED]
    compared = claim.body[1]
    assert isinstance(compared, Table) and [row[1] for row in compared.rows] == list(REMEDIES)
    assert PARTS not in verdicts(PAPER.claims(planted(0.01)))  # planted models are no others


def recorded(down: Sequence[float], beside: Sequence[str] = ()) -> Study:
    """Ranges of two blocks or more: QKV 100, attention output 10, FC1 50, the down projection's;
    and of quantities `beside` them."""
    study = made_study({recipe("fptq"): 0.05}, families=["llama"])
    rows = [
        {"experiment_id": "e", "model": "llama-65b", "folding": "logarithmic 1.0",
         "activations": "by_type 8", "site": f"model.layers.{block}.{site}",
         "quantity": quantity, "value": value if quantity == "range" else np.log2(2 + value)}
        for block, last in enumerate(down)
        for site, value in (("self_attn.q_proj", 100.0 + block), ("self_attn.k_proj", 90.0),
                            ("self_attn.o_proj", 10.0), ("mlp.gate_proj", 50.0),
                            ("mlp.down_proj", last))
        for quantity in ("range", "range_read", *beside)
    ]  # fmt: skip
    return Study(study.results, study.scores, {"sites": pd.DataFrame(rows)})


def test_ranges_by_layer() -> None:
    assert verdicts(PAPER.claims(recorded([800, 90, 400])))[RANGES] == HOLDS
    assert verdicts(PAPER.claims(recorded([2, 3, 1])))[RANGES] == FAILS
    assert verdicts(PAPER.claims(recorded([100, 1, 12])))[RANGES] == UNRESOLVED
    names = [kind_of(f"transformer.h.0.{end}") for end in (
        "self_attention.dense", "self_attn.out_proj", "mlp.c_proj", "attn.c_proj", "mlp.fc_in",
        "attention.query_key_value", "lm_head",
    )]  # fmt: skip
    assert names == ["Dense", "Dense", "FC2", "Dense", "FC1", "QKV", None]


def shown(exhibits: Sequence[Exhibit], source: str) -> list[list[str]]:
    (found,) = [made for made in exhibits if made.source == source]
    tables = [block for block in found.body if isinstance(block, Table)]
    return [list(row) for row in tables[0].rows]


RANGES_BESIDE = ["median_channel", "median_channel_read", "median_token", "token_99"]


def test_tables_8_and_9_and_the_figures_are_of_recorded_ranges() -> None:
    study = recorded([800, 90, 400])
    assert len(ranges(study)) == 3 * 4
    made = PAPER.exhibits(study)
    row = ["llama-65b", "100/102", "10/10", "50/50", "90/800"]
    assert row in shown(made, "table 8")
    after = next(r for r in shown(made, "table 9 and figure 1") if r[0] == "llama-65b")
    assert after[1] == f"{np.log2(102):.4g}/{np.log2(104):.4g}"
    assert ["LLaMA-65B*", "0.4927/22.51", "0.0518/17.40", "0.2856/27.07", "0.0485/887.5"] in shown(
        made, "table 8"
    )
    all_of_it = recorded([800, 90, 400], RANGES_BESIDE)
    for name, count, more in (
        ("figure-01-equalization", 4, 8),
        ("figures-03-05-to-10-ranges", 2, 6),
    ):
        assert len(PAPER.figures[name](study).data) == count  # of what was recorded
        assert len(PAPER.figures[name](all_of_it).data) == more
        with pytest.raises(ValueError, match="recorded"):
            PAPER.figures[name](made_study(components(0.03)))


def test_accuracy_tables_have_what_was_measured_and_say_what_was_not() -> None:
    made = PAPER.exhibits(accuracy(0.7))
    rows = shown(made, "table 3")
    assert ["llama-32x2", "FP16", "75.00"] in rows and ["llama-32x2", "FPTQ W4A8", "70.00"] in rows
    assert ["llama-64x2", "SmoothQuant W8A8", "75.00"] in rows and len(rows) == 3 * 4
    (third,) = [m for m in made if m.source == "table 3"]
    assert "Not measured: SmoothQuant W4A8." in third.body
    (fourth,) = [m for m in made if m.source == "table 4"]
    assert not [block for block in fourth.body if isinstance(block, Table)]
    printed = next(m for m in made if m.source == "table 10").body[-1]
    assert isinstance(printed, Table) and printed.rows[1][4] == "17.02"


def test_common_sense_is_by_the_paper_s_metrics() -> None:
    study = accuracy(0.7)
    piqa = [study.results.assign(task="piqa", metric=name, value=value)
            for name, value in (("acc", 0.5), ("acc_norm", 0.625))]  # fmt: skip
    found = accuracies(pd.concat([study.results, *piqa], ignore_index=True), {"PIQA": "piqa"})
    assert set(found["PIQA"]) == {0.625} and len(found) == study.results["experiment_id"].nunique()


def test_methods_of_eight_bits_and_formats() -> None:
    made = PAPER.exhibits(accuracy(0.7))
    (eight,) = [m for m in made if "slides" in m.source]
    assert any("Outlier Suppression, which is not implemented" in str(b) for b in eight.body)
    lost = shown(made, "the measure of Ahmadian et al. 2023")
    fptq = next(row for row in lost if row[1] == "fptq")
    assert fptq[0] == "llama-128x4" and fptq[2] == f"{100 * (0.7 - 0.75) / 0.75:+.1f}"
    study = made_study(components(0.03) | {Setting.make(4, "int", block_size=64): 0.02})
    formats = {row[2] for row in shown(PAPER.exhibits(study), "the second axis of the answer")}
    assert formats == {"W4A16", "W4A8", "W16A16"}


def test_weights_alone_are_no_study_of_activations() -> None:
    study = made_study({Setting.make(4, "int", block_size=64): 0.02})
    assert PAPER.claims(study) == [] and PAPER.exhibits(study) == []
