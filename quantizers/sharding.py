"""One model on several GPUs: whole decoder blocks on each, hidden states handed on at the borders.

What stands around the blocks (embeddings, norm, head) is on the first device, where the model's
input and its logits are.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_map

from quantizers.wiring.unknown import decoder_blocks


def device_map(model: Any, devices: Sequence[Any]) -> dict[str, Any]:
    """Device by name, as `from_pretrained` takes it: of every decoder block, and of every module
    with tensors of its own that is in none. (Under one name for all of these accelerate would put
    the blocks on the first device, too, before it moves them.)

    model: on any device, `meta` too. The fullest device holds as little as can be; ties leave
    room on the first. Raises ValueError where decoder blocks cannot be found.
    """
    blocks = decoder_blocks(model)
    sizes = [_bytes_of(model.get_submodule(name)) for name in blocks]
    chosen = devices_of_blocks(sizes, _bytes_of(model) - sum(sizes), len(devices))
    around = {name: devices[0] for name in _around(model, blocks)}
    return around | {b: devices[i] for b, i in zip(blocks, chosen, strict=True)}


def _around(model: nn.Module, blocks: Sequence[str]) -> Iterator[str]:
    """Modules outside of the blocks; of those around the blocks, their own tensors."""
    inside = tuple(f"{name}." for name in blocks)
    for name, module in model.named_modules():
        held = [n for n, _ in (*module.named_parameters(recurse=False),
                               *module.named_buffers(recurse=False))]  # fmt: skip
        if not held or f"{name}.".startswith(inside):
            continue
        start = f"{name}." if name else ""
        contains = any(block.startswith(start) for block in blocks)
        yield from (f"{start}{own}" for own in held) if contains else [name]


def devices_of_blocks(blocks: Sequence[int], around: int, n: int) -> list[int]:
    """The device (0 ... n - 1) of each block, in forward order, never falling.

    blocks: bytes of each; around: bytes that device 0 holds besides.
    """

    def placed(most: int) -> list[int] | None:
        """Later devices first, none holding more than `most`."""
        found, device = [], n - 1
        room = [most - around] + [most] * (n - 1)
        for size in reversed(blocks):
            while room[device] < size:
                if device == 0:
                    return None
                device -= 1
            room[device] -= size
            found.append(device)
        return found[::-1]

    least = max(around, max(blocks, default=0))
    possible = range(least, around + sum(blocks) + 1)
    found = placed(possible[bisect_left(possible, True, key=lambda m: placed(m) is not None)])
    assert found is not None  # one device may hold everything
    return found


def hand_on(model: Any) -> None:
    """Let every decoder block, and every module with parameters outside of them, move what it is
    given to its own device. For a model that lies on several; no module's `forward` is replaced."""
    blocks = decoder_blocks(model)
    inside = tuple(f"{name}." for name in blocks)
    for name, module in model.named_modules():
        holds = next(module.parameters(recurse=name in blocks), None)
        if holds is not None and not name.startswith(inside):
            module.register_forward_pre_hook(_moving, with_kwargs=True)


def _moving(module: nn.Module, args: Any, options: Any) -> Any:
    device = next(module.parameters()).device
    return tree_map(lambda x: x.to(device) if isinstance(x, Tensor) else x, (args, options))


def _bytes_of(module: nn.Module) -> int:
    """Of parameters, tied ones once, and buffers."""
    held: list[Tensor] = [*module.parameters(), *module.buffers()]
    return sum(tensor.nbytes for tensor in held)
