"""How fast a model is scored, beside the harness's own HFLM; one run, which checks the scores.

    python benchmarks/evaluation.py [--limit 1000] [--models 70M ...] [--data FOLDER] [--json FILE]

The tasks of ../shared/data, and by itself its WikiText-2 as the harness's rolling task, on embedded
models of about 150 thousand and one million parameters; with a GPU, on the second of these and on
GPT-NeoX models of 70M, 410M and 1.4B with random weights.

Counted for the harness: `evaluate` with an HFLM that is already loaded, on tasks whose data is
already loaded (building requests, tokenizing, scoring, metrics), without its bootstrap; a line of
its own adds that: 100,000 draws of LAMBADA's perplexity, as the harness runs by default. Counted
for ours: a further configuration of a resident model, from task names to metrics and item scores.
Bare: the forward passes alone that our layout needs, base model and output head. Every request's
log-probability must agree within 1e-4 + 1e-6 |value|, every greedy flag and item score but for
ties, which are listed; 16-bit models (GPU) only roughly. HFLM runs without its logits cache, which
scores some requests at wrong positions.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import io
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

# This file must not be taken for the package of its name.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from lm_eval.api.metrics import perplexity, stderr_for_metric
from lm_eval.evaluator import evaluate
from lm_eval.models.huggingface import HFLM
from transformers import AutoModelForCausalLM, AutoTokenizer, GPTNeoXConfig, PreTrainedModel

from evaluation.engine import scoring
from evaluation.engine.abilities import attention_kernels, model_inputs
from evaluation.engine.engine import Engine
from evaluation.engine.language_model import LanguageModel
from evaluation.engine.layout import Batch, plan
from evaluation.engine.scoring import Scorer
from evaluation.engine.sequences import Sequences
from evaluation.measurement import Measurement
from evaluation.tasks.loaded_task import LoadedTask, load_task
from evaluation.tasks.local_tasks import build_task
from evaluation.tasks.requests import TaskRequests, task_requests
from evaluation.tasks.zero_shot import evaluate_zero_shot

ROOT = Path(__file__).resolve().parents[1]
TASKS = ("lambada_openai", "hellaswag", "piqa", "winogrande", "arc_easy", "copa")
TEXTS = ("wikitext",)
EMBEDDED = ("sotu-neox-32x2", "sotu-neox-128x2")
RANDOM = {"70M": (512, 6, 8), "410M": (1024, 24, 16), "1.4B": (2048, 24, 16)}
MAX_LENGTH = 512  # more than the embedded models' context: every continuation fits
ROUNDS = 3
HARNESS_BATCH = {"cpu": 16, "cuda": 128}  # on a CPU larger ones are slower
KEYS = ("case", "metric", "value", "unit", "peer", "peer_value", "ratio", "device")


class RecordingHFLM(HFLM):
    """The harness's model; keeps its answers by request."""

    def __init__(self, model: PreTrainedModel, tokenizer: Any) -> None:
        batch = HARNESS_BATCH[model.device.type]
        super().__init__(
            model, tokenizer=tokenizer, batch_size=batch, max_length=MAX_LENGTH, logits_cache=False
        )
        self.answers: dict[tuple[str, int, int], Any] = {}

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = True) -> list[Any]:
        return self._keep(requests, super().loglikelihood(requests, disable_tqdm=True))

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = True) -> list[Any]:
        return self._keep(requests, super().loglikelihood_rolling(requests, disable_tqdm=True))

    def _keep(self, requests: list[Any], answers: list[Any]) -> list[Any]:
        for request, answer in zip(requests, answers, strict=True):
            self.answers[request.task_name, request.doc_id, request.idx] = answer
        return answers


def data_files(data: Path, folder: Path) -> dict[str, str]:
    """Where each task's data lies; WikiText-2 is cut into pages, as in the harness's data set."""
    lines = (data / "wikitext2_test.raw.txt").read_text(encoding="utf-8").splitlines(True)
    starts = [i for i, x in enumerate(lines) if x.startswith(" = ") and not x.startswith(" = = ")]
    ends = [*starts[1:], len(lines)]
    pages = ["".join(lines[a:b]) for a, b in zip(starts, ends, strict=True)]
    rows = "".join(json.dumps({"page": page}) + "\n" for page in pages)
    (folder / "wikitext.jsonl").write_text(rows, encoding="utf-8")
    return dict.fromkeys(TASKS, str(data)) | dict.fromkeys(TEXTS, str(folder))


def embedded(name: str, device: str) -> PreTrainedModel:
    model = AutoModelForCausalLM.from_pretrained(ROOT / "models" / name, dtype=torch.float32)
    return model.eval().to(device)


def random_neox(hidden: int, layers: int, heads: int) -> PreTrainedModel:
    torch.manual_seed(0)
    config = GPTNeoXConfig(
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=4 * hidden,
        vocab_size=50304,
        max_position_embeddings=2048,
    )
    with torch.device("cuda"):  # where random numbers are drawn quickly
        return AutoModelForCausalLM.from_config(config, dtype=torch.float16).eval()


def seconds(run: Callable[[], Any]) -> tuple[float, Any]:
    synchronize = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
    synchronize()
    started = time.perf_counter()
    result = run()
    synchronize()
    return time.perf_counter() - started, result


def run_harness(
    peer: HFLM, files: dict[str, str], limit: int | None
) -> tuple[float, dict[str, Any]]:
    with contextlib.redirect_stderr(io.StringIO()):  # progress bars
        tasks = {name: build_task(name, data) for name, data in files.items()}
        for task in tasks.values():
            task.set_config("num_fewshot", 0)
        run = partial(evaluate, peer, tasks, limit=limit, bootstrap_iters=0, log_samples=False)
        taken, results = seconds(run)
    return taken, results["results"]


def run_bootstrap(logprobs: np.ndarray) -> float:
    """Seconds of the harness's default standard error of LAMBADA's perplexity."""
    stderr = stderr_for_metric(perplexity, 100_000)
    assert stderr is not None
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        return seconds(partial(stderr, logprobs.tolist()))[0]


def bare_passes(model: PreTrainedModel, tasks: list[Sequences]) -> None:
    """Base model and head over the batches of our layout, and nothing else; on the same threads."""
    scorer, head = Scorer(model, MAX_LENGTH), model.get_output_embeddings()
    step = scorer.positions_at_once()

    @torch.inference_mode()
    def forward(batch: Batch) -> Any:
        inputs = model_inputs(model, batch)
        hidden = model.base_model(**inputs).last_hidden_state.flatten(0, 1)
        for positions in batch.positions.to(model.device).long().split(step):
            head(hidden[positions])

    for sequences in tasks:
        batches = plan(sequences, scorer.layout).batches
        if model.device.type == "cpu" and torch.get_num_threads() > 1:
            scoring._on_threads(forward, batches)
        else:
            on_device = [batch.to(model.device) for batch in batches]
            with attention_kernels(model.device):
                for batch in on_device:
                    forward(batch)


def tie_margin(model: PreTrainedModel, tokens: np.ndarray, scored: int) -> float:
    """The smallest distance of the top two logits where a sequence is scored."""
    ids = torch.from_numpy(tokens[-(MAX_LENGTH + 1) : -1].astype(np.int64))[None].to(model.device)
    with torch.inference_mode():
        top = model(input_ids=ids).logits[0, -scored:].float().topk(2).values
    return float((top[:, 0] - top[:, 1]).min())


def agree(name: str, ours: np.ndarray, theirs: np.ndarray, exact: bool) -> None:
    """Raises AssertionError where log-probabilities are not the harness's."""
    tolerance = 1e-4 + 1e-6 * np.abs(theirs) if exact else 0.05 + 0.01 * np.abs(theirs)
    error = np.abs(ours - theirs)
    worst = int((error / tolerance).argmax())
    assert (error <= tolerance).all(), (name, worst, error[worst])
    print(f"  {name}: {len(theirs)} requests agree, largest difference {error.max():.1e} nats")


def compare(
    model: PreTrainedModel,
    lm: LanguageModel,
    loaded: LoadedTask,
    requests: TaskRequests,
    measured: Measurement,
    peer: RecordingHFLM,
) -> None:
    """Raises AssertionError where our scores are not the harness's; prints the ties."""
    exact, name = model.dtype == torch.float32, measured.task
    scores, sequences = lm.score(requests.sequences, name), requests.sequences
    answers = [peer.answers[name, r.doc_id, r.idx] for r in loaded.requests]
    theirs = np.array([value for value, _ in answers])
    agree(name, scores.logprob, theirs, exact)
    if not exact:
        return
    assert scores.greedy is not None
    for i in np.flatnonzero(scores.greedy != [greedy for _, greedy in answers]):
        tokens = sequences.tokens[sequences.starts[i] : sequences.starts[i + 1]]
        margin = tie_margin(model, tokens, int(sequences.scored[i]))
        print(f"    tie: greedy flag of request {i}, top two logits {margin:.1e} apart")
        assert margin <= 1e-4, (name, i)
    for number, (document, where) in enumerate(loaded.items):
        judged = loaded.task.process_results(document, answers[where])
        for metric, value in judged.items():
            ours = measured.items[metric][number]
            if abs(ours - value) <= 1e-4 + 1e-6 * abs(value):
                continue
            lengths = requests.characters[where] if metric == "acc_norm" else 1.0
            top = np.sort(theirs[where] / lengths)[-2:]
            print(f"    tie: {metric} of item {number}, top two choices {np.ptp(top):.1e} apart")
            assert len(top) == 2 and np.ptp(top) <= 1e-4, (name, metric, number)


def compare_texts(lm: LanguageModel, loaded: LoadedTask, peer: RecordingHFLM, exact: bool) -> None:
    """The same for whole texts."""
    theirs = [peer.answers[r.task_name, r.doc_id, r.idx] for r in loaded.requests]
    ours = np.array(lm.loglikelihood_rolling(loaded.requests))
    agree(str(loaded.requests[0].task_name), ours, np.array(theirs), exact)


def benchmark(
    model: PreTrainedModel, case: str, files: dict[str, str], limit: int | None, note: Any
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(ROOT / "models" / "tokenizer")
    model.config.max_position_embeddings = max(MAX_LENGTH, model.config.max_position_embeddings)
    engine = Engine(model, tokenizer)
    lm = LanguageModel(engine, MAX_LENGTH)
    run = partial(evaluate_zero_shot, engine, list(files), limit, files, MAX_LENGTH)
    first, measured = seconds(run)
    runs = [seconds(run) for _ in range(ROUNDS)]
    ours = statistics.median(taken for taken, _ in runs)
    loaded = {m.task: load_task(m.task, limit, files[m.task], m.protocol["data"]) for m in measured}
    encoder = engine.encoder
    requests = {
        m.task: task_requests(encoder, m.protocol, partial(loaded.get, m.task)) for m in measured
    }
    sequences = {name: of_task.sequences for name, of_task in requests.items() if of_task}
    for name in sorted(loaded.keys() - sequences.keys()):
        texts = [request.args[0] for request in loaded[name].requests]
        sequences[name], _ = encoder.windows(texts, MAX_LENGTH)
    passes = partial(bare_passes, model, list(sequences.values()))
    bare = statistics.median(seconds(passes)[0] for _ in range(ROUNDS))
    peer = RecordingHFLM(model, tokenizer)
    theirs, results = run_harness(peer, files, limit)
    n = sum(len(of_task.requests) for of_task in loaded.values())
    note(case, "requests", n, "requests", "lm-eval HFLM", n, 1.0)
    note(case, "throughput", n / ours, "requests/s", "lm-eval HFLM", n / theirs, theirs / ours)
    note(case, "seconds", ours, "s", "lm-eval HFLM", theirs, theirs / ours)
    if "perplexity" in measured[0].items:
        by_default = theirs + run_bootstrap(measured[0].items["perplexity"])
        note(case, "with its bootstrap", ours, "s", "lm-eval HFLM", by_default, by_default / ours)
    note(case, "first configuration", first, "s", "lm-eval HFLM", theirs, theirs / first)
    note(case, "over bare forwards", ours, "s", "bare forwards", bare, bare / ours)
    for _, again in runs:
        assert [m.metrics for m in again] == [m.metrics for m in measured], "runs differ"
    for m in measured:
        of_task = requests[m.task]
        if of_task is None:
            compare_texts(lm, loaded[m.task], peer, model.dtype == torch.float32)
        else:
            compare(model, lm, loaded[m.task], of_task, m, peer)
        for metric in m.metrics:
            value = results[m.task][f"{metric.name},none"]
            if not metric.name.startswith("acc") and model.dtype == torch.float32:
                assert abs(metric.value / value - 1) <= 1e-5, (m.task, metric.value, value)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--limit", type=int, default=0, help="items a task; 0: all")
    parser.add_argument("--models", nargs="+", default=[""], help="only cases named like these")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--json", type=Path, help="also write one record a line of the table")
    args = parser.parse_args(argv)
    if not args.data.is_dir():
        print(f"no folder {args.data}: give the evaluation sets with --data", file=sys.stderr)
        return 2
    gpu = torch.cuda.is_available()
    threads = f"{torch.get_num_threads()} threads of {os.cpu_count()} cores"
    processor = torch.cuda.get_device_name(0) if gpu else f"CPU {platform.machine()}, {threads}"
    device = f"{processor}, {datetime.date.today()}"
    records: list[dict[str, Any]] = []

    def note(*row: Any) -> None:
        records.append(dict(zip(KEYS, (*row, device), strict=True)))
        case, metric, value, unit, other, other_value, ratio = row
        beside = f"{other} {other_value:.4g}"
        line = f"{case:34} {metric:19} {value:9.4g} {unit:10} {beside:22} {ratio:6.2f}x"
        print(line, flush=True)

    own = EMBEDDED[1:] if gpu else EMBEDDED
    cases = {name: partial(embedded, name, "cuda" if gpu else "cpu") for name in own}
    if gpu:
        cases |= {f"random NeoX {name}": partial(random_neox, *RANDOM[name]) for name in RANDOM}
    print(device)
    limit, part = args.limit or None, f", {args.limit} a task" if args.limit else ""
    wrong = 0
    with tempfile.TemporaryDirectory() as folder:
        files = data_files(args.data, Path(folder))
        for name, make in cases.items():
            if not any(asked in name for asked in args.models):
                continue
            model = make()
            for case, sets in ((f"{name}{part}", TASKS), (f"{name} texts{part}", TEXTS)):
                try:
                    benchmark(model, case, {task: files[task] for task in sets}, limit, note)
                except AssertionError as error:  # what was timed is kept, and the others go on
                    wrong += 1
                    print(f"{case}: WRONG: {error!r}", flush=True)
                if args.json:
                    args.json.write_text(json.dumps(records, indent=1) + "\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
