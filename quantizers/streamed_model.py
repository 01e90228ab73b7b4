"""A causal LM larger than the memory: its decoder blocks are read one at a time, when they run."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor, nn

from quantizers.architectures import streaming_problem
from quantizers.block_passes import BlockPasses
from quantizers.checkpoint import Checkpoint, UnusableModel
from quantizers.in_place import InPlace
from quantizers.packed import sixteen_bit
from quantizers.proxies import Proxies
from quantizers.shards import open_shards
from quantizers.wiring import Site, Wiring, block_of, wiring_of


class StreamedModel:
    """What stands around the decoder blocks, in memory, and one block, by `load`.

    Values are those that `ResidentModel` holds: rounded to 16 bit, in `compute_dtype`. `passes`
    runs the block that is loaded. Until the second block is loaded, the first one alone is what
    the architecture's habits are found on.
    """

    def __init__(self, checkpoint: Checkpoint, compute_dtype: torch.dtype, device: str) -> None:
        """device: "cpu" | "cuda". Raises UnusableModel as `open_shards` does, and for an
        architecture that is not known to pass nothing but hidden states from block to block."""
        self.model, self.tokenizer, self._shards = open_shards(checkpoint)
        if said := streaming_problem(self.model.config.to_dict()):
            raise UnusableModel(f"model {checkpoint.name}: {said}")
        self._load_dtype: torch.dtype = getattr(torch, checkpoint.dtype)
        self._compute_dtype, self._device = compute_dtype, torch.device(device)
        self.wiring = wiring_of(self.model)
        self.n_params: int = sum(p.numel() for p in self.model.parameters())
        self._absent = dict(self.model.named_parameters(remove_duplicate=False))
        self._names = self.wiring.blocks
        self._blocks = [self.model.get_submodule(name) for name in self._names]
        self._around = [n for n in self._absent if block_of(n) not in self._names]
        self._proxies = Proxies(self.wiring, self._original)
        self._make_buffers()
        self._read(self._around)
        self.passes = BlockPasses(self._blocks)
        self._loaded: int | None = None
        self.load(0)

    @property
    def n_blocks(self) -> int:
        return len(self._blocks)

    def load(self, number: int) -> InPlace:
        """Read a block in place of the one that is loaded, and let it run. What is given takes
        settings to its matrices."""
        if self._loaded != number:
            if self._loaded is not None:
                self._let_go(self._parameters_of(self._loaded))
            self._loaded = number
            self._read(self._parameters_of(number))
        self.passes.run(number)
        name = self._names[number]
        return self._part([s for s in self.wiring.linear if block_of(s.name) == name])

    def around(self) -> InPlace:
        """Takes settings to the matrices outside of the blocks: embeddings, head, projections."""
        inside = set(self._names)
        sites = [s for s in self.wiring.linear if block_of(s.name) not in inside]
        return self._part(sites, self.wiring.embeddings)

    def _part(self, linear: Iterable[Site], embeddings: Iterable[Site] = ()) -> InPlace:
        wiring = Wiring(
            self.wiring.architecture,
            tuple(_present(site) for site in linear),
            tuple(_present(site) for site in embeddings),
            routers=(),
            whole=self.wiring,
        )
        return InPlace(self.model, wiring, self._load_dtype, self._proxies)

    def _parameters_of(self, number: int) -> list[str]:
        name = self._names[number]
        return [f"{name}.{own}" for own, _ in self._blocks[number].named_parameters()]

    def _read(self, names: Iterable[str]) -> None:
        """Parameters from the checkpoint; tied ones are one, as they were."""
        made: dict[int, nn.Parameter] = {}
        for name in names:
            absent = self._absent[name]
            if id(absent) not in made:
                values = self._shards[name].to(self._device, self._compute_dtype, copy=True)
                made[id(absent)] = nn.Parameter(values, requires_grad=False)
            self._set(name, made[id(absent)])

    def _let_go(self, names: Iterable[str]) -> None:
        for name in names:
            self._set(name, self._absent[name])

    def _set(self, name: str, parameter: nn.Parameter) -> None:
        module, _, attribute = name.rpartition(".")
        setattr(self.model.get_submodule(module), attribute, parameter)

    def _make_buffers(self) -> None:
        """As `from_pretrained` makes them, in fp32 arithmetic, once the model is there in its
        dtype; those that checkpoints hold too are read."""
        for module in self.model.modules():
            module._is_hf_initialized = False
        for parameter in self.model.parameters():
            parameter._is_hf_initialized = True  # stays absent
        self.model.initialize_weights()
        stored = set(self.model.state_dict())
        for name, buffer in list(self.model.named_buffers()):
            module, _, attribute = name.rpartition(".")
            values = self._shards[name].to(buffer.dtype) if name in stored else buffer
            setattr(self.model.get_submodule(module), attribute, values.to(self._device))

    def _original(self, site: Site) -> Tensor:
        """The 16-bit weights of any site, [d_out, d_in], read anew."""
        stored = self._shards[site.weight_name]
        return (stored.T if site.transposed else stored).to(sixteen_bit(self._load_dtype))


def _present(site: Site) -> Site:
    """The site with the matrix that its module holds now."""
    parameter = site.module.weight
    assert isinstance(parameter, nn.Parameter)
    return replace(site, parameter=parameter)
