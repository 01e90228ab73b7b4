"""Paralex as byte likelihood (Ahmadian et al. 2023, appendix A.2, table 3: "Likelihood (bytes)").

How probable is a question's paraphrase (Fader et al. 2013) after the question? The paper gives no
formula; its values (57 to 61 beside accuracies in percent, averaged with them) are those of the
geometric mean probability of a byte, which does not depend on the tokenizer. The pairs are not on
the hub: a sweep points at them with `data_files`.
"""

from __future__ import annotations

import math
from typing import Any

NAME = "paralex"
COLUMNS = ("question", "paraphrase")


def byte_likelihood(document: dict[str, Any], results: list[tuple[float, bool]]) -> dict[str, Any]:
    """exp(log-probability in nats / UTF-8 bytes) of the paraphrase with its leading space, in 0..1,
    and the nats and bytes themselves for `bits_per_byte`."""
    logprob, _ = results[0]
    n_bytes = len(f" {document['paraphrase']}".encode())
    return {
        "byte_likelihood": math.exp(logprob / n_bytes),
        "bits_per_byte": (logprob, n_bytes),
    }


CONFIG: dict[str, Any] = {
    "task": NAME,
    "output_type": "loglikelihood",
    "doc_to_text": "question",
    "doc_to_target": "{{' ' + paraphrase}}",
    "process_results": byte_likelihood,
    "metric_list": [
        {"metric": "byte_likelihood", "aggregation": "mean", "higher_is_better": True},
        {"metric": "bits_per_byte"},
    ],
    "metadata": {"version": 1.0},
}
