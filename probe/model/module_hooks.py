"""Hooks on a plain module: a TransformerBridge built from a `ModuleMap`, without an adapter for the architecture.

Every hook point wraps a module that the map names; nothing is computed differently, with one exception: while an
attention runs, its softmax or `scaled_dot_product_attention` is replaced, so that scores and pattern can be hooked.
Rotary positions, windows and norms of queries are therefore those of the module. A first run on a few tokens checks
each hook point; a part that does not behave as its name says is left out with a warning.

Axes: B texts, T tokens, d width, H heads, G heads of keys and values, dh head width.
"""

import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from transformer_lens.config import TransformerBridgeConfig
from transformer_lens.hook_points import HookPoint
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.model_bridge.architecture_adapter import ArchitectureAdapter
from transformer_lens.model_bridge.generalized_components import LinearBridge, MLPBridge
from transformer_lens.model_bridge.generalized_components.base import GeneralizedComponent
from transformer_lens.model_bridge.generalized_components.opaque_block import OpaqueBlockBridge
from transformers.modeling_outputs import CausalLMOutput
from transformers.pytorch_utils import Conv1D

from probe.errors import ModelError
from probe.model.loading import twin
from probe.model.module_map import INSIDE, MappedModel, ModuleMap

SOFTMAX = (F.softmax, torch.softmax, Tensor.softmax)
HEADS = ("heads", "key_value_heads", "qkv", "q", "k", "v", "out")
"""Fields of the map that are needed to hook the heads of an attention."""
LAYERS = ("mlp_in", "mlp_gate", "mlp_out")
"""Fields of the map that are needed to hook the neurons of a feed-forward part."""
PARTS = {
    "pos_embed": ("positions",),
    "ln_final": ("final_norm",),
    "ln1": ("attention_norm",),
    "attn": ("attention", *HEADS),
    "ln2": ("mlp_norm",),
    "mlp": ("mlp", *LAYERS),
}
"""Optional components, and the fields of the map that each needs first."""
TEXTS, TOKENS = 2, 6
"""Numbers of texts and of tokens in the first run."""
RELATIVE, ABSOLUTE = 1e-3, 1e-5
"""Relative and absolute tolerance for rounding in the first run, in single precision; a hundred times as much in
half."""
NEEDS = (
    (r"blocks\.\d+\.attn\.hook_(q|k|v|z|attn_scores|pattern)", "heads, out, and qkv or q, k and v"),
    (r"blocks\.\d+\.(attn\.hook_(in|out)|hook_attn_out)", "attention"),
    (r"blocks\.\d+\.mlp\.(hook_(pre|post)|(in|out)\.hook_(in|out))", "mlp_in and mlp_out"),
    (r"blocks\.\d+\.(mlp\.hook_(in|out)|hook_mlp_out)", "mlp"),
    (r"blocks\.\d+\.ln1\.hook_(in|out)", "attention_norm"),
    (r"blocks\.\d+\.(ln2\.hook_(in|out)|hook_resid_mid)", "mlp_norm"),
    (r"pos_embed\.hook_(in|out)|hook_pos_embed", "positions"),
    (r"ln_final\.hook_(in|out)", "final_norm"),
)
"""Patterns of hook names, and the fields of the map that they need."""


class ModuleWarning(UserWarning):
    """Warning that a part of a module map is left out."""


def fields_of(name: str) -> str | None:
    """Return the fields of a map that a hook name needs; None if there is no such name."""
    return next((fields for pattern, fields in NEEDS if re.fullmatch(pattern, name)), None)


class HeadsBridge(GeneralizedComponent):
    """Attention with hooked heads: at its projections, and at its softmax while it runs."""

    def __init__(self, name: str, mapping: ModuleMap) -> None:
        super().__init__(name)
        self._map = mapping
        self._counts = {"q": mapping.heads or 0}
        self._counts["k"] = self._counts["v"] = mapping.key_value_heads or self._counts["q"]
        self.hook_q, self.hook_k, self.hook_v, self.hook_z = HookPoint(), HookPoint(), HookPoint(), HookPoint()
        self.hook_attn_scores, self.hook_pattern = HookPoint(), HookPoint()

    def set_original_component(self, original_component: nn.Module) -> None:
        """Take the attention, and attach hooks to its projections."""
        super().set_original_component(original_component)

        def attach(path: str, names: str) -> None:
            layer = original_component.get_submodule(path)
            layer.register_forward_hook(lambda _, __, output: self._hook_heads(output, names))

        if self._map.qkv:
            attach(self._map.qkv, "qkv")
        else:
            for name in "qkv":
                attach(getattr(self._map, name), name)
        original_component.get_submodule(str(self._map.out)).register_forward_pre_hook(
            lambda _, inputs: (self._hook_split(self.hook_z, inputs[0], self._counts["q"]), *inputs[1:])
        )

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the attention with its softmax hooked."""
        with _Softmax(self):
            return super().forward(*args, **kwargs)

    def _hook_split(self, hook: HookPoint, states: Float[Tensor, "... HD"], count: int) -> Float[Tensor, "... HD"]:
        """Reshape states into those of heads [B T H dh]."""
        return hook(states.unflatten(-1, (count, -1))).flatten(-2)

    def _hook_heads(self, output: Tensor, names: str) -> Tensor:
        counts = [self._counts[name] for name in names]
        width = output.shape[-1] // sum(counts)
        parts = output.split([count * width for count in counts], dim=-1)
        hooks = [getattr(self, f"hook_{name}") for name in names]
        return torch.cat([self._hook_split(*each) for each in zip(hooks, parts, counts, strict=True)], dim=-1)

    def _rows(self, name: str) -> tuple[Float[Tensor, "out in"], Float[Tensor, " out"] | None]:
        """Return weight and bias of a projection, or of its part of the fused one."""
        layer: Any = self.original_component.get_submodule(getattr(self._map, name) or self._map.qkv)
        weight = layer.weight.T if isinstance(layer, Conv1D) else layer.weight
        bias = getattr(layer, "bias", None)
        if name == "out" or not self._map.qkv:
            return weight, bias
        first = sum(self._counts[each] for each in "qkv"[: "qkv".index(name)])
        width = len(weight) // sum(self._counts.values())
        part = slice(first * width, (first + self._counts[name]) * width)
        return weight[part], None if bias is None else bias[part]

    def _weight(self, name: str) -> Float[Tensor, "N d dh"]:
        return self._rows(name)[0].unflatten(0, (self._counts[name], -1)).transpose(1, 2)

    def _bias(self, name: str) -> Float[Tensor, "N dh"] | None:
        bias = self._rows(name)[1]
        return None if bias is None else bias.unflatten(0, (self._counts[name], -1))

    @property
    def W_Q(self) -> Float[Tensor, "H d dh"]:  # noqa: N802
        """Query maps by head."""
        return self._weight("q")

    @property
    def W_K(self) -> Float[Tensor, "G d dh"]:  # noqa: N802
        """Key maps by head."""
        return self._weight("k")

    @property
    def W_V(self) -> Float[Tensor, "G d dh"]:  # noqa: N802
        """Value maps by head."""
        return self._weight("v")

    @property
    def W_O(self) -> Float[Tensor, "H dh d"]:  # noqa: N802
        """Output maps by head."""
        return self._rows("out")[0].T.unflatten(0, (self._counts["q"], -1))

    @property
    def b_Q(self) -> Float[Tensor, "H dh"] | None:  # noqa: N802
        """Bias of the queries."""
        return self._bias("q")

    @property
    def b_K(self) -> Float[Tensor, "G dh"] | None:  # noqa: N802
        """Bias of the keys."""
        return self._bias("k")

    @property
    def b_V(self) -> Float[Tensor, "G dh"] | None:  # noqa: N802
        """Bias of the values."""
        return self._bias("v")

    @property
    def b_O(self) -> Float[Tensor, " d"] | None:  # noqa: N802
        """Bias of the output."""
        return self._rows("out")[1]


class _Softmax(TorchFunctionMode):
    """Context in which the softmax over keys of one attention goes through its hook points."""

    def __init__(self, heads: HeadsBridge) -> None:
        super().__init__()
        self.heads = heads

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        first = args[0] if args else kwargs.get("input")
        if isinstance(first, Tensor) and first.ndim == 4 and first.shape[1] == self.heads._counts["q"]:
            if func is F.scaled_dot_product_attention:
                return self._attend(*args, **kwargs)
            if func in SOFTMAX and args and kwargs.get("dim", args[1] if len(args) > 1 else None) in (-1, 3):
                scores = self.heads.hook_attn_scores(first)
                return self.heads.hook_pattern(func(scores, *args[1:], **kwargs))
        return func(*args, **kwargs)

    def _attend(
        self,
        query: Float[Tensor, "B H T dh"],
        key: Float[Tensor, "B G S dh"],
        value: Float[Tensor, "B G S dh"],
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Float[Tensor, "B H T dh"]:
        """Compute `scaled_dot_product_attention` by its documentation, with scores and pattern hooked."""
        if enable_gqa:
            key, value = (part.repeat_interleave(query.shape[1] // part.shape[1], dim=1) for part in (key, value))
        scores = query @ key.transpose(-2, -1) * (query.shape[-1] ** -0.5 if scale is None else scale)
        if is_causal:
            attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
        if attn_mask is not None and attn_mask.dtype == torch.bool:
            scores = scores.masked_fill(~attn_mask, torch.finfo(scores.dtype).min)
        elif attn_mask is not None:
            scores = scores + attn_mask
        pattern = self.heads.hook_pattern(self.heads.hook_attn_scores(scores).softmax(-1))
        return F.dropout(pattern, dropout_p, training=dropout_p > 0) @ value


class UnembedBridge(GeneralizedComponent):
    """An unembedding of which a hook may take fewer tokens than the module gives it.

    Analyses read logits at only a few tokens. The module may use all of its logits, for a loss for example. So the
    others are filled with zeros, which are removed at the end of the pass.
    """

    _kept: int | None = None

    def forward(self, states: Float[Tensor, "B T d"]) -> Float[Tensor, "B T V"]:
        """Return logits of the tokens that the hooks leave, then zeros."""
        logits = self.hook_out(self.original_component(self.hook_in(states)))
        self._kept = logits.shape[1]
        return F.pad(logits, (0, 0, 0, states.shape[1] - self._kept))

    def take_off(self, _: nn.Module, __: Any, output: CausalLMOutput) -> None:
        """Remove the zeros after the logits; this is the forward hook of the whole model."""
        output.logits = output.logits[:, : self._kept]


@torch.no_grad()
def bridge_module(model: MappedModel) -> TransformerBridge:
    """Build a bridge over the parameters of a plain module; only the module tree is copied.

    `probe.model.hooks` calls this.

    Raises:
        ModelError: embedding, blocks or unembedding do not run exactly once per pass.
    """
    readings = _run_once(model, _assemble(model, model.mapping, middle=False))
    gone: list[str] = []
    for field, reason in _find_faults(model, readings).items():
        gone += next(fields for fields in (*PARTS.values(), HEADS, LAYERS) if fields[0] == field)
        warnings.warn(
            f"{type(model).__name__} is hooked without {field}, since {reason}: what needs it is left out.",
            ModuleWarning,
            stacklevel=5,
        )
    mapping = replace(model.mapping, **cast(dict[str, Any], dict.fromkeys(gone)))
    bridge = _assemble(model, mapping, middle=mapping.mlp_norm is not None and _adds_attention(readings))
    if mapping.heads:
        bridge.cfg.d_head = bridge.blocks[0].attn.W_O.shape[1]
    return bridge


def _assemble(model: MappedModel, mapping: ModuleMap, middle: bool) -> TransformerBridge:
    """Build the bridge of a map; `middle` says whether the norm before the MLP reads the stream after attention."""
    own, config = twin(model), model.config
    heads = mapping.heads or 1
    adapter = ArchitectureAdapter(
        TransformerBridgeConfig(
            d_model=config.hidden_size,
            d_head=config.hidden_size // heads,
            n_layers=config.num_hidden_layers,
            n_ctx=config.max_position_embeddings or -1,
            n_heads=heads,
            n_key_value_heads=mapping.key_value_heads,
            d_vocab=config.vocab_size,
            architecture=type(model).__name__,
            dtype=model.dtype,
            device=str(model.device),
            positional_embedding_type="standard" if mapping.positions else "none",
        )
    )
    adapter.supports_hf_output_attentions = False
    adapter.component_mapping = _components(mapping, middle)
    blocks: Any = own.get_submodule(f"module.{mapping.blocks}")
    bridge = TransformerBridge(own, adapter, None)
    for number, block in enumerate(bridge.blocks):
        blocks[number] = block
    parent, _, name = f"module.{mapping.blocks}".rpartition(".")
    setattr(own.get_submodule(parent), name, blocks)  # a Sequential is called as a whole, a ModuleList is not
    if mapping.final_norm is None:
        norm = GeneralizedComponent("")
        norm.set_original_component(nn.Identity())
        object.__setattr__(bridge, "ln_final", norm)
    own.register_forward_hook(bridge.unembed.take_off)
    own.config._attn_implementation_internal = "eager" if mapping.heads else "own"
    return bridge


def _components(mapping: ModuleMap, middle: bool) -> dict[str, Any]:
    inside: dict[str, GeneralizedComponent] = {}
    aliases: dict[str, str] = {}
    if mapping.attention_norm:
        inside["ln1"] = GeneralizedComponent(mapping.attention_norm)
    if mapping.attention:
        whole = GeneralizedComponent(mapping.attention)
        inside["attn"] = HeadsBridge(mapping.attention, mapping) if mapping.heads else whole
        aliases["hook_attn_out"] = "attn.hook_out"
    if mapping.mlp_norm:
        inside["ln2"] = GeneralizedComponent(mapping.mlp_norm)
        aliases |= {"hook_resid_mid": "ln2.hook_in"} if middle else {}
    if mapping.mlp:
        layers = {"in": mapping.mlp_in, "gate": mapping.mlp_gate, "out": mapping.mlp_out}
        bridges = {name: LinearBridge(path) for name, path in layers.items() if path}
        inside["mlp"] = MLPBridge(mapping.mlp, submodules=bridges) if bridges else GeneralizedComponent(mapping.mlp)
        if "gate" in bridges:
            inside["mlp"].hook_aliases = MLPBridge.hook_aliases | {"hook_pre": "gate.hook_out"}
        aliases["hook_mlp_out"] = "mlp.hook_out"
    blocks = OpaqueBlockBridge(f"module.{mapping.blocks}", submodules=inside, hook_alias_overrides=aliases)
    components: dict[str, Any] = {"embed": GeneralizedComponent(f"module.{mapping.embedding}"), "blocks": blocks}
    if mapping.positions:
        components["pos_embed"] = GeneralizedComponent(f"module.{mapping.positions}")
    if mapping.final_norm:
        components["ln_final"] = GeneralizedComponent(f"module.{mapping.final_norm}")
    return components | {"unembed": UnembedBridge(f"module.{mapping.unembedding}")}


@dataclass(frozen=True)
class HookValues:
    """Values at the hook points in one run."""

    bridge: TransformerBridge
    values: dict[str, Tensor]
    """Last tensor at each hook point."""
    counts: dict[str, int]
    """Number of times that each ran."""
    stream: tuple[int, int, int]
    """Shape (B, T, d) of the residual stream."""

    def runs_once(self, name: str, shape: tuple[int, ...]) -> bool:
        """Return whether a hook point ran once, with a tensor of this shape."""
        return self.counts.get(name) == 1 and name in self.values and self.values[name].shape == shape


def _run_once(model: MappedModel, bridge: TransformerBridge) -> HookValues:
    values: dict[str, Tensor] = {}
    counts: dict[str, int] = {}

    def keep(name: str) -> Callable[[Any, Any], None]:
        def see(value: Any, hook: Any) -> None:
            counts[name] = counts.get(name, 0) + 1
            if isinstance(value, Tensor):
                values[name] = value.detach()

        return see

    bridge.train(False)
    tokens = min(TOKENS, model.config.max_position_embeddings or TOKENS)
    ids = torch.arange(TEXTS * tokens, device=model.device).reshape(TEXTS, tokens) % model.config.vocab_size
    with bridge.hooks(fwd_hooks=[(name, keep(name)) for name in {point.name for point in bridge.hook_dict.values()}]):
        bridge(ids)
    return HookValues(bridge, values, counts, (TEXTS, tokens, model.config.hidden_size))


def _find_faults(model: MappedModel, readings: HookValues) -> dict[str, str]:
    """Find parts that do not behave as their names say, and return the reason for each.

    Raises:
        ModelError: a part that cannot be left out is among them.
    """
    mapping, stream, depth = model.mapping, readings.stream, model.config.num_hidden_layers
    for name, field in (("embed", "embedding"), ("unembed", "unembedding")):
        if (count := readings.counts.get(f"{name}.hook_out", 0)) != 1:
            raise ModelError(
                f"{type(model).__name__} runs its {field} `{getattr(mapping, field)}` {count} times per pass and"
                " hooks need it once: name another in the module map, or a `call` that runs the module that it is"
                " given."
            )
    for block in range(depth):
        if not all(readings.runs_once(f"blocks.{block}.{end}", stream) for end in ("hook_in", "hook_out")):
            raise ModelError(
                f"{type(model).__name__} does not run block {block} of `{mapping.blocks}` once a pass from a residual "
                f"stream of shape {stream}, its first argument, to the next: name other blocks in the module map."
            )
    faults = {}
    for part, (field, *_) in PARTS.items():
        inside = INSIDE.get(field) == "blocks"
        places = [f"blocks.{block}.{part}" for block in range(depth)] if inside else [part]
        shapes = (stream, stream[1:], (1, *stream[1:])) if part == "pos_embed" else (stream,)
        sound = all(any(readings.runs_once(f"{place}.hook_out", shape) for shape in shapes) for place in places)
        if getattr(mapping, field) and not sound:
            faults[field] = f"`{mapping.path(field).format(0)}` is not run once a pass with an output of shape {stream}"
    if mapping.heads and "attention" not in faults:
        reasons = [reason for block in range(depth) if (reason := _fault_of_heads(readings, block))]
        faults |= {"heads": reasons[0]} if reasons else {}
    if mapping.mlp_in and "mlp" not in faults:
        points = [f"blocks.{block}.mlp.{name}" for block in range(depth) for name in ("in.hook_out", "out.hook_in")]
        if not all(readings.counts.get(name) == 1 for name in points):
            faults["mlp_in"] = "the layers of its feed-forward part are not run once a pass"
    return faults


def _fault_of_heads(readings: HookValues, block: int) -> str | None:
    """Return why the heads of a block are not what the map says; None if they are.

    They are not if attention recomputed from them differs from the module's output.
    """
    attn, bridge = f"blocks.{block}.attn.", readings.bridge.blocks[block].attn
    names = [attn + f"hook_{name}" for name in ("in", "q", "k", "v", "z", "attn_scores", "pattern")]
    unseen = [name for name in names if readings.counts.get(name) != 1]
    if unseen:
        return (
            f"{unseen[0]} is not run once a pass (a pattern is seen where the attention calls a softmax over keys or "
            "scaled_dot_product_attention)"
        )
    pattern, z, v, states, written = (
        readings.values[attn + name] for name in ("hook_pattern", "hook_z", "hook_v", "hook_in", "hook_out")
    )
    try:
        values = torch.einsum("btd,ndh->btnh", states, bridge.W_V)
        values = values if bridge.b_V is None else values + bridge.b_V
        mixed = torch.einsum("bhqk,bkhd->bqhd", pattern, v.repeat_interleave(z.shape[2] // v.shape[2], dim=2))
        output = torch.einsum("bthk,hkd->btd", z, bridge.W_O)
        output = output if bridge.b_O is None else output + bridge.b_O
    except (AttributeError, RuntimeError) as failure:
        return f"its projections are not linear layers that fit ({' '.join(str(failure).split())[:120]})"
    for name, one, other in (
        ("the values are not made of its input by the layer of values", values, v),
        ("the input of its last layer is not the pattern times the values", mixed, z),
        ("its output is not the sum of the outputs of its heads", output, written),
    ):
        if not _are_close(one, other):
            return name
    return None


def _adds_attention(readings: HookValues) -> bool:
    """Return whether the second norm of every block reads the stream after attention."""
    for block in range(readings.bridge.cfg.n_layers):
        names = [f"blocks.{block}.{each}" for each in ("hook_in", "attn.hook_out", "ln2.hook_in")]
        if not all(readings.runs_once(name, readings.stream) for name in names):
            return False
        stream, written, read = (readings.values[name] for name in names)
        if not _are_close(stream + written, read):
            return False
    return True


def _are_close(one: Tensor, other: Tensor) -> bool:
    """Return whether two tensors are equal up to rounding."""
    if one.shape != other.shape:
        return False
    scale = 1.0 if one.dtype in (torch.float32, torch.float64) else 100.0
    gap, size = float((one.float() - other.float()).abs().max()), float(other.float().abs().max())
    return gap <= scale * (ABSOLUTE + RELATIVE * size)
