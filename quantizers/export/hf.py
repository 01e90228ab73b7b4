"""What `transformers` needs to load kbit's own format: AutoModelForCausalLM.from_pretrained(DIR).

Registered by `import kbit`. Layers become shells on the meta device before tensors are read, and
packed layers after.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers.quantizers.auto import register_quantization_config, register_quantizer
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from quantizers.export.kbit_format import METHOD
from quantizers.linear import KBitLinear
from quantizers.outliers import PackedMatrix
from quantizers.packed import PackedTensor, sixteen_bit
from quantizers.packed_embedding import pack_embedding
from quantizers.packing import n_words
from quantizers.setting import Setting


@register_quantization_config(METHOD)
class KBitConfig(QuantizationConfigMixin):  # type: ignore[misc]
    """`quantization_config` of config.json. layers: by module name, {kind, shape, bits,
    columns, codebook}: see `KBitFormat`."""

    def __init__(self, setting: dict[str, Any], layers: dict[str, Any], **beside: Any) -> None:
        self.quant_method = METHOD  # type: ignore[assignment]
        self.setting, self.layers = setting, layers
        self.bits = setting["bits"]
        self.load_dtype = beside.get("load_dtype", "float16")


class _Shell(nn.Module):
    """Room for what a packed layer holds: buffers without memory, by their names in the file."""

    def __init__(self, layer: dict[str, Any], config: KBitConfig, bias: Tensor | None) -> None:
        super().__init__()
        self.embedding: Any = None
        setting, columns = Setting(**config.setting), layer["columns"]
        dtype = sixteen_bit(getattr(torch, config.load_dtype))
        d_out, d_in = layer["shape"]
        self.bits = layer["bits"]
        self.body_shape = torch.Size((d_out, d_in - columns))
        count = setting.granularity.blocks(self.body_shape).count
        shapes: dict[str, tuple[tuple[int, ...], torch.dtype]] = {
            "words": ((n_words(self.body_shape.numel(), self.bits),), torch.int32),
            "absmax": ((count,), dtype),
            "codebook": ((layer["codebook"],), torch.float32),
            "columns": ((columns,), torch.int32),
            "kept": ((d_out, columns), dtype),
        }
        if setting.centered:
            shapes["mean"] = ((count,), dtype)
        if bias is not None:
            shapes["bias"] = (tuple(bias.shape), dtype)
        for name, (shape, kind) in shapes.items():
            self.register_buffer(name, torch.empty(shape, dtype=kind, device="meta"))
        self.__dict__["weight"] = torch.empty(0)  # some architectures initialize it, by name

    def keep(self, embedding: Any) -> None:
        """What it does beside looking up has buffers, which `transformers` fills as long as they
        are in the model; it initializes weights, too, by their name."""
        rows = (embedding.padding_idx or 0) + 1
        del embedding.weight
        embedding.__dict__["weight"] = torch.empty(rows, 1)
        self.embedding = embedding

    def matrix(self, config: KBitConfig, tables: list[Tensor]) -> PackedMatrix:
        """tables: codebooks of layers before, which this one shares where it is equal."""
        held = dict(self.named_buffers(recurse=False))
        setting, table = Setting(**config.setting), held["codebook"]
        same = [t for t in tables if t.device == table.device and torch.equal(t, table)]
        if not same:
            tables.append(table)
        body = PackedTensor(
            words=held["words"],
            absmax=held["absmax"],
            mean=held.get("mean"),
            codebook=same[0] if same else table,
            bits=self.bits,
            granularity=setting.granularity,
            shape=self.body_shape,
            dtype=getattr(torch, config.load_dtype),
        )
        return PackedMatrix(body, held["columns"], held["kept"])


@register_quantizer(METHOD)
class KBitQuantizer(HfQuantizer):  # type: ignore[misc]
    """Loads what `kbit export` wrote; it quantizes nothing."""

    requires_calibration = True
    quantization_config: KBitConfig

    def get_state_dict_and_metadata(self, model: Any) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """What layers share is saved with each of them; a tied head is not saved."""
        heads = tuple(f"{name}." for name in self._tied)
        state = {k: v for k, v in model.state_dict().items() if not k.startswith(heads or ("\0",))}
        return {k: v.clone() if k.endswith(".codebook") else v for k, v in state.items()}, {}

    def is_serializable(self) -> bool:
        return True

    @property
    def is_trainable(self) -> bool:
        return False

    def _process_model_before_weight_loading(self, model: Any, **beside: Any) -> None:
        layers = self.quantization_config.layers
        tied = {
            to.rpartition(".")[0]: of.rpartition(".")[0]
            for to, of in model.all_tied_weights_keys.items()
        }
        self._tied = {head: name for head, name in tied.items() if name in layers}
        for name in self._tied:
            model.set_submodule(name, nn.Module())
        for name, layer in layers.items():
            module = model.get_submodule(name)
            shell = _Shell(layer, self.quantization_config, getattr(module, "bias", None))
            if layer["kind"] == "embedding":
                shell.keep(module)
            model.set_submodule(name, shell)
        if self._tied:
            model.all_tied_weights_keys = {}

    def _process_model_after_weight_loading(self, model: Any, **beside: Any) -> Any:
        tables: list[Tensor] = []
        for name in self.quantization_config.layers:
            shell = model.get_submodule(name)
            matrix = shell.matrix(self.quantization_config, tables)
            if shell.embedding is not None:
                embedding = shell.embedding
                del embedding.__dict__["weight"]
                pack_embedding(embedding, matrix, model.dtype)
                model.set_submodule(name, embedding)
            else:
                model.set_submodule(name, KBitLinear(matrix, getattr(shell, "bias", None)))
        for name, source in self._tied.items():
            model.set_submodule(name, KBitLinear(model.get_submodule(source).matrix))
        return model
