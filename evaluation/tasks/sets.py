"""Named task sets: what a sweep file may ask for, and what their mean is made of."""

from evaluation.tasks.mmlu import MMLU_GROUPS, MMLU_TASKS

TASK_SETS: dict[str, dict[str, str]] = {
    # The case for 4-bit precision, section 3: LAMBADA, Winogrande, PiQA, HellaSwag.
    "paper": {
        "lambada_openai": "acc",
        "winogrande": "acc",
        "piqa": "acc",
        "hellaswag": "acc_norm",
    },
    # The same four forms, cut from the held-out addresses of the embedded corpus.
    "sotu": {
        "sotu_last_word": "acc",
        "sotu_blank": "acc",
        "sotu_corruption": "acc",
        "sotu_continuation": "acc_norm",
    },
    # FPTQ, table 4, "Common Sense QA": its values are the harness's normalized accuracies.
    "csqa": {
        "winogrande": "acc",
        "piqa": "acc_norm",
        "hellaswag": "acc_norm",
        "arc_easy": "acc_norm",
    },
    # FPTQ, table 4, "MMLU": means over items, as in the harness.
    "mmlu": dict.fromkeys(MMLU_TASKS, "acc"),
    **{group: dict.fromkeys(tasks, "acc") for group, tasks in MMLU_GROUPS.items()},
    # Intriguing properties of quantization at scale, appendix A.2. COPA is its "Copa100"; the
    # larger half needs labels that SuperGLUE keeps back.
    "intriguing": {
        "copa": "acc",
        "hellaswag": "acc_norm",
        "piqa": "acc",
        "storycloze_2016": "acc",
        "winogrande": "acc",
        "paralex": "byte_likelihood",
        "lambada_openai": "acc",
    },
}
"""Set -> task -> metric of its mean."""

OWN_TASKS = frozenset({*TASK_SETS["sotu"], "paralex"})
"""Tasks that are defined by this project, not by the harness."""

SIZE_WEIGHTED = frozenset({"mmlu", *MMLU_GROUPS})
"""Sets whose mean is over items; that of the others is over tasks."""

RUN_SETS: dict[str, list[str]] = {
    **{name: list(tasks) for name, tasks in TASK_SETS.items()},
    "fptq": ["lambada_openai", *TASK_SETS["csqa"], *TASK_SETS["mmlu"]],
}
"""Set -> its tasks, for a sweep file."""

CHANCE: dict[str, float] = {
    "lambada_openai": 0.0,
    "winogrande": 0.5,
    "piqa": 0.5,
    "hellaswag": 0.25,
    "sotu_last_word": 0.0,
    "sotu_blank": 0.5,
    "sotu_corruption": 0.5,
    "sotu_continuation": 0.25,
    "arc_easy": 0.25,
    **dict.fromkeys(MMLU_TASKS, 0.25),
    "copa": 0.5,
    "storycloze_2016": 0.5,
    "paralex": 1 / 256,
}
"""What guessing scores, for every task of a set."""
