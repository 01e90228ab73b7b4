"""A model on two GPUs has the scores that it has on one."""

import numpy as np
import pytest
import torch

from evaluation.engine.scoring import Scorer
from quantizers.loading import load_model
from quantizers.resident import ResidentModel
from tests.evaluation.engine.test_block_by_block import CONTEXT, SETTINGS, sequences
from tests.quantizers.tiny_models import saved_checkpoint

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(torch.cuda.device_count() < 2, reason="fewer than two CUDA devices"),
]


def scores(folder, name, gpus):
    model, _ = load_model(saved_checkpoint(name, folder / f"{gpus}", gpus=gpus), "cuda")
    resident = ResidentModel(model, compute_dtype=torch.float16)
    used = {parameter.device for parameter in model.parameters()}
    assert len(used) == gpus
    scorer = Scorer(model, CONTEXT)
    found = []
    for setting in SETTINGS:
        resident.apply(setting)
        found.append(scorer.score(sequences(16)).logprob)
    return found


@pytest.mark.parametrize("name", ["gpt2", "opt-350m", "bloom", "llama", "falcon"])
def test_scores_are_those_of_one_gpu(tmp_path, name):
    for one, two in zip(scores(tmp_path, name, 1), scores(tmp_path, name, 2), strict=True):
        assert np.array_equal(one, two)
