"""One selected score of every head.

Axes: D blocks, H heads.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import pandas as pd

from probe.analyses.analysis_record import Asked, Chat, Input
from probe.analyses.catalogue import analysis, find_analysis
from probe.attention.reading import Given, New, parse_head, read_asked, same_reading
from probe.attention.scores import PREFIX_MATCHING, HeadScores, pattern_scores, repeat_scores, repeat_seconds
from probe.model.asked import asked_seconds
from probe.model.lm import LM
from probe.numbers import rate, signed
from probe.plotting.notebook import Beside, Drawable, alone, clickable, titled
from probe.ticks import Tick, ignore

if TYPE_CHECKING:
    import plotly.graph_objects as go

INDUCTION = r"\text{induction} = \sum_t \sum_{s:\, x_{s-1} = x_t} \alpha_{t,s} \Big/ \sum_{t,s} \alpha_{t,s}"


@dataclass(frozen=True)
class ScoreKind:
    """Score of heads, with how it is shown."""

    label: str
    unit: str
    about: str
    """Definition in one sentence."""
    repeats: bool = False
    """Whether it is measured on repeated random tokens instead of the prompt."""


_MATCHING = (
    "On repeated random tokens: attention on the token that followed the earlier occurrence (Olsson et al. 2022)."
)
_REACH = "How far back a head looks, on average; weight on the first token, on which idle heads rest, counts as none."
_COPYING = "On repeated random tokens: whether a head's output raises the logit of the token that it attends to most."
SCORES = {
    "previous_token": ScoreKind("previous token", "share", "Share of all attention on the token before."),
    "duplicate_token": ScoreKind("duplicate token", "share", "Share of all attention on earlier copies of the token."),
    "induction": ScoreKind("induction", "share", "Share of all attention on the tokens that followed earlier copies."),
    "entropy": ScoreKind("entropy", "nats", "Mean entropy of a row; 0 means that all attention is on one token."),
    "reach": ScoreKind("distance", "tokens", _REACH),
    "sink": ScoreKind("sink", "share", "Mean attention on the first token."),
    "self": ScoreKind("itself", "share", "Mean attention of a token on itself."),
    "prefix_matching": ScoreKind("prefix matching", "share", _MATCHING, True),
    "copying": ScoreKind("copying", "\u22121 to 1", _COPYING, True),
}
"""Scores of heads by name: those of a prompt, then those of repeated random tokens."""


@dataclass(frozen=True)
class OneScore(Drawable):
    """One score of every head."""

    score: str
    """Name of the score in `SCORES`."""
    scores: HeadScores
    """The score together with the others computed from the same text."""

    def sentence(self) -> str:
        """Name the head with the largest score."""
        return OneScores((self,), alone()).sentence()

    def figures(
        self, head: Annotated[str | None, Input("Head", key="att_head", advanced=True)] = None
    ) -> "dict[str, go.Figure]":
        """Draw the score of every head, one row per layer.

        Args:
            head: head to frame.
        """
        return OneScores((self,), alone()).figures(head)

    def tables(self) -> dict[str, pd.DataFrame]:
        """Return the scores of every head."""
        return {"scores": self.scores.table()}

    def lists(self) -> dict[str, pd.DataFrame]:
        """Return the heads, those with the largest score first."""
        return OneScores((self,), alone()).lists()


class OneScores(Beside[OneScore]):
    """One score of every head of one model or several."""

    @property
    def notes(self) -> tuple[str, ...]:  # type: ignore[override]
        """Note that defines the score."""
        return (SCORES[self.results[-1].score].about,)

    def sentence(self) -> str:
        """Name the head of each model with the largest score, and the score of uniform attention."""
        name = self.results[-1].score
        kind, parts = SCORES[name], []
        number = rate if kind.unit == "share" else signed if name == "copying" else lambda value: f"{value:.2f}"
        unit = "" if kind.unit == "share" or name == "copying" else f" {kind.unit}"
        for look, each in zip(self.looks, self.results, strict=True):
            top = each.scores.top(name, 1).iloc[0]
            even = number(each.scores.chance[name])
            parts.append(
                f"{top['name']} in {look.name} ({number(float(top[name]))}{unit}, uniform attention {even}{unit})"
            )
        return f"Highest score “{kind.label}”: {', '.join(parts)}."

    def figures(self, head: str | None = None) -> "dict[str, go.Figure]":
        """Draw the score of every head, one row per layer, and the change between models of the same shape."""
        from probe.attention.head_figures import head_grids

        name = self.results[-1].score
        kind = SCORES[name]
        pairs = zip(self.looks, self.results, strict=True)
        grids = [(look.name, each.scores.values[name]) for look, each in pairs]
        signs = [name == "copying"] * len(grids)
        if len(grids) == 2 and grids[0][1].shape == grids[1][1].shape:
            grids.append(("difference", grids[1][1] - grids[0][1]))
            signs.append(True)
        chosen = None if head is None else parse_head(head)
        chart = head_grids(grids, f"{kind.label}<br>{kind.unit}", signed=signs, chosen=chosen)
        return {"scores": titled(clickable(chart, head="customdata"), f"{kind.label.capitalize()} of every head")}

    def lists(self) -> dict[str, pd.DataFrame]:
        """Return the heads, those with the largest score first."""
        name = self.results[-1].score
        rows = self.tables()["scores"].drop(columns=["layer", "head"]).rename(columns={"name": "head"})
        return {"Heads": rows.sort_values(name, ascending=False, kind="stable", ignore_index=True)}


def scores_of(*lms: LM) -> list[str]:
    """Return the scores available for these models: a model with a scalar output has no copying score."""
    scalar = any(lm.readout != "tokens" for lm in lms)
    return [name for name in SCORES if not (scalar and name == "copying")]


def score_label(name: str) -> str:
    """Return the label of a score."""
    return SCORES[name].label


def scores_seconds(lm: LM, score: str, **asked: Any) -> float:
    """Estimate the seconds that a score takes; those on repeated tokens read additional texts."""
    if not SCORES[score].repeats:
        return asked_seconds(lm, **asked)
    inputs = find_analysis("repeat_scores").inputs
    return repeat_seconds(lm, **{name: each.default for name, each in inputs.items()})


@analysis(
    "attention",
    title="Head scores",
    equations=(INDUCTION, PREFIX_MATCHING),
    seconds=scores_seconds,
    key="att_scores",
    beside=OneScores,
    settle=same_reading,
)
def score_heads(
    lm: LM,
    prompt: Asked,
    *,
    score: Annotated[str, Input("Score", key="att_score", choices=scores_of, labels=score_label)] = "previous_token",
    chat: Chat = False,
    max_new_tokens: New = 0,
    given: Given = None,
    tick: Tick = ignore,
) -> OneScore:
    """Measure one behaviour of every head of a model.

    Previous token, duplicate token and induction are the shares of all weight on the token before, on earlier copies of
    the query's token, and on the tokens that followed these copies (transformer-lens). Entropy, distance (without
    weight on the first token), sink and itself are means over all rows but the first, which has only one key. Prefix
    matching and copying follow Olsson et al. (2022), on repeated random tokens.

    Args:
        lm: the model.
        prompt: text or its token ids.
        score: score to measure.
        chat: send the prompt as a user's message in the model's chat template.
        max_new_tokens: maximum number of tokens that the model generates greedily.
        given: number of prompt tokens, if a model generated the rest of the tokens.
        tick: called with the completed share.

    Raises:
        DataError: the text is empty or longer than the context.
        ConfigError: a continuation was requested from a model with a scalar output.
    """
    if SCORES[score].repeats:
        return OneScore(score, repeat_scores(lm, tick=tick))
    return OneScore(score, pattern_scores(read_asked(lm, prompt, chat, max_new_tokens, given)))
