"""The timed step of generation: on tensors that stay in place it gives what a plain step gives."""

import pytest
import torch

from evaluation.speed.decoding import StaticStep, seconds_a_step
from tests.quantizers.tiny_models import VOCAB, tiny_model


def greedy(model, prompt, steps):
    """Logits of each step, by whole sequences and without a cache."""
    tokens, found = prompt, []
    for _ in range(steps + 1):
        with torch.inference_mode():
            logits = model(tokens).logits[:, -1:]
        found.append(logits)
        tokens = torch.cat([tokens, logits.argmax(-1)], 1)
    return found


@pytest.mark.parametrize("name", ["gpt2", "opt", "gpt_neox", "llama", "qwen3"])
def test_steps_in_place_are_plain_steps(name):
    model = tiny_model(name)
    prompt = torch.arange(14).view(2, 7) % VOCAB
    with torch.inference_mode():
        step, logits = StaticStep(model, prompt, most_steps=5), []
        logits.append(step.logits)
        for _ in range(5):
            step()
            logits.append(step.logits)
    for got, expected in zip(logits, greedy(model, prompt, 5), strict=True):
        assert torch.allclose(got, expected, atol=1e-4)


def test_on_a_cpu_steps_are_not_captured():
    step = seconds_a_step(tiny_model("gpt_neox"), batch=3, steps=2)
    assert step.seconds > 0 and not step.graph
