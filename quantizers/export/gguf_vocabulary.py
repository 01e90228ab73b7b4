"""A tokenizer as llama.cpp reads it: BPE on bytes (GPT-2's and its kin), or SentencePiece's BPE."""

from __future__ import annotations

import json
import re
from typing import Any

# Pre-tokenizers by what they do, and llama.cpp's names of them.
_LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_PRE = {
    ("ByteLevel True",): "gpt-2",
    ("Digits True", "ByteLevel True"): "smollm",
    (f"Split {_LLAMA_3}", "ByteLevel False"): "llama-bpe",
    (f"Split {_LLAMA_3.replace('{1,3}', '')}", "ByteLevel False"): "qwen2",
}
_SPACE = "▁"
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")


def add_vocabulary(writer: Any, tokenizer: Any, rows: int) -> None:
    """Tokens, how they are made, and special ones. writer: a gguf.GGUFWriter; rows: of the
    embedding, which may be more. Raises ValueError for a tokenizer of another kind."""
    from gguf import TokenType

    described = json.loads(tokenizer.backend_tokenizer.to_str())
    pre = _pre(described)
    tokens = [f"[PAD{i}]" for i in range(rows)]
    types = [TokenType.UNUSED] * rows
    added = {token["content"]: token["special"] for token in described["added_tokens"]}
    for token, i in tokenizer.get_vocab().items():
        tokens[i], types[i] = token, TokenType.NORMAL
        if pre is None and _BYTE.fullmatch(token):
            types[i] = TokenType.BYTE
        elif token in added:
            types[i] = TokenType.CONTROL if added[token] else TokenType.USER_DEFINED
        if pre is None and token == described["model"]["unk_token"]:
            types[i] = TokenType.UNKNOWN
    merges = [m if isinstance(m, list) else m.split(" ") for m in described["model"]["merges"]]
    if pre is None:
        writer.add_tokenizer_model("llama")
        writer.add_tokenizer_pre("default")
        writer.add_token_scores(_scores(tokens, merges))
        writer.add_add_space_prefix(tokenizer.tokenize("a")[0].startswith(_SPACE))
    else:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(pre)
        writer.add_token_merges([" ".join(merge) for merge in merges])
        writer.add_add_space_prefix(False)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    _add_special(writer, tokenizer)


def _add_special(writer: Any, tokenizer: Any) -> None:
    for name, add in (
        ("bos", writer.add_bos_token_id), ("eos", writer.add_eos_token_id),
        ("unk", writer.add_unk_token_id), ("pad", writer.add_pad_token_id),
    ):  # fmt: skip
        if (i := getattr(tokenizer, f"{name}_token_id")) is not None:
            add(i)
    ids = tokenizer("a")["input_ids"]
    writer.add_add_bos_token(len(ids) > 1 and ids[0] == tokenizer.bos_token_id)
    writer.add_add_eos_token(len(ids) > 1 and ids[-1] == tokenizer.eos_token_id)
    if isinstance(tokenizer.chat_template, str):
        writer.add_chat_template(tokenizer.chat_template)


def _pre(described: Any) -> str | None:
    """llama.cpp's name of a pre-tokenizer; None: SentencePiece, which has none."""
    model, first = described["model"], described["normalizer"]
    changes = [] if first is None else first.get("normalizers", [first])
    before = described["pre_tokenizer"]
    steps = [] if before is None else before.get("pretokenizers", [before])
    kinds = [step["type"] for step in (*changes, *steps)]
    if model["type"] == "BPE" and model["byte_fallback"]:
        if {"Prepend", "Replace", "Metaspace"}.issuperset(kinds):
            return None
    elif model["type"] == "BPE" and {"NFC"}.issuperset(kinds[: len(changes)]):
        found = _PRE.get(tuple(_told(step) for step in steps))
        if found is not None and bool(model["ignore_merges"]) == (found == "llama-bpe"):
            return found
    raise ValueError(
        f"a tokenizer of kind {model['type']} ({', '.join(kinds) or 'nothing before it'}): is not "
        "written as GGUF; it must be Llama's, GPT-2's, SmolLM's or Qwen 2's"
    )


def _told(step: Any) -> str:
    """What a step does, as far as llama.cpp's do otherwise."""
    options = {
        "ByteLevel": lambda: f"{step['use_regex']}{' prefix' * step['add_prefix_space']}",
        "Digits": lambda: f"{step['individual_digits']}",
        "Split": lambda: (
            step["pattern"].get("Regex", "")
            + (f" {step['behavior']}" if step["behavior"] != "Isolated" or step["invert"] else "")
        ),
    }
    return f"{step['type']} {options.get(step['type'], str)()}"


def _scores(tokens: list[str], merges: list[list[str]]) -> list[float]:
    """Of SentencePiece: what is merged first has the highest. Pieces that no merge makes come
    last, where their scores tell nothing."""
    rank: dict[str, int] = {}
    for i, (left, right) in enumerate(merges):
        rank.setdefault(left + right, i)
    return [float(-rank.get(token, len(merges))) for token in tokens]
