"""The byte-level BPE tokenizer: one for all embedded models, or one for a text of one's own."""

from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from quantizers.plain import plain
from training.recipe import CONTEXT, VOCAB_SIZE

END_OF_TEXT = "<|endoftext|>"


def train_tokenizer(
    texts: Sequence[str], output: Path, vocab_size: int = VOCAB_SIZE, context: int = CONTEXT
) -> PreTrainedTokenizerFast:
    """Train the BPE on the texts (no held-out ones) and save it in the hub's format."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=END_OF_TEXT,
        eos_token=END_OF_TEXT,
        unk_token=END_OF_TEXT,
        pad_token=END_OF_TEXT,
        model_max_length=context,
        clean_up_tokenization_spaces=False,
    )
    fast.save_pretrained(output)
    return fast


def load_tokenizer(path: Path) -> PreTrainedTokenizerFast:
    """Raises ValueError where there is none that can be read."""
    try:
        return PreTrainedTokenizerFast.from_pretrained(path)
    except Exception as error:  # whatever the library makes of a damaged file
        raise ValueError(f"tokenizer {path}: cannot be loaded: {plain(error)[:200]}") from None
