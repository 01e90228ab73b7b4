"""Stored numbers against a second implementation: numpy quantizer, plain transformers forward.

Nothing of ours is used below but the database, the tokenizer and the held-out text.
"""

import json
import math

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from evaluation.sotu.corpus import heldout_addresses
from evaluation.sotu.tasks import task_directory
from orchestrator.paths import ROOT
from orchestrator.store.store import Store
from orchestrator.sweep import main

MAX_TOKENS = 3000
STUDY = """
models: [sotu-neox-32x2, sotu-opt-32x2]
grids:
  - {bits: [16, 3, 4], data_type: float, block_size: 64}
  - {bits: 5, data_type: int, block_size: 100}
  - {bits: 4, data_type: dynamic, block_size: null}
tasks: [sotu_corruption]
limit: 40
corpora:
  - {name: sotu, max_tokens: 3000}
"""


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Store:
    folder = tmp_path_factory.mktemp("independent")
    (folder / "study.yaml").write_text(STUDY)
    command = [str(folder / "study.yaml"), "--db", str(folder / "t.db"), "--executor", "local"]
    assert main(command) == 0
    return Store.open(f"sqlite:///{folder}/t.db")


def table(bits: int, data_type: str, exponent_bits: int | None) -> np.ndarray:
    """Codebook values from DESIGN's formulas, in float64."""
    if data_type == "int":
        top = 2 ** (bits - 1) - 1
        values = [i / top for i in range(-top, top + 1)]
    elif data_type == "float":
        assert exponent_bits is not None
        mantissa, bias = bits - 1 - exponent_bits, 2 ** (exponent_bits - 1)
        values = []
        for e in range(2**exponent_bits):
            for f in range(2**mantissa):
                fraction = f / 2**mantissa
                positive = 2.0 ** (e - bias) * (1 + fraction) if e else 2.0 ** (1 - bias) * fraction
                values += [positive, -positive]
        values = [v / max(values) for v in values]
    else:
        values = [0.0, 1.0]
        for zeros in range(bits - 1):
            edges = np.linspace(0.1, 1.0, 2 ** (bits - 2 - zeros) + 1)
            middles = (edges[:-1] + edges[1:]) / 2 * 10.0**-zeros
            values += [*middles, *-middles]
    return np.unique(np.array(values, dtype=np.float64).astype(np.float32))


def quantized(weight: np.ndarray, codes: np.ndarray, block: int | None) -> np.ndarray:
    """Blockwise round to nearest, one block at a time; fp16 in, fp16 out."""
    flat, out = weight.reshape(-1), np.empty(weight.size, dtype=np.float16)
    middles = ((codes[:-1].astype(np.float64) + codes[1:]) / 2).astype(np.float32)
    for start in range(0, flat.size, block or flat.size):
        part = flat[start : start + (block or flat.size)].astype(np.float32)
        absmax = np.float32(np.float16(np.abs(part).max()))
        index = [int(np.sum(middles < x)) for x in part / absmax]
        out[start : start + part.size] = (codes[index] * absmax).astype(np.float16)
    return out.reshape(weight.shape)


def reference_model(name: str, row) -> torch.nn.Module:
    model = AutoModelForCausalLM.from_pretrained(ROOT / "models" / name, dtype=torch.float16)
    if row.bits < 16:
        exponent = None if np.isnan(row.exponent_bits) else int(row.exponent_bits)
        codes = table(row.bits, row.data_type, exponent)
        block = None if np.isnan(row.block_size) else int(row.block_size)
        for path, module in model.named_modules():
            if isinstance(module, torch.nn.Linear) and "layers." in path:
                weight = quantized(module.weight.detach().numpy(), codes, block)
                module.weight.data = torch.from_numpy(weight)
    return model.float().eval()


def heldout_tokens(tokenizer) -> list[int]:
    """As many of the held-out text's as are scored, and one more."""
    ids: list[int] = []
    texts = heldout_addresses()
    # The documented order: bit-reversed, so that any beginning is spread over two centuries.
    digits = (len(texts) - 1).bit_length()
    for i in sorted(range(len(texts)), key=lambda i: format(i, f"0{digits}b")[::-1]):
        ids += tokenizer(texts[i], add_special_tokens=False)["input_ids"]
        ids.append(tokenizer.eos_token_id)
        if len(ids) > MAX_TOKENS:
            break
    return ids[: MAX_TOKENS + 1]


@torch.no_grad()
def plain_cross_entropy(model: torch.nn.Module, tokens: list[int]) -> tuple[float, int]:
    """Sum of nats and number of predicted tokens over windows of 256, one forward each."""
    total, n = 0.0, 0
    for start in range(0, len(tokens) - 1, 256):
        window = torch.tensor(tokens[start : start + 257])
        log_probs = model(window[None, :-1]).logits[0].double().log_softmax(-1)
        total -= float(log_probs.gather(1, window[1:, None]).sum())
        n += len(window) - 1
    return total, n


@torch.no_grad()
def plain_pairs(model: torch.nn.Module, tokenizer, items: list[dict]) -> np.ndarray:
    """1 where the true continuation has the larger summed log-probability, one forward a choice."""
    correct = []
    for item in items:
        scores = []
        for choice in item["choices"]:
            context = tokenizer(item["context"])["input_ids"]
            whole = tokenizer(f"{item['context']} {choice}")["input_ids"]
            log_probs = model(torch.tensor([whole[:-1]])).logits[0].double().log_softmax(-1)
            targets = torch.tensor(whole[len(context) :])
            tail = log_probs[len(context) - 1 :]
            scores.append(float(tail.gather(1, targets[:, None]).sum()))
        correct.append(float(np.argmax(scores) == item["label"]))
    return np.array(correct, dtype=np.float32)


def task_items(name: str) -> list[dict]:
    lines = (task_directory() / f"{name}.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def counted_bits(model: torch.nn.Module, row) -> int:
    """Bytes of every tensor a loader would need, times eight."""
    n_params = sum(p.numel() for p in model.parameters())
    if row.bits == 16:
        return 16 * n_params
    linear = [
        m.weight.numel()
        for path, m in model.named_modules()
        if isinstance(m, torch.nn.Linear) and "layers." in path
    ]
    exponent = None if np.isnan(row.exponent_bits) else int(row.exponent_bits)
    n_bytes = 4 * len(table(row.bits, row.data_type, exponent))
    for n in linear:
        block = n if np.isnan(row.block_size) else int(row.block_size)
        n_bytes += 4 * math.ceil(n * row.bits / 32) + 2 * math.ceil(n / block)
    return 8 * n_bytes + 16 * (n_params - sum(linear))


@pytest.mark.parametrize("index", range(10))
def test_cross_entropy_accuracy_and_size(store, index):
    results = store.results().astype({"exponent_bits": float, "block_size": float})
    experiments = results.drop_duplicates("experiment_id")
    assert len(experiments) == 10
    row = experiments.iloc[index]
    mine = results[results["experiment_id"] == row.experiment_id].set_index(["task", "metric"])
    model = reference_model(row.model, row)
    tokenizer = AutoTokenizer.from_pretrained(ROOT / "models" / "tokenizer")

    total, n = plain_cross_entropy(model, heldout_tokens(tokenizer))
    assert mine.loc[("sotu", "cross_entropy"), "value"] == pytest.approx(total / n, rel=1e-5)
    assert mine.loc[("sotu", "tokens"), "value"] == n == MAX_TOKENS
    assert mine.loc[("sotu", "perplexity"), "value"] == pytest.approx(math.exp(total / n), rel=1e-4)

    correct = plain_pairs(model, tokenizer, task_items("sotu_corruption")[:40])
    stored = store.item_scores(row.experiment_id, "sotu_corruption", "acc")
    assert np.mean(stored != correct) <= 1 / 40  # a tie within rounding may fall either way
    assert row.total_bits == counted_bits(model, row)
