"""Training in half precision as the paper means it (Micikevicius et al. 2017).

The optimizer updates fp32 master weights; forward and backward passes see copies in fp16 or bf16,
and so do activations, the residual stream included, and gradients. Norms compute in fp32 and round
their outputs; so do products. `torch.autocast` is not that: it keeps the residual stream in fp32.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

HALF = {"fp16": torch.float16, "bf16": torch.bfloat16}
_aten = torch.ops.aten
# What a GPU computes in fp32 from half inputs and rounds once, and a CPU without the instructions
# computes slowly, or with sums in half.
_WIDE = {
    _aten.mm.default,
    _aten.addmm.default,
    _aten.bmm.default,
    _aten.baddbmm.default,
    _aten._scaled_dot_product_flash_attention_for_cpu.default,
    _aten._scaled_dot_product_flash_attention_for_cpu_backward.default,
    _aten.native_layer_norm.default,
    _aten.native_layer_norm_backward.default,
    _aten.embedding_dense_backward.default,
}
# Of these only the first output is an activation; statistics stay in fp32 for the backward pass.
_FIRST_ONLY = {
    _aten._scaled_dot_product_flash_attention_for_cpu.default,
    _aten.native_layer_norm.default,
}


class MasterWeights:
    """The fp32 weights that the optimizer updates, and the model's copies of them."""

    def __init__(self, model: nn.Module, dtype: str) -> None:
        """Rounds the model's parameters to `dtype`; fp32: the model's own are the master."""
        self.copies = list(model.parameters())
        self.parameters = self.copies
        if dtype in HALF:
            self.parameters = [nn.Parameter(p.detach().clone()) for p in self.copies]
            for parameter in self.copies:  # buffers, such as rotary frequencies, stay as they are
                parameter.data = parameter.data.to(HALF[dtype])

    def masters(self, parameters: Sequence[nn.Parameter]) -> list[nn.Parameter]:
        """The masters of these of the model's parameters."""
        master_by_id = dict(zip(map(id, self.copies), self.parameters, strict=True))
        return [master_by_id[id(p)] for p in parameters]

    def take_gradients(self, loss_scale: float) -> None:
        """Move the copies' gradients to the masters, divided by the loss scale."""
        if self.parameters is self.copies:
            return
        for master, copy in zip(self.parameters, self.copies, strict=True):
            assert copy.grad is not None
            master.grad = copy.grad.float().div_(loss_scale)
            copy.grad = None

    @torch.no_grad()
    def publish(self) -> None:
        """Round the updated masters into the model."""
        if self.parameters is not self.copies:
            for master, copy in zip(self.parameters, self.copies, strict=True):
                copy.copy_(master)


def half_arithmetic(dtype: str, device: torch.device) -> AbstractContextManager[Any]:
    """The context of forward and backward passes: on a CPU, half products are emulated."""
    return RoundedProducts() if dtype in HALF and device.type == "cpu" else nullcontext()


class RoundedProducts(TorchDispatchMode):
    """Products, norms and sums over tokens of half tensors in fp32, rounded once: the same bits on
    every CPU of one kind, with or without half instructions, and 40 times the speed without."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func not in _WIDE:
            return func(*args, **kwargs)
        dtype = next((a.dtype for a in args if _is_half(a)), None)
        if dtype is None:
            return func(*args, **kwargs)
        out = func(*tree_map(_widened, args), **tree_map(_widened, kwargs))
        if func in _FIRST_ONLY:
            return (out[0].to(dtype), *out[1:])
        return tree_map(lambda x: x.to(dtype) if _is_single(x) else x, out)


def _is_half(x: Any) -> bool:
    return isinstance(x, Tensor) and x.dtype in (torch.float16, torch.bfloat16)


def _is_single(x: Any) -> bool:
    return isinstance(x, Tensor) and x.dtype == torch.float32


def _widened(x: Any) -> Any:
    return x.float() if _is_half(x) else x
