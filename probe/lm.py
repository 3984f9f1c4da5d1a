"""LM: a causal language model of Hugging Face with its tokenizer, plain for speed and hooked on demand."""

import hashlib
import html
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from probe.errors import DataError, ModelError
from probe.generation import Generation, generate
from probe.presets import ModelConfig, model_config
from probe.references import resolve
from probe.scoring import Ids, TokenLogprobs, check_lengths, completion_logprobs, forward, gather_logprobs, positions
from probe.tokens import encode, pad, pad_id, split

if TYPE_CHECKING:
    from transformer_lens import ActivationCache
    from transformer_lens.model_bridge import TransformerBridge

    from probe.bridge import Hook

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
Message = Mapping[str, str]


class LM:
    """A causal language model and its tokenizer.

    `model` is an untouched module of transformers: train it, save it, hand it to any library. Hooks and captures run on
    `bridge`, which shares its parameters.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        ref: str = "",
        directory: Path | None = None,
        run_dir: Path | None = None,
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.ref = ref
        self.directory = directory
        self.run_dir = run_dir
        self._bridge: tuple[PreTrainedModel, TransformerBridge] | None = None
        self._hooked = 0
        self._fingerprint: tuple[Any, str] | None = None

    @classmethod
    def load(
        cls,
        ref: str | Path,
        revision: str | None = None,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
    ) -> "LM":
        """Load a run, a checkpoint, a Hugging Face directory or a hub id, in evaluation mode.

        Args:
            ref: see `probe.references.resolve`.
            revision: branch, tag or commit of a hub id.
            device: default: CUDA if there is one, else the CPU.
            dtype: "float32", "bfloat16" or "float16"; default: single precision on the CPU, elsewhere as it was saved.

        Raises:
            ModelError: the reference, the device or the dtype cannot be used; the message says why.
        """
        place = _device(device)
        kind = _dtype(dtype) or (torch.float32 if place.type == "cpu" else "auto")
        directory, run_dir = resolve(ref, revision)
        model = _read_model(directory, kind).to(place).eval()
        return cls(model, _read_tokenizer(directory), str(ref), directory, run_dir)

    @classmethod
    def create(cls, config: str | ModelConfig, tokenizer: PreTrainedTokenizerBase, seed: int = 0) -> "LM":
        """A new Llama-like model with random weights from `seed`; torch's global generator is left as it was."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = LlamaForCausalLM(model_config(config).llama(tokenizer))
        return cls(model.eval(), tokenizer)

    @property
    def device(self) -> torch.device:
        """Where the parameters lie."""
        return next(self.model.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Number format of the parameters."""
        return next(self.model.parameters()).dtype

    @property
    def parameters(self) -> int:
        """Number of parameters; shared ones count once."""
        return sum(parameter.numel() for parameter in self.model.parameters())

    @property
    def fingerprint(self) -> str:
        """SHA-256 of configuration and weights in hexadecimal: the key for caches; follows changes of the weights."""
        tensors = self._tensors()
        stamp = [_stamp(tensor) for tensor in tensors.values()]
        if self._fingerprint is None or self._fingerprint[0] != stamp:
            self._fingerprint = (stamp, _sha256(self.model, tensors))
        return self._fingerprint[1]

    @property
    def bridge(self) -> "TransformerBridge":
        """A TransformerBridge over the same parameters, built on first use and kept up to date.

        Raises:
            ModelError: transformer-lens has no adapter for the architecture.
        """
        from probe.bridge import build_bridge, is_current, refresh

        if self._bridge is None or self._bridge[0] is not self.model or not is_current(self._bridge[1], self.model):
            self._bridge = (self.model, build_bridge(self.model, self.tokenizer))
        refresh(self._bridge[1], self.model.training)
        return self._bridge[1]

    def logits(self, tokens: str | Sequence[str] | Sequence[int] | Sequence[Ids] | Tensor) -> Float[Tensor, "B T V"]:
        """Logits at every position; hooked inside `hooks`.

        Args:
            tokens: a text, several, token ids, several sequences of them, or a tensor [T] or [B T] of ids. Sequences of
                different lengths are padded on the right; what stands there means nothing.

        Raises:
            DataError: an empty text or one longer than the model's context.
        """
        ids, mask = self._batch(tokens)
        inputs = {"attention_mask": mask.long(), "position_ids": positions(mask)}
        if self._hooked:
            return self.bridge(ids, **inputs)
        return forward(self.model, ids, use_cache=False, **inputs).logits

    def logprobs(
        self,
        prompts: str | Sequence[str] | Sequence[Ids],
        completions: str | Sequence[str] | Sequence[Sequence[str]] | Sequence[Sequence[Ids]],
        temperature: float = 1.0,
    ) -> TokenLogprobs:
        """Log-probability of every token of every completion, differentiable; hooked inside `hooks`.

        Args:
            prompts: P texts (or one), or their ids.
            completions: a text for each prompt, or a group of texts (of ids, where the prompts are ids).
            temperature: divides the logits.

        Returns:
            values, mask and entropy [N L], completions in the order of the prompts. No end token is added.
        """
        heads, groups = self._pairs(prompts, completions)
        if not self._hooked:
            return completion_logprobs(self.model, heads, groups, temperature=temperature)
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
        seed: int | None = None,
        stop: Sequence[int | str] | None = None,
        top_logprobs: int | None = None,
    ) -> Generation:
        """Draw n completions for each prompt (see `probe.generation.generate`); hooked inside `hooks`.

        Hooked, each step runs the whole text, so that a hook sees what it sees in `logits`.
        """
        return generate(
            self.model,
            self.tokenizer,
            [prompts] if isinstance(prompts, str) else prompts,
            n=n,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            min_p=min_p,
            seed=seed,
            stop=stop,
            top_logprobs=top_logprobs,
            logits=self.logits if self._hooked else None,
        )

    @torch.no_grad()
    def run_with_cache(
        self,
        text: str | Sequence[str] | Sequence[int] | Sequence[Ids] | Tensor,
        names: Sequence[str] | str | None = None,
    ) -> "tuple[Float[Tensor, 'B T V'], ActivationCache]":
        """Logits and activations by hook name, without gradients.

        Args:
            text: as in `logits`.
            names: hook names, old or canonical; None keeps every one.

        Raises:
            ConfigError: an unknown name; the message lists near ones.
        """
        from probe.bridge import check_name

        bridge = self.bridge
        wanted = [names] if isinstance(names, str) else names
        points = bridge.hook_dict
        for name in wanted or ():
            check_name(bridge, name, points)
        ids, mask = self._batch(text)
        keep = None if wanted is None else list(wanted)
        inputs = {"attention_mask": mask.long(), "position_ids": positions(mask)}
        return bridge.run_with_cache(ids, names_filter=keep, **inputs)

    @contextmanager
    def hooks(self, hooks: "Sequence[Hook]") -> "Iterator[LM]":
        """Inside the context `logits`, `logprobs`, `run_with_cache` and `generate` run with hook functions attached.

        Args:
            hooks: pairs of a hook name (old or canonical) and a function `fn(tensor, hook)` that returns None or a
                replacement. An exception in it is passed on, and the hooks are gone after the context in any case.

        Raises:
            ConfigError: an unknown name; the message lists near ones.
        """
        from probe.bridge import hooked

        with hooked(self.bridge, hooks):
            self._hooked += 1
            try:
                yield self
            finally:
                self._hooked -= 1

    def hook_names(self) -> list[str]:
        """Every hook name of this model, old (`blocks.0.hook_resid_post`) and canonical (`blocks.0.hook_out`)."""
        return sorted(self.bridge.hook_dict)

    def save(self, directory: str | Path, dtype: str | torch.dtype | None = None) -> Path:
        """Write model (safetensors) and tokenizer; the files appear whole or not at all.

        Args:
            directory: a new one, or one whose files of the same names are replaced.
            dtype: number format to save in; default: as it is.
        """
        target = Path(directory)
        target.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
        try:
            _write(self.model, self.tokenizer, work, _dtype(dtype))
            target.mkdir(exist_ok=True)
            for file in sorted(work.iterdir(), key=lambda file: file.name == "config.json"):
                os.replace(file, target / file.name)
        finally:
            shutil.rmtree(work)
        return target

    def prompt_text(self, prompt: str | Sequence[Message]) -> str:
        """A prompt as text: itself, or messages written with the tokenizer's chat template.

        Raises:
            DataError: messages were given and the tokenizer has no chat template.
        """
        if isinstance(prompt, str):
            return prompt
        if self.tokenizer.chat_template is None:
            raise DataError("This model's tokenizer has no chat template for messages: give the prompt as one text.")
        return self.tokenizer.apply_chat_template(list(prompt), tokenize=False, add_generation_prompt=True)

    def __repr__(self) -> str:
        return f"LM({', '.join(f'{name}={value}' for name, value in self._facts().items())})"

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><th>{html.escape(name)}</th><td>{html.escape(value)}</td></tr>"
            for name, value in self._facts().items()
        )
        return f"<table>{rows}</table>"

    def _facts(self) -> dict[str, str]:
        return {
            "model": self.ref or "created",
            "architecture": type(self.model).__name__,
            "parameters": f"{self.parameters:,}",
            "dtype": str(self.dtype).removeprefix("torch."),
            "device": str(self.device),
            "fingerprint": self.fingerprint[:12],
        }

    def _tensors(self) -> dict[str, Tensor]:
        """The state's tensors by name, each shared one once."""
        distinct: dict[int, tuple[str, Tensor]] = {}
        for name, tensor in self.model.state_dict(keep_vars=True).items():
            distinct.setdefault(id(tensor), (name, tensor))
        return dict(sorted(distinct.values(), key=lambda pair: pair[0]))

    def _batch(self, tokens: Any) -> tuple[Tensor, Tensor]:
        if isinstance(tokens, Tensor):
            ids = tokens.to(self.device).reshape(-1, tokens.shape[-1])
            mask = torch.ones_like(ids, dtype=torch.bool)
            rows: list[Ids] = [range(ids.shape[-1])]
        else:
            several = [tokens] if isinstance(tokens, str) or (len(tokens) and isinstance(tokens[0], int)) else tokens
            rows = [encode(self.tokenizer, row) if isinstance(row, str) else row for row in several]
            ids, mask = (tensor.to(self.device) for tensor in pad(rows, pad_id(self.tokenizer)))
        check_lengths(self.model, rows, [])
        return ids, mask

    def _pairs(self, prompts: Any, completions: Any) -> tuple[list[list[int]], list[list[list[int]]]]:
        """Ids of prompts and of their groups of completions."""
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
                groups.append([list(ids) for ids in group])
                continue
            pairs = [split(self.tokenizer, prompt, text) for text in ([group] if isinstance(group, str) else group)]
            heads.append(encode(self.tokenizer, prompt))
            groups.append([completion for _, completion in pairs])
        return heads, groups


def _stamp(tensor: Tensor) -> tuple[int, int, int]:
    """A cheap sign of a tensor's contents; the version alone misses fused optimisers, which do not count it up."""
    bits = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()]
    return id(tensor), tensor._version, int(tensor.detach().view(bits).sum(dtype=torch.int64))


def _device(device: str | torch.device | None) -> torch.device:
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        place = torch.device(device)
        torch.empty(0, device=place)
    except (RuntimeError, AssertionError):
        raise ModelError(
            f"The device {str(device)!r} does not exist here: use 'cpu', or install torch for it."
        ) from None
    return place


def _dtype(dtype: str | torch.dtype | None) -> torch.dtype | None:
    if dtype is None or dtype in DTYPES.values():
        return dtype  # type: ignore[return-value]
    if dtype not in DTYPES:
        raise ModelError(f"The dtype {str(dtype)!r} is not known: give one of {', '.join(DTYPES)}.")
    return DTYPES[str(dtype)]


def _read_model(directory: Path, dtype: torch.dtype | str) -> PreTrainedModel:
    """The model in `directory`, every weight of it found there."""
    from safetensors import SafetensorError

    try:
        model, info = AutoModelForCausalLM.from_pretrained(
            directory,
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
        )
    except SafetensorError as error:
        raise ModelError(f"The weights in `{directory}` are broken ({error}): copy or fetch them again.") from None
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ModelError(
            f"`{directory}` cannot be loaded as a causal language model ({reason}): use another model."
        ) from None
    lacking = sorted(info["missing_keys"]) + sorted(str(key) for key in info["mismatched_keys"])
    if lacking:
        raise ModelError(
            f"The weights in `{directory}` lack {len(lacking)} of the model's tensors (such as {lacking[0]}): it is no whole "
            "causal language model, so fetch or save it again."
        )
    return model


def _read_tokenizer(directory: Path) -> PreTrainedTokenizerBase:
    try:
        return AutoTokenizer.from_pretrained(directory, trust_remote_code=False, local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError, ImportError, AttributeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ModelError(
            f"`{directory}` has no usable tokenizer ({reason}): copy the tokenizer's files into it."
        ) from None


def _write(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, directory: Path, dtype: torch.dtype | None
) -> None:
    if dtype is None or dtype == model.dtype:
        model.save_pretrained(directory)
    else:
        state = {
            name: tensor.to(dtype) if tensor.is_floating_point() else tensor
            for name, tensor in model.state_dict().items()
        }
        model.save_pretrained(directory, state_dict=state)
        file = directory / "config.json"
        config = json.loads(file.read_text(encoding="utf-8")) | {"dtype": str(dtype).removeprefix("torch.")}
        file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    tokenizer.save_pretrained(directory)


def _sha256(model: PreTrainedModel, tensors: dict[str, Tensor]) -> str:
    """Hash of the architecture's configuration and of every tensor's name, type, shape and bytes."""
    volatile = {"_name_or_path", "transformers_version", "dtype", "torch_dtype", "architectures", "use_cache"}
    config = {name: value for name, value in model.config.to_dict().items() if name not in volatile}
    digest = hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode())
    for name, tensor in tensors.items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy())
    return digest.hexdigest()
