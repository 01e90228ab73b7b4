"""A causal language model and its tokenizer from a checkpoint, or the reason why it is unusable.

`transformers` fills weights that a checkpoint lacks with random ones and says so in a warning; here
whatever it would only warn of is an UnusableModel.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from quantizers.checkpoint import (
    STEMS,
    Checkpoint,
    UnusableModel,
    check_config,
    check_folder,
    check_names,
)
from quantizers.hub import HubUnreachable, Repository, find_repository, hub_problem
from quantizers.sharding import device_map, hand_on
from quantizers.soundness import check_causal, check_vocabulary, key_problem, not_finite


def load_model(checkpoint: Checkpoint, device: str) -> tuple[nn.Module, Any]:
    """Weights in the load dtype, and the tokenizer, from the hub or a local directory.

    On the CPU the caller computes in fp32; the weights stay rounded to 16 bit. Raises UnusableModel
    for what can be scored at no setting: weights missing, unexpected or of another shape, NaN or
    overflow, a tokenizer of another model, formats that kbit does not read. What it does not see
    is whether a model looks ahead: see `soundness.check_causal`.
    """
    try:
        checkpoint = located(checkpoint)
        tokenizer = load_tokenizer(checkpoint)
        model = _load_weights(checkpoint, device)
        check_vocabulary(model, tokenizer)
    except UnusableModel as error:
        raise UnusableModel(f"model {checkpoint.name}: {error}") from error.__cause__
    return model, tokenizer


def located(checkpoint: Checkpoint) -> Checkpoint:
    """Names on the hub pinned to a commit, or to their local copies where the hub is silent; with
    what can be told before any weight is read or fetched."""
    tokenizer = checkpoint.tokenizer if checkpoint.tokenizer != checkpoint.source else None
    if tokenizer is not None and not Path(tokenizer).is_dir():
        name, _, branch = tokenizer.partition("@")
        if repository := _repository(name, branch or None):
            tokenizer = str(repository.copy or f"{name}@{repository.commit}")
    source = checkpoint.source
    repository = _repository(source, checkpoint.revision)
    if repository is None or repository.copy:
        folder = repository.copy if repository and repository.copy else Path(source)
        check_folder(folder, checkpoint.weights)
        return replace(checkpoint, source=str(folder), revision=None, tokenizer=tokenizer)
    from transformers import PreTrainedConfig

    check_names(repository.files, checkpoint.weights, source)
    with in_one_line(f"{source}/config.json"):
        config, _ = PreTrainedConfig.get_config_dict(source, revision=repository.commit)
    check_config(config, f"{source}/config.json")
    return replace(checkpoint, revision=repository.commit, tokenizer=tokenizer)


def _repository(name: str, revision: str | None) -> Repository | None:
    """What a name on the hub stands for; None for a local directory."""
    if Path(name).is_absolute() or Path(name).is_dir():
        return None
    try:
        return find_repository(name, revision)
    except HubUnreachable as error:
        raise UnusableModel(str(error)) from None


def load_tokenizer(checkpoint: Checkpoint) -> Any:
    from transformers import AutoTokenizer

    source, options = checkpoint.source, _options(checkpoint)
    if checkpoint.tokenizer is not None:  # named apart: its code is not the model's
        source, options = checkpoint.tokenizer, {}
        if not Path(source).is_dir():
            source, _, options["revision"] = source.partition("@")
    with in_one_line(f"the tokenizer of {source}"):
        return AutoTokenizer.from_pretrained(source, **options)


def _options(checkpoint: Checkpoint) -> dict[str, Any]:
    return {
        "revision": checkpoint.revision,
        "trust_remote_code": checkpoint.trust_remote_code,
    }


def _load_weights(checkpoint: Checkpoint, device: str) -> nn.Module:
    dtype: torch.dtype = getattr(torch, checkpoint.dtype)
    model, report = _read(checkpoint, dtype, device)
    if problem := key_problem(report):
        with suppress(RuntimeError):  # an encoder's keys fit no causal model: say what it is
            check_causal(model.float())
        raise UnusableModel(f"{_weights_of(checkpoint)} {problem} ({type(model).__name__})")
    found = not_finite(model, dtype)
    if found is None:
        return model.eval().requires_grad_(False)
    key, kind = found
    where = f"{_weights_of(checkpoint)}: {key}"
    del model
    if kind == "inf" and dtype == torch.float16:
        wider, _ = _read(checkpoint, torch.bfloat16, device)
        if not_finite(wider, torch.bfloat16) is None:
            raise UnusableModel(f"{where}: a weight overflows float16; set dtype: bfloat16")
    raise UnusableModel(f"{where} holds {kind}: the checkpoint is damaged, or training diverged")


def _read(
    checkpoint: Checkpoint, dtype: torch.dtype, device: str
) -> tuple[nn.Module, Mapping[str, Any]]:
    """The model as `transformers` fills it, and its account of the keys."""
    options = _options(checkpoint)
    shared = device == "cuda" and checkpoint.gpus > 1
    with in_one_line(_weights_of(checkpoint)):
        if device == "cuda":
            devices = gpus_of(checkpoint)
            options["device_map"] = (
                device_map(skeleton(checkpoint), devices) if shared else {"": devices[0]}
            )
        config = _config(checkpoint)
        loaded: Any = auto_class(config).from_pretrained(
            checkpoint.source,
            config=config,
            dtype=dtype,
            use_safetensors=checkpoint.weights == "safetensors",
            ignore_mismatched_sizes=True,  # reported, so that all of them are named
            output_loading_info=True,
            **options,
        )
    if shared:
        _without_hooks(loaded[0])
        hand_on(loaded[0])
    return loaded


def gpus_of(checkpoint: Checkpoint) -> list[torch.device]:
    """Those that hold a model. Raises UnusableModel where this process does not see as many."""
    seen = torch.cuda.device_count()
    if seen < checkpoint.gpus:
        raise UnusableModel(f"it needs {checkpoint.gpus} GPUs, this process sees {seen}")
    return [torch.device("cuda", number) for number in range(checkpoint.gpus)]


def skeleton(checkpoint: Checkpoint) -> Any:
    """The model with parameters on the meta device; buffers are real."""
    from accelerate import init_empty_weights

    config = _config(checkpoint)
    trusted = {"trust_remote_code": checkpoint.trust_remote_code}
    dtype = getattr(torch, checkpoint.dtype)
    with init_empty_weights(include_buffers=False):
        model = auto_class(config).from_config(config, dtype=dtype, **trusted)
    model.tie_weights()  # what was tied as it was made is not, on the meta device
    return model


def _config(checkpoint: Checkpoint) -> Any:
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(checkpoint.source, **_options(checkpoint))


def auto_class(config: Any) -> Any:
    """What of `transformers` reads a model. Some that also see are not listed as causal; given text
    alone they are, and their decoder is what is quantized."""
    from transformers import (
        MODEL_FOR_CAUSAL_LM_MAPPING,
        MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
        AutoModelForCausalLM,
        AutoModelForImageTextToText,
    )

    part = config.get_text_config(decoder=True)
    sees = type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING and part is not config
    encodes = config.is_encoder_decoder or part.is_encoder_decoder
    if sees and not encodes and type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        return AutoModelForImageTextToText
    return AutoModelForCausalLM


def _without_hooks(model: nn.Module) -> None:
    """Accelerate's take the place of every module's `forward`, where settings put theirs."""
    from accelerate.hooks import remove_hook_from_submodules

    hooked = [module for module in model.modules() if hasattr(module, "_hf_hook")]
    remove_hook_from_submodules(model)
    for module in hooked:
        vars(module).pop("forward", None)  # its class has it


def _weights_of(checkpoint: Checkpoint) -> str:
    stem = STEMS[checkpoint.weights]
    folder = Path(checkpoint.source)
    if folder.is_dir():
        return str(folder / (stem if (folder / stem).is_file() else f"{stem}.index.json"))
    return f"{checkpoint.source}@{checkpoint.revision or 'main'}/{stem}"


@contextmanager
def in_one_line(what: str) -> Iterator[None]:
    """Whatever a library raises while it reads, as one line; memory and GPUs fail by themselves."""
    try:
        yield
    except (torch.OutOfMemoryError, torch.AcceleratorError, MemoryError):
        raise
    except Exception as error:
        if said := hub_problem(error):
            raise UnusableModel(f"{what}: {said}") from error
        text = " ".join(str(error).split())
        if "Unrecognized configuration class" in text:
            text = "its architecture is no causal language model that transformers knows"
        raise UnusableModel(
            f"{what} cannot be loaded: {type(error).__name__}: {text[:300]}"
        ) from error
