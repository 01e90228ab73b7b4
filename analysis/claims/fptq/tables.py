"""FPTQ's tables 3 to 7 and 10 from rows, and what it says in prose."""

from collections.abc import Iterator, Sequence

import pandas as pd

from analysis.claims.claim import Exhibit, table
from analysis.claims.fptq.eight_bit import eight_bits
from analysis.claims.fptq.recipes import (
    FULL,
    LAST_WORD,
    PLANTED,
    TRAINED,
    accuracies,
    named,
    percent,
)
from analysis.claims.fptq.table_rows import accuracy_rows, place_of, table_body
from analysis.claims.paper import Study
from quantizers.activations.format import NONE

_LAMBADA = {"LAMBADA": LAST_WORD[0], "Last word (sotu)": LAST_WORD[1]}
_SETS = {
    "Hums.": "mmlu_humanities",
    "STEM": "mmlu_stem",
    "Social": "mmlu_social_sciences",
    "Other": "mmlu_other",
    "MMLU": "mmlu",
    "WG": "winogrande",
    "PIQA": "piqa",
    "HS": "hellaswag",
    "ARC_e": "arc_easy",
    "CSQA": "csqa",
    "sotu": "sotu",
}
_HARNESS = (
    "LAMBADA is accuracy on the last word (`acc`) of `lambada_openai`, MMLU a mean over items, the "
    "others normalized accuracies (`acc_norm`; Winogrande `acc`), all by lm-evaluation-harness; "
    "the columns are those that were measured. Where models are too small for these, columns named "
    "sotu hold the embedded corpus's own tasks of the same forms."
)
_EXPLAINED = ("table 3", "table 4")  # where the columns' metrics are named
_METHODS = {  # heading -> recipe
    "FP16": FULL,
    "SmoothQuant W8A8": "smoothquant-w8a8",
    "SmoothQuant W4A8": "smoothquant-w4a8",
    "GPTQ W4A16": "gptq",
    "FPTQ W4A8": "fptq",
    "FPTQ and GPTQ W4A8": "fptq-gptq",
    "SQ, a scale a tensor": "sq-w4a8-tensor",
    "SQ, a scale a token": "smoothquant-w4a8",
    "SQ, fine-grained, FC2 a token": "sq-w4a8-fine",
}
# Table 10 as printed: the LAMBADA accuracy of six models.
_MODELS_10 = ("LLaMA-7B", "LLaMA-13B", "LLaMA-65B", "LLaMA-2-7B", "LLaMA-2-13B", "LLaMA-2-70B")
_TABLE_10 = {
    "FP16": (73.7435, 76.1886, 79.1966, 73.7046, 76.6350, 79.5653),
    "SQ, a scale a tensor": (30.8946, 47.8944, 52.3190, 17.0192, 28.5171, 64.9136),
    "SQ, a scale a token": (64.1762, 69.9010, 69.9787, 55.5987, 69.7652, 76.5185),
    "SQ, fine-grained, FC2 a token": (72.9090, 76.0916, 78.5368, 71.5311, 74.1898, 78.5950),
    "FPTQ W4A8": (73.8017, 75.7423, 79.1384, 72.4820, 75.3154, 78.7114),
}


def exhibits(study: Study) -> Iterator[Exhibit]:
    experiments = study.results.drop_duplicates("experiment_id")
    experiments = experiments[~experiments["family"].astype(str).str.contains(PLANTED, regex=False)]
    every = named(experiments)
    rows = every[~every["model"].str.contains(TRAINED, regex=False)]
    last_word, sets = (accuracies(study.results, columns) for columns in (_LAMBADA, _SETS))
    yield _by_method("Last words by method", "table 3", rows, last_word,
                     ["FP16", "SmoothQuant W8A8", "SmoothQuant W4A8", "FPTQ W4A8"])  # fmt: skip
    yield _by_method("Knowledge and common sense by method", "table 4", rows, sets,
                     ["FP16", "SmoothQuant W8A8", "GPTQ W4A16", "FPTQ W4A8"])  # fmt: skip
    yield _trained(every, sets)
    yield _by_text(rows, sets)
    yield _by_method("FPTQ with GPTQ", "table 7", rows, sets,
                     ["FP16", "FPTQ W4A8", "FPTQ and GPTQ W4A8"])  # fmt: skip
    yield _components(rows, last_word)
    yield eight_bits(rows, study.results)
    yield _policy()


def _by_method(
    title: str, source: str, rows: pd.DataFrame, scores: pd.DataFrame, methods: Sequence[str]
) -> Exhibit:
    found = [
        [model, method, *cells]
        for method in methods
        for model, cells in accuracy_rows(rows, scores, _METHODS[method])
    ]
    found.sort(key=lambda row: place_of(rows, row[0]))
    missing = [method for method in methods if method not in {row[1] for row in found}]
    body = table_body(["Model", "Method"], scores, found, missing)
    return Exhibit(title, source, [_HARNESS, *body] if source in _EXPLAINED else body)


def _trained(rows: pd.DataFrame, scores: pd.DataFrame) -> Exhibit:
    """With the models that `kbit qat` made, beside those it made them of."""
    methods = ["FP16", "FPTQ W4A8"]
    made = rows[rows["model"].str.contains(TRAINED, regex=False)]
    made = made[(made["bits"] == 4) & (made["activations"] != NONE)]
    bases = set(made["model"].str.split(TRAINED).str[0])
    shown = rows[rows["model"].isin(bases)] if bases else rows
    beside = _by_method("LLM-QAT beside FPTQ", "table 5", shown, scores, methods)
    trained = [
        [str(row.model), "LLM-QAT W4A8", *(percent(x) for x in scores.loc[row.experiment_id])]
        for row in made.itertuples()
        if row.experiment_id in scores.index
    ]
    note = "LLM-QAT is trained, not rounded: `kbit qat` makes such a model, scored like any other."
    body = [*beside.body, note]
    if trained:
        columns = ["Model", "Method", *scores.columns]
        body.append(table(columns, trained, text=2))
    else:
        body.append("Not measured: LLM-QAT.")
    return Exhibit(beside.title, beside.source, body)


def _by_text(rows: pd.DataFrame, scores: pd.DataFrame) -> Exhibit:
    found = [
        [model, "random tokens" if random else "text", method, *cells]
        for method in ("SmoothQuant W8A8", "FPTQ W4A8")
        for random in (False, True)
        for model, cells in accuracy_rows(rows, scores, _METHODS[method], random)
    ]
    found.sort(key=lambda row: place_of(rows, row[0]))
    missing = [text for text in ("text", "random tokens") if text not in {r[1] for r in found}]
    errata = (
        "In the paper's tables 6 and 7 BLOOM's common-sense columns are shifted by one row: "
        "“Pile W8A8” is table 4's FP16 row, “W4A8” its SmoothQuant row."
    )
    body = table_body(["Model", "Calibration", "Method"], scores, found, missing)
    return Exhibit("Calibration on text and on random tokens", "table 6", [*body, errata])


def _components(rows: pd.DataFrame, scores: pd.DataFrame) -> Exhibit:
    made = _by_method("What each part of FPTQ is worth", "table 10", rows, scores, list(_TABLE_10))
    printed = [[name, *(f"{x:.2f}" for x in values)] for name, values in _TABLE_10.items()]
    body = [*made.body, "As printed, on LAMBADA:", table(["Method", *_MODELS_10], printed)]
    return Exhibit(made.title, made.source, body)


def _policy() -> Exhibit:
    formats = [
        ["v ≤ v0", "a static scale a tensor", "attention output"],
        ["v0 < v < v1", "equalized where a norm can take it, then static", "QKV, FC1"],
        ["v ≥ v1", "a scale a token, at run time", "FC2"],
    ]
    return Exhibit(
        "Which activations are rounded how",
        "table 2 and figure 4",
        [
            "By range (table 2; `by_range`), v the largest magnitude before folding, v0 = 15 and "
            "v1 = 150:",
            table(["Range", "Format", "Typical layer"], formats, text=3),
            "By type (figure 4; `by_type`): weights in groups along each output row, a scale a "
            "group; static scales a tensor before QKV, the attention output and FC1 (gate and up), "
            "a scale a token before FC2 (down); logarithmic equalization folded into the norms "
            "before QKV and FC1; keys and values cached in 8 bit with a static scale a tensor. "
            "The two contradict each other: attention outputs of 16 to 19 are static in figure 4, "
            "FC2 of OPT (34) and BLOOM (71) a scale a token. Both are measured as what they say.",
        ],
    )
