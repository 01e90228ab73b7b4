"""Random-weight models of the paper's architectures and a tokenizer trained on the spot."""

from __future__ import annotations

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    OPTConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from evaluation.engine.engine import Engine

TEXT = """The state of the Union is strong, and the people of the United States are at peace with
all nations. Commerce and manufactures have prospered in the past year; the revenue exceeds the
expenditure. I recommend to the Congress that the surplus be applied to the public debt - naïvely,
some say. We shall meet the challenge: with courage, with honest work, and with faith."""
CONTEXT = 48
VOCAB = 300


def tiny_tokenizer(adds_bos: bool = False) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([TEXT], trainer)
    if adds_bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", 0)]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="</s>",
        clean_up_tokenization_spaces=False,
    )


def tiny_engine(architecture: str, context: int = CONTEXT) -> Engine:
    """An engine whose model is said to read `context` tokens; with rotary positions it can."""
    model = tiny_model(architecture)
    model.config.max_position_embeddings = context
    return Engine(model, tiny_tokenizer())


CONFIGS = {
    "gpt2": lambda: GPT2Config(
        vocab_size=VOCAB, n_positions=CONTEXT, n_embd=32, n_layer=2, n_head=2
    ),
    "gpt_neox": lambda: GPTNeoXConfig(
        vocab_size=VOCAB,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=CONTEXT,
    ),
    "opt": lambda: OPTConfig(
        vocab_size=VOCAB,
        hidden_size=32,
        word_embed_proj_dim=16,  # like OPT-350m: projections around the blocks, norm after them
        do_layer_norm_before=False,
        num_hidden_layers=2,
        num_attention_heads=2,
        ffn_dim=64,
        max_position_embeddings=CONTEXT,
    ),
    "bloom": lambda: BloomConfig(
        vocab_size=VOCAB, hidden_size=32, n_layer=2, n_head=2, seq_length=CONTEXT
    ),
    "llama": lambda: LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=64,
        max_position_embeddings=CONTEXT,
    ),
}


def tiny_model(architecture: str, seed: int = 0) -> PreTrainedModel:
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(CONFIGS[architecture]())
    with torch.no_grad():
        for parameter in model.parameters():  # far from uniform, so that mistakes show
            if parameter.dim() >= 2:
                parameter.mul_(8)
    return model.eval()
