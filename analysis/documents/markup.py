"""Text that others wrote (models.yaml, imported tables), made safe for pages and charts."""

import html
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from analysis.noise.bootstrap import ItemScores

# fmt: off
_TEXT_COLUMNS = (
    "source", "family", "model", "method", "data_type", "scope", "scales", "clip_weighting",
    "folding", "activations", "calibration", "task", "metric",
)
# fmt: on


def escape(text: str) -> str:
    """HTML that shows `text` literally; text that is `drawable` already is not escaped twice."""
    return html.escape(html.unescape(text))


def drawn(text: str) -> str:
    """`text` as `drawable` has it."""
    return html.escape(text, quote=False)


def drawn_scores(scores: ItemScores) -> ItemScores:
    """Item scores, to be asked for by the names that `drawable` results have."""

    def found(
        ids: Sequence[str], task: str, metric: str, protocol: str | None = None
    ) -> Mapping[str, np.ndarray]:
        return scores(ids, html.unescape(task), html.unescape(metric), protocol)

    return found


def drawable(results: pd.DataFrame) -> pd.DataFrame:
    """`results` with its text as HTML and plotly show it literally: in titles, legends and hover
    texts plotly reads tags and entities, links among them. Numbers and ids stay as they are."""
    escaped = {}
    for column in _TEXT_COLUMNS:
        if column in results:
            distinct = results[column].dropna().unique()
            safe = {text: drawn(str(text)) for text in distinct}
            if any(text != safe[text] for text in distinct):
                escaped[column] = results[column].map(safe)
    return results.assign(**escaped) if escaped else results
