"""Mixture-of-experts layers, whose matrices lie in one parameter [experts, ., .] of each kind."""

from __future__ import annotations

from torch import nn

from quantizers.wiring.site import Site

_MATRICES = {"gate_up_proj": "up", "up_proj": "up", "down_proj": "down"}  # transformers' names


def holds_experts(module: nn.Module) -> bool:
    """Whether a module is one of transformers' collections of experts, orientation declared."""
    names = {name for name, _ in module.named_parameters(recurse=False)}
    return hasattr(module, "is_transposed") and bool(names & _MATRICES.keys())


def expert_sites(name: str, module: nn.Module) -> list[Site]:
    """The matrices of a collection of experts, expert by expert in forward order.

    Raises ValueError for parameters that are neither their matrices nor their biases.
    """
    stacks = {n: p for n, p in module.named_parameters(recurse=False) if n in _MATRICES}
    for other, parameter in module.named_parameters():
        if other not in stacks and not (other.endswith("_bias") and parameter.dim() == 2):
            raise ValueError(f"{name}.{other}: unknown kind of expert weights; cannot be quantized")
    count = next(iter(stacks.values())).shape[0]
    return [
        Site(
            f"{name}.{stack}.{expert}",
            module,
            parameter,
            kind=_MATRICES[stack],
            transposed=bool(module.is_transposed),
            expert=expert,
            input=f"{name}.{stack}.{expert}",
        )
        for expert in range(count)
        for stack, parameter in stacks.items()
    ]


def router_names(name: str, block: nn.Module) -> list[str]:
    """What decides where tokens go: beside the experts, a weight of a row an expert, or of one."""
    experts = getattr(block, "experts", None)
    if isinstance(experts, nn.ModuleList):
        n_experts = len(experts)
    elif isinstance(experts, nn.Module) and holds_experts(experts):
        n_experts = len(next(experts.parameters()))
    else:
        return []
    return [
        f"{name}.{child}"
        for child, module in block.named_children()
        if isinstance(weight := getattr(module, "weight", None), nn.Parameter)
        and weight.dim() == 2
        and weight.shape[0] in (1, n_experts)
    ]


def router_site(model: nn.Module, name: str) -> Site:
    """A router's matrix, which stays in 16 bit but must follow what is folded into its norm."""
    module = model.get_submodule(name)
    weight = module.weight
    assert isinstance(weight, nn.Parameter)
    return Site(name, module, weight, "router")
