"""Models that read one number, analysed like any other: reward models and PPO's value head as an `LM` with one logit.

A scalar head is an unembedding with one row. So the decoder of a reward model becomes a causal language model of the
same family whose unembedding is that head: its logits [B T 1] are the scalar read at every token, and hooks, lenses,
attribution and interventions work on it as they do on a policy. What such a model cannot do is write.

    lm = probe.readouts.analysable("sample_runs/reward-agreeable")     # .readout == "reward"
    lm.logits("<user> where does mira live ? <bot> oslo <end>")        # [1 T 1]; the last one is the text's reward
"""

import copy
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from probe import weights
from probe.errors import ConfigError, ModelError
from probe.generation import Generation
from probe.lm import LM
from probe.references import Readout, is_adapter, read_config, resolve, split_readout
from probe.rewards import RewardModel

VALUE_HEAD = "value_head.safetensors"
"""Beside the policy in the checkpoints of methods that learn a value of prefixes."""


class ScalarLM(LM):
    """An `LM` whose one logit is a reward or a value, in the units of its head."""

    def __init__(self, model: PreTrainedModel, like: LM | RewardModel, readout: Readout) -> None:
        super().__init__(model, like.tokenizer, like.ref, like.directory, like.run_dir)
        self.readout = readout

    def generate(self, *_: Any, **__: Any) -> Generation:
        """Not possible.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(f"A {self.readout} model scores texts and writes none: take the policy to generate.")


def analysable(ref: str | Path, readout: Readout | None = None, **options: Any) -> LM:
    """The model that a reference names, whatever it reads out, as something to look into.

    Args:
        ref: see `probe.references.resolve`; `#value` behind it asks for the value head, as `readout` does.
        readout: "tokens", "reward" or "value" (the value head beside a policy); default: tokens for a causal language
            model, reward for a reward model.
        options: device and dtype as in `LM.load`.

    Raises:
        ModelError: there is no such model, it has no such readout, or its architecture has no causal counterpart.
    """
    ref, asked = split_readout(str(ref))
    readout = readout or asked
    directory = resolve(ref).directory
    scores = not is_adapter(directory) and bool(_scoring(directory))
    if readout == "reward" or (readout is None and scores):
        return reward_lm(RewardModel.load(ref, **options))
    lm = LM.load(ref, **options)
    return value_lm(lm) if readout == "value" else lm


def reward_lm(model: RewardModel) -> ScalarLM:
    """A reward model as an LM over the same parameters; its logit at the last token is `RewardModel.score`.

    Raises:
        ModelError: the decoder has no causal counterpart whose unembedding can be the head.
    """
    inner: Any = model.model
    causal = _counterpart(inner.config)
    setattr(causal, causal.base_model_prefix, weights.twin(inner.base_model))
    return ScalarLM(_with_head(causal, inner.score.weight, inner.score.bias), model, "reward")


def value_lm(lm: LM) -> ScalarLM:
    """The value head that was trained beside a policy (E11) as an LM over the policy's parameters.

    Raises:
        ModelError: the checkpoint has no value head, or one that does not fit.
    """
    file = (lm.directory or Path()) / VALUE_HEAD
    try:
        state = load_file(file)
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
    """The causal model of a configuration's family, without memory for weights; the body is put in by the caller."""
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
    """`model` with a scalar head in place of its unembedding."""
    width = weight.shape[1]
    head = nn.Linear(width, 1, bias=bias is not None, device="meta")
    head.weight = nn.Parameter(weight.detach(), requires_grad=False)
    if bias is not None:
        head.bias = nn.Parameter(bias.detach(), requires_grad=False)
    model.config = copy.deepcopy(model.config)
    model.config.tie_word_embeddings = False
    model.set_output_embeddings(head)
    return model.eval()


def _scoring(directory: Path) -> set[str]:
    """Names of the classes with a scalar head that the model in a directory was saved as."""
    config = read_config(directory)
    return weights.reward_classes(config) & set(config.get("architectures") or ())
