"""Generation from packed weights on a GPU: captured steps, and memory that is the counted bits."""

import gc

import pytest
import torch
from transformers import AutoModelForCausalLM, GPTNeoXConfig

from evaluation.speed.decoding import StaticStep, capture, seconds_a_step
from quantizers.linear import KBitLinear, pack_linears
from quantizers.setting import Setting

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


def neox(hidden=1024, layers=4):
    config = GPTNeoXConfig(
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 64,
        intermediate_size=4 * hidden,
        vocab_size=5120,
        max_position_embeddings=512,
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float16).cuda().eval()
    for parameter in model.parameters():
        parameter.data.normal_(0, 0.02)
    return model.requires_grad_(False)


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("bits", [16, 8, 4, 3])
def test_replayed_steps_are_plain_steps(bits, batch):
    model = neox()
    pack_linears(model, Setting.make(bits, None if bits == 16 else "float", block_size=64))
    prompt = torch.arange(batch * 7, device="cuda").view(batch, 7)
    with torch.inference_mode():
        plain, replayed = (StaticStep(model, prompt, most_steps=8) for _ in range(2))
        for _ in range(4):  # capture takes two to warm up
            plain()
        graph = capture(replayed)
        for _ in range(2):
            graph.replay()
        torch.cuda.synchronize()
    assert torch.equal(replayed.tokens, plain.tokens)
    assert torch.equal(replayed.logits, plain.logits)
    step = seconds_a_step(model, batch, steps=4)
    assert step.graph and 0 < step.seconds < 1


@pytest.mark.parametrize("bits", [8, 4, 3, 2])
def test_memory_is_what_the_bits_count(bits):
    model = neox()
    before = requested_bytes()
    linear = [m for m in model.modules() if isinstance(m, torch.nn.Linear)]
    dense = sum(m.weight.nbytes for m in linear if m is not model.get_output_embeddings())
    layers = pack_linears(model, Setting.make(bits, "float", block_size=64))
    del linear
    packed = sum(layer.words.nbytes + layer.absmax.nbytes for layer in layers)
    assert packed == pytest.approx(dense * (bits + 16 / 64) / 16)
    # The table, and what finds its codes, come on top, once.
    assert abs(before - requested_bytes() - (dense - packed)) <= 16 * 1024
    assert all(isinstance(layer, KBitLinear) for layer in layers)


def test_a_timed_step_keeps_no_memory():
    model = neox()
    seconds_a_step(model, batch=4, steps=2)
    before = requested_bytes()
    for batch in (1, 4, 16):
        seconds_a_step(model, batch, steps=2)
    assert requested_bytes() - before <= 2**20


def requested_bytes():
    """Of GPU memory, without what the allocator adds to each."""
    gc.collect()
    return torch.cuda.memory_stats()["requested_bytes.all.current"]
