"""Models that read out one number (E9, E11): reward models that score completions, and heads as an `LM` with one logit.

`RewardModel` is a decoder with a scalar head, an ordinary sequence classification model of transformers.

A scalar head is an unembedding with one row. So the decoder of a reward model, or a policy under PPO's value head,
becomes a causal language model of the same family whose unembedding is that head: its logits [B T 1] are the scalar
read at every token, and hooks, lenses, attribution and interventions work on it as they do on a policy. Such a model
cannot generate text.

    lm = probe.model.rewards.analysable("sample_runs/reward-agreeable")     # .readout == "reward"
    lm.logits("<user> where does mira live ? <bot> oslo <end>")        # [1 T 1]; the last one is the text's reward
"""

import copy
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from jaxtyping import Bool, Float
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from probe.errors import ConfigError, DataError, ModelError
from probe.model import adapters, identity
from probe.model import loading as weights
from probe.model.adapted import inside
from probe.model.generation import Generation
from probe.model.lm import LM
from probe.model.placement import DeviceMap, aligned, input_device, placement
from probe.model.references import Readout, is_adapter, read_config, resolve, split_readout
from probe.model.scoring import last_states, token_states
from probe.model.text import Ids, split, unwrap
from probe.untrusted import WEIGHTS, regular

PART = 8192
"""Number of tokens, padding included, that are scored at once."""
GROUP = 16
"""Maximum number of completions that share a pass over their prompt."""

Pair = tuple[list[int], list[int]]


class RewardModel:
    """A reward model and its tokenizer.

    `model` is an untouched sequence classification model of transformers with one label. It is read at the last real
    token, which is found by length, not by searching for padding.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        ref: str = "",
        directory: Path | None = None,
        run_dir: Path | None = None,
        base: LM | None = None,
    ) -> None:
        self.model = model
        self.base = base
        """The model whose weights an adapter shares, if it is not merged."""
        self.tokenizer = tokenizer
        self.ref = ref
        self.directory = directory
        self.run_dir = run_dir

    @classmethod
    def load(
        cls,
        ref: str | Path,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        device_map: DeviceMap | None = None,
        quantization: str | None = None,
        base: LM | None = None,
    ) -> "RewardModel":
        """Load a reward model's run, a checkpoint, a Hugging Face directory or a hub id, in evaluation mode.

        Args:
            ref: reference, see `probe.model.references.resolve`.
            device: device of the model; default: CUDA if there is one, else the CPU.
            dtype: "float32", "bfloat16" or "float16"; default: single precision on the CPU, elsewhere the saved format.
            device_map: devices of its parts instead of `device`, as in `LM.load`.
            quantization: "8bit" or "4bit", as in `LM.load`.
            base: the loaded base of an adapter, whose weights are shared; see `LM.load`.

        Raises:
            ConfigError: an argument is not valid, or two exclude each other.
            ModelError: the reference, the device or the dtype cannot be used, or it is not a reward model; the message
                says why.
        """
        place = placement(device, dtype, device_map, quantization)
        directory, run_dir = resolve(ref)
        adapters.require_base(directory, base)
        if is_adapter(directory):
            if base is None and not place.is_whole and (plain := adapters.plain_base(directory)) is not None:
                base = LM.load(plain, None, device, dtype, device_map, quantization)
            if base is None:
                model, tokenizer = adapters.read_reward(directory, place.dtype, place.require_one(directory))
            else:
                model, tokenizer = adapters.put_on(directory, base.model, base.tokenizer)
            return cls(model, tokenizer, str(ref), directory, run_dir, base)
        weights.require_reward(directory)
        model = weights.read_reward_model(directory, place)
        return cls(model, weights.read_tokenizer(directory), str(ref), directory, run_dir)

    @property
    def device(self) -> torch.device:
        """Device that takes the tokens and gives the rewards."""
        return input_device(self.model)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of configuration, weights and tokenizer in hexadecimal; see `LM.fingerprint`."""
        return identity.combine(weights.fingerprint(self.model), identity.texts_hash(self.tokenizer, None))

    @torch.no_grad()
    def score(self, prompts: Sequence[str | Ids], completions: Sequence[str | Ids]) -> Float[Tensor, " N"]:
        """Return the reward of each completion of its prompt, in nats of Bradley-Terry log-odds.

        Equal prompts are run once.

        Args:
            prompts: N texts, or their ids.
            completions: N texts, each of which gets the end token if it has none, or ids, which are scored as given.

        Raises:
            DataError: the lists differ in length, or a text is empty or longer than the model's context.
        """
        pairs = self._encode_pairs(prompts, completions)
        result = torch.zeros(len(pairs), dtype=torch.float32)
        for heads, groups, order in batches(pairs):
            result[order] = last_scores(self.model, heads, groups).float().cpu()
        return result

    @torch.no_grad()
    def token_scores(
        self, prompts: Sequence[str | Ids], completions: Sequence[str | Ids]
    ) -> tuple[Float[Tensor, "N L"], Bool[Tensor, "N L"]]:
        """Return the head's output at every token of the completions (0 where masked), and the mask of real tokens.

        The last real value of a row is the completion's score. The reward of a single token is the increase over the
        previous value.
        """
        pairs = self._encode_pairs(prompts, completions)
        width = max((len(completion) for _, completion in pairs), default=0)
        values, mask = torch.zeros(len(pairs), width), torch.zeros(len(pairs), width, dtype=torch.bool)
        for heads, groups, order in batches(pairs):
            part, real = token_scores(self.model, heads, groups)
            values[order, : part.shape[1]], mask[order, : part.shape[1]] = part.float().cpu(), real.cpu()
        return values, mask

    def __repr__(self) -> str:
        return f"RewardModel({self.ref or 'created'}, {type(self.model).__name__}, {self.fingerprint[:12]})"

    def _encode_pairs(self, prompts: Sequence[str | Ids], completions: Sequence[str | Ids]) -> list[Pair]:
        if isinstance(prompts, str) or isinstance(completions, str) or len(prompts) != len(completions):
            raise DataError(
                f"{_count(prompts)} and {_count(completions)} cannot be scored together: give two lists of equal"
                " length, prompts and their completions."
            )
        return [pair_ids(self.tokenizer, p, c) for p, c in zip(prompts, completions, strict=True)]


def last_scores(model: nn.Module, prompts: Sequence[Ids], completions: Sequence[Sequence[Ids]]) -> Float[Tensor, " N"]:
    """Return R(x, y) of every completion in the groups of P prompts, prompt-major and differentiable (E9).

    Args:
        model: a sequence classification model of transformers with one label.
        prompts: token ids of P prompts, none empty.
        completions: a group of completions for each.

    Raises:
        DataError: an empty prompt, or a sequence longer than the model's context.
    """
    states = last_states(model, prompts, completions)
    return unwrap(model).score(states)[:, 0]


def token_scores(
    model: nn.Module, prompts: Sequence[Ids], completions: Sequence[Sequence[Ids]]
) -> tuple[Float[Tensor, "N L"], Bool[Tensor, "N L"]]:
    """Return the head's output at every token of the completions, 0 where masked, and the mask."""
    states, mask = token_states(model, prompts, completions)
    return unwrap(model).score(states)[..., 0].where(mask, 0), mask


def pair_ids(tokenizer: PreTrainedTokenizerBase, prompt: str | Ids, completion: str | Ids) -> Pair:
    """Return the ids of prompt and completion; a completion given as text ends with the end token.

    Ids are not changed.

    Raises:
        DataError: one is a text and the other is not.
    """
    if isinstance(prompt, str) and isinstance(completion, str):
        head, ids = split(tokenizer, prompt, completion)
        end = tokenizer.eos_token_id
        return head, ids if end is None or ids[-1:] == [end] else [*ids, end]
    if isinstance(prompt, str) or isinstance(completion, str):
        raise DataError("A prompt and its completion were given as text and as ids: give both in one form.")
    return [int(token) for token in prompt], [int(token) for token in completion]


def batches(pairs: Sequence[Pair]) -> Iterator[tuple[list[list[int]], list[list[list[int]]], list[int]]]:
    """Group the pairs by equal prompts, in parts of about `PART` tokens, short ones first.

    Yields:
        prompts, their groups of completions, and the numbers of the pairs in that order.
    """
    members: dict[tuple[int, ...], list[int]] = {}
    for number, (prompt, _) in enumerate(pairs):
        members.setdefault(tuple(prompt), []).append(number)
    groups = [group[i : i + GROUP] for group in members.values() for i in range(0, len(group), GROUP)]
    sizes = [len(pairs[group[0]][0]) + sum(len(pairs[number][1]) for number in group) for group in groups]
    part: list[list[int]] = []
    for at in sorted(range(len(groups)), key=sizes.__getitem__):
        if part and sizes[at] * (len(part) + 1) > PART:
            yield _part(pairs, part)
            part = []
        part.append(groups[at])
    if part:
        yield _part(pairs, part)


def _part(
    pairs: Sequence[Pair], groups: Sequence[Sequence[int]]
) -> tuple[list[list[int]], list[list[list[int]]], list[int]]:
    completions = [[pairs[number][1] for number in group] for group in groups]
    return [pairs[group[0]][0] for group in groups], completions, [number for group in groups for number in group]


def _count(texts: Sequence[object]) -> str:
    return "one text" if isinstance(texts, str) else f"{len(texts)} texts"


VALUE_HEAD = "value_head.safetensors"
"""File of the value head next to the policy, in checkpoints of methods that learn the value of prefixes."""


class ScalarLM(LM):
    """An `LM` whose only logit is a reward or a value, in the units of its head."""

    def __init__(self, model: PreTrainedModel, like: LM | RewardModel, readout: Readout) -> None:
        super().__init__(model, like.tokenizer, like.ref, like.directory, like.run_dir)
        self.readout, self.base = readout, like.base

    def generate(self, *_: Any, **__: Any) -> Generation:
        """Refuse to generate, since a scalar model writes no text.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(f"A {self.readout} model scores texts and writes none: use the policy to generate.")


def analysable(ref: str | Path, readout: Readout | None = None, **options: Any) -> LM:
    """Load the model that a reference names as an `LM` for analyses, whatever it reads out.

    Args:
        ref: reference, see `probe.model.references.resolve`; a final `#value` selects the value head, as `readout`
            does.
        readout: "tokens", "reward" or "value" (the value head next to a policy); default: tokens for a causal language
            model, reward for a reward model.
        options: device, dtype, device_map, quantization and base as in `LM.load`.

    Raises:
        ModelError: there is no such model, it has no such readout, or its architecture has no causal counterpart.
    """
    ref, ref_readout = split_readout(str(ref))
    readout = readout or ref_readout
    directory = resolve(ref).directory
    scores = adapters.is_reward(directory) if is_adapter(directory) else bool(_scoring(directory))
    if readout == "reward" or (readout is None and scores):
        return reward_lm(RewardModel.load(ref, **options))
    lm = LM.load(ref, **options)
    return value_lm(lm) if readout == "value" else lm


def analysable_together(refs: Sequence[str | Path]) -> list[LM]:
    """Load several models as `analysable` does; adapters on one base share its weights, also with the base itself.

    An adapter whose base no other model needs is merged.

    Raises:
        ModelError: see `analysable`.
    """
    places = [resolve(split_readout(str(ref))[0]).directory.resolve() for ref in refs]
    homes = [adapters.plain_base(place) or place for place in places]
    loaded: dict[int, LM] = {}
    bases: dict[Path, LM] = {}
    for index in sorted(range(len(places)), key=lambda index: homes[index] != places[index]):  # bases first
        home, base = homes[index], None
        if home != places[index] and homes.count(home) > 1:
            base = bases[home] = bases.get(home) or LM.load(home)
        lm = loaded[index] = analysable(refs[index], base=base)
        if home == places[index] and lm.readout == "tokens":
            bases[home] = lm
    return [loaded[index] for index in range(len(places))]


def reward_lm(model: RewardModel) -> ScalarLM:
    """Return a reward model as an LM over the same parameters; its logit at the last token is `RewardModel.score`.

    Raises:
        ModelError: the decoder has no causal counterpart whose unembedding can be the head.
    """
    inner: Any = model.model
    causal = _counterpart(inner.config)
    setattr(causal, causal.base_model_prefix, weights.twin(inner.base_model))
    with aligned(inner.score):
        head = _with_head(causal, inner.score.weight, inner.score.bias)
    return ScalarLM(head, model, "reward")


def language_model(model: Any, directory: Path) -> PreTrainedModel:
    """Return a causal language model over the decoder of a reward model, with the unembedding stored in `directory`.

    The decoder is shared and follows training; of the stored model only the unembedding is read.

    Args:
        model: sequence classification model, with an adapter or without.
        directory: causal language model from which it was made.

    Raises:
        ModelError: it is not one, its decoder is of another class, or its unembedding cannot be read.
    """
    weights.require_causal(directory)
    causal = _counterpart(model.config)
    if type(causal.base_model) is not type(model.base_model):
        raise ModelError(
            f"`{directory}` has the decoder {type(causal.base_model).__name__} and the reward model has"
            f" {type(model.base_model).__name__}: give the language model that it was made from."
        )
    setattr(causal, causal.base_model_prefix, model.base_model)
    head, places = causal.get_output_embeddings(), weights.places(directory)
    name = next(name for name, module in causal.named_modules() if module is head)
    if f"{name}.weight" not in places:  # tied
        causal.config.tie_word_embeddings = True
        head.weight = inside(model.get_input_embeddings()).weight
        return cast(PreTrainedModel, causal)
    for leaf, empty in head.named_parameters():
        stored = weights.read_tensor(places[f"{name}.{leaf}"], f"{name}.{leaf}").to(model.device, model.dtype)
        if stored.shape != empty.shape:
            raise ModelError(f"The unembedding in `{directory}` is {tuple(stored.shape)}, not {tuple(empty.shape)}.")
        setattr(head, leaf, nn.Parameter(stored, requires_grad=False))
    return cast(PreTrainedModel, causal)


def value_lm(lm: LM) -> ScalarLM:
    """Return the value head that was trained with a policy (E11) as an LM over the policy's parameters.

    Raises:
        ModelError: the checkpoint has no value head, or one that does not match.
    """
    file = (lm.directory or Path()) / VALUE_HEAD
    try:
        state = load_file(regular(file, WEIGHTS))
        weight = (state["weight"] * state["scale"]).to(lm.device, lm.dtype)
    except (OSError, SafetensorError, KeyError) as error:
        raise ModelError(
            f"`{lm.directory}` has no value head ({type(error).__name__} in {VALUE_HEAD}): give a checkpoint of `probe "
            "train rlhf`."
        ) from None
    width = lm.model.get_output_embeddings().weight.shape[1]
    if weight.shape != (1, width):
        raise ModelError(
            f"The value head in `{lm.directory}` reads states of width {weight.shape[-1]} and the model has {width}: "
            "copy the checkpoint again."
        )
    return ScalarLM(_with_head(weights.twin(lm.model), weight), lm, "value")


def _counterpart(config: Any) -> Any:
    """Build the causal model of a configuration's family without memory for weights; the caller sets the body.

    Its parameters are on the meta device.
    """
    own = copy.deepcopy(config)
    own.tie_word_embeddings = False
    own.architectures = None
    try:
        with torch.device("meta"):
            model: Any = AutoModelForCausalLM.from_config(own)
    except ValueError:
        raise ModelError(
            f"{type(config).__name__} has no causal language model, so its head cannot be looked into: use another "
            "model."
        ) from None
    return model


def _with_head(model: Any, weight: Float[Tensor, "1 d"], bias: Float[Tensor, " 1"] | None = None) -> PreTrainedModel:
    """Replace the unembedding of `model` by a scalar head, and return the model."""
    width = weight.shape[1]
    head = nn.Linear(width, 1, bias=bias is not None, device="meta")
    head.weight = nn.Parameter(weight.detach(), requires_grad=False)
    if bias is not None:
        head.bias = nn.Parameter(bias.detach(), requires_grad=False)
    model.config = copy.deepcopy(model.config)
    model.config.tie_word_embeddings = False
    if getattr(model.config, "final_logit_softcapping", None):  # the cap is for the logits of tokens
        model.config.final_logit_softcapping = None
    model.set_output_embeddings(head)
    return model.eval()


def _scoring(directory: Path) -> set[str]:
    """Return the names of the scalar-head classes with which the model in a directory was saved."""
    config = read_config(directory)
    return weights.reward_classes(config) & set(config.get("architectures") or ())
