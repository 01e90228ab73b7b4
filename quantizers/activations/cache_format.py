"""The key-value cache's format, as sweep files spell it and tables store it. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

NONE = "16"
NAMES = ("token", "tensor")


@dataclass(frozen=True)
class CacheFormat:
    """Of keys and values, each by itself. Its text, "token 8", is what is stored."""

    name: str  # token: dynamic, a scale a token over all heads; tensor: static, one a layer
    bits: int = 8  # 4..8

    def __post_init__(self) -> None:
        """Raises ValueError, beginning with "kv: "."""
        if self.name not in NAMES:
            raise ValueError(f"kv: {self.name!r} is not one of {', '.join((NONE, *NAMES))}")
        if not isinstance(self.bits, int) or isinstance(self.bits, bool) or not 4 <= self.bits <= 8:
            raise ValueError(f"kv: {self.name} takes 4 to 8 bits, not {self.bits!r}")

    @property
    def needs_statistics(self) -> bool:
        return self.name == "tensor"

    @property
    def label(self) -> str:
        """Short: "KV8 token"."""
        return f"KV{self.bits} {self.name}"

    def __str__(self) -> str:
        return f"{self.name} {self.bits}"

    @classmethod
    def parse(cls, text: str) -> CacheFormat:
        """From its text. Raises ValueError for one that is none."""
        name, _, bits = text.partition(" ")
        return cls(name, int(bits)) if bits.isdigit() else cls(text)


def cache_text(spelled: Any) -> str:
    """What is stored for 16, token, {token: 8} or a text that was stored. Raises ValueError,
    beginning with "kv: ", for any other."""
    if spelled is None or (str(spelled) in (NONE, "16.0") and not isinstance(spelled, bool)):
        return NONE
    if isinstance(spelled, Mapping) and len(spelled) == 1:
        ((name, bits),) = spelled.items()
        return str(CacheFormat(name, bits))
    if isinstance(spelled, str):
        return str(CacheFormat.parse(spelled))
    raise ValueError(f"kv: {spelled!r} is not one of {', '.join((NONE, *NAMES))}")
