"""Models to fold, and how what was folded takes its place, for the tests beside."""

from collections.abc import Mapping

import torch
from torch import Tensor
from transformers import PreTrainedModel

from quantizers.undo import UndoLog
from quantizers.wiring import Wiring
from tests.quantizers.tiny_models import tiny_model


def exact_model(name: str) -> PreTrainedModel:
    """Its parameters fit fp16, so that an undo log gives them back."""
    model = tiny_model(name)
    for parameter in model.parameters():
        parameter.data = parameter.data.half().float()
    return model


def put_weights(wiring: Wiring, matrices: Mapping[str, Tensor], log: UndoLog) -> None:
    """The matrices, by their sites' names, in the model; the log can take them back."""
    with torch.no_grad():
        for site in wiring.linear:
            if site.name in matrices:
                log.will_change(site.parameter)
                site.weight.copy_(matrices[site.name])
