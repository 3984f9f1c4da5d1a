"""LM: a causal language model with its tokenizer, plain for speed and hooked on demand."""

import html
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import LlamaForCausalLM, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from probe.errors import ConfigError, DataError, ModelError, ProbeError
from probe.model import adapters, identity
from probe.model import loading as weights
from probe.model.adapted import Weights, is_adapted, is_peft_model
from probe.model.calls import calls_of, pick
from probe.model.generation import SAMPLES, Generation, Sampling, encode_prompts, generate
from probe.model.module_map import ModuleMap, mapped_model
from probe.model.passes import plain_logits, read_pass
from probe.model.placement import DeviceMap, count_parameters, devices_of, dtype_of, format_of, input_device, placement
from probe.model.presets import ModelConfig, model_config
from probe.model.references import is_adapter, resolve
from probe.model.scoring import SCORES, TokenLogprobs, check_ids, check_lengths, completion_logprobs, gather_logprobs
from probe.model.text import Ids, bare, chat_text, encode, forward, pad, pad_id, positions, split
from probe.runs.world_file import read_world
from probe.ticks import announce

if TYPE_CHECKING:
    from transformer_lens import ActivationCache
    from transformer_lens.model_bridge import TransformerBridge

    from probe.model.hooks import Hook, Structure
    from probe.world import World

Message = Mapping[str, str]

SMALL = 512
"""Maximum number of tokens of a capture that is made without checking the free memory."""


class LM:
    """A causal language model and its tokenizer.

    `model` is an untouched module of transformers: train it, save it, hand it to any library. Hooks and captures run on
    `bridge`, which shares its parameters. A plain module of PyTorch becomes such a model by a map of its parts
    (`mapping`).
    """

    readout: str = "tokens"
    """Meaning of the logits' columns: tokens, or one scalar (see `probe.model.rewards`)."""

    def __init__(
        self,
        model: PreTrainedModel | nn.Module,
        tokenizer: PreTrainedTokenizerBase,
        ref: str = "",
        directory: Path | None = None,
        run_dir: Path | None = None,
        mapping: ModuleMap | None = None,
    ) -> None:
        """Take a model and its tokenizer without changing them.

        Args:
            model: a causal language model of transformers; if torch.compile, DataParallel, DistributedDataParallel or
                PeftModel wraps it, the model inside is used, which shares its parameters. An adapter (LoRA) in it stays
                as it is: it is not merged, and follows training, switching off and a change of the active adapter.
            tokenizer: a tokenizer of transformers.
            ref: name of the model.
            directory: directory of its files.
            run_dir: run that it belongs to.
            mapping: paths of the parts of a plain module that is given as `model`; see
                `probe.model.module_map.ModuleMap`.

        Raises:
            ModelError: the model is not one of these, a path of the mapping leads nowhere, or the two arguments are
                swapped.
            DataError: the tokenizer is not one of transformers.
        """
        self.model = _require_model(model, mapping)
        self.adapter = module if is_peft_model(module := bare(model)) else None
        """The PeftModel around `model`, if one was given."""
        self.tokenizer = _require_tokenizer(tokenizer)
        self.ref = ref
        self.directory = directory
        self.run_dir = run_dir
        self.base: LM | None = None
        """The model whose weights an adapter shares, if it is not merged."""
        self.world: World | None = None
        """World of the model if neither its run nor its folder names one (`probe.world.of`)."""
        self._bridge: tuple[TransformerBridge, Structure, list[Any]] | None = None
        self._bridge_lock = threading.RLock()
        self._depth = threading.local()
        self._weights: tuple[Any, str] | None = None

    @classmethod
    def load(
        cls,
        ref: str | Path,
        revision: str | None = None,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        device_map: DeviceMap | None = None,
        quantization: str | None = None,
        base: "LM | None" = None,
    ) -> "LM":
        """Load a run, a checkpoint, a Hugging Face directory or a hub id, in evaluation mode.

        A LoRA adapter of peft is loaded with its base and merged into it, or put on a base that is loaded already, that
        is divided over devices, or that is quantised. If
        neither device nor format is given, those in the environment variable `PROBE_LOAD` hold
        (`probe.model.placement`).

        Args:
            ref: reference, see `probe.model.references.resolve`.
            revision: branch, tag or commit of a hub id.
            device: device of the model; default: CUDA if there is one, else the CPU.
            dtype: "float32", "bfloat16" or "float16"; default: single precision on the CPU, elsewhere the saved format.
            device_map: instead of `device`: "auto" to divide the model over the GPUs, the CPU's memory and the disk as
                they have room, or a dict from names of modules to devices, "cpu" or "disk".
            quantization: "8bit" or "4bit", to quantise the weights of linear layers with bitsandbytes.
            base: the loaded base of an adapter, whose weights are shared: base and adapter take the memory of one
                model, and another adapter on this base adds only itself. Device and dtype are those of the base.
                Training all weights of one changes the other.

        Raises:
            ConfigError: an argument is not valid, or two exclude each other.
            ModelError: the reference, the device or the dtype cannot be used, or it is no adapter on `base`; the
                message says why.
            MissingToolError: a package is needed and not installed.
        """
        if base is not None and any(each is not None for each in (device, dtype, device_map, quantization)):
            raise ConfigError("A base was given together with a device or a dtype: leave these out, the base has them.")
        place = placement(device, dtype, device_map, quantization)
        directory, run_dir = resolve(ref, revision)
        announce(f"loading {run_dir.name if run_dir else directory.name}")
        adapters.require_base(directory, base)
        if is_adapter(directory):
            if base is None and not place.is_whole and (plain := adapters.plain_base(directory)) is not None:
                base = cls.load(plain, None, device, dtype, device_map, quantization)
            if base is None:
                model, tokenizer = adapters.read(directory, place.dtype, place.require_one(directory))
            else:
                model, tokenizer = adapters.put_on(directory, base.model, base.tokenizer)
            lm = cls(model, tokenizer, str(ref), directory, run_dir)
            lm.base = base
            known = adapters.weights_fingerprint(directory) if lm.dtype == torch.float32 else None
            lm._weights = (weights.stamp(model), known) if known else None
            return lm
        weights.require_causal(directory)
        model = weights.read_model(directory, place)
        return cls(model, weights.read_tokenizer(directory), str(ref), directory, run_dir)

    @classmethod
    def create(cls, config: str | ModelConfig, tokenizer: PreTrainedTokenizerBase, seed: int = 0) -> "LM":
        """Create a Llama-like model with random weights from `seed`, without touching torch's global generator."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = LlamaForCausalLM(model_config(config).llama(tokenizer))
        return cls(model.eval(), tokenizer)

    @property
    def device(self) -> torch.device:
        """Device that takes the tokens and gives the logits: that of the parameters, or the first of several."""
        return input_device(self.model)

    @property
    def dtype(self) -> torch.dtype:
        """Number format of the parameters."""
        return next(self.model.parameters()).dtype

    @property
    def n_parameters(self) -> int:
        """Number of parameters; shared ones count once, and those of an adapter do not, as if it were merged."""
        if not is_adapted(self.model):
            return count_parameters(self.model)
        own = Weights(self.model)
        return sum(own.stored[name].numel() for name in own.parameters())

    @property
    def fingerprint(self) -> str:
        """SHA-256 in hexadecimal of all that determines the model's outputs; the key for caches; it follows changes.

        It covers configuration and weights, the tokenizer, its chat templates and the generation settings.
        """
        generation = getattr(self.model, "generation_config", None)
        return identity.combine(self.weights_fingerprint, identity.texts_hash(self.tokenizer, generation))

    @property
    def weights_fingerprint(self) -> str:
        """SHA-256 of configuration and weights only; runs store it for the weights from which they start."""
        stamp = weights.stamp(self.model)
        if self._weights is None or self._weights[0] != stamp:
            self._weights = (stamp, weights.fingerprint(self.model))
        return self._weights[1]

    @property
    def bridge(self) -> "TransformerBridge":
        """TransformerBridge over the same parameters, built on first use and kept up to date.

        Raises:
            ModelError: transformer-lens has no adapter for the architecture.
        """
        from probe.model.hooks import Structure, build_bridge, fused_parts, refresh

        with self._bridge_lock:
            if self._bridge is None or not self._bridge[1].same(self.model):
                if self._hook_depth:
                    raise ConfigError("The model was replaced or moved while hooks were attached: leave `hooks` first.")
                structure, new_bridge = Structure(self.model), build_bridge(self.model, self.tokenizer)
                self._bridge = new_bridge, structure, fused_parts(new_bridge)
            bridge, _, projections = self._bridge
            refresh(bridge, projections, self.model.training)
            return bridge

    def logits(self, tokens: str | Sequence[str] | Sequence[int] | Sequence[Ids] | Tensor) -> Float[Tensor, "B T V"]:
        """Compute the logits at every position; hooked inside `hooks`.

        Args:
            tokens: a text, several, token ids, several sequences of them, or a tensor [T] or [B T] of ids. Sequences of
                different lengths are padded on the right; ignore the logits there.

        Raises:
            DataError: a text is empty, exceeds the model's context, or has words that the tokenizer does not know
                (`probe.model.text.require_known`).
        """
        ids, mask = self._batch(tokens)
        inputs: dict[str, Any] = {"attention_mask": mask.long(), "position_ids": positions(mask)}
        if self._hook_depth:
            return self.bridge(ids, **inputs)
        return plain_logits(self, ids, lambda: forward(self.model, ids, use_cache=False, **inputs).logits)

    def logprobs(
        self,
        prompts: str | Sequence[str] | Sequence[Ids],
        completions: str | Sequence[str] | Sequence[Sequence[str]] | Sequence[Sequence[Ids]],
        temperature: float = 1.0,
    ) -> TokenLogprobs:
        """Compute the log-probability of every token of every completion, differentiable; hooked inside `hooks`.

        Args:
            prompts: P texts (or one), or their ids.
            completions: a text, or a group of texts, for each prompt; or their ids if the prompts are ids.
            temperature: divisor of the logits.

        Returns:
            values, mask and entropy [N L], completions in the order of the prompts. No end token is added.

        Raises:
            DataError: a text has words that the tokenizer does not know, or is too long.
        """
        heads, groups = self._pairs(prompts, completions)
        score, calls = partial(completion_logprobs, self.model, heads, groups, temperature=temperature), calls_of(self)
        if calls is not None and not torch.is_grad_enabled():
            answer = calls.answer(["logprobs", heads, groups, temperature], lambda: pick(score(), SCORES))
            return TokenLogprobs(**answer)
        if not self._hook_depth:
            return score()
        pairs = [(head, ids) for head, group in zip(heads, groups, strict=True) for ids in group]
        logits = self.logits([[*head, *ids] for head, ids in pairs])
        return gather_logprobs(logits, [len(head) for head, _ in pairs], [ids for _, ids in pairs], temperature)

    def generate(
        self,
        prompts: str | Sequence[str] | Sequence[Ids],
        n: int = 1,
        max_new_tokens: int = 32,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        seed: int | Sequence[int] | None = None,
        stop: Sequence[int | str] | None = None,
        top_logprobs: int | None = None,
    ) -> Generation:
        """Draw n completions for each prompt (see `probe.model.generation.Sampling`); hooked inside `hooks`.

        With hooks, each step runs the whole text, so a hook sees the same tensors as in `logits`.

        Raises:
            ConfigError: an option that is not possible.
            DataError: a prompt has words that the tokenizer does not know, or leaves no room for new tokens.
        """
        several = [prompts] if isinstance(prompts, str) else prompts
        sampling = Sampling(
            n=n,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            min_p=min_p,
            seed=seed,
            stop=stop,
            top_logprobs=top_logprobs,
        )
        sample = partial(generate, self.model, self.tokenizer, several, sampling)
        calls = calls_of(self)
        if calls is None or seed is None or top_logprobs is not None:
            return sample(logits=self.logits if self._hook_depth else None)
        texts, ids = encode_prompts(self.tokenizer, several)
        answer = calls.answer(["generate", ids, vars(sampling)], lambda: pick(sample(), SAMPLES))
        return Generation(prompts=texts, prompt_ids=ids, n=n, tokenizer=self.tokenizer, **answer)

    @torch.no_grad()
    def run_with_cache(
        self,
        text: str | Sequence[str] | Sequence[int] | Sequence[Ids] | Tensor,
        names: Sequence[str] | str | None = None,
    ) -> "tuple[Float[Tensor, 'B T V'], ActivationCache]":
        """Return logits, and activations by hook name, without gradients.

        Args:
            text: text or token ids, as in `logits`.
            names: hook names, old or canonical; None keeps every one.

        Raises:
            ConfigError: an unknown name; the message lists similar ones.
            DataError: the capture does not fit into the free memory; the message offers a smaller one.
        """
        from probe.model.hooks import check_names

        ids, mask = self._batch(text)
        if ids.numel() > SMALL:
            from probe.model.memory import require_room

            require_room(self, ids, names)
        inputs = {"attention_mask": mask.long(), "position_ids": positions(mask)}

        def run(keep: list[str] | None) -> "tuple[Tensor, ActivationCache]":
            # Otherwise all patterns are returned in addition to the cache and stay in memory until the end.
            logits, cache = bridge.run_with_cache(ids, names_filter=keep, output_attentions=False, **inputs)
            return logits, cache.to(self.device) if len(devices_of(self.model)) > 1 else cache

        with self._bridge_lock:
            bridge = self.bridge
            if names is None:
                return run(None)
            keep = [names] if isinstance(names, str) else list(names)
            check_names(bridge, keep)
            return read_pass(self, ids, keep, run)

    @contextmanager
    def hooks(self, hooks: "Sequence[Hook]") -> "Iterator[LM]":
        """Attach hook functions to `logits`, `logprobs`, `run_with_cache` and `generate` inside the context.

        Args:
            hooks: pairs of a hook name (old or canonical) and a function `fn(tensor, hook)` that returns None or a
                replacement. Its exceptions are passed on, and the hooks are removed after the context in any case.

        Raises:
            ConfigError: an unknown name; the message lists similar ones.
        """
        from probe.model.hooks import attach_hooks

        with self._bridge_lock, attach_hooks(self.bridge, hooks):
            self._depth.hooks = self._hook_depth + 1
            try:
                yield self
            finally:
                self._depth.hooks = self._hook_depth - 1

    @property
    def is_hooked(self) -> bool:
        """Whether this thread is inside `hooks`."""
        return self._hook_depth > 0

    def hook_names(self) -> list[str]:
        """List every hook name of this model, old (`blocks.0.hook_resid_post`) and canonical (`blocks.0.hook_out`)."""
        return sorted(self.bridge.hook_dict)

    def save(self, directory: str | Path, dtype: str | torch.dtype | None = None) -> Path:
        """Write model (safetensors), tokenizer and world; either all files appear or none.

        Args:
            directory: a new directory, or one in which files of the same names are replaced.
            dtype: number format to save in; default: the model's format.
        """
        weights.write(self.model, self.tokenizer, Path(directory), dtype_of(dtype), world=self._world())
        return Path(directory)

    def prompt_text(self, prompt: str | Sequence[Message]) -> str:
        """Return a prompt as text: a text unchanged, messages in the tokenizer's chat template.

        Raises:
            DataError: messages were given, and the tokenizer has no chat template or its template refuses them.
        """
        if isinstance(prompt, str):
            return prompt
        if self.tokenizer.chat_template is None:
            raise DataError("This model's tokenizer has no chat template for messages: give the prompt as one text.")
        return chat_text(self.tokenizer, prompt, answer=True)

    def __repr__(self) -> str:
        return f"LM({', '.join(f'{name}={value}' for name, value in self._facts().items())})"

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><th>{html.escape(name)}</th><td>{html.escape(value)}</td></tr>"
            for name, value in self._facts().items()
        )
        return f"<table>{rows}</table>"

    @property
    def _hook_depth(self) -> int:
        """Number of `hooks` contexts around this thread."""
        return getattr(self._depth, "hooks", 0)

    def _world(self) -> Any:
        """Return the world of the model as the JSON values of its file, or None if it is not known."""
        try:
            return self.world.to_dict() if self.world is not None else read_world(self.run_dir, self.directory)
        except ProbeError:  # its run was damaged or deleted; the weights can still be saved
            return None

    def _facts(self) -> dict[str, str]:
        return {
            "model": self.ref or "created",
            "architecture": type(self.model).__name__,
            "parameters": f"{self.n_parameters:,}",
            "dtype": format_of(self.model),
            "device": ", ".join(devices_of(self.model)),
            "fingerprint": self.fingerprint[:12],
        }

    def _batch(self, tokens: Any) -> tuple[Tensor, Tensor]:
        if isinstance(tokens, Tensor):
            ids = tokens.to(self.device).reshape(-1, tokens.shape[-1])
            mask = torch.ones_like(ids, dtype=torch.bool)
            rows: list[Ids] = [range(ids.shape[-1])]
        else:
            several = [tokens] if isinstance(tokens, str) or _is_ids(tokens) else tokens
            rows = [encode(self.tokenizer, row) if isinstance(row, str) else row for row in several]
            ids, mask = (tensor.to(self.device) for tensor in pad(rows, pad_id(self.tokenizer)))
        if not rows:
            raise DataError("No text was given, so there is nothing to run: give at least one.")
        check_lengths(self.model, rows, [])
        check_ids(ids, len(self.model.get_input_embeddings().weight))
        return ids, mask

    def _pairs(self, prompts: Any, completions: Any) -> tuple[list[list[int]], list[list[list[int]]]]:
        """Return the ids of prompts and of their groups of completions."""
        if isinstance(prompts, str):
            prompts, completions = [prompts], [completions]
        if len(prompts) != len(completions):
            raise DataError(
                f"{len(prompts)} prompts have {len(completions)} completions: give one, or a group, for each."
            )
        heads, groups = [], []
        for prompt, group in zip(prompts, completions, strict=True):
            if not isinstance(prompt, str):
                heads.append(list(prompt))
                groups.append([list(ids) for ids in ([group] if _is_ids(group) else group)])
                continue
            pairs = [split(self.tokenizer, prompt, text) for text in ([group] if isinstance(group, str) else group)]
            heads.append(encode(self.tokenizer, prompt))
            groups.append([completion for _, completion in pairs])
        return heads, groups


def _require_model(model: Any, mapping: ModuleMap | None) -> PreTrainedModel:
    """Return the causal language model inside any wrappers; with a mapping, build one from a plain module.

    Raises:
        ModelError: it is something else; the message says what is missing.
    """
    module = bare(model)
    if is_peft_model(module):
        settings = module.active_peft_config
        if settings.is_prompt_learning:
            raise ModelError(
                f"The adapter {settings.peft_type.value} adds tokens to every text: give a model with an adapter of"
                " layers, such as LoRA."
            )
        module = module.get_base_model()  # with the layers of peft, so it computes the same
    name = type(module).__name__
    remedy = "give a causal language model of transformers, such as AutoModelForCausalLM.from_pretrained makes"
    if isinstance(module, PreTrainedTokenizerBase):
        raise ModelError(f"The model is a tokenizer ({name}): give the model first, then the tokenizer.")
    if isinstance(module, str | Path):
        raise ModelError(f"The model is the text {str(module)!r}: probe.LM.load loads a model by its name or folder.")
    if not isinstance(module, nn.Module):
        raise ModelError(f"The model is a {name}, not a module of torch: {remedy}.")
    if mapping is not None:
        return mapped_model(module, mapping)
    config = getattr(module, "config", None)
    if not isinstance(config, PreTrainedConfig):
        raise ModelError(
            f"The model {name} has no configuration of transformers in `.config`: {remedy}, or say where the parts of "
            "a plain module are with mapping=probe.ModuleMap(...)."
        )
    if config.is_encoder_decoder:
        raise ModelError(f"The model {name} has an encoder, and probe reads only decoders: {remedy}.")
    if getattr(module, "get_output_embeddings", lambda: None)() is None:
        raise ModelError(
            f"The model {name} has no output layer that gives logits of tokens: {remedy}; a reward model is loaded by "
            "probe.RewardModel.load or probe.model.rewards.analysable."
        )
    return module


def _require_tokenizer(tokenizer: Any) -> PreTrainedTokenizerBase:
    """Return the tokenizer after checking that it is one of transformers.

    Raises:
        DataError: it cannot encode and decode; the message says what was given.
    """
    if tokenizer is None:
        raise DataError("The tokenizer is None: give the model's own, such as AutoTokenizer.from_pretrained makes.")
    if isinstance(getattr(tokenizer, "tokenizer", None), PreTrainedTokenizerBase):
        raise DataError(f"The tokenizer is a processor ({type(tokenizer).__name__}): give its `.tokenizer`.")
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        raise DataError(
            f"The tokenizer is a {type(tokenizer).__name__}, not one of transformers: give what AutoTokenizer"
            " makes; PreTrainedTokenizerFast(tokenizer_object=...) wraps a tokenizer of the package tokenizers."
        )
    return tokenizer


def _is_ids(tokens: Sequence[Any]) -> bool:
    return len(tokens) > 0 and isinstance(tokens[0], Integral)
