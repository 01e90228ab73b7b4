"""Runs jobs on a resident model: quantize in place, score, put the weights back, take the next.

The same class serves the local executor and, as an actor, Ray. Everything that goes wrong inside a
job becomes part of its result; after a broken CUDA context the result says `lost`, and whoever
gave the job must end this process.
"""

from __future__ import annotations

import os
import platform
import resource
import socket
import subprocess
import time
from functools import cache
from importlib.metadata import version
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from evaluation.language_model import LanguageModel
from evaluation.measurement import Measurement
from evaluation.perplexity import evaluate_perplexity
from evaluation.zero_shot import evaluate_zero_shot
from orchestrator.experiment import Protocol, as_sample
from orchestrator.job import Job, JobResult
from orchestrator.models import ModelEntry
from orchestrator.paths import ROOT
from quantizers.model import ResidentModel

_PACKAGES = ("kbit-scaling", "torch", "transformers", "lm-eval", "numpy")


@cache
def _versions() -> dict[str, str]:
    return {"python": platform.python_version(), **{name: version(name) for name in _PACKAGES}}


@cache
def _git_commit() -> str | None:
    """The commit this code runs from, `-dirty` with local changes; None outside a checkout."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        git = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return git.stdout.strip() or None


def load_model(entry: ModelEntry, device: str) -> tuple[torch.nn.Module, Any]:
    """Weights in the load dtype and the tokenizer, from the hub or a local directory.

    On the CPU the caller computes in fp32; the weights stay rounded to 16 bit.
    """
    options: dict[str, Any] = {
        "revision": entry.revision if entry.hub else None,
        "trust_remote_code": entry.trust_remote_code,
    }
    source = entry.tokenizer or entry.source
    tokenizer_options = options if source == entry.source else {}
    tokenizer = AutoTokenizer.from_pretrained(source, **tokenizer_options)
    if device == "cuda":
        options["device_map"] = "auto" if entry.gpus > 1 else {"": 0}
    model = AutoModelForCausalLM.from_pretrained(
        entry.source,
        dtype=getattr(torch, entry.dtype),
        use_safetensors=entry.weights == "safetensors",
        **options,
    )
    model.eval().requires_grad_(False)
    _check_vocabulary(model, tokenizer, entry.name)
    return model, tokenizer


def _check_vocabulary(model: torch.nn.Module, tokenizer: Any, name: str) -> None:
    rows = model.get_input_embeddings().weight.shape[0]  # type: ignore[operator]
    if len(tokenizer) > rows:
        raise ValueError(
            f"model {name}: {len(tokenizer)} tokens in the tokenizer, {rows} embeddings in the "
            "model; give the matching `tokenizer:` in models.yaml"
        )


class Worker:
    """Holds one model resident and runs jobs on it."""

    def __init__(self) -> None:
        quiet_libraries()
        self._entry: ModelEntry | None = None
        self._resident: ResidentModel | None = None
        self._tokenizer: Any = None

    def run(self, job: Job) -> JobResult:
        """Run one job to its end. Never raises.

        Status `lost`: a CUDA error, after which nothing works in this process any more.
        """
        torch.set_num_threads(job.threads)
        result = JobResult(
            job,
            "done",
            host=socket.gethostname(),
            versions=_versions(),
            git_commit=_git_commit(),
        )
        try:
            result.device = _start_device(job.device)
            self._run(job, result)
            result.peak_memory = _peak_memory(job.device)
        except Exception as error:
            result.status = "lost" if _cuda_context_is_broken(error) else "failed"
            result.error = f"{type(error).__name__}: {error}"
        return result

    def _run(self, job: Job, result: JobResult) -> None:
        started = time.perf_counter()
        resident = self._load(job)
        loaded = time.perf_counter()
        result.seconds_load = loaded - started
        result.bits = resident.apply(job.experiment.config)
        quantized = time.perf_counter()
        result.seconds_quantize = quantized - loaded
        for protocol in job.protocols:
            measured = measure(resident.model, self._tokenizer, protocol)
            result.measurements.append((protocol, measured))
            result.seconds_score = time.perf_counter() - quantized

    def _load(self, job: Job) -> ResidentModel:
        entry = job.experiment.model
        if entry != self._entry or self._resident is None:
            self._entry = self._resident = self._tokenizer = None  # free before loading the next
            model, self._tokenizer = load_model(entry, job.device)
            self._resident = ResidentModel(
                model,
                load_dtype=getattr(torch, entry.dtype),
                compute_dtype=getattr(torch, job.experiment.compute_dtype),
            )
            self._entry = entry
        return self._resident


def measure(model: Any, tokenizer: Any, protocol: Protocol) -> Measurement:
    """One task or corpus on the model as it stands."""
    settings = protocol.settings
    if protocol.kind == "task":
        lm = LanguageModel(model, tokenizer, max_length=settings["context"])
        return evaluate_zero_shot(lm, [protocol.source], settings["limit"])[0]
    measured = evaluate_perplexity(
        model, tokenizer, protocol.source, settings["context"], settings["max_tokens"]
    )
    return as_sample(measured) if protocol.kind == "sample" else measured


def _cuda_context_is_broken(error: Exception) -> bool:
    """Out of memory is survivable; any other CUDA error poisons the process."""
    if isinstance(error, torch.cuda.OutOfMemoryError):
        return False
    return isinstance(error, torch.AcceleratorError) or "CUDA error" in str(error)


def _start_device(device: str) -> str:
    """The device's name for the record; its memory peak counts from here."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.get_device_name()
    return platform.processor() or platform.machine()


def _peak_memory(device: str) -> int:
    """Bytes: allocated on the GPU, else resident in the process, at most so far."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def quiet_libraries() -> None:
    """Progress bars and notices of the libraries would drown the sweep's own lines."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
