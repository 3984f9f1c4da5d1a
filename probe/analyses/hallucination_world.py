"""What a model answers to questions about known people, rare people and strangers: exactly, and in samples.

Answers are finite sets, so whatever depends on the distribution over answers is a sum over the set. An answer
hallucinates (E17, H = 1 - V) if it is neither true nor "i do not know": another value, any value for a stranger, or no
answer at all.

    asked = ask(world, n=400, seed=0)
    answers, codes = enumerated(lm, world, asked)
    items = pd.concat([asked_table(asked), exact_columns(answers, codes, asked, samples=10)], axis=1)

Axes: N questions, P different prompts among them, A answers.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from probe import stats
from probe.analyses.answers import AnswerSet, enumerate_answers
from probe.analyses.confidence_targets import NAMED, score, targeted
from probe.analyses.evaluation import ANSWER_TOKENS, INVENTED, answer
from probe.analyses.exposure import exposure_class
from probe.analyses.known_direction import KnownDirection, known_direction, last_residuals, project
from probe.analyses.semantic_entropy import (
    agreement,
    clusters,
    discrete_entropy,
    exact_entropy,
    expected_discrete,
    identical,
    with_rest,
)
from probe.analyses.validity_bound import Judged, judged_answers, validity_bound
from probe.errors import DataError
from probe.ticks import Tick, ignore
from probe.world.verifier import answer_words
from probe.world.vocabulary import ABSTENTION

if TYPE_CHECKING:
    from probe.model.lm import LM
    from probe.world.questions import Item
    from probe.world.world import World

KINDS = ("fact", "rare", "stranger", "stranger_heldout")
"""Questions about known people, people seen 1 to 5 times, strangers whom the corpus asks about, and other strangers."""
MALFORMED = "(no answer)"


def ask(world: "World", n: int, seed: int) -> "list[Item]":
    """`n` questions of each of the kinds that the world has.

    Raises:
        DataError: its corpus says no facts.
    """
    if not any(count for facts in world.exposure.values() for count in facts.values()):
        raise DataError(
            "This model's world says no facts, so that nothing can be known or invented: give a model of one."
        )
    return [item for kind in KINDS if kind in world.question_kinds for item in world.questions(kind, n, seed)]


def truth_of(item: "Item") -> str | None:
    """The true value, None about a stranger."""
    said = item.answers[0].strip()
    return None if said == ABSTENTION else said


def asked_table(asked: "Sequence[Item]") -> pd.DataFrame:
    """item, kind, person, relation, exposure, prompt, expected."""
    count: dict[str, int] = {}
    rows = []
    for item in asked:
        number = count[item.kind] = count.get(item.kind, -1) + 1
        row: dict[str, Any] = {"item": f"{item.kind}-{number}", "kind": item.kind}
        row |= {name: item.meta[name] for name in ("person", "relation", "exposure")}
        rows.append(row | {"prompt": item.prompt, "expected": item.answers[0].strip()})
    return pd.DataFrame(rows)


def enumerated(lm: "LM", world: "World", asked: "Sequence[Item]") -> tuple[AnswerSet, NDArray[np.intp]]:
    """The answers to the P different prompts, and [N] which of them each question is."""
    codes, prompts = pd.factorize(np.array([item.prompt for item in asked], dtype=object))
    return enumerate_answers(lm, world, [str(prompt) for prompt in prompts]), codes


def exact_columns(answers: AnswerSet, codes: NDArray[np.intp], asked: "Sequence[Item]", samples: int) -> pd.DataFrame:
    """What the distribution over answers says of each question, exact.

    Args:
        answers: the answers to the P different prompts, see `enumerated`.
        codes: [N] which of them each question is.
        asked: the N questions.
        samples: how many samples the discrete estimator will have.

    Returns:
        p_truth, p_abstain: probability of the truth (0 about strangers) and of "i do not know".
        hall: 1 - p_truth - p_abstain.
        answer_mass: probability of any answer of the set.
        main: the likeliest answer, or that it is none; hallucinates: whether it is neither true nor an abstention.
        confidence: probability of the likeliest value; right: whether that is the truth; brier: their squared gap.
        p_ik: 1 - p_abstain.
        semantic_entropy: nats; agreement_exact: probability of the main answer.
        semantic_entropy_expected: what the discrete estimator gives on average.
        own_T, target_T: points under the confidence target T %, by the model itself and answering above T only.
    """
    p = np.exp(answers.logprobs)
    entropy = exact_entropy(answers.logprobs)
    meanings = with_rest(answers.logprobs)
    expected = [expected_discrete(row, samples) for row in meanings]
    rows = []
    for code, item in zip(codes, asked, strict=True):
        said, chances = [each.strip() for each in answers.answers[code]], p[code]
        abstains, truth = said.index(ABSTENTION), truth_of(item)
        values = np.array([chance if i != abstains else -1.0 for i, chance in enumerate(chances[: len(said)])])
        best, likeliest = int(values.argmax()), int(meanings[code].argmax())
        main = said[likeliest] if likeliest < len(said) else MALFORMED
        p_truth = float(chances[said.index(truth)]) if truth else 0.0
        p_abstain, right = float(chances[abstains]), float(said[best] == truth)
        row: dict[str, Any] = {"p_truth": p_truth, "p_abstain": p_abstain, "hall": max(1 - p_truth - p_abstain, 0.0)}
        row |= {"answer_mass": float(chances.sum()), "main": main, "confidence": min(float(values[best]), 1.0)}
        row |= {"hallucinates": float(main not in (truth, ABSTENTION)), "right": right, "p_ik": 1 - p_abstain}
        row |= {"brier": (row["confidence"] - right) ** 2, "semantic_entropy": float(entropy[code])}
        row["semantic_entropy_expected"] = expected[code]
        row["agreement_exact"] = float(meanings[code].max())
        rows.append(row)
    table = pd.DataFrame(rows)
    for target in NAMED:
        name = f"{100 * target:.0f}"
        table[f"own_{name}"] = score(table["p_truth"], table["hall"], target)
        table[f"target_{name}"] = score(*targeted(table["confidence"], table["right"], target), target)
    return table


def sampled_columns(
    lm: "LM", world: "World", asked: "Sequence[Item]", main: Sequence[str], samples: int, seed: int, tick: Tick = ignore
) -> pd.DataFrame:
    """One sampled answer to each question, judged, as `probe.analyses.evaluation` draws it; and `samples` further ones.

    Args:
        lm: who answers.
        world: who judges.
        asked: the N questions.
        main: [N] the answers with which the samples are compared.
        samples: how many are drawn of each question for semantic entropy and agreement.
        seed: of the samples.
        tick: progress.

    Returns:
        answer, verdict, is_true, abstained, invented (zeros and ones), semantic_entropy_sampled (nats), agreement.
    """
    parts = []
    for kind in dict.fromkeys(item.kind for item in asked):
        found = answer(lm, world, [item for item in asked if item.kind == kind], ANSWER_TOKENS, seed)
        verdicts = [verdict.kind for verdict in found.verdicts]
        shown = [" ".join(answer_words(text)) for text in found.texts]
        parts.append(pd.DataFrame({"answer": shown, "verdict": verdicts}))
    table = pd.concat(parts, ignore_index=True)
    table["is_true"] = (table["verdict"] == "true").astype(float)
    table["abstained"] = (table["verdict"] == "abstain").astype(float)
    table["invented"] = table["verdict"].isin(INVENTED).astype(float)
    tick(0.3)
    prompts = [item.prompt for item in asked]
    drawn = lm.generate(prompts, n=samples, max_new_tokens=ANSWER_TOKENS, temperature=1.0, seed=seed + 1).text
    tick(0.8)
    legal = {prompt: {each.strip() for each in world.candidates(prompt)} for prompt in set(prompts)}
    entropies, agreements = [], []
    for index, prompt in enumerate(prompts):
        words = [" ".join(answer_words(text)) for text in drawn[index * samples : (index + 1) * samples]]
        said = [each if each in legal[prompt] else MALFORMED for each in words]
        entropies.append(discrete_entropy(clusters(said, identical)))
        agreements.append(agreement(said, main[index], identical))
    return table.assign(semantic_entropy_sampled=entropies, agreement=agreements)


def judged(world: "World", answers: AnswerSet, codes: NDArray[np.intp], asked: "Sequence[Item]") -> Judged:
    """What the validity bound needs of the N questions."""
    first = {int(code): truth_of(item) for code, item in zip(codes, asked, strict=True)}
    return judged_answers(world, answers, [first[p] for p in range(len(answers.prompts))]).take(codes)


def exposure_table(items: pd.DataFrame, found: Judged) -> pd.DataFrame:
    """Hall against the exact exposure count, with the bound of each class of counts (see `exposure_class`).

    Returns:
        kind, label, low, high (of the class) and the columns of `bound_row`; strangers that are never asked about come
        first, then those that are, then people by their exposure.
    """
    classes = [exposure_class(int(count)) for count in items["exposure"]]
    groups: dict[tuple[Any, ...], list[int]] = {}
    for place, (kind, each) in enumerate(zip(items["kind"], classes, strict=True)):
        groups.setdefault((each.low, kind != "stranger_heldout", kind, each.label, each.high), []).append(place)
    rows = []
    for (low, _, kind, label, high), index in sorted(groups.items()):
        row = {"kind": kind, "label": label, "low": low, "high": high}
        rows.append(row | bound_row(items, found, np.array(index)))
    return pd.DataFrame(rows)


def bound_table(items: pd.DataFrame, found: Judged) -> pd.DataFrame:
    """The bound over all questions and over those of each kind: kind and the columns of `bound_row`."""
    kinds = items["kind"].to_numpy()
    groups = {"all": np.arange(len(items))} | {kind: np.flatnonzero(kinds == kind) for kind in dict.fromkeys(kinds)}
    return pd.DataFrame([{"kind": kind} | bound_row(items, found, index) for kind, index in groups.items()])


def bound_row(items: pd.DataFrame, found: Judged, index: NDArray[np.intp]) -> dict[str, float]:
    """Of some questions: value, ci_low, ci_high (Hall, bootstrap over questions), accuracy and abstention (exact
    means), error (conditioned on the answer set), bound, iiv_error, ratio, delta, n."""
    part, terms = items.iloc[index], validity_bound(found.take(index))
    value, low, high = stats.bootstrap_mean(part["hall"].to_numpy(), bounds=stats.SHARE)
    row = {"value": value, "ci_low": low, "ci_high": high, "accuracy": float(part["p_truth"].mean())}
    row |= {"abstention": float(part["p_abstain"].mean()), "error": terms.error, "bound": terms.bound}
    return row | {"iiv_error": terms.iiv_error, "ratio": terms.ratio, "delta": terms.delta, "n": len(part)}


def direction(
    lm: "LM", items: pd.DataFrame, shuffles: int, seed: int, tick: Tick = ignore
) -> tuple[KnownDirection, pd.Series] | None:
    """The direction between known people and strangers, and each question's score at the middle layer.

    The score of questions about people of neither group is by the direction of all others. None where one group is
    missing.
    """
    first = items.drop_duplicates("prompt")
    fitted = first["kind"].isin(("fact", "stranger")).to_numpy()
    known = (first["kind"] == "fact").to_numpy()[fitted]
    if not known.any() or known.all():
        return None
    x = last_residuals(lm, list(first["prompt"]), tick)
    found = known_direction(x[fitted], known, list(first["person"][fitted]), shuffles=shuffles, seed=seed)
    middle = x.shape[1] // 2
    scores = np.empty(len(first))
    scores[fitted] = found.scores[:, middle]
    if not fitted.all():
        scores[~fitted] = project(x[fitted], known, x[~fitted])[:, middle]
    by_prompt = dict(zip(first["prompt"], scores, strict=True))
    return found, items["prompt"].map(by_prompt)
