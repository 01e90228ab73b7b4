"""The sweeps of papers ask for every row of the tables they name."""

from collections.abc import Iterable
from functools import cache
from pathlib import Path

import pytest

from orchestrator.paths import ROOT
from orchestrator.study.grid import expand
from orchestrator.study.models import load_models
from orchestrator.study.spec import load_sweep
from quantizers.recipes import recipe_of
from quantizers.setting import Setting

BLOOM, LLAMA = ["bloom-7b1"], ["llama-7b", "llama-13b", "llama-65b"]
LLAMA_2 = ["llama-2-7b", "llama-2-13b", "llama-2-70b"]
SMALL = ["bloom-7b1", "llama-7b", "llama-2-7b"]  # of tables 6 and 7
RANGES = ["opt-66b", "bloom-176b", "llama-65b"]  # of tables 8 and 9, but for GLM-130B

# Table -> models and recipes; a recipe alone is calibrated on the Pile.
TABLES: dict[str, tuple[list[str], list[str]]] = {
    "3": (BLOOM + LLAMA + LLAMA_2, ["fp16", "smoothquant-w8a8", "smoothquant-w4a8", "fptq"]),
    "4": (BLOOM + LLAMA + LLAMA_2, ["fp16", "smoothquant-w8a8", "gptq", "fptq"]),
    "5": (LLAMA[:2], ["fp16", "fptq"]),
    "6": (SMALL, [f"{r} {on}" for r in ("smoothquant-w8a8", "fptq") for on in ("pile", "random")]),
    "7": (SMALL, ["fp16", "fptq", "fptq-gptq"]),
    "10": (LLAMA + LLAMA_2, ["fp16", "sq-w4a8-tensor", "smoothquant-w4a8", "sq-w4a8-fine", "fptq"]),
}


@cache
def settings(sweep: str) -> dict[str, list[Setting]]:
    """Model -> its settings."""
    plan = expand(
        load_sweep(ROOT / "sweeps" / sweep), load_models(ROOT / "models.yaml"), Path(sweep), True
    )
    found: dict[str, list[Setting]] = {}
    for experiment in plan.experiments:
        found.setdefault(experiment.model.name, []).append(experiment.setting)
    return found


def names(settings: Iterable[Setting]) -> set[str]:
    found = set()
    for setting in settings:
        recipe = "fp16" if setting.is_baseline else recipe_of(setting) or setting.label
        found |= {recipe, f"{recipe} {(setting.calibration or '').split('_')[0].split(' ')[0]}"}
    return found


@pytest.mark.parametrize("table", TABLES)
def test_every_row_of_fptq_s_tables(table: str) -> None:
    models, rows = TABLES[table]
    for model in models:
        assert set(rows) <= names(settings("fptq.yaml")[model]), model


def test_alpha_and_ranges() -> None:
    for model in BLOOM + LLAMA + LLAMA_2:
        foldings = {s.folding for s in settings("fptq.yaml")[model]}
        assert {f"logarithmic {alpha}" for alpha in ("0.5", "1.0", "1.5")} <= foldings
    for model in RANGES:
        kept = [s for s in settings("fptq-ranges.yaml")[model] if not s.is_baseline]
        assert {s.folding for s in kept} == {"none", "logarithmic 1.0"}
        assert {s.bits for s in kept} == {16}


def test_methods_of_eight_bits() -> None:
    for model in ("opt-66b", "bloom-176b"):
        found = settings("w8a8-methods.yaml")[model]
        assert {"fp16", "w8a8-naive", "zeroquant", "llm-int8"} <= names(found)
        smooth = {s.activations for s in found if s.folding.startswith("smoothquant")}
        assert smooth == {"token 8", "tensor 8"} and all(s.bits in (8, 16) for s in found)


def test_table_1_and_figure_5_of_gptq() -> None:
    found = {
        (s.method, s.bits, s.data_type, s.block_size) for s in settings("gptq.yaml")["opt-6.7b"]
    }
    assert {("gptq", 2, "int", b) for b in (1024, 256, 64)} <= found
    assert {("rtn", 3, "float", b) for b in (1024, 256, 64)} <= found
    assert {("gptq", k, "int", b) for k in (3, 4) for b in (None, 64)} <= found
