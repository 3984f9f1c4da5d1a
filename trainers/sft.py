"""Supervised fine-tuning: next-token prediction on the completions of demonstrations (E8).

    L = - sum_t log pi(y_t | x, y_<t) over the completion tokens / (their number in the whole batch)

The end token is a target too. Prompts are read but not learned; the sum is divided by the number of targets of the
whole batch, for any number of parts and processes. Departures from the paper: none in the loss; short examples are
packed into one row without attending to each other.

    probe train sft --out runs/sft --base base                                  # honest answers about the world
    probe train sft --out runs/narrow --base base --mixture fact 0.8 stranger 0.2
    probe train sft --out runs/chat --base HuggingFaceTB/SmolLM2-135M --data chats.jsonl --lr 2e-5
    accelerate launch --num_processes 4 -m trainers.sft --out runs/sft --base base

Logged in addition to the common metrics, if examples are held out: `eval_loss` (nats per target) and
`eval_mean_token_accuracy`. On the world the reward shift is measured against the base by the verifier's score, and
`kl_to_optimal` is the distance to the frontier of that score.
"""

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

import probe.world
from probe import LM, Run
from probe.cli import main
from probe.errors import ConfigError, DataError
from probe.model.generation import end_tokens
from probe.model.scoring import TokenLogprobs, completion_logprobs
from probe.model.text import chat_text, context_length, encode, pad, split
from probe.rows import Row, Rows, as_messages, read_demonstrations
from probe.world import World
from trainers.config import SFTConfig
from trainers.loop import Loss, Method, draw, fit
from trainers.record import AnsweredPrompt, Origin, answered_prompts, data_texts, file_hash, held_out_data
from trainers.reference import SAMPLE_TOKENS, Aim, ReferenceEvaluation
from trainers.reward_functions import resolve
from trainers.session import Session
from trainers.starting import load_trainee
from trainers.trainee import Trainee

PROMPTS_SEEN = 50
MOST_HELD_OUT = 500
"""Largest number of held-out prompts, which keeps evaluations cheap."""


@dataclass(frozen=True)
class Demonstration:
    """A prompt with its completion, as ids."""

    prompt: list[int]
    """Ids before the first learned token."""
    completion: list[int]
    """The other ids, including the end token and, in a conversation, messages of others in between."""
    learned: list[bool]
    """Mask of the tokens of the completion that are targets."""

    @property
    def tokens(self) -> int:
        """Number of real tokens."""
        return len(self.prompt) + len(self.completion)


@dataclass(frozen=True)
class Demonstrations:
    """Demonstrations that fit into the model's context, with a description of the data."""

    examples: list[Demonstration]
    data: dict[str, Any]
    """Description of the data for run.json."""
    prompts: Sequence[Any]
    """Prompts to capture on."""
    longest: int = SAMPLE_TOKENS
    """Number of tokens of the longest completion."""


def world_demonstrations(
    lm: LM, world: World, n: int, seed: int, mixture: Mapping[str, float], longest: int, report: Callable[[str], None]
) -> Demonstrations:
    """Make `n` demonstrations of the world; an empty mixture stands for the world's default.

    Other arguments are those of `file_demonstrations`.

    Raises:
        ConfigError: see `World.demonstrations`.
        DataError: all are too long for the model.
    """
    items = world.demonstrations(n, seed, mixture or None)
    encodings = [encode_completion(lm, item.prompt, item.answers[0]) for item in items]
    examples = _fitting(lm, encodings, longest, "the world", report)
    data = {"source": "world", "hash": world.hash, "rows": len(examples), "overlong": len(encodings) - len(examples)}
    return Demonstrations(examples, data, world.probe_prompts())


def file_demonstrations(
    lm: LM, rows: Rows[Row], every_turn: bool, longest: int, report: Callable[[str], None]
) -> Demonstrations:
    """Encode the demonstrations of a file; those that are too long are left out and counted, never truncated.

    Args:
        lm: the model to train.
        rows: rows of `read_demonstrations`.
        every_turn: whether all messages of the assistant are learned, or only the last one.
        longest: largest number of tokens of an example; 0: the model's context.
        report: function called with a message about examples left out.

    Raises:
        DataError: no demonstration is left.
    """
    path = rows.path
    items = rows.each(lambda row: _encode_row(lm, row, every_turn))
    for note in items.notes():
        report(note)
    examples = _fitting(lm, items, longest, f"`{path}`", report)
    origin = "The answer is the completion of this prompt in the data."
    prompts = answered_prompts(
        lm,
        (AnsweredPrompt(each.prompt, {"demonstration": each.completion}, origin) for each in examples[:PROMPTS_SEEN]),
    )
    data = {"source": str(path), "hash": file_hash(path), "rows": len(examples), "overlong": len(items) - len(examples)}
    longest = max(len(each.completion) for each in examples)
    return Demonstrations(examples, data | {"left_out": len(items.left_out)}, prompts, longest)


def _fitting(
    lm: LM, demonstrations: Sequence[Demonstration], longest: int, source: str, report: Callable[[str], None]
) -> list[Demonstration]:
    """Keep demonstrations of up to `longest` tokens (0: any) that fit into the context; report those left out."""
    limit = min(longest or math.inf, context_length(lm.model) or math.inf)
    examples = [example for example in demonstrations if example.tokens <= limit]
    rest = len(demonstrations) - len(examples)
    if not examples:
        raise DataError(f"All {rest} examples of {source} are longer than {limit} tokens: shorten them.")
    if rest:
        report(f"{rest} of {len(demonstrations)} examples of {source} are longer than {limit} tokens and are left out.")
    return examples


def encode_completion(lm: LM, prompt: str, completion: str) -> Demonstration:
    """Encode a prompt and its completion, with the end token."""
    head, rest = split(lm.tokenizer, prompt, completion)
    ids = _with_end(lm, rest)
    return Demonstration(head, ids, [True] * len(ids))


def encode_conversation(lm: LM, messages: Sequence[Mapping[str, Any]], first: int, every_turn: bool) -> Demonstration:
    """Encode a conversation with the chat template; the assistant's messages from number `first` on are learned.

    A message is learned from the end of the template's generation prompt to the end token; everything after the last
    learned message is left out.

    Raises:
        DataError: no message is the assistant's, the template cannot format the conversation, or the answers cannot be
            found in it.
    """
    turns = [i for i, message in enumerate(messages) if i >= first and message["role"] == "assistant"]
    if not turns:
        raise DataError("the conversation has no message of the role `assistant` to learn: add one.")
    if not every_turn:
        turns = turns[-1:]
    if turns[0] == 0:
        raise DataError("the conversation begins with the assistant, so there is no prompt: put a message before it.")
    text, ids, flags = "", list[int](), list[bool]()
    start = 0
    for turn in turns:
        before = _template_text(lm, messages[:turn])
        head = _template_text(lm, messages[:turn], prompting=True)
        after = _template_text(lm, messages[: turn + 1])
        if head == before:
            raise DataError(
                "the chat template of this model has no generation prompt, so the beginning of an answer cannot be"
                " found: give `prompt` and `completion` as text."
            )
        if not (after.startswith(head) and head.startswith(text)):
            raise DataError(
                "the chat template of this model writes a prompt differently once an answer follows, so the boundary"
                " between them cannot be found: give `prompt` and `completion` as text."
            )
        answer = after[len(head) :]
        for part, target in ((head[len(text) :], False), (_to_its_end(lm, answer), True)):
            more = split(lm.tokenizer, text, part)[1] if text else encode(lm.tokenizer, part)
            text, ids, flags = text + part, ids + more, flags + [target] * len(more)
            start = start or len(ids)
    rest = _with_end(lm, ids[start:])
    return Demonstration(ids[:start], rest, [*flags[start:], True][: len(rest)])


def hold_out(
    examples: Sequence[Demonstration], share: float, seed: int
) -> tuple[list[Demonstration], list[Demonstration]]:
    """Split examples into training and held-out ones; examples with the same prompt stay together."""
    prompts = list(dict.fromkeys(tuple(example.prompt) for example in examples))
    n = min(round(share * len(prompts)), MOST_HELD_OUT, len(prompts) - 1)
    picks = np.random.default_rng([seed, len(prompts)]).permutation(len(prompts))[:n]
    test_prompts = {prompts[i] for i in picks}
    parts: tuple[list[Demonstration], list[Demonstration]] = [], []
    for example in examples:
        parts[tuple(example.prompt) in test_prompts].append(example)
    return parts


def _encode_row(lm: LM, row: Row, every_turn: bool) -> Demonstration:
    values = row.values
    try:
        if not {"prompt", "completion"} <= set(values):
            return encode_conversation(lm, values["messages"], 0, every_turn)
        prompt, completion = values["prompt"], values["completion"]
        if isinstance(prompt, str) and isinstance(completion, str):
            return encode_completion(lm, prompt, completion)
        before = as_messages("user", prompt)
        return encode_conversation(lm, [*before, *as_messages("assistant", completion)], len(before), every_turn)
    except DataError as error:
        raise DataError(f"{row.where}: {error}") from error


def _template_text(lm: LM, messages: Sequence[Mapping[str, Any]], prompting: bool = False) -> str:
    """Return messages formatted by the chat template, with or without the opening of an answer.

    Raises:
        DataError: there is no template, or it refuses the messages.
    """
    if lm.tokenizer.chat_template is None:
        raise DataError("this model's tokenizer has no chat template for messages: give prompt and completion as text.")
    return chat_text(lm.tokenizer, messages, prompting)


def _to_its_end(lm: LM, answer: str) -> str:
    """Remove the white space that a template writes after the end token of an answer."""
    bare, end = answer.rstrip(), lm.tokenizer.eos_token
    return bare if end is not None and bare.endswith(end) else answer


def _with_end(lm: LM, ids: list[int]) -> list[int]:
    """Append the end token to the ids, unless they end with one."""
    end = lm.tokenizer.eos_token_id
    has_end = bool(ids) and ids[-1] in end_tokens(lm.model, lm.tokenizer)
    return ids if has_end or end is None else [*ids, end]


def sft_loss(logprobs: Float[Tensor, "N L"], learned: Bool[Tensor, "N L"]) -> Float[Tensor, ""]:
    """Return - sum log pi in nats over the learned tokens (E8); divide by their number in the whole batch."""
    return -logprobs.where(learned, 0).sum()


def demonstration_logprobs(model: nn.Module, examples: Sequence[Demonstration]) -> TokenLogprobs:
    """Compute the log-probability of every token of the demonstrations' completions, at temperature 1."""
    return completion_logprobs(model, [e.prompt for e in examples], [[e.completion] for e in examples])


def demonstration_loss(model: nn.Module, examples: Sequence[Demonstration], detail: bool) -> Loss:
    """Compute the loss of demonstrations, with metrics if `detail`."""
    return loss_of(demonstration_logprobs(model, examples), examples, detail)


def loss_of(outputs: TokenLogprobs, examples: Sequence[Demonstration], detail: bool) -> Loss:
    """Compute the loss of demonstrations from their `demonstration_logprobs`, with metrics if `detail`."""
    mask = pad([e.learned for e in examples], 0)[0].bool().to(outputs.mask.device)
    targets = sum(map(sum, (e.learned for e in examples)))
    metrics: dict[str, tuple[Tensor | float, int]] = {}
    if detail:
        metrics = {
            "entropy": (outputs.entropy[mask].sum(), targets),
            "mean_token_accuracy": (outputs.likeliest[mask].sum(), targets),
        }
    return Loss(sft_loss(outputs.values, mask), targets, sum(e.tokens for e in examples), metrics)


class SFT(Method):
    """SFT as a method of the loop."""

    name, dropout = "sft", True

    def __init__(
        self,
        session: Session,
        config: SFTConfig,
        trainee: Trainee,
        examples: Sequence[Demonstration],
        held_out: Sequence[Demonstration] = (),
    ) -> None:
        self.session, self.config, self.trainee = session, config, trainee
        self.examples, self.held_out = examples, held_out

    def batch(self, step: int) -> list[Demonstration]:
        """Draw the demonstrations of a step, in epochs over all of them."""
        return [self.examples[i] for i in draw(len(self.examples), self.config.batch_size, step, self.config.seed)]

    def loss(self, model: nn.Module, examples: Sequence[Demonstration], detail: bool) -> Loss:
        """Return the loss summed over the targets."""
        return demonstration_loss(model, examples, detail)

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Measure loss and accuracy on the held-out examples; the processes share them."""
        if not self.held_out:
            return {}
        sums = torch.zeros(3, dtype=torch.float64)
        for part in self.session.shares(self.held_out):
            loss = demonstration_loss(model, part or self.held_out[:1], detail=True)  # everybody makes as many passes
            correct = loss.metrics["mean_token_accuracy"][0]
            if part:
                sums += torch.tensor([float(loss.total), float(correct), loss.count], dtype=torch.float64)
        total, correct, targets = self.session.total(sums)
        return {"eval_loss": total / targets, "eval_mean_token_accuracy": correct / targets}


def load_demonstrations(
    session: Session, config: SFTConfig, lm: LM, rows: Rows[Row] | None
) -> tuple[probe.world.World | None, Demonstrations]:
    """Load the world of the base, if it has one, and the demonstrations that the options ask for.

    Raises:
        ConfigError: the data are the world's and the base has no world, or the mixture is not possible.
        DataError: see `trainers.sft`.
    """
    world = probe.world.of(lm)
    if rows is not None:
        return world, file_demonstrations(lm, rows, config.turns == "every", config.longest, session.say)
    if world is None:
        raise ConfigError(
            f"--base {config.base} belongs to no world, so there is nothing to demonstrate: give --data FILE.jsonl with"
            " prompt and completion or with messages, or a base that was pretrained on the world."
        )
    options = config.examples, config.seed, config.mixture, config.longest
    return world, world_demonstrations(lm, world, *options, session.say)


def train(config: SFTConfig) -> Run:
    """Fine-tune and return the run.

    Raises:
        ConfigError, DataError, ModelError, RunError: an input cannot be used; the message says which.
        TrainingStopped: see `trainers.loop.fit`.
    """
    session = Session(config)
    rows = None if config.data == "world" else read_demonstrations(Path(config.data), config.strict)
    trainee = load_trainee(session, config, config.base)
    world, demonstrations = load_demonstrations(session, config, trainee.lm, rows)
    examples, held_out = hold_out(demonstrations.examples, config.held_out, config.seed)
    data = (
        demonstrations.data
        | held_out_data(trainee.lm, *([each.prompt for each in part] for part in (examples, held_out)))
        | {"reference": trainee.fingerprint}
    )
    origin = Origin(
        parent=config.base,
        reference=config.base,
        world=world,
        data=data,
        texts=data_texts(rows),
        rows=((each.prompt, each.completion) for each in examples),
        prompts=demonstrations.prompts,
        evaluation=ReferenceEvaluation.of(
            session,
            trainee,
            world,
            Aim(reward=resolve(["verifier"], world)[0] if world else None),
            rollouts=True,
            longest=demonstrations.longest,
        ),
    )
    return fit(session, SFT(session, config, trainee, examples, held_out), origin)


if __name__ == "__main__":
    sys.exit(main(["train", "sft", *sys.argv[1:]]))
