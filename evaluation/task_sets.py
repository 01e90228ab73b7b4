"""Which tasks make up a mean zero-shot accuracy, which metric of each, and what guessing gives."""

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
}

CHANCE: dict[str, float] = {
    "lambada_openai": 0.0,
    "winogrande": 0.5,
    "piqa": 0.5,
    "hellaswag": 0.25,
    "sotu_last_word": 0.0,
    "sotu_blank": 0.5,
    "sotu_corruption": 0.5,
    "sotu_continuation": 0.25,
}
