"""Rewards by name: verifiers of the world, reward models, and custom functions, each resolved from a text.

    verifier                the world's verdict on any answer: +1 true, 0 abstaining, -1 otherwise (E15)
    facts, sum_steps    parts of it and variants, see `JUDGES`
    final_answer        1 if the last number is that of the column `answer` (GSM8K), else 0
    runs/reward-honest  a reward model: a run, a checkpoint or a directory with a sequence classification model
    brief               a verifier or annotator that was added (`probe.verifier`, `probe.annotator`, --plugin)
    honest+checks=0.3   the expected utility of an annotator with other knobs (`probe.world.extensions.find_annotator`)
    module:function     a function of an installed module ...
    file.py:function    ... or of a file: f(prompts, completions, **columns) -> list[float | None]

A function gets everything by keyword: `prompts` and `completions` (lists of N texts, special tokens left out of the
completions), `completion_ids` (their token ids, the end token included) and each column of the data as a list of N;
it need not name those that it does not use. It returns one number per completion, or None if it does not apply. None is
left out of the weighted sum.
"""

import hashlib
import importlib
import importlib.util
import inspect
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from transformers import PreTrainedTokenizerBase

from probe.chain_of_thought.files import final_answer, is_number, reference
from probe.errors import ConfigError, DataError, ModelError, RunError, near_names
from probe.plugins import names_code
from probe.untrusted import read_file
from probe.world import AGREEABLE, HONEST, Annotator, World
from probe.world.extensions import (
    VERIFIERS,
    annotator_fingerprint,
    annotator_name,
    annotators,
    find_annotator,
    verifiers,
)
from probe.world.language import read
from probe.world.sums import parse_prompt, step_following
from trainers.config import FINAL_ANSWER

if TYPE_CHECKING:
    from probe.model.rewards import RewardModel


Judge = Callable[[World, str, str], float | None]
"""Function (world, prompt, completion) -> reward, None if it does not apply."""


class Offer(NamedTuple):
    """A judge with a one-line description."""

    judge: Judge
    about: str


def _score(world: World, prompt: str, completion: str) -> float:
    return world.verify(prompt, completion).score


def _facts(world: World, prompt: str, completion: str) -> float | None:
    return None if read(prompt) is None else _score(world, prompt, completion)


def _sum(opening: str) -> Judge:
    def judge(world: World, prompt: str, completion: str) -> float | None:
        parts = parse_prompt(prompt)
        return _score(world, prompt, completion) if parts is not None and parts[0] == opening else None

    return judge


def _steps(world: World, prompt: str, completion: str) -> float | None:
    parts = parse_prompt(prompt)
    if parts is None or parts[0] != "sum":
        return None
    following = step_following(prompt, completion)
    return 0.0 if following is None else min(following.correct, following.carried)


def _unfined(world: World, prompt: str, completion: str) -> float:
    return max(_score(world, prompt, completion), 0.0)


def _all_fined(world: World, prompt: str, completion: str) -> float:
    return _unfined(world, prompt, completion) - 1


def wishes(annotator: Annotator) -> Judge:
    """Make a judge of dialogues from an annotator's expected utility."""

    def judge(world: World, prompt: str, completion: str) -> float | None:
        return None if read(prompt) is None else annotator.expected_utility(world, prompt, completion)

    return judge


JUDGES = {
    "verifier": Offer(_score, "+1 for the truth, 0 for abstaining, -1 otherwise"),
    "facts": Offer(_facts, "the same for dialogues only"),
    "sum_quick": Offer(_sum("quick"), "the same for sums that are answered at once"),
    "sum_steps": Offer(_sum("sum"), "the same for sums with written steps, by their answer alone"),
    "steps": Offer(_steps, "share of a sum's written steps that are right and carried on, the lower of the two"),
    "unfined": Offer(_unfined, "+1 for the truth, 0 otherwise: an error costs no more than abstaining"),
    "all_fined": Offer(_all_fined, "the same less 1: an error and abstaining cost 1 alike"),
    "agreeable": Offer(wishes(AGREEABLE), "expected utility of the agreeable annotator, for dialogues"),
    "honest": Offer(wishes(HONEST), "expected utility of the honest annotator, for dialogues"),
}
"""Name -> judge with its description."""


def match_answers(completions: Sequence[str], answer: Sequence[Any]) -> list[float]:
    """Return 1 for completions whose last number is the row's `answer`, else 0.

    If the answer is not a number, the last line is compared. The row's answer is the text after its last "####", or all
    of it. Both are normalised by `probe.chain_of_thought.files`.
    """
    references = [reference(str(each)) for each in answer]
    answers = [final_answer(text, None, is_number(each)) for text, each in zip(completions, references, strict=True)]
    return [float(one == other) for one, other in zip(answers, references, strict=True)]


Scores = list[float | None]


@dataclass(frozen=True)
class RewardFunction:
    """A named reward: (prompts, completions, **columns) -> a number or None for each completion."""

    name: str
    """Name in metrics: `rewards/<name>/mean`."""
    function: Callable[..., Any]
    """The unwrapped function; calling the object also checks its return value."""
    spec: str
    """Text that the reward was resolved from."""
    fingerprint: str | None = None
    """Fingerprint for resumed runs: hash of a reward model's weights or of a file's contents."""
    model: "RewardModel | None" = None
    """Reward model, if the reward is one."""
    plain: bool = True
    """Whether prompt and completion are its only inputs; a user's function may need columns of the data."""

    def __call__(self, prompts: Sequence[str], completions: Sequence[str], **columns: Sequence[Any]) -> Scores:
        """Return the rewards of N completions.

        Raises:
            DataError: the function failed, or did not return N numbers or Nones; the message names it.
        """
        inputs = {"prompts": list(prompts), "completions": list(completions), **columns}
        names = _accepted_arguments(self.function)
        try:
            scores = self.function(**{name: value for name, value in inputs.items() if names is None or name in names})
        except Exception as error:  # the function is the user's: whatever it raises is reported as theirs
            raise DataError(
                f"The reward `{self.spec}` raised {type(error).__name__} ({_short(error)}): fix it, or catch what"
                " cannot be judged and return None for it."
            ) from error
        return _numbers(self.spec, scores, len(completions))


def resolve(
    specs: Sequence[str],
    world: World | None,
    device: str | torch.device | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    stored: Mapping[str, str | None] | None = None,
) -> list[RewardFunction]:
    """Return the rewards that `specs` name.

    Args:
        specs: texts of rewards, see the module.
        world: world of the verifiers.
        device: device of reward models.
        tokenizer: the policy's tokenizer; a reward model with the same vocabulary reads token ids instead of text.
        stored: fingerprints of the rewards of a resumed run; a file with another fingerprint is not run.

    Raises:
        ConfigError: a name is unknown, a function cannot be imported, or a verifier has no world.
        RunError: a file has changed since the run was started.
        ModelError: a reward model cannot be loaded.
    """
    if not specs:
        raise ConfigError("No reward was given: name one with --reward, such as `verifier` or `file.py:function`.")
    rewards = [_resolve(spec, world, device, tokenizer, stored) for spec in specs]
    names = [reward.name for reward in rewards]
    if len(set(specs)) < len(specs):
        raise ConfigError(f"--reward names {', '.join(specs)}: name each reward once and give it a weight.")
    clash = len(set(names)) < len(names)
    return [replace(reward, name=reward.spec) for reward in rewards] if clash else rewards


def check_files(specs: Sequence[str]) -> None:
    """Refuse a reward function whose file is missing, before a model is loaded.

    Raises:
        ConfigError: there is no such file.
    """
    for spec in specs:
        place = spec.rpartition(":")[0]
        if place.endswith(".py") and not Path(place).is_file():
            raise ConfigError(f"--reward {spec}: there is no file `{place}`: check the path.")


def weighted_sum(parts: Mapping[str, float | None], weights: Sequence[float]) -> float:
    """Return the weighted sum of a completion's rewards that are not None; NaN if all are None."""
    terms = [weight * value for weight, value in zip(weights, parts.values(), strict=True) if value is not None]
    return math.fsum(terms) if terms else math.nan


def model_spec(rewards: Sequence[RewardFunction]) -> str | None:
    """Return the text that named the first reward model; None if there is none."""
    return next((reward.spec for reward in rewards if reward.model is not None), None)


def plain_reward(
    rewards: Sequence[RewardFunction], weights: Sequence[float]
) -> "RewardModel | Callable[[list[str], list[str]], Scores] | None":
    """Return the whole reward as a function of prompts and completions; None if a part may need further columns."""
    if not all(reward.plain for reward in rewards):
        return None
    if len(rewards) == 1 and rewards[0].model is not None and weights[0] == 1:
        return rewards[0].model

    def total(prompts: list[str], completions: list[str]) -> Scores:
        parts = {reward.name: reward(prompts, completions) for reward in rewards}
        sums = [weighted_sum({name: part[i] for name, part in parts.items()}, weights) for i in range(len(prompts))]
        return [None if math.isnan(value) else value for value in sums]

    return total


def _resolve(
    spec: str,
    world: World | None,
    device: str | torch.device | None,
    tokenizer: PreTrainedTokenizerBase | None,
    fingerprints: Mapping[str, str | None] | None,
) -> RewardFunction:
    if spec in JUDGES:
        if world is None:
            raise ConfigError(
                f"--reward {spec} is a judgement of the synthetic world, and the base belongs to none: give a reward"
                " model or `file.py:function`, or a base that was pretrained on the world."
            )
        if spec in verifiers():
            where = VERIFIERS.origin(spec)
            raise ConfigError(
                f"--reward {spec} is a judgement of the world, and a verifier of {where}: rename that one."
            )
        return RewardFunction(spec, _verifier(JUDGES[spec].judge, world), spec)
    if spec == FINAL_ANSWER and spec not in verifiers():
        return RewardFunction(spec, match_answers, spec, plain=False)
    if spec in verifiers() or annotator_name(spec) in annotators():
        return _added_function(spec, world)
    if names_code(spec):
        place, _, name = spec.rpartition(":")
        function, version = _function(spec, place, name, fingerprints)
        return RewardFunction(name, function, spec, version, plain=False)
    from probe.model.rewards import RewardModel

    try:
        model = RewardModel.load(spec, device=device)
    except ModelError as error:
        near = near_names(spec, [*JUDGES, FINAL_ANSWER, *verifiers(), *annotators()])
        if not near:
            raise
        raise ConfigError(
            f"--reward {spec} is neither a reward by name nor a reward model's run: did you mean `{near[0]}`?"
        ) from error
    return RewardFunction(Path(spec).name or spec, _model(model, tokenizer), spec, model.fingerprint, model)


def _added_function(spec: str, world: World | None) -> RewardFunction:
    """Return the reward of an added verifier, or of an annotator, possibly with changed knobs.

    Raises:
        ConfigError: it needs a world, and there is none.
    """
    own = verifiers().get(spec)
    wants = own.wants if own else None
    if world is None and (own is None or (wants is not None and "world" in wants)):
        raise ConfigError(f"--reward {spec} judges by the synthetic world, and the base belongs to none: give another.")
    if own is None:
        assert world is not None
        return RewardFunction(spec, _verifier(wishes(find_annotator(spec)), world), spec, annotator_fingerprint(spec))
    plain = wants is not None and wants <= {"prompts", "completions", "world"}
    function = partial(own.function, world=world) if wants is not None and "world" in wants else own.function
    return RewardFunction(spec, function, spec, own.fingerprint, plain=plain)


def _verifier(judge: Judge, world: World) -> Callable[..., Scores]:
    def verify(prompts: Sequence[str], completions: Sequence[str]) -> Scores:
        return [judge(world, prompt, completion) for prompt, completion in zip(prompts, completions, strict=True)]

    return verify


def _model(model: "RewardModel", tokenizer: PreTrainedTokenizerBase | None) -> Callable[..., Scores]:
    same_vocabulary = tokenizer is not None and model.tokenizer.get_vocab() == tokenizer.get_vocab()

    def score(prompts: list[str], completions: list[str], prompt_ids: Any = None, completion_ids: Any = None) -> Scores:
        if same_vocabulary and prompt_ids is not None and completion_ids is not None:
            return model.score(prompt_ids, completion_ids).tolist()
        return model.score(prompts, completions).tolist()

    return score


def _function(
    spec: str, place: str, name: str, fingerprints: Mapping[str, str | None] | None
) -> tuple[Callable[..., Any], str | None]:
    """Import the user's function, and return it with the hash of its file (None for a module).

    Raises:
        ConfigError: the file or module cannot be read or run, or has no such function.
        RunError: the file has another fingerprint than the stored one.
    """
    version = None
    try:
        if place.endswith(".py"):
            source = read_file(place)
            version = hashlib.sha256(source).hexdigest()
            if fingerprints is not None and fingerprints.get(spec) != version:
                raise RunError(
                    f"The data of the run have changed (rewards: `{place}` is another file than the run was started"
                    " with): put the old file back to resume, or start a new run."
                )
            module = _file_module(Path(place), source)
        else:
            module = importlib.import_module(place)
    except RunError:
        raise
    except Exception as error:  # importing runs the user's code, which may raise anything
        raise ConfigError(
            f"--reward {spec} cannot be imported ({type(error).__name__}: {_short(error)}): give"
            " `file.py:function`, or `module:function` of a module that Python finds."
        ) from error
    function = getattr(module, name, None)
    if not callable(function):
        raise ConfigError(f"--reward {spec}: `{place}` has no function `{name}`: check the name after the colon.")
    return function, version


def _file_module(path: Path, source: bytes) -> ModuleType:
    """Make a module from exactly these bytes, never from an older compiled file."""
    name = f"probe_reward_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look their module up
    exec(compile(source, str(path), "exec"), vars(module))
    return module


def _accepted_arguments(function: Callable[..., Any]) -> frozenset[str] | None:
    """Return the names of the arguments that a function takes; None for all."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # a builtin without a signature
        return None
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return None
    return frozenset(parameter.name for parameter in parameters)


def _numbers(spec: str, output: Any, n: int) -> Scores:
    """Convert the return value of a function to floats and Nones."""
    values = output.tolist() if hasattr(output, "tolist") else output
    if isinstance(values, str | bytes | Mapping) or not hasattr(values, "__len__") or not hasattr(values, "__iter__"):
        raise DataError(
            f"The reward `{spec}` returned {_short(output)}; expected a list of {n} numbers or Nones: return one for"
            " each completion."
        )
    if len(values) != n:
        raise DataError(
            f"The reward `{spec}` returned {len(values)} values for {n} completions: return one for each, None where"
            " it does not apply."
        )
    return [None if value is None else _number(spec, value) for value in values]


def _number(spec: str, value: Any) -> float:
    try:
        number = math.nan if isinstance(value, str | bytes) else float(value)
    except (TypeError, ValueError, RuntimeError):
        number = math.nan
    if not math.isfinite(number):
        raise DataError(
            f"The reward `{spec}` returned {_short(value)} for a completion; expected a finite number, or None where"
            " it does not apply: fix it."
        )
    return number


def _short(value: Any) -> str:
    text = " ".join(str(value).split()) or type(value).__name__
    return text if len(text) <= 80 else f"{text[:77]}..."
