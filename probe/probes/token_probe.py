"""Hallucination probe: the probability, at every token that a model writes, that what it says there is wrong.

The probe is a logistic regression on the residual stream at the token itself, after one block, as Obeso et al. (2025,
arXiv 2509.03531) read hallucinated entities while a model writes; Azaria and Mitchell (2023, arXiv 2304.13734) read
whole statements so. On a world every label is exact. What the model says of its own certainty, the token's probability
and the entropy before it, is the baseline: logistic regressions of these two numbers, fitted and tested on the same
tokens. Labels shuffled among answers are the floor.

Axes: M labelled tokens, places = candidate blocks, d width, T tokens of a text.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from scipy.special import expit

import probe.world
from probe import stats
from probe.analyses.analysis_record import Input
from probe.analyses.catalogue import analysis
from probe.errors import ConfigError, DataError
from probe.hallucination.confidence import auroc, reliability
from probe.interventions.sites import Site
from probe.model.lm import LM
from probe.model.pace import WRITTEN as TO_WRITE
from probe.model.pace import seconds_to_read
from probe.model.text import pieces
from probe.numbers import format_interval, percent, rate
from probe.plotting.notebook import Drawable, Look, alone, titled
from probe.probes.decoding import A_NUMBER, HELD_OUT, SHUFFLES, TEXTS, Count, Layer, Seed, plain, shuffled
from probe.probes.linear_probes import FOLDS, STRENGTHS, Fitted, cross_validated, fit, interval, train
from probe.probes.text_labels import LEAST
from probe.probes.token_labels import PEOPLE, REFERENCES, WRITTEN, AnswerSet, LabelledAnswer, labelled_answers, stating
from probe.ticks import Tick, between, ignore

if TYPE_CHECKING:
    import plotly.graph_objects as go

TRUTH = (
    r"p_t = \sigma\big(w^{\top} h_t^l + b\big), \quad"
    r"w, b = \operatorname*{argmin} -\sum_t \log p_t^{\,y_t} (1 - p_t)^{1 - y_t} + \tfrac{1}{2C} \lVert w \rVert^2"
)
PLACES = 8
"""Largest number of blocks among which one is chosen; of a deeper model, evenly spaced ones with the last."""
MOST = 3000
"""Largest number of labelled tokens that a probe is fitted on."""
AT_ONCE = 1024
"""Number of tokens that are read at once."""
FREE = 1.0
"""Inverse penalty of the baselines, whose one or two numbers need none."""
BINS = 5
"""Number of bins of the reliability diagram."""
SEEN = 150
"""Largest number of characters before a token that its table shows."""
HEIGHT = 330
PROBE, BASELINES = "probe", {"token probability": [0], "entropy": [1], "probability and entropy": [0, 1]}
"""Name of the probe; names of the baselines, with their columns of log-probability and entropy."""
SAID = {
    "token probability": "the token's own probability",
    "entropy": "the entropy before the token",
    "probability and entropy": "the token's own probability with the entropy before it",
}
"""Baselines in words."""
THAN = {"better": "better than", "worse": "worse than", "undecided": "not shown to be better than"}
"""Verdicts in words."""
Answers = Annotated[
    "Path | Sequence[LabelledAnswer] | None",
    Input("File of answers", key="probe_answers", placeholder="the model's own answers", type=Path | None),
]


@dataclass(frozen=True)
class TokenTruth(Drawable):
    """Hallucination probe of a model, and how well it does on people it was not fitted on."""

    weights: np.ndarray
    """[d] direction of the probe in the residual stream, in 1 / its unit."""
    bias: float
    """Log-odds at a residual of 0."""
    layer: int
    """Block after which the probe reads."""
    automatic: bool
    """Whether it was chosen by cross-validation."""
    scores: pd.DataFrame
    """One row per test and signal: `test`, `signal` (the probe, or a baseline), `AUROC`, `error` (share of tokens on
    the wrong side of one half) and `brier` (mean squared error of the probability), each with `_low` and `_high`
    (95 %, over people), `ahead` with its interval (AUROC of the probe minus this one, paired), `base_error` (error of
    the test's more frequent label everywhere), `wrong` (share of wrong tokens), `tokens` and `units`.
    """
    floor: np.ndarray
    """[S] AUROC of shuffled labels in the first test."""
    blocks: pd.DataFrame
    """One row per candidate block: `layer`, `inner` (cross-validated AUROC on the training people), `strength`."""
    bins: pd.DataFrame
    """Reliability: `signal`, `low`, `high`, `predicted`, `target`, `n` for the probe and the best baseline."""
    tokens: pd.DataFrame
    """Held-out tokens: `test`, `unit`, `kind`, `text` (up to the token), `token`, `wrong` and `probability`."""
    best: str
    """Baseline that is best on the training people."""
    units: str
    """Name of the units that are held out: people, questions or groups."""
    looks: tuple[Look, ...] = field(default_factory=alone)
    """Name and colour of the model."""

    notes = ("Its error is known for answers to such questions; on other texts the probability can mean anything.",)

    def row(self, test: int = 0, signal: str = PROBE) -> dict[str, Any]:
        """Return the scores of a signal in the first or the last test."""
        rows = self.scores[self.scores["test"] == self.tests[test]]
        return dict(rows.set_index("signal").loc[signal])

    @property
    def tests(self) -> list[str]:
        """Names of the tests."""
        return list(dict.fromkeys(self.scores["test"]))

    def works(self, test: int = 0) -> bool:
        """Return whether the AUROC lies above one half with its interval, and in the first test above all shuffles."""
        row = self.row(test)
        return bool(row["AUROC_low"] > 0.5 and (test != 0 or row["AUROC"] > self.floor.max()))

    def verdict(self, test: int = 0) -> str:
        """Return whether the probe is better or worse than the best baseline, or neither is shown."""
        row = self.row(test, self.best)
        return "better" if row["ahead_low"] > 0 else "worse" if row["ahead_high"] < 0 else "undecided"

    def told(self, row: dict[str, Any], name: str) -> str:
        """Return a score with its interval, in words."""
        ends = row[name], row[f"{name}_low"], row[f"{name}_high"]
        return percent(*ends) if name == "error" else format_interval(*ends)

    def caption(self) -> str:
        """State the error of the probe where its probabilities are shown: on answers as the model writes them."""
        row = self.row(-1)
        return (
            f"on {row['test']} about {row['units']} held-out {self.units} it errs at {self.told(row, 'error')} of the"
            f" tokens with a label (the more frequent label everywhere: {rate(row['base_error'])})"
        )

    def sentence(self) -> str:
        """State how well the probe tells wrong tokens from right ones, beside the token's own probability."""
        row, base = self.row(), self.row(0, self.best)
        tells = "tells" if self.works() else "cannot be shown to tell"
        ahead = format_interval(base["ahead"], base["ahead_low"], base["ahead_high"])
        whose = "TruthfulQA" if row["test"] == REFERENCES else self.looks[0].name
        text = (
            f"In {row['test']} of {whose} about {row['units']} held-out {self.units}, a linear probe of"
            f" {self.looks[0].name} after block {self.layer} {tells} wrong tokens from right ones: AUROC"
            f" {self.told(row, 'AUROC')}, shuffled labels at most {plain(float(self.floor.max()))}. It errs at"
            f" {self.told(row, 'error')} of them; always giving the more frequent label errs at"
            f" {rate(row['base_error'])}. The probe is {THAN[self.verdict()]} {SAID[self.best]}: AUROC"
            f" {self.told(base, 'AUROC')}, difference {ahead}."
        )
        return text + self._of_others() + self._of_kinds()

    def _of_others(self) -> str:
        """State the scores of the last test, if there are two."""
        if len(self.tests) < 2:
            return ""
        row = self.row(-1)
        shows = "" if self.works(-1) else ", so whether it tells them apart there is undecided"
        return (
            f" In {row['test']} about {row['units']} held-out {self.units} its AUROC is"
            f" {self.told(row, 'AUROC')}{shows}; it errs at {self.told(row, 'error')}, the more frequent label at"
            f" {rate(row['base_error'])}, and is {THAN[self.verdict(-1)]} {SAID[self.best]}."
        )

    def _of_kinds(self) -> str:
        """State the kind of question on people about which the probe errs most."""
        kinds = self.kinds()
        own = kinds[(kinds["test"] == self.tests[-1]) & (kinds["tokens"] >= LEAST)]
        if self.units != PEOPLE or len(own) < 2:
            return ""
        most = own.sort_values("error", kind="stable").iloc[-1]
        return f" It errs most about {most['kind']} ({rate(float(most['error']))} of {most['tokens']} tokens)."

    def tables(self) -> dict[str, pd.DataFrame]:
        """Return the scores, the reliability, the blocks and the held-out tokens."""
        return {"scores": self.scores, "reliability": self.bins, "blocks": self.blocks, "tokens": self.tokens}

    def lists(self) -> dict[str, pd.DataFrame]:
        """Return the scores, those by kind of question, the blocks, and the tokens, the surest errors first."""
        gap = (self.tokens["wrong"] - self.tokens["probability"]).abs()
        columns = ["test", "signal", "AUROC", "error", "base_error", "brier", "ahead", "tokens", "units"]
        return {
            "Scores": self.scores[columns].rename(columns={"ahead": "probe ahead", "base_error": "base rate error"}),
            "Kinds of questions": self.kinds(),
            "Blocks": self.blocks,
            "Tokens": self.tokens.assign(gap=gap)
            .sort_values("gap", ascending=False, kind="stable")
            .drop(columns="gap"),
        }

    def kinds(self) -> pd.DataFrame:
        """Return the probe's scores by test and kind of question; AUROC is missing where all labels are equal."""
        rows = []
        for (test, kind), own in self.tokens.groupby(["test", "kind"], sort=False):
            p, wrong = own["probability"].to_numpy(), own["wrong"].to_numpy()
            errs = float(((p > 0.5) != wrong).mean())
            share = {"wrong": float(wrong.mean()), "mean probability": float(p.mean())}
            rows.append(
                {"test": test, "kind": kind, **share, "error": errs, "AUROC": auroc(p, wrong), "tokens": len(own)}
            )
        return pd.DataFrame(rows)

    def figures(self) -> "dict[str, go.Figure]":
        """Draw the AUROC of the probe and of the baselines, and the reliability of its probabilities."""
        from probe.probes.figures import token_scores

        look = self.looks[0]
        chart = token_scores(self.scores, self.bins, self.floor, look.colour)
        return {"scores": titled(chart, f"Wrong tokens of {look.name}, {self.units} held out", HEIGHT)}

    def score_tokens(self, lm: LM, ids: Sequence[int]) -> Float[np.ndarray, " T"]:
        """Return the probability at each token of a text that what it says is wrong; NaN where none can have a label.

        Those are all but the values of a world or, without one, all but words and numbers.
        """
        name, found = Site("resid", self.layer).hook, np.full(len(ids), np.nan)
        with torch.no_grad():
            _, cache = lm.run_with_cache([list(ids)], [name])
        at = stating(lm, ids)
        found[at] = expit(cache[name][0, at].double().cpu().numpy() @ self.weights + self.bias)
        return found


def candidates(depth: int) -> list[int]:
    """Return the blocks among which one is chosen."""
    return sorted({round(each) for each in np.linspace(depth - 1, 0, min(depth, PLACES)).tolist()})


@torch.no_grad()
def token_states(
    lm: LM, answers: Sequence[LabelledAnswer], layers: Sequence[int], tick: Tick = ignore
) -> tuple[Float[np.ndarray, "M places d"], Float[np.ndarray, "M 2"]]:
    """Return the states at the labelled tokens, and their log-probability and the entropy before them, in nats.

    Args:
        lm: the model.
        answers: answers with M labelled tokens together.
        layers: blocks after which states are read.
        tick: progress.

    Raises:
        DataError: a text is longer than the model's context.
    """
    names, width = [Site("resid", layer).hook for layer in layers], lm.bridge.cfg.d_model
    ends = np.cumsum([0, *(len(each.labelled) for each in answers)])
    states = np.zeros((int(ends[-1]), len(layers), width), dtype=np.float32)
    certainty = np.zeros((int(ends[-1]), 2))
    order = sorted(range(len(answers)), key=lambda at: -len(answers[at].prompt) - len(answers[at].answer))
    start = 0
    while start < len(order):
        longest = len(answers[order[start]].prompt) + len(answers[order[start]].answer)
        part = order[start : start + max(1, AT_ONCE // longest)]
        logits, cache = lm.run_with_cache([[*answers[at].prompt, *answers[at].answer] for at in part], names)
        for row, at in enumerate(part):
            own = answers[at]
            places = torch.tensor([len(own.prompt) + each for each in own.labelled])
            said = torch.tensor([own.answer[each] for each in own.labelled], device=logits.device)
            before = logits[row, places - 1].double().log_softmax(-1)
            found = torch.stack([before.gather(-1, said[:, None])[:, 0], -(before.exp() * before).sum(-1)], dim=1)
            certainty[ends[at] : ends[at + 1]] = found.cpu().numpy()
            for place, name in enumerate(names):
                states[ends[at] : ends[at + 1], place] = cache[name][row, places].float().cpu().numpy()
        start += len(part)
        tick(start / len(order))
    return states, certainty


def truth_seconds(lm: LM, labels: Any = None, n: int = TEXTS, layer: int | None = None, **rest: Any) -> float:
    """Estimate the seconds that writing and reading the answers and fitting the probes takes."""
    own = probe.world.of(lm) is not None
    places, width = len(candidates(lm.bridge.cfg.n_layers)) if layer is None else 1, lm.bridge.cfg.d_model
    tokens, written = (30, 2 * WRITTEN[0] * n) if own else (70, 0 if labels is not None else 100 * WRITTEN[1])
    fits = (places * len(STRENGTHS) * FOLDS + SHUFFLES) * min(MOST, n * (1 if own else 8)) * width * 40
    return seconds_to_read(lm, 2 * n * tokens + written * TO_WRITE / 4) + fits * A_NUMBER


@analysis("probes", title="Hallucination probe", equations=(TRUTH,), seconds=truth_seconds, key="probe")
def token_truth(
    lm: LM,
    *,
    labels: Answers = None,
    n: Count = TEXTS,
    layer: Layer = None,
    seed: Seed = 0,
    tick: Tick = ignore,
) -> TokenTruth:
    """Fit a probe that says at every token how probably it is wrong, and test it on people it was not fitted on.

    The model answers questions on known people and on strangers of its world, with and without a claim of the user; a
    value that it writes is right or wrong by the world, and every other token has no label. The probe is a logistic
    regression on the state at the token after one block; block and penalty are chosen by cross-validation over the
    training people, and 40 % of the people are held out. It is fitted on sampled answers, and tested on sampled and on
    greedy ones. A model without a world is fitted on the tokens of TruthfulQA's right and wrong reference answers, and
    tested on those to held-out questions and on answers that it writes itself, which count as wrong where they share
    more words with a wrong reference than with a right one (ROUGE-1).

    Args:
        lm: the model.
        labels: file of your own answers: `prompt`, `completion`, `label` (true or false), and optionally `span` (the
            part of the completion that the label is about) and `group` (answers of one group stay together).
        n: number of questions on a world, otherwise of answers.
        layer: block after which the state is read; by default the best on the training people.
        seed: seed of the questions, the samples, the split and the shuffles.
        tick: progress.

    Raises:
        ConfigError: the model lacks the block.
        DataError: the answers cannot be read or are too few; all are right, or all are wrong.
    """
    depth = lm.bridge.cfg.n_layers
    if layer is not None and not 0 <= layer < depth:
        raise ConfigError(f"Block {layer} was requested in a model of {depth} blocks: give 0 to {depth - 1}.")
    if lm.readout != "tokens":
        raise DataError(f"A {lm.readout} model writes no answers: use a language model.")
    given = labelled_answers(lm, labels, n, seed, between(tick, 0, 0.3))
    layers = candidates(depth) if layer is None else [layer]
    return evaluate(lm, given, layers, layer is None, seed, between(tick, 0.3, 1))


@dataclass(frozen=True)
class _Tokens:
    """Labelled tokens of answers."""

    states: np.ndarray
    certainty: np.ndarray
    wrong: np.ndarray
    units: np.ndarray
    owners: np.ndarray
    """[M] index of the answer of each token."""

    def at(self, index: np.ndarray) -> "_Tokens":
        return _Tokens(*(each[index] for each in (self.states, self.certainty, self.wrong, self.units, self.owners)))


def _read(lm: LM, answers: Sequence[LabelledAnswer], layers: Sequence[int], tick: Tick) -> _Tokens:
    states, certainty = token_states(lm, answers, layers, tick)
    owners = np.repeat(np.arange(len(answers)), [len(each.labelled) for each in answers])
    wrong, units = np.array([each.wrong for each in answers], int), np.array([each.group for each in answers])
    return _Tokens(states, certainty, wrong[owners], units[owners], owners)


def evaluate(lm: LM, given: AnswerSet, layers: Sequence[int], automatic: bool, seed: int, tick: Tick) -> TokenTruth:
    """Fit a probe on 60 % of the people of labelled answers, and test it on the others."""
    answers = [each for each in given.answers if each.labelled]
    names = np.unique([each.group for each in answers])
    if len(names) < LEAST:
        raise DataError(
            f"{len(answers)} labelled answers of {len(names)} {given.units} were found: a probe needs at least {LEAST}."
        )
    held = np.random.default_rng(seed).permutation(names)[: round(HELD_OUT * len(names))]
    own = _read(lm, answers, layers, between(tick, 0, 0.3))
    outside = np.isin(own.units, held)
    inside, first = own.at(_some(np.flatnonzero(~outside), seed)), own.at(outside)
    if min(len(np.unique(inside.wrong)), len(np.unique(first.wrong))) < 2:
        same = "right" if not own.wrong.mean() > 0.5 else "wrong"
        raise DataError(
            f"Nearly all labelled answers of this model are {same}, so that no probe can be fitted: give a file of"
            " right and wrong answers, or ask for more."
        )
    parts = {given.tests[0]: (first, answers)}
    trained = {str(name) for name in names} - {str(name) for name in held}
    others = [each for each in given.others if each.group not in trained and each.labelled]
    if len({each.group for each in others}) >= LEAST and len({each.wrong for each in others}) > 1:
        parts[given.tests[1]] = _read(lm, others, layers, between(tick, 0.3, 0.5)), others
    fits = []
    for place in range(len(layers)):
        fits.append(fit(inside.states[:, place].astype(float), inside.wrong, inside.units, "AUROC", seed))
        tick(0.5 + 0.4 * (place + 1) / len(layers))
    place = max(range(len(layers)), key=lambda at: fits[at].inner)
    signals = {PROBE: fits[place]}
    for name in BASELINES:
        x = _seen(name, inside, place)
        inner = cross_validated(x, inside.wrong, inside.units, "AUROC", FREE, seed)
        signals[name] = Fitted(train(x, inside.wrong, FREE, False), FREE, inner)
    best = max(BASELINES, key=lambda name: signals[name].inner)
    rows, tokens, bins = list[dict[str, Any]](), list[pd.DataFrame](), list[pd.DataFrame]()
    for test, (part, texts) in parts.items():
        said = {name: each.model.predict_proba(_seen(name, part, place))[:, 1] for name, each in signals.items()}
        rows += [_scored(test, name, p, said[PROBE], part, seed) for name, p in said.items()]
        tokens.append(_listed(lm, test, part, texts, said[PROBE]))
        if not bins:
            bins = [reliability(said[name], part.wrong, BINS).assign(signal=name) for name in (PROBE, best)]
    scaler, regression = signals[PROBE].model[0], signals[PROBE].model[1]
    weights = regression.coef_[0] / scaler.scale_
    return TokenTruth(
        weights=np.asarray(weights),
        bias=float(regression.intercept_[0] - scaler.mean_ @ weights),
        layer=layers[place],
        automatic=automatic,
        scores=pd.DataFrame(rows),
        floor=_floor(inside, first, place, signals[PROBE].strength, seed, between(tick, 0.9, 1)),
        blocks=pd.DataFrame(
            {"layer": list(layers), "inner": [f.inner for f in fits], "strength": [f.strength for f in fits]}
        ),
        bins=pd.concat(bins, ignore_index=True),
        tokens=pd.concat(tokens, ignore_index=True),
        best=best,
        units=given.units,
    )


def _some(index: np.ndarray, seed: int) -> np.ndarray:
    """Return at most `MOST` indices, in order."""
    return np.sort(np.random.default_rng([seed, 7]).permutation(index)[:MOST])


def _seen(name: str, part: _Tokens, place: int) -> np.ndarray:
    """Return what a signal is fitted on."""
    if name == PROBE:
        return part.states[:, place].astype(float)
    return part.certainty[:, BASELINES[name]]


def _scored(test: str, name: str, p: np.ndarray, probe: np.ndarray, part: _Tokens, seed: int) -> dict[str, Any]:
    """Return the scores of a signal's probabilities."""
    mean = partial(stats.bootstrap_mean, bounds=stats.SHARE, units=part.units, seed=seed)
    ahead = interval([probe, p], [part.wrong, part.wrong], part.units, "AUROC", seed)
    wrong = part.wrong.astype(float)
    return {
        "test": test,
        "signal": name,
        **interval([p], [part.wrong], part.units, "AUROC", seed).row(name="AUROC"),
        **mean(((p > 0.5) != part.wrong).astype(float)).row(name="error"),
        **mean((p - wrong) ** 2).row(name="brier"),
        **(ahead.row(name="ahead") if name != PROBE else dict.fromkeys(("ahead", "ahead_low", "ahead_high"), np.nan)),
        "base_error": float(min(wrong.mean(), 1 - wrong.mean())),
        "wrong": float(wrong.mean()),
        "tokens": len(wrong),
        "units": len(np.unique(part.units)),
    }


def _listed(lm: LM, test: str, part: _Tokens, answers: Sequence[LabelledAnswer], p: np.ndarray) -> pd.DataFrame:
    """Return tested tokens with what they stand in."""
    seen, rows = dict[int, int](), list[dict[str, Any]]()
    for owner, wrong, probability in zip(part.owners.tolist(), part.wrong.tolist(), p.tolist(), strict=True):
        own, at = answers[owner], seen.get(owner, 0)
        seen[owner] = at + 1
        token = pieces(lm.tokenizer, [own.answer[own.labelled[at]]])[0]
        text = str(lm.tokenizer.decode([*own.prompt, *own.answer[: own.labelled[at] + 1]]))
        text = text if len(text) <= SEEN else f"\u2026{text[-SEEN:]}"
        about = {"test": test, "unit": own.group, "kind": own.kind, "text": text, "token": token}
        rows.append({**about, "wrong": wrong, "probability": probability})
    return pd.DataFrame(rows)


def _floor(inside: _Tokens, test: _Tokens, place: int, strength: float, seed: int, tick: Tick) -> np.ndarray:
    """Return [S] AUROC of probes on labels that are shuffled among answers."""
    rng, found = np.random.default_rng([seed, 1]), list[float]()
    wrong = np.concatenate([inside.wrong, test.wrong])
    owners = np.concatenate([inside.owners, test.owners])
    cut = len(inside.wrong)
    for number in range(SHUFFLES):
        mixed = shuffled(wrong, owners, rng)
        if len(np.unique(mixed[:cut])) > 1 < len(np.unique(mixed[cut:])):
            model = train(inside.states[:, place].astype(float), mixed[:cut], strength, False)
            found.append(auroc(model.decision_function(test.states[:, place].astype(float)), mixed[cut:]))
        tick((number + 1) / SHUFFLES)
    return np.array(found or [0.5])
