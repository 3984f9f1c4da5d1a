"""A plain module of PyTorch as a language model: a map of the paths of its parts and of its call.

Models of transformers need no map. For any other `nn.Module`, `ModuleMap` names the modules by their paths, as in
`named_modules`, and `MappedModel` wraps the module for `probe.LM`. The module is not changed: its parameters are
shared, so train it or `lm.model`. Hooks, analyses and pages that need a part that the map does not name say so.
"""

import difflib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from jaxtyping import Float, Int
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput

from probe.errors import ConfigError, ModelError
from probe.model.loading import tensors
from probe.model.references import MAPPED

Call = Callable[[Any, Tensor], Any]
"""Function (module, ids [B T]) -> logits [B T V], or an output that holds them."""
INSIDE = {
    **dict.fromkeys(("attention", "attention_norm", "mlp", "mlp_norm"), "blocks"),
    **dict.fromkeys(("qkv", "q", "k", "v", "out"), "attention"),
    **dict.fromkeys(("mlp_in", "mlp_gate", "mlp_out"), "mlp"),
}
"""Fields whose path begins at another field's module."""


@dataclass(frozen=True, kw_only=True)
class ModuleMap:
    """Paths of the parts of a decoder, such as `transformer.h`."""

    blocks: str
    """List of blocks (`ModuleList` or `Sequential`), each from a residual stream [B T d] to the next."""
    embedding: str
    """Embedding of tokens."""
    unembedding: str
    """Linear layer that makes logits."""
    final_norm: str | None = None
    """Norm before the unembedding."""
    positions: str | None = None
    """Embedding of positions, if they are learned."""
    attention: str | None = None
    """Attention, inside a block; its output is added to the residual stream."""
    attention_norm: str | None = None
    """Norm before attention, inside a block."""
    mlp: str | None = None
    """Feed-forward part, inside a block; its output is added to the residual stream."""
    mlp_norm: str | None = None
    """Norm before the feed-forward part, inside a block."""
    heads: int | None = None
    """Number of heads per block. Together with the projections below it gives attention patterns and outputs of
    heads."""
    key_value_heads: int | None = None
    """Number of heads of keys and values, if there are fewer."""
    qkv: str | None = None
    """Joint layer of queries, keys and values, in this order, inside the attention."""
    q: str | None = None
    """Layer of queries, inside the attention, if queries, keys and values have separate layers."""
    k: str | None = None
    """Layer of keys, inside the attention."""
    v: str | None = None
    """Layer of values, inside the attention."""
    out: str | None = None
    """Layer that mixes the outputs of the heads, inside the attention."""
    mlp_in: str | None = None
    """First layer, inside the feed-forward part."""
    mlp_gate: str | None = None
    """Layer of the gate, inside the feed-forward part."""
    mlp_out: str | None = None
    """Last layer, inside the feed-forward part."""
    context: int | None = None
    """Maximum length of a text in tokens; default: the number of learned positions, else no limit."""
    call: Call | None = None
    """Function that computes logits [B T V] of all positions from ids [B T]; default: `module(ids)`. The output may be
    a tensor, a tuple that begins with the logits, or an object with `.logits`."""

    def __post_init__(self) -> None:
        split, parts = (self.q, self.k, self.v), (self.qkv, self.q, self.k, self.v, self.out, self.heads)
        if any(parts) and not (self.attention and self.heads and self.out and bool(self.qkv) != all(split)):
            raise ConfigError(
                "The module map names only some parts of the heads: give attention, heads, out, and either qkv or"
                " q, k and v."
            )
        if self.qkv and any(split):
            raise ConfigError("The module map names qkv and also q, k or v: give the fused layer or the three.")
        if any((self.mlp_in, self.mlp_gate, self.mlp_out)) and not (self.mlp and self.mlp_in and self.mlp_out):
            raise ConfigError(
                "The module map names only some layers of the feed-forward part: give mlp, mlp_in and mlp_out."
            )
        first: dict[str, str] = {}
        for name, path in self.paths().items():
            if (other := first.setdefault(path, name)) != name:
                raise ConfigError(f"The module map names `{path}` as {other} and as {name}: give each its own path.")
        for name in ("heads", "key_value_heads", "context"):
            count = getattr(self, name)
            if count is not None and count < 1:
                raise ConfigError(f"The module map says {name} {count}: give 1 or more, or leave it out.")
        if self.key_value_heads and (self.heads is None or self.heads % self.key_value_heads):
            raise ConfigError(
                f"{self.heads} heads cannot share {self.key_value_heads} heads of keys and values: give heads, and a "
                "number that divides it."
            )

    def path(self, name: str) -> str:
        """Return the path of a field from the module on; `{}` stands for the number of a block."""
        own, owner = getattr(self, name), INSIDE.get(name)
        if owner is None:
            return str(own)
        return f"{self.path(owner)}{'.{}' if owner == 'blocks' else ''}.{own}"

    def paths(self) -> dict[str, str]:
        """Return the given paths by field."""
        return {each.name: self.path(each.name) for each in fields(self) if isinstance(getattr(self, each.name), str)}


class MappedConfig(PreTrainedConfig):
    """Configuration that the rest of the library needs, read from the module."""

    model_type = MAPPED


class MappedModel(PreTrainedModel):
    """A plain module as a causal language model; `mapped_model` makes it."""

    config_class = MappedConfig
    _can_set_attn_implementation_cached_value = False
    """Whether transformers may set the attention kernel; the module has its own."""

    def __init__(self, module: nn.Module, mapping: ModuleMap) -> None:
        super().__init__(_read_config(module, mapping))
        self.config._attn_implementation_internal = "own"
        self.module = module
        self.mapping = mapping

    @property
    def training(self) -> bool:
        """Mode of the module, which can be set on the module or here."""
        module = self.__dict__.get("_modules", {}).get("module")
        return module is None or bool(module.training)

    @training.setter
    def training(self, mode: bool) -> None:
        """Do nothing: `train` and `eval` set the mode of the module itself."""

    def forward(self, input_ids: Int[Tensor, "B T"], attention_mask: Tensor | None = None, **_: Any) -> CausalLMOutput:
        """Compute the logits of the module, which does not handle padding.

        Real tokens are moved to the front of their row, and their logits are moved back. In a causal model, later
        tokens do not change the logits of a token. Positions are the module's own, and further arguments of models of
        transformers (positions, cache) are ignored.

        Raises:
            ModelError: the module does not give logits [B T V].
        """
        if attention_mask is None or not bool((attention_mask[:, 1:] > attention_mask[:, :-1]).any()):
            return CausalLMOutput(logits=self._run(input_ids))
        order = attention_mask.argsort(dim=1, descending=True, stable=True)
        logits = self._run(input_ids.gather(1, order))
        back = order.argsort(dim=1)
        return CausalLMOutput(logits=logits.gather(1, back[..., None].expand_as(logits)))

    def _run(self, ids: Int[Tensor, "B T"]) -> Float[Tensor, "B T V"]:
        output = self.module(ids) if self.mapping.call is None else self.mapping.call(self.module, ids)
        logits = output[0] if isinstance(output, tuple) and output else getattr(output, "logits", output)
        expected = (*ids.shape, self.config.vocab_size)
        if not isinstance(logits, Tensor) or logits.shape != expected:
            given = f"shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else f"type {type(logits).__name__}"
            raise ModelError(
                f"{type(self).__name__} gives an output of {given} for ids of shape {tuple(ids.shape)} where logits "
                f"of shape {expected} are needed: name in the module map how it is called, call=lambda module, ids: ..."
            )
        return logits

    def get_input_embeddings(self) -> nn.Module:
        """Return the embedding of tokens."""
        return self.module.get_submodule(self.mapping.embedding)

    def get_output_embeddings(self) -> nn.Module:
        """Return the linear layer that makes logits."""
        return self.module.get_submodule(self.mapping.unembedding)

    def save_pretrained(self, save_directory: str | Path, state_dict: Mapping[str, Tensor] | None = None) -> None:
        """Write the weights under the module's own names, and the name of the module.

        `safetensors.torch.load_model(module, "model.safetensors")` reads them into a new instance of the module.
        """
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        state = self.state_dict() if state_dict is None else state_dict
        weights = {name: state[f"module.{name}"].contiguous() for name in tensors(self.module)}
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        config = self.config.to_dict() | {"architectures": [type(self).__name__]}
        text = json.dumps(config, indent=2, sort_keys=True, default=str)
        (folder / "config.json").write_text(text + "\n", encoding="utf-8")


def mapped_model(module: nn.Module, mapping: ModuleMap) -> MappedModel:
    """Return the module as a causal language model, under the name of its own class.

    Raises:
        ModelError: a path of the map leads nowhere, or to a module of another kind.
    """
    for name, path in mapping.paths().items():
        depth = len(_blocks(module, mapping)) if "{}" in path else 1
        for block in range(depth):
            _require_path(module, name, path.format(block))
    for name, what in (("embedding", "embedding of tokens"), ("unembedding", "linear layer that makes logits")):
        part = module.get_submodule(mapping.path(name))
        weight = getattr(part, "weight", None)
        if not isinstance(weight, Tensor) or weight.ndim != 2:
            raise ModelError(
                f"The module map names `{mapping.path(name)}` as {name}, a {type(part).__name__} without a matrix "
                f"`weight`: name the {what}."
            )
    return type(type(module).__name__, (MappedModel,), {})(module, mapping)


def _blocks(module: nn.Module, mapping: ModuleMap) -> nn.ModuleList | nn.Sequential:
    """Return the list of blocks.

    Raises:
        ModelError: it is none, or empty.
    """
    blocks = module.get_submodule(mapping.blocks)
    if not isinstance(blocks, nn.ModuleList | nn.Sequential) or not len(blocks):
        raise ModelError(
            f"The module map names `{mapping.blocks}` as blocks, a {type(blocks).__name__}: name a ModuleList or "
            "Sequential of at least one block."
        )
    return blocks


def _require_path(module: nn.Module, name: str, path: str) -> None:
    """Raise a ModelError with similar names unless there is a module with this path."""
    parent, missing = module, path
    for part in path.split("."):
        child = parent._modules.get(part)
        if child is None:
            break
        parent, missing = child, missing.partition(".")[2]
    else:
        return
    above = path.removesuffix(missing)
    near = difflib.get_close_matches(path, [above + name for name in parent._modules], n=5, cutoff=0)
    have = f"it has {', '.join(f'`{each}`' for each in near)}" if near else f"`{above.rstrip('.')}` has no parts"
    raise ModelError(
        f"The module map names `{path}` as {name} and {type(module).__name__} has no module of that path: {have}."
    )


def _read_config(module: nn.Module, mapping: ModuleMap) -> MappedConfig:
    """Read the sizes of the module, and the paths of the map: two maps of one module give two models."""
    head: Any = module.get_submodule(mapping.unembedding)
    context = mapping.context
    if context is None and mapping.positions is not None:
        table = getattr(module.get_submodule(mapping.positions), "weight", None)
        context = None if table is None else len(table)
    config = MappedConfig()
    config.vocab_size, config.hidden_size = head.weight.shape
    config.num_hidden_layers = len(_blocks(module, mapping))
    config.max_position_embeddings = context
    config.module_map = mapping.paths() | {"heads": mapping.heads, "key_value_heads": mapping.key_value_heads}
    return config
