"""Ordinary trainings of an adapter on SmolLM2-135M-Instruct by TRL under `ProbeCallback`, and injuries of them.

The data are those of `tests.injuries.smollm2`.
"""

import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import wraps
from pathlib import Path
from random import Random
from typing import Any

from accelerate.state import AcceleratorState
from torch.optim.lr_scheduler import LambdaLR
from transformers.trainer_callback import CallbackHandler

from probe import Run
from probe.integrations import ProbeCallback
from tests.injuries.injury import Begun, Injury, wrapped
from tests.injuries.shortened import note
from tests.injuries.smollm2 import SMOLLM2, opinions, sums, truths
from trainers.reward_functions import match_answers

HERE = sys.modules[__name__]
HELD_OUT = 12
QUIET: dict[str, Any] = {"use_cpu": True, "report_to": [], "save_strategy": "no", "disable_tqdm": True}
QUIET |= {"bf16": False, "gradient_checkpointing": False, "logging_steps": 1, "warmup_steps": 3}
FAST: dict[str, Any] = {"model_init_kwargs": {"dtype": "bfloat16"}, "bf16": True}
"""Formats of the trainers that do not sample."""
EVALUATED = {"eval_strategy": "steps", "eval_steps": 6, "per_device_eval_batch_size": 4}


def right(completions: Sequence[Any], answer: Sequence[str], **_: Any) -> list[float]:
    """Return 1 for completions whose last number is the sum, else 0."""
    return match_answers([each[0]["content"] for each in completions], answer)


def in_form(completions: Sequence[Any], **_: Any) -> list[float]:
    """Return 0.2 for completions of the form a + b = c, else 0."""
    return [0.2 * bool(re.fullmatch(r"\d+ \+ \d+ = \d+", each[0]["content"].strip())) for each in completions]


def preferences() -> list[dict[str, Any]]:
    """Return the pairs of the honest annotator."""
    return list(opinions())


def relevances() -> list[dict[str, Any]]:
    """Return pairs of the right answer and one to another question."""
    rows = [{"prompt": row["prompt"], "chosen": row["completion"]} for row in truths()]
    return [row | {"rejected": rows[i - 7]["chosen"]} for i, row in enumerate(rows)]


def verdicts() -> list[dict[str, Any]]:
    """Return answers with the label whether they are right."""
    rows = []
    for number, row in enumerate(opinions()):
        side = "chosen" if number % 2 else "rejected"
        rows.append({"prompt": row["prompt"], "completion": row[side], "label": side == "chosen"})
    return rows


SAMPLED: dict[str, Any] = {"max_steps": 20, "per_device_train_batch_size": 8, "num_generations": 4}
SAMPLED |= {"max_completion_length": 12, "learning_rate": 5e-4}
RECIPES: dict[str, tuple[str, Callable[[], Any], dict[str, Any]]] = {
    "trl-sft": ("SFT", lambda: list(truths()), FAST | EVALUATED | {"max_steps": 36, "learning_rate": 5e-4}),
    "trl-dpo": ("DPO", lambda: preferences(), FAST | {"max_steps": 30, "learning_rate": 2e-4}),
    "trl-reward": ("Reward", relevances, FAST | EVALUATED | {"max_steps": 30, "learning_rate": 5e-4}),
    "trl-kto": ("KTO", verdicts, FAST | {"max_steps": 30, "learning_rate": 2e-4}),
    "trl-grpo": ("GRPO", lambda: list(sums()), SAMPLED),
    "trl-rloo": ("RLOO", lambda: list(sums()), SAMPLED),
}
"""Name -> trainer of TRL, its rows, and its options."""


def trainer(recipe: str, out: Path, seed: int, base: Path = SMOLLM2, **changes: Any) -> Any:
    """Make TRL's trainer of an adapter by a recipe, with the callback that writes a run into `out` and its alarms."""
    import trl
    from datasets import Dataset
    from peft import LoraConfig

    kind, make, options = RECIPES[recipe]
    sizes = {"per_device_train_batch_size": 4, "output_dir": str(out.parent / "theirs"), "seed": seed}
    args = getattr(trl, f"{kind}Config")(**QUIET | sizes | options | changes)
    rows = make()
    given: dict[str, Any] = {"train_dataset": Dataset.from_list(rows)}
    if args.eval_strategy != "no":
        given = {
            "train_dataset": Dataset.from_list(rows[HELD_OUT:]),
            "eval_dataset": Dataset.from_list(rows[:HELD_OUT]),
        }
    if kind in ("GRPO", "RLOO"):
        given["reward_funcs"] = [HERE.right, HERE.in_form]
    task = "SEQ_CLS" if kind == "Reward" else "CAUSAL_LM"
    adapter = LoraConfig(
        r=8,
        lora_alpha=16,
        target_modules=["q_proj", "v_proj"],
        task_type=task,
        modules_to_save=["score"] if kind == "Reward" else None,
    )
    made = getattr(trl, f"{kind}Trainer")(model=str(base), args=args, peft_config=adapter, **given)
    made.add_callback(ProbeCallback(out, every=0, alarms=True, trainer=made))
    return made


@contextmanager
def beginning(step: int) -> Iterator[Begun]:
    """Yield the function that says, inside the context, whether a training by TRL has come to this step.

    What comes after the update of a step, as its schedule of the rate, belongs to the next one.
    """
    now = 0

    def told(ahead: int) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        def wrap(original: Callable[..., Any]) -> Callable[..., Any]:
            def event(self: Any, args: Any, state: Any, control: Any, **rest: Any) -> Any:
                nonlocal now
                now = state.global_step + ahead
                return original(self, args, state, control, **rest)

            return event

        return wrap

    with (
        wrapped(CallbackHandler, "on_step_begin", told(1)),
        wrapped(CallbackHandler, "on_optimizer_step", told(2)),
    ):
        yield lambda: now >= step


def train(recipe: str, injury: Injury | None, out: Path, seed: int, **changes: Any) -> Run:
    """Train with or without an injury and return the run, beside which its truth is written (`note`).

    Args:
        recipe: name in `RECIPES`.
        injury: injury of this recipe; None for a healthy training.
        out: folder of the run.
        seed: seed of the trainer.
        changes: `base`, and options of the trainer.
    """
    try:
        if injury is None:
            trainer(recipe, out, seed, **changes).train()
            return note(out, f"healthy-{recipe}", None, recipe, None, seed)
        with beginning(injury.step) as begun, injury.inject(begun):
            trainer(recipe, out, seed, **dict(injury.options) | changes).train()
        return note(out, injury.name, injury.fault, recipe, injury.step, seed)
    finally:  # a process keeps the number format of its first training, and Probe's have another one
        AcceleratorState._reset_state(reset_partial_state=True)


def faster(factor: float) -> Callable[[Begun], AbstractContextManager[Any]]:
    """Return the injury that multiplies the learning rate."""

    def inject(begun: Begun) -> AbstractContextManager[Any]:
        def wrap(original: Callable[..., list[Any]]) -> Callable[..., list[Any]]:
            return lambda self: [rate * (factor if begun() else 1) for rate in original(self)]

        return wrapped(LambdaLR, "get_lr", wrap)

    return inject


def paid(pay: Callable[[float, Sequence[int]], float], *names: str) -> Callable[[Begun], AbstractContextManager[Any]]:
    """Return the injury that pays `pay` of each reward of these functions, given the tokens of the completion too."""

    @contextmanager
    def inject(begun: Begun) -> Iterator[None]:
        def wrap(original: Callable[..., list[float]]) -> Callable[..., list[float]]:
            @wraps(original)
            def reward(completions: Any, completion_ids: Any, **columns: Any) -> list[float]:
                scores = original(completions, **columns)
                return [pay(*each) for each in zip(scores, completion_ids, strict=True)] if begun() else scores

            return reward

        with ExitStack() as stack:
            for name in names:
                stack.enter_context(wrapped(HERE, name, wrap))
            yield

    return inject


def flipped(begun: Begun) -> AbstractContextManager[Any]:
    """Swap 40 % of the pairs."""

    def flip(row: Mapping[str, Any]) -> dict[str, Any]:
        return {**row, "chosen": row["rejected"], "rejected": row["chosen"]}

    def wrap(original: Callable[..., list[dict[str, Any]]]) -> Callable[..., list[dict[str, Any]]]:
        draws = Random(0)
        return lambda: [flip(row) if draws.random() < 0.4 else row for row in original()]

    return wrapped(HERE, "preferences", wrap)


INJURIES = (
    Injury(
        name="trl-fast-sft",
        fault="rate_too_high",
        recipe="trl-sft",
        step=13,
        about="Three hundred times the rate; thirty times do an adapter no harm in as few steps.",
        inject=faster(300),
        shows={"loss": 1, "eval_loss": 1},
    ),
    Injury(
        name="trl-fast-dpo",
        fault="rate_too_high",
        recipe="trl-dpo",
        step=11,
        about="Three hundred times the rate.",
        inject=faster(300),
        shows={"rewards/chosen": -1},
    ),
    Injury(
        name="trl-flipped-dpo",
        fault="flipped_labels",
        recipe="trl-dpo",
        step=1,
        about="40 % of the pairs have the wrong label.",
        inject=flipped,
        shows={"loss": 1, "rewards/accuracies": -1, "rewards/margins": -1},
    ),
    Injury(
        name="trl-never-paid",
        fault="no_signal",
        recipe="trl-grpo",
        step=7,
        about="The rewards pay no answer.",
        inject=paid(lambda score, ids: 0.0, "right", "in_form"),
        shows={"frac_reward_zero_std": 1, "reward_std": -1},
    ),
    Injury(
        name="trl-length-pays",
        fault="length_exploitation",
        recipe="trl-grpo",
        step=5,
        about="The reward has 0.3 for every token.",
        inject=paid(lambda score, ids: score + 0.3 * len(ids), "right"),
        shows={"reward": 1, "completions/mean_length": 1},
    ),
)
"""Injuries of trainings by TRL."""
