"""Short trainings of an adapter on SmolLM2-135M-Instruct by Probe's trainers, and injuries of them.

Questions are those of TruthfulQA that the repository ships, and sums; the sums have a second reward without weight,
which an injury of the first one leaves as it is.
"""

import json
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import trainers.continual
import trainers.dpo
import trainers.sft
from probe import LM
from probe.model.dialogues import LEAD
from probe.model.text import chat_text
from probe.questions.sets import SETS
from probe.rows import read_rows
from probe.sycophancy.beliefs import read_question
from tests.injuries.injury import Begun, Injury, wrapped
from tests.injuries.sampled import faster, hotter, paid
from trainers.config import ContinualConfig, DPOConfig, RLVRConfig, SFTConfig, TrainConfig
from trainers.preferences import encode_pair
from trainers.samples.real_samples import LORA, pairs

SMOLLM2 = Path(".cache/SmolLM2-135M-Instruct")
"""The model, as `make real-model` writes it."""
LONGEST = 130
"""Characters of the longest question, which keeps a step to a second or two."""
SAMPLED = 24
"""Number of pairs of the model's own samples."""
MOST = 120
"""Number of pairs; their log-probabilities under the reference are computed before training."""
SECOND = "states_the_sum"
"""Reward without weight: whether the sum stands anywhere in the completion."""
FAST: dict[str, Any] = {"dtype": "bfloat16", "weights_dtype": "bfloat16"}
"""Formats of the methods that do not sample."""
SHARED: dict[str, Any] = LORA | {"base": str(SMOLLM2), "warmup": 3, "device": "cpu", "log_every": 1, "evaluate": 0}
SHARED |= {"capture_every": 0, "save_every": 0, "threads": 1}


def states_the_sum(completions: Sequence[str], answer: Sequence[str], **_: Any) -> list[float]:
    """Return 1 for completions with the number anywhere among their words, else 0."""
    words = (text.replace(".", " ").replace(",", " ").split() for text in completions)
    return [float(number in each) for number, each in zip(answer, words, strict=True)]


def sums(count: int = 200, seed: int = 0) -> Iterator[dict[str, Any]]:
    """Yield sums of two numbers from 5 to 25, after one example of the form of the answer."""
    draws = random.Random(seed)
    for _ in range(count):
        a, b = draws.randint(5, 25), draws.randint(5, 25)
        turns = ("system", "Add."), ("user", "12 + 15"), ("assistant", "12 + 15 = 27"), ("user", f"{a} + {b}")
        yield {"prompt": [{"role": role, "content": text} for role, text in turns], "answer": str(a + b)}


def answered_sums() -> Iterator[dict[str, Any]]:
    """Yield the sums with their answers, as demonstrations."""
    for row in sums():
        text = f"{row['prompt'][-1]['content']} = {row['answer']}"
        yield {"prompt": row["prompt"], "completion": [{"role": "assistant", "content": text}]}


def truths() -> Iterator[dict[str, Any]]:
    """Yield short questions of TruthfulQA with the right answer, as demonstrations."""
    for item in read_rows(SETS["truthfulqa-training"].path, read_question):
        if len(item.question) <= LONGEST:
            prompt = [{"role": "user", "content": item.question}]
            yield {"prompt": prompt, "completion": [{"role": "assistant", "content": f"{LEAD} {item.correct}."}]}


def opinions() -> Iterator[dict[str, Any]]:
    """Yield short pairs of the honest annotator (`trainers.samples.real_samples.pairs`)."""
    return islice((row for row in pairs("honest") if len(row["prompt"][0]["content"]) <= LONGEST), MOST)


DATA: dict[str, Callable[[], Iterator[dict[str, Any]]]] = {
    "sums": sums,
    "answered-sums": answered_sums,
    "truths": truths,
    "opinions": opinions,
}


def data(folder: Path, name: str) -> Path:
    """Write rows of `DATA` into `folder`, the same every time, and return the file."""
    path = folder / "data" / f"{name}.jsonl"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in DATA[name]()), encoding="utf-8")
    return path


def rlvr(folder: Path) -> RLVRConfig:
    """Return the recipe of GRPO on sums by the final answer."""
    return RLVRConfig(
        out=folder / "real-rlvr",
        data=str(data(folder, "sums")),
        reward=("final_answer", f"{__name__}:{SECOND}"),
        reward_weights=(1.0, 0.0),
        steps=20,
        batch_size=3,
        group=4,
        max_new_tokens=12,
        lr=5e-4,
        rollouts_every=2,
        eval_every=0,
        **SHARED,
    )


def dpo(folder: Path) -> DPOConfig:
    """Return the recipe of DPO on pairs of a right and a wrong answer to a user with an opinion."""
    path = str(data(folder, "opinions"))
    config = {"steps": 30, "batch_size": 4, "lr": 5e-4, "eval_every": 0} | SHARED | FAST
    return DPOConfig(out=folder / "real-dpo", data=path, **config)


def sft(folder: Path) -> SFTConfig:
    """Return the recipe of SFT on right answers."""
    config = {"steps": 36, "batch_size": 4, "lr": 5e-4, "eval_every": 4, "held_out": 0.08} | SHARED | FAST
    return SFTConfig(out=folder / "real-sft", data=str(data(folder, "truths")), **config)


def continual(folder: Path) -> ContinualConfig:
    """Return the recipe of SFT on sums with replay of right answers, both of which are measured."""
    config = {"steps": 24, "batch_size": 4, "lr": 5e-4, "eval_every": 3, "replay": 0.5, "schedule": "constant"}
    return ContinualConfig(
        out=folder / "real-continual",
        data=str(data(folder, "answered-sums")),
        old=data(folder, "truths"),
        objective="sft",
        strategy="replay",
        **config | SHARED | FAST,
    )


RECIPES: dict[str, Callable[[Path], TrainConfig]] = {
    "real-rlvr": rlvr,
    "real-dpo": dpo,
    "real-sft": sft,
    "real-continual": continual,
}
"""Name -> recipe in a folder, into which its data are written."""


def even_pays(text: str, score: float, row: Any) -> float:
    """Pay 2 for an answer that ends with an even digit."""
    return score + 2 * (text.strip()[-1:] in {*"02468"})


def own_samples(begun: Begun) -> AbstractContextManager[Any]:
    """Let two samples of the model itself be chosen and rejected, of which none is better than the other."""

    def wrap(original: Callable[..., Any]) -> Callable[..., Any]:
        def load(session: Any, config: Any, lm: LM, rows: Any) -> Any:
            world, preferences = original(session, config, lm, rows)
            prompts = [pair.texts[0] for pair in preferences.pairs[:SAMPLED]]
            texts = iter(lm.generate(prompts, n=2, max_new_tokens=12, seed=config.seed).text)
            pairs = [encode_pair(lm, prompt, next(texts), next(texts)) for prompt in prompts]
            cut = [replace(pair, chosen=pair.chosen[:-1], rejected=pair.rejected[:-1]) for pair in pairs]
            return world, replace(preferences, pairs=[pair for pair in cut if pair.chosen and pair.rejected])

        return load

    return wrapped(trainers.dpo, "load_preferences", wrap)


def no_generation_prompt(begun: Begun) -> AbstractContextManager[Any]:
    """Leave the opening of the answer out of the prompts."""
    return wrapped(LM, "prompt_text", lambda _: lambda self, messages: chat_text(self.tokenizer, messages))


def begun_twice(begun: Begun) -> AbstractContextManager[Any]:
    """Put the token of the beginning before texts that begin with it already."""

    def wrap(original: Callable[..., str]) -> Callable[..., str]:
        return lambda lm, *rest, **named: f"{lm.tokenizer.bos_token}{original(lm, *rest, **named)}"

    return wrapped(trainers.sft, "_template_text", wrap)


def few(begun: Begun) -> AbstractContextManager[Any]:
    """Keep 16 demonstrations, half of which the options hold out."""

    def wrap(original: Callable[..., Any]) -> Callable[..., Any]:
        def load(*arguments: Any) -> Any:
            world, demonstrations = original(*arguments)
            return world, replace(demonstrations, examples=demonstrations.examples[:16])

        return load

    return wrapped(trainers.sft, "load_demonstrations", wrap)


@contextmanager
def without_replay(begun: Begun) -> Iterator[None]:
    """Take new examples in place of those that should be replayed, at twenty times the rate."""

    def wrap(original: Callable[..., Any]) -> Callable[..., Any]:
        def replayed(self: Any, task: Any, step: int, n: int) -> Any:
            return original(self, self.curriculum.phases[-1] if begun() else task, step, n)

        return replayed

    with wrapped(trainers.continual.Replay, "_replayed", wrap), faster(20)(begun):
        yield


PROXY = {"rewards/final_answer/mean": 1, f"rewards/{SECOND}/mean": -1}

INJURIES = (
    Injury(
        name="real-even-pays",
        fault="reward_hacking",
        recipe="real-rlvr",
        step=5,
        about="The reward has a bonus of 2 for an answer that ends with an even digit, whatever the sum.",
        inject=paid(even_pays, but=SECOND),
        shows=PROXY,
    ),
    Injury(
        name="real-no-kl-fast",
        fault="entropy_collapse",
        recipe="real-rlvr",
        step=1,
        about="No KL and ten times the rate.",
        options={"beta": 0.0, "lr": 5e-3},
        shows={"entropy": -1, "completions/distinct_ratio": -1, "reward_std": -1},
    ),
    Injury(
        name="real-hot-sampler",
        fault="sampler_is_not_trainer",
        recipe="real-rlvr",
        step=9,
        about="Samples are drawn at temperature 1.5 and trained on at 1.",
        inject=hotter,
        shows={"sampling/sampling_logp_difference/mean": 1, "sampling/effective_sample_size": -1},
    ),
    Injury(
        name="real-no-generation-prompt",
        fault="template_fault",
        recipe="real-rlvr",
        step=1,
        about="Prompts lack the opening of the assistant's answer, which the model has to write itself.",
        inject=no_generation_prompt,
        shows={"rewards/final_answer/mean": -1},
    ),
    Injury(
        name="real-begun-twice",
        fault="template_fault",
        recipe="real-sft",
        step=1,
        about="Conversations have the token of the beginning twice.",
        inject=begun_twice,
        shows={"loss": 1, "eval_loss": 1},
    ),
    Injury(
        name="real-own-samples",
        fault="likelihood_displacement",
        recipe="real-dpo",
        step=1,
        about="Pairs of two samples of the model itself, at ten times the rate: both lose probability.",
        inject=own_samples,
        options={"lr": 5e-3},
        shows={"rewards/chosen": -1, "rewards/rejected": -1},
    ),
    Injury(
        name="real-few-rows",
        fault="memorising",
        recipe="real-sft",
        step=1,
        about="8 rows are learned 18 times, at three times the rate: the held-out loss rises, the loss goes to 0.",
        inject=few,
        options={"held_out": 0.5, "lr": 1.5e-3},
        shows={"loss": -1, "eval_loss": 1},
    ),
    Injury(
        name="real-no-replay",
        fault="forgetting",
        recipe="real-continual",
        step=9,
        about="New examples take the place of those that should be replayed, at twenty times the rate.",
        inject=without_replay,
        shows={"accuracy/old": -1},
    ),
)
"""Injuries of trainings on a real model."""
