"""Snowball after one wrong token: how far the continuations diverge, and whether more errors follow (METRICS).

Each prompt is continued twice, with one token of the continuation exchanged. With a world, one branch has the true
value there and the other the wrong value with the highest probability; without a world they are the model's first and
second choice. Then the model continues both. Step i is the i-th token after the exchanged one, i = 1 to L:

- forced: both branches read the continuation of the clean token, so that only the exchanged token differs;
- free: each branch reads its own continuation.

Both compare the next-token distributions by KL(clean || wrong). A step counts as long as neither branch has ended.
Where the world determines the rest of the answer, the tokens of each branch are scored too.

Axes: P prompts, L steps.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import numpy as np
import pandas as pd
import torch

import probe.world
from probe.analyses.analysis_record import Input, Prompt
from probe.analyses.catalogue import analysis
from probe.autoregression.lags import require_positive, require_tokens
from probe.errors import ConfigError, DataError
from probe.logits.lens import kl
from probe.model.generation import end_tokens
from probe.model.lm import LM
from probe.model.pace import seconds_a_token
from probe.model.text import encode, pieces
from probe.numbers import in_unit, rate
from probe.plotting.notebook import Beside, Drawable, alone, titled
from probe.stats import NOT_NEGATIVE, SHARE, Interval, bootstrap_mean, wilson
from probe.ticks import Tick, ignore
from probe.world.vocabulary import ABSTENTION, DIGITS

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from probe.world.world import World

END = "<end>"
LONGEST = 64
"""Maximum number of words in a true continuation."""
EQUATION = (
    r"\mathrm{KL}_i = \mathrm{KL}\big(\pi(\cdot \mid x, y, y_{1:i-1}) \,\|\, \pi(\cdot \mid x, y', "
    r"y'_{1:i-1})\big),\quad y' \text{ wrong}"
)
PROMPTS, SEED = 24, 5
"""Number of questions of a world, and their seed."""
THE_PROMPT, PREFERRED = "the prompt", "sum_steps"
"""Choice of the prompt instead of a kind of questions, and the default kind, whose answers are long enough for a
snowball.
"""
PASSES, LENGTH = 4, 30
"""Number of passes over each prompt, and its approximate number of tokens, for the estimate of seconds."""
SUMS, OPEN = ("quick", "sum"), ("map", "rule")


class Fork(NamedTuple):
    """Point at which two continuations of a prompt diverge, in token ids."""

    before: list[int]
    """Prompt and continuation up to the exchanged token."""
    at: int
    """Index of the exchanged token in the continuation."""
    clean: int
    wrong: int
    rest: list[int] | None
    """Token that must follow the clean token in the world; None if the world does not determine it."""


def true_words(world: "World", prompt: str) -> list[str]:
    """Return the words after a prompt that the world determines, at most `LONGEST`.

    A prompt that asks nothing has none. The world's judge decides which of all answers is true. Questions and sums end
    with "<end>"; after the answer of a map or a rule nothing is determined; a repeated segment is followed to its last
    word.
    """
    opening = _opening(prompt)
    words: list[str] = []
    while len(words) < LONGEST:
        so_far = " ".join([prompt, *words])
        try:
            true = [option for option in world.candidates(so_far) if world.verify(so_far, option).kind == "true"]
        except DataError:
            break
        if len(true) != 1 or (opening == "repeat" and words and true[0].split() == _body(prompt)[1:2]):
            break
        words += true[0].split()
        if opening != "repeat":
            words += [END] if opening not in OPEN else []
            break
    return words[:LONGEST]


def answer_place(prompt: str, words: list[str]) -> int:
    """Return the index of the first answer word in a true continuation; with written steps, of the first result."""
    return words.index("=") + 1 if _opening(prompt) == "sum" and "=" in words else 0


def wrong_words(world: "World", prompt: str, truth: str) -> list[str]:
    """Return wrong words of the same kind as the answer: other values, digits or words; never an abstention."""
    if _opening(prompt) in SUMS:
        options = list(DIGITS)
    else:
        options = [option.split()[0] for option in world.candidates(prompt) if option.strip() != ABSTENTION]
    return [word for word in dict.fromkeys(options) if word != truth]


def forks_of(lm: LM, prompts: Sequence[str], world: "World | None", at: int | None = None) -> list[Fork]:
    """Return one fork per prompt (arguments: see `snowball`).

    Raises:
        DataError: a prompt has no tokens, the position is beyond the true answer, or the model does not belong to this
            world.
    """
    heads = [encode(lm.tokenizer, prompt) for prompt in prompts]
    truths = [true_words(world, prompt) if world else [] for prompt in prompts]
    places = [answer_place(p, words) if at is None else at for p, words in zip(prompts, truths, strict=True)]
    true_ids, before = [], []
    for prompt, head, words, place in zip(prompts, heads, truths, places, strict=True):
        if words and place >= len(words):
            raise DataError(
                f"The true answer to {prompt[:80]!r} has {len(words)} tokens and no token {place}: give a smaller `at`."
            )
        ids = lm.tokenizer.encode(" ".join(words), add_special_tokens=False) if words else []
        if len(ids) != len(words):
            raise DataError(
                "This model splits the world's answers into other tokens: use a model of the world, or give no world."
            )
        own = [] if words or not place else lm.generate([head], max_new_tokens=place, temperature=0, stop=()).ids[0]
        true_ids.append(ids)
        before.append([*head, *(ids[:place] if words else own)])
    forks = []
    for prompt, words, ids, place, row in zip(prompts, truths, true_ids, places, before, strict=True):
        last = lm.logits([row])[0, -1].float()
        if world and words:
            others = lm.tokenizer.convert_tokens_to_ids(wrong_words(world, prompt, words[place]))
            wrong = max((token for token in others if token != ids[place]), key=lambda token: float(last[token]))
            forks.append(Fork(row, place, ids[place], wrong, ids[place + 1 :]))
        else:
            first, second = last.topk(2).indices.tolist()
            forks.append(Fork(row, place, first, second, None))
    return forks


def _body(prompt: str) -> list[str]:
    words = prompt.split()
    return words[1:] if words[:1] == ["<bos>"] else words


def _opening(prompt: str) -> str:
    return next(iter(_body(prompt)), "")


QUANTITIES = ("forced_kl", "free_kl", "differs", "clean_error", "wrong_error")
"""Quantities reported step by step."""


@dataclass(frozen=True)
class Snowball(Drawable):
    """Effects of one wrong token, by prompt and step."""

    prompts: list[str]
    """Texts of the P prompts."""
    at: list[int]
    """Index of the exchanged token in each continuation, counted from 0."""
    clean: list[list[str]]
    """Readable pieces of the continuation with the clean token."""
    wrong: list[list[str]]
    """Readable pieces of the continuation with the wrong token, freely continued."""
    truth_known: list[bool]
    """Whether the clean token is the world's truth (otherwise it is the model's own choice)."""
    forced_kl: np.ndarray
    """[P, L] KL(clean || wrong) in nats when both branches read the clean continuation; NaN after its end."""
    free_kl: np.ndarray
    """[P, L] KL(clean || wrong) in nats when each branch reads its own; NaN after the end of either."""
    differs: np.ndarray
    """[P, L] whether the branches have different tokens at this step; NaN after the end of either."""
    clean_error: np.ndarray
    """[P, L] whether the clean branch's token differs from the world's; NaN where the world determines none."""
    wrong_error: np.ndarray
    """[P, L] whether the wrong branch's token differs from the world's; NaN where the world determines none."""

    def table(self) -> pd.DataFrame:
        """Return a table with one row per prompt and step: prompt, at, step, both KL, differs, both errors."""
        prompt, step = (axis.ravel() for axis in np.indices(self.forced_kl.shape))
        return pd.DataFrame(
            {
                "prompt": [self.prompts[index] for index in prompt],
                "at": [self.at[index] for index in prompt],
                "step": step + 1,
                "forced_kl": self.forced_kl.ravel(),
                "free_kl": self.free_kl.ravel(),
                "differs": self.differs.ravel(),
                "clean_error": self.clean_error.ravel(),
                "wrong_error": self.wrong_error.ravel(),
            }
        )

    def sentence(self) -> str:
        """Say how many of the later tokens are wrong, or at which step the branches are furthest apart."""
        return Snowballs((self,), alone()).sentence()

    def figure(self) -> "go.Figure":
        """Draw KL of the two branches by step, and the share of wrong or different tokens."""
        return Snowballs((self,), alone()).figure()

    def tables(self) -> dict[str, pd.DataFrame]:
        """Return the means by step, and a table with every prompt and step."""
        return {"snowball": self.summary(), "snowball-steps": self.table()}

    def summary(self) -> pd.DataFrame:
        """Return a table with one row per quantity and step: quantity, step, value, low, high, n.

        The 95 % intervals are over prompts: bootstrap for means of KL, Wilson for shares (differs, clean_error,
        wrong_error).
        """
        rows = []
        for name in QUANTITIES:
            for step, column in enumerate(getattr(self, name).T):
                values = _without_gaps(column)
                value, low, high = _interval(name, values)
                rows.append(
                    {"quantity": name, "step": step + 1, "value": value, "low": low, "high": high, "n": len(values)}
                )
        return pd.DataFrame(rows)

    def later_errors(self) -> dict[str, Interval]:
        """Return the share of wrong tokens among all later tokens with a truth, in the `clean` and the `wrong` branch.

        It is the mean over prompts of each prompt's share, with a bootstrap interval over prompts; NaN if no truth is
        known.
        """
        return {
            name: bootstrap_mean([_without_gaps(row).mean() for row in errors if len(_without_gaps(row))], bounds=SHARE)
            for name, errors in (("clean", self.clean_error), ("wrong", self.wrong_error))
        }

    def text_table(self) -> pd.DataFrame:
        """Return a table with one row per prompt: prompt, at, clean and wrong continuation."""
        rows = zip(self.prompts, self.at, self.clean, self.wrong, strict=True)
        return pd.DataFrame(
            [{"prompt": p, "at": at, "clean": " ".join(a), "wrong": " ".join(b)} for p, at, a, b in rows]
        )


class Snowballs(Beside[Snowball]):
    """Effects of one wrong token in one model or several."""

    def sentence(self) -> str:
        """Say for every model how many later tokens are wrong, or when the branches are furthest apart."""
        parts = []
        for look, each in zip(self.looks, self.results, strict=True):
            errors, rows = each.later_errors(), each.summary()
            free = rows[(rows["quantity"] == "free_kl") & (rows["n"] > 0)]
            if errors["wrong"].value == errors["wrong"].value:  # not NaN
                parts.append(
                    f"{look.name} gets {in_unit('share', *errors['wrong'])} of the later tokens wrong after one wrong"
                    f" token, and {rate(errors['clean'].value)} after the true one"
                )
            elif len(free):
                top = free.iloc[int(free["value"].to_numpy().argmax())]
                parts.append(
                    f"in free continuation the KL between the branches of {look.name} is largest {int(top['step'])}"
                    f" tokens after the wrong one ({top['value']:.2g} nats)"
                )
            else:
                parts.append(f"{look.name} writes nothing after the exchanged token")
        return "; ".join(parts) + "."

    def figures(self) -> "dict[str, go.Figure]":
        """Draw KL of the two branches by step, and the share of wrong or different tokens."""
        from probe.autoregression.figures import snowball_curves

        summaries = [each.summary() for each in self.results]
        judged = any((table.loc[table["quantity"] == "wrong_error", "n"] > 0).any() for table in summaries)
        truth = judged and any(any(each.truth_known) for each in self.results)
        chart = snowball_curves(summaries, self.looks, truth=truth)
        return {"snowball": titled(chart, "After one wrong token", 330)}

    def lists(self) -> dict[str, pd.DataFrame]:
        """Return the continuations of both branches, one row per model and prompt."""
        texts = [each.text_table().assign(model=look.name) for look, each in zip(self.looks, self.results, strict=True)]
        joined = pd.concat(texts, ignore_index=True)
        return {"Continuations": joined[["model", "prompt", "at", "clean", "wrong"]]}


@torch.no_grad()
def snowball(
    lm: LM,
    prompts: Sequence[str],
    *,
    world: "World | None" = None,
    at: int | None = None,
    steps: int = 12,
    temperature: float = 0.0,
    seed: int = 0,
    tick: Tick = ignore,
) -> Snowball:
    """Exchange one token of each continuation and follow both branches.

    Args:
        lm: the model; inside `lm.hooks`, with its hooks.
        prompts: P texts to continue.
        world: world that knows the truth; a prompt that asks nothing of it is treated as if there were no world.
        at: index of the exchanged token in the continuation, from 0; by default the answer (in a sum with steps, the
            first result), or the first token if there is no truth.
        steps: number of tokens L compared after it.
        temperature: sampling temperature of the continuations; 0 is greedy. KL is computed at temperature 1.
        seed: seed of both continuations.
        tick: function called with the share of the work done.

    Raises:
        DataError: there is no prompt, one is empty or too long, the position is beyond the true answer, or the model
            cannot generate text.
        ConfigError: an option is not valid.
    """
    require_tokens(lm)
    require_positive(steps=steps)
    if isinstance(prompts, str) or not prompts:
        raise DataError("A list of at least one prompt is needed: give [prompt] for a single one.")
    if at is not None and at < 0:
        raise ConfigError(f"at = {at} is not possible: give 0 or more, or None for the answer.")
    forks = forks_of(lm, prompts, world, at)
    tick(0.2)
    ends = set(end_tokens(lm.model, lm.tokenizer))
    options = {"max_new_tokens": steps, "temperature": temperature, "seed": seed}
    clean = _continue_rows(lm, [[*fork.before, fork.clean] for fork in forks], ends, options)
    tick(0.4)
    wrong = _continue_rows(lm, [[*fork.before, fork.wrong] for fork in forks], ends, options)
    tick(0.6)
    forced = [a if fork.wrong not in ends else [] for fork, a in zip(forks, clean, strict=True)]
    forced_kl = _distances(lm, forks, clean, forced, steps)
    tick(0.8)
    free_kl = _distances(lm, forks, clean, wrong, steps)
    tick(1.0)
    return Snowball(
        prompts=list(prompts),
        at=[fork.at for fork in forks],
        clean=[_pieces(lm, fork, fork.clean, ids) for fork, ids in zip(forks, clean, strict=True)],
        wrong=[_pieces(lm, fork, fork.wrong, ids) for fork, ids in zip(forks, wrong, strict=True)],
        truth_known=[fork.rest is not None for fork in forks],
        forced_kl=forced_kl,
        free_kl=free_kl,
        differs=_unequal(clean, wrong, steps),
        clean_error=_unequal([fork.rest or [] for fork in forks], clean, steps),
        wrong_error=_unequal([fork.rest or [] for fork in forks], wrong, steps),
    )


def _continue_rows(lm: LM, rows: list[list[int]], ends: set[int], options: dict[str, Any]) -> list[list[int]]:
    """Return the model's continuation of each row; empty after an end token."""
    continuations = lm.generate(rows, **options).ids
    return [[] if row[-1] in ends else list(ids) for row, ids in zip(rows, continuations, strict=True)]


def _distances(
    lm: LM, forks: Sequence[Fork], clean: Sequence[list[int]], wrong: Sequence[list[int]], steps: int
) -> np.ndarray:
    """Compute [P, L] KL of the distributions of the i-th token after the fork; NaN where one branch has ended."""
    result = np.full((len(forks), steps), np.nan)
    for index, (fork, a, b) in enumerate(zip(forks, clean, wrong, strict=True)):
        count, at = min(len(a), len(b)), len(fork.before)
        if count:
            rows = [[*fork.before, fork.clean, *a[: count - 1]], [*fork.before, fork.wrong, *b[: count - 1]]]
            p, q = lm.logits(rows)[:, at : at + count].float().log_softmax(-1)
            result[index, :count] = kl(p, q).cpu().numpy()
    return result


def _unequal(first: Sequence[list[int]], second: Sequence[list[int]], steps: int) -> np.ndarray:
    """Return [P, L] whether the tokens of two lists differ at each step; NaN where one has ended."""
    result = np.full((len(first), steps), np.nan)
    for index, (a, b) in enumerate(zip(first, second, strict=True)):
        row = [float(x != y) for x, y in zip(a[:steps], b[:steps], strict=False)]
        result[index, : len(row)] = row
    return result


def _pieces(lm: LM, fork: Fork, token: int, ids: list[int]) -> list[str]:
    """Return a branch of the fork as readable pieces: the tokens before the fork, `token` and `ids`."""
    return pieces(lm.tokenizer, [*fork.before[len(fork.before) - fork.at :], token, *ids])


def _without_gaps(values: np.ndarray) -> np.ndarray:
    return values[~np.isnan(values)]


def _interval(quantity: str, values: np.ndarray) -> Interval:
    return (
        bootstrap_mean(values, bounds=NOT_NEGATIVE)
        if quantity.endswith("kl")
        else wilson(int(values.sum()), len(values))
    )


def questions_of(lm: LM, *others: LM) -> list[str]:
    """Return the kinds of questions that a model's world has, and the prompt."""
    world = probe.world.of(lm)
    return [*(world.question_kinds if world else ()), THE_PROMPT]


def usual_questions(lm: LM, *others: LM) -> str:
    """Return the default kind of questions."""
    world = probe.world.of(lm)
    return PREFERRED if world is not None and world.config.mixture.get(PREFERRED, 0) > 0 else THE_PROMPT


def snowball_seconds(lm: LM, questions: str, steps: int, **rest: Any) -> float:
    """Estimate the seconds that a snowball takes, from a timing of the model on a few tokens."""
    require_tokens(lm)
    count = 1 if questions == THE_PROMPT else PROMPTS
    return seconds_a_token(lm) * PASSES * count * (LENGTH + steps)


@analysis(
    "autoregression",
    title="Snowball",
    equations=(EQUATION,),
    seconds=snowball_seconds,
    key="lag",
    beside=Snowballs,
)
def follow_wrong_token(
    lm: LM,
    prompt: Prompt = "",
    *,
    questions: Annotated[
        str | None,
        Input("Wrong token in the answer to", key="lag_wrong", choices=questions_of, first=usual_questions),
    ] = None,
    steps: Annotated[int, Input("Tokens after it", advanced=True)] = 12,
    tick: Tick = ignore,
) -> Snowball:
    """Replace one token of an answer by a wrong one, and compare the two continuations.

    Each prompt is continued twice; one token of the answer is exchanged. With a world, the clean branch has the true
    value there (in a sum with steps, the first result) and the other the wrong value with the highest probability;
    without a world they are the model's first and second choice. *Same text after it*: both branches read the
    continuation of the clean token. *Each goes on alone*: each branch continues its own token greedily. KL is KL(clean
    || wrong) of the next-token distributions; steps after an end token do not count. Means over prompts with bootstrap
    intervals, shares with Wilson's.

    Args:
        lm: the model.
        prompt: text to continue if `questions` is `the prompt`.
        questions: kind of questions of the model's world, or `the prompt`; by default sums in steps if the world has
            them, else the prompt.
        steps: number of tokens compared after the exchanged one.
        tick: function called with the share of the work done.

    Raises:
        DataError: there is no prompt, one is empty or too long, or the model cannot generate text.
        ConfigError: `steps` is less than 1.
    """
    world, kind = probe.world.of(lm), questions or usual_questions(lm)
    if world is not None and kind != THE_PROMPT:
        prompts = [item.prompt for item in world.questions(kind, PROMPTS, SEED)]
    elif prompt.strip():
        prompts = [prompt]
    else:
        raise DataError("There is no prompt to continue with one wrong token: give one.")
    return snowball(lm, prompts, world=world, steps=steps, tick=tick)
