"""A world's facts as documents, exact answer probabilities under each context, and tables of any items.

The collection holds the true facts of the people in the corpus, one document per fact, and facts about unseen entities
that occur nowhere else. A question comes with six contexts:

- none: the question alone;
- gold: the document with the answer among two fillers;
- distractor: the same with a third filler in place of that document;
- unrelated: one document about somebody else and another relation, a control that should change nothing;
- contradicting: as gold, but the document names another value (only where something was learned);
- retrieved: the first k documents of a search for the question's text, right or not.

Fillers are documents like those in the passages of the corpus: the same relation of two known people, another relation
of the person in the question, another relation of someone else. None of them answers the question, and those of the
same relation name neither the answer nor the value that contradicts it. The gold, distractor and contradicting passages
of a question differ in only one statement, so this statement causes the differences between contexts.

Probabilities are sums over the finite set of answers to a question, which fall into five groups: the true answer, the
passage's answer if it differs, "i do not know", every other value (an invention), and the rest, which is no answer. The
true answer is that of the documents, in every context: for known and rare people the world's fact, for an unseen entity
the statement of its document. So a guess about an unseen entity is right by chance with probability 1 / number of
values (in other experiments, without documents, every value is an invention), and a model that does not read passages
has the same metrics in every context.

Tables take items of a world, where outcomes are probabilities, or of files, where they are zeros and ones; the columns
have the same names (`context_items`, `probe.retrieval.files.file_items`).

Axes: R rows (one per question and context), N questions, P distinct prompts, A answers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from probe.errors import DataError
from probe.experiments.metrics import PERSON, interval_of
from probe.retrieval.search import Hits, Retriever, reciprocal_rank
from probe.rewards.answers import enumerate_answers
from probe.rewards.evaluation import ANSWER_TOKENS, answer
from probe.rewards.optimum import condition, kl
from probe.stats import SHARE, Interval, bootstrap
from probe.ticks import Tick, ignore
from probe.world.language import RELATIONS, TAUGHT
from probe.world.verifier import answer_words
from probe.world.vocabulary import ABSTENTION

if TYPE_CHECKING:
    from probe.model.lm import LM
    from probe.world.questions import Item
    from probe.world.world import World

CONTEXTS = ("none", "gold", "distractor", "unrelated", "contradicting", "retrieved")
FILLERS = 3
"""Number of statements of a passage that is not retrieved; passages of the corpus have two to four."""


@dataclass(frozen=True)
class Statement:
    """One statement."""

    person: str
    relation: str
    value: str
    form: int
    """Number of the relation's template."""

    @property
    def text(self) -> str:
        """The statement of the fact in the world's words."""
        return RELATIONS[self.relation].statements[self.form].format(p=self.person, v=self.value)


@dataclass(frozen=True)
class PassageQuestion:
    """A question with its passages."""

    item: "Item"
    gold: int
    """Index of the document with its answer."""
    truth: str
    """Value in that document."""
    found: Hits
    """Complete ranking of the search."""
    passages: dict[str, list[Statement]]
    """Passages by context; those that do not apply are missing."""

    def prompt(self, context: str) -> str:
        """Return the model's prompt under a context."""
        passage = " ".join(document.text for document in self.passages[context])
        return f"<ctx> {passage} {self.item.prompt}" if passage else self.item.prompt

    @property
    def rank(self) -> int | None:
        """Rank of the gold document in the search, from 1; None if it was not found."""
        at = np.flatnonzero(self.found.index == self.gold)
        return int(at[0]) + 1 if len(at) else None


def world_documents(world: "World", seed: int = 0) -> list[Statement]:
    """Return one document for each relation of every person, in random order; unseen entities' values are drawn."""
    rng = np.random.default_rng([world.seed, seed, 0])
    documents = []
    for person in world.people.values():
        for relation in TAUGHT:
            options = world.values(relation)
            fallback = options[int(rng.integers(len(options)))]
            value = person.facts.get(relation, fallback)
            form = int(rng.integers(len(RELATIONS[relation].statements)))
            documents.append(Statement(person.name, relation, value, form))
    return [documents[index] for index in rng.permutation(len(documents))]


def with_passages(
    world: "World", documents: Sequence[Statement], items: "Sequence[Item]", k: int, seed: int = 0
) -> list[PassageQuestion]:
    """Build the questions with their passages.

    Args:
        world: world with the people of the questions.
        documents: the collection.
        items: questions about a person's fact (kinds fact, rare, stranger, stranger_heldout).
        k: number of documents in a retrieved passage.
        seed: random seed of fillers, places and contradicting values.
    """
    rng = np.random.default_rng([world.seed, seed, 1])
    places = {(each.person, each.relation): index for index, each in enumerate(documents)}
    retriever = Retriever([document.text for document in documents])
    questions = []
    for item in items:
        person, relation = item.meta["person"], item.meta["relation"]
        gold = documents[places[person, relation]]
        others = [value for value in world.values(relation) if value != gold.value]
        contradiction = Statement(person, relation, others[int(rng.integers(len(others)))], gold.form)
        first, *rest = _fillers(world, documents, places, gold, contradiction, rng)
        at = int(rng.integers(len(rest) + 1))
        by_context = {"gold": gold, "distractor": first}
        if world.truth(person, relation) is not None:
            by_context["contradicting"] = contradiction
        passages: dict[str, list[Statement]] = {
            "none": [],
            "unrelated": [_unrelated_document(world, documents, places, gold, rng)],
        }
        passages |= {context: [*rest[:at], document, *rest[at:]] for context, document in by_context.items()}
        hits = retriever.find(item.prompt.removeprefix("<user>").removesuffix("<bot>"))
        passages["retrieved"] = [documents[index] for index in hits.index[:k]]
        questions.append(PassageQuestion(item, places[person, relation], gold.value, hits, passages))
    return questions


def _fillers(
    world: "World",
    documents: Sequence[Statement],
    places: dict[tuple[str, str], int],
    gold: Statement,
    contradiction: Statement,
    rng: np.random.Generator,
) -> list[Statement]:
    """Return three documents that do not answer the question, see the module; two if too few people differ."""
    names = [name for name in world.groups["known"] if name != gold.person]  # a world has two known people or more
    alike = [documents[places[name, gold.relation]] for name in names]
    alike = [each for each in alike if each.value not in (gold.value, contradiction.value)]
    different = [relation for relation in TAUGHT if relation != gold.relation]
    other = different[int(rng.integers(len(different)))]
    pool = [alike[index] for index in rng.permutation(len(alike))[:2]]
    pool.append(documents[places[gold.person, other]])
    pool.append(_unrelated_document(world, documents, places, gold, rng))
    return [pool[index] for index in rng.permutation(len(pool))[:FILLERS]]


def _unrelated_document(
    world: "World",
    documents: Sequence[Statement],
    places: dict[tuple[str, str], int],
    gold: Statement,
    rng: np.random.Generator,
) -> Statement:
    """Draw a document about another known person and another relation."""
    names = [name for name in world.groups["known"] if name != gold.person]
    different = [relation for relation in TAUGHT if relation != gold.relation]
    return documents[places[names[int(rng.integers(len(names)))], different[int(rng.integers(len(different)))]]]


def persuasion(with_context: ArrayLike, without: ArrayLike) -> NDArray[np.float64]:
    """Return persuasion scores [P] in nats: changes of the answers by a context (Du et al. 2024, 2404.04633).

        psi(c, q) = KL( p(. | c, q) || p(. | q) )

    over the finite set of answers, both distributions conditioned on it; exact by enumeration. Here p(. | q) is the
    model's distribution without any context (METRICS, Retrieval); Du et al. average over contexts.

    Args:
        with_context: [P A] unnormalised log-probabilities of the answers after context and question.
        without: [P A] the same of these answers after the question alone.

    Raises:
        DataError: the shapes differ.
    """
    after, before = (np.atleast_2d(np.asarray(each, dtype=float)) for each in (with_context, without))
    if after.shape != before.shape:
        raise DataError(
            f"Persuasion compares the same answers twice, and got the shapes {after.shape} and {before.shape}:"
            " give equal shapes."
        )
    return kl(condition(after), condition(before))


GROUPS = {
    "fact": "known",
    "rare": "rare",
    "stranger": "stranger",
    "stranger_heldout": "heldout",
    "question": "questions",
}
"""Name of each kind of question; the last one is for questions of files."""
DEPTHS = (1, 3, 5, 10)
"""Values of k in the columns `recall_k`."""
PART = 256
"""Number of prompts between two ticks."""


def context_items(
    lm: "LM", world: "World", asked: Sequence[PassageQuestion], k: int, tick: Tick = ignore
) -> pd.DataFrame:
    """Score the questions under every context; return one row per question and context.

    Args:
        lm: the model.
        world: the world that asks the questions.
        asked: questions with their passages.
        k: number of documents in a retrieved passage.
        tick: progress.

    Returns:
        item, kind, question, context, person, relation, exposure, prompt, answer (the most probable), expected (the
        truth), learned (value in the world) and stated (value in the passage), None if there is none, and
        probabilities: p_true: of the true answer. p_learned: of the world's fact; NaN about unseen entities. p_known:
        the same without any context. p_context: of the value that the passage names; NaN if it names none. p_follows:
        p_context if the passage contradicts the world, else NaN. p_abstain, p_invented: see the module. answer_mass: of
        all answers of the set. p_no_answer: the rest, such as a value of another relation in the passage. p_copied: of
        untrue values that the passage states only about others; NaN if there are none. hall: 1 - p_true - p_abstain
        (E17); NaN under a contradicting passage, where the truth is ambiguous. knows: 1 if the most probable answer
        without context is the learned one; NaN about unseen entities. persuasion: nats, see `persuasion`; NaN without
        context. In rows with the retrieved passage: rank (NaN if not found), reciprocal_rank, recall_1, ..., hit (rank
        <= k), hall_cut and invention_cut, the decrease of hall and p_invented by retrieval.
    """
    pairs = [
        (number, each, context)
        for context in CONTEXTS
        for number, each in _name_questions(asked)
        if context in each.passages
    ]
    table = pd.DataFrame([_about(number, each, context, k) for number, each, context in pairs])
    answers, logprobs = _score_answers(lm, world, list(table["prompt"]), tick)
    columns = [
        _shares(world, each, context, answers[row], logprobs[row]) for row, (_, each, context) in enumerate(pairs)
    ]
    table = pd.concat([table, pd.DataFrame(columns)], axis=1)
    row_alone = {question: row for row, (question, *_) in enumerate(pairs) if table["context"][row] == "none"}
    base = np.array([row_alone[question] for question in table["question"]])  # [R] the row of the same question alone
    no_context, from_search = table["context"] == "none", table["context"] == "retrieved"
    table["persuasion"] = np.where(no_context, np.nan, persuasion(logprobs, logprobs[base]))
    table["p_known"] = table["p_learned"].to_numpy()[base]
    table["knows"] = (table["answer"] == table["learned"]).astype(float).to_numpy()[base]
    table.loc[table["learned"].isna(), "knows"] = np.nan
    for name, column in (("hall_cut", "hall"), ("invention_cut", "p_invented")):
        table[name] = (table[column].to_numpy()[base] - table[column]).where(from_search)
    return table


def _name_questions(questions: Sequence[PassageQuestion]) -> list[tuple[str, PassageQuestion]]:
    """Pair the questions with names, such as fact-17."""
    count: dict[str, int] = {}
    pairs = []
    for question in questions:
        number = count[question.item.kind] = count.get(question.item.kind, -1) + 1
        pairs.append((f"{question.item.kind}-{number}", question))
    return pairs


def _about(question: str, one: PassageQuestion, context: str, k: int) -> dict[str, Any]:
    """Return the columns of a row that need no model."""
    row: dict[str, Any] = {"item": f"{question}-{context}", "kind": one.item.kind, "question": question}
    row |= {"context": context} | {name: one.item.meta[name] for name in ("person", "relation", "exposure")}
    row["prompt"] = one.prompt(context)
    if context == "retrieved":
        rank = float("nan") if one.rank is None else float(one.rank)
        row |= {"rank": rank, "hit": float(rank <= k), "reciprocal_rank": reciprocal_rank(rank)}
        row |= {f"recall_{depth}": float(rank <= depth) for depth in DEPTHS}
    return row


def _score_answers(
    lm: "LM", world: "World", prompts: Sequence[str], tick: Tick
) -> tuple[list[list[str]], NDArray[np.float64]]:
    """Return the answers to R prompts and their [R A] log-probabilities; score equal prompts once."""
    codes, unique = pd.factorize(np.array(prompts, dtype=object))
    answers: list[list[str]] = []
    parts = []
    for start in range(0, len(unique), PART):
        answer_set = enumerate_answers(lm, world, [str(prompt) for prompt in unique[start : start + PART]])
        answers += [[each.strip() for each in group] for group in answer_set.answers]
        parts.append(answer_set.logprobs)
        tick(min(start + PART, len(unique)) / len(unique))
    width = max(part.shape[1] for part in parts)
    padded = [np.pad(part, ((0, 0), (0, width - part.shape[1])), constant_values=-np.inf) for part in parts]
    return [answers[code] for code in codes], np.concatenate(padded)[codes]


def _shares(
    world: "World", one: PassageQuestion, context: str, answers: Sequence[str], logprobs: NDArray[np.float64]
) -> dict[str, Any]:
    """Return the columns that sum probabilities of the answers to a row's prompt."""
    subject, relation = one.item.meta["person"], one.item.meta["relation"]
    fact, passage = world.truth(subject, relation), one.passages[context]
    values_by_person = {each.person: each.value for each in passage if each.relation == relation}
    passage_value = values_by_person.pop(subject, None)
    p = dict(zip(answers, np.exp(logprobs[: len(answers)]).tolist(), strict=True))
    support = {each for each in (one.truth, passage_value) if each}
    inventions = [value for value in answers if value != ABSTENTION and value not in support]
    others = [value for value in set(values_by_person.values()) if value not in support]
    contradicts, nan = passage_value is not None and passage_value != one.truth, float("nan")
    row: dict[str, Any] = {"answer": max(p, key=lambda value: p[value]), "expected": one.truth}
    row |= {"learned": fact, "stated": passage_value, "p_true": p[one.truth]}
    row |= {"p_learned": p[fact] if fact else nan, "p_context": p[passage_value] if passage_value else nan}
    row |= {"p_follows": p[passage_value or ""] if contradicts else nan, "p_abstain": p[ABSTENTION]}
    row["p_invented"] = sum(p[value] for value in inventions)
    row["p_copied"] = sum(p[value] for value in others) if others else nan
    row["hall"] = nan if contradicts else max(1 - p[one.truth] - p[ABSTENTION], 0.0)
    mass = sum(p.values())
    return row | {"answer_mass": mass, "p_no_answer": max(1 - mass, 0.0)}


def passage_items(lm: "LM", world: "World", n: int, seed: int) -> pd.DataFrame:
    """Sample answers on the corpus's kinds of passages, drawn and judged as in `probe.rewards.evaluation`.

    Returns:
        item, kind (context_conflict, context_stranger), person, relation, prompt, answer, expected, is_true (1 if the
        answer is that of the passage); empty if the world asks no such questions.
    """
    rows = []
    for kind in ("context_conflict", "context_stranger"):
        if kind not in world.question_kinds:
            continue
        replies = answer(lm, world, world.questions(kind, n, seed), ANSWER_TOKENS, seed)
        for index, (item, text, verdict) in enumerate(zip(*replies, strict=True)):
            row: dict[str, Any] = {"item": f"{kind}-{index}", "kind": kind, "person": item.meta["person"]}
            row |= {"relation": item.meta["relation"], "prompt": item.prompt, "answer": " ".join(answer_words(text))}
            rows.append(row | {"expected": item.answers[0].strip(), "is_true": float(verdict.kind == "true")})
    return pd.DataFrame(rows)


OUTCOMES = {
    "accuracy": "p_true",
    "follows": "p_follows",
    "abstention": "p_abstain",
    "invention": "p_invented",
    "no_answer": "p_no_answer",
}
"""Outcomes in the table of contexts to the columns that are averaged."""


def interval(part: pd.DataFrame, values: NDArray[np.float64], seed: int = 0) -> Interval:
    """Return the mean of some items' values, with its 95 % interval over the people in the questions."""
    return interval_of(part.assign(value=values), "value", SHARE, seed)


def context_table(items: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Return outcomes by group and context: exact means with bootstrap intervals over questions.

    Returns:
        group, context, outcome (see `OUTCOMES`), value, ci_low, ci_high, n; rows without a value are left out.
    """
    rows: list[dict[str, Any]] = []
    for kind, group in GROUPS.items():
        for context in CONTEXTS:
            part = items[(items["kind"] == kind) & (items["context"] == context)]
            for outcome, column in ((o, c) for o, c in OUTCOMES.items() if c in part):
                count = int(part[column].notna().sum())
                if count:
                    row = {"group": group, "context": context, "outcome": outcome}
                    rows.append(row | interval(part, part[column].to_numpy(dtype=float), seed).row(count))
    return pd.DataFrame(rows)


def persuasion_table(items: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Return mean persuasion in nats by group and context: group, context, value, ci_low, ci_high, n."""
    rows: list[dict[str, Any]] = []
    for kind, group in GROUPS.items():
        for context in CONTEXTS[1:]:
            part = items[(items["kind"] == kind) & (items["context"] == context)]
            if len(part):
                estimate = interval_of(part, "persuasion", seed=seed)
                rows.append({"group": group, "context": context, **estimate.row(len(part))})
    return pd.DataFrame(rows)


def search_table(items: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Return Hall and invention without and with the retrieved passage, over all searches, hits and misses.

    Returns:
        group, found (all, hit, miss), quantity (hall, invention), way (without, with, cut), value, ci_low, ci_high, n;
        each is a mean over the same questions.
    """
    searches = items[items["context"] == "retrieved"]
    rows: list[dict[str, Any]] = []
    for kind, group in GROUPS.items():
        for outcome, hit in (("all", None), ("hit", 1.0), ("miss", 0.0)):
            part = searches[searches["kind"] == kind]
            part = part if hit is None else part[part["hit"] == hit]
            for quantity, column in (("hall", "hall"), ("invention", "p_invented")):
                cut, after = (part[name].to_numpy(dtype=float) for name in (f"{quantity}_cut", column))
                for way, values in (("without", after + cut), ("with", after), ("cut", cut)):
                    if len(values):
                        row = {"group": group, "found": outcome, "quantity": quantity, "way": way}
                        rows.append(row | interval(part, values, seed).row(len(values)))
    return pd.DataFrame(rows)


RESAMPLES = 2000
QUANTITIES = {"follows": "p_context", "keeps": "p_learned", "knows": "p_known"}
"""Quantities of `conflict_curve` that are means, and their columns."""


def memorisation_ratio(p_o: ArrayLike, p_s: ArrayLike) -> float:
    """Return the ratio M over questions: how often a model keeps what it learned if the context contradicts it.

    With o the learned answer and s the one that the context substitutes for it (Longpre et al. 2109.05052), M = p_o /
    (p_o + p_s), where p_o and p_s are the shares of questions answered with each; NaN if neither occurs. If the
    probabilities of both are known, p_o and p_s are their means, and M is exact for these questions.

    Args:
        p_o: [N] probability (or 0 and 1) of the learned answer.
        p_s: [N] probability (or 0 and 1) of the context's answer.

    Raises:
        DataError: the lists differ in length.
    """
    o, s = _pair(p_o, p_s)
    total = float(o.sum() + s.sum())
    return float(o.sum()) / total if total > 0 else float("nan")


def memorisation_interval(p_o: ArrayLike, p_s: ArrayLike, seed: int = 0, units: ArrayLike | None = None) -> Interval:
    """Return M with its 95 % interval by resampling questions (or units of them); NaN ends for fewer than two."""
    o, s = _pair(p_o, p_s)
    value = memorisation_ratio(o, s)
    if units is not None:
        codes = pd.factorize(np.asarray(units, dtype=object))[0]
        o, s = np.bincount(codes, o), np.bincount(codes, s)

    def ratios(indices: np.ndarray) -> np.ndarray:
        top = o[indices].sum(axis=1)
        with np.errstate(invalid="ignore"):
            return top / (top + s[indices].sum(axis=1))

    return bootstrap(value, ratios, len(o), seed, SHARE, resamples=RESAMPLES)


def of_columns(columns: Mapping[str, np.ndarray]) -> float:
    """Return M of the columns `p_learned` and `p_context`, for a metric."""
    return memorisation_ratio(columns["p_learned"], columns["p_context"])


def conflict_curve(items: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Return following the context and remembering by the number of times that the corpus states the fact.

    Args:
        items: questions under a contradicting context: `exposure`, `p_learned`, `p_context`, and `p_known`, the
            probability of the learned answer without any context.
        seed: random seed of the bootstrap.

    Returns:
        label, low, high (class of counts, see `exposure_class`), quantity, value, ci_low, ci_high, n; quantities
        are follows (mean p_context), keeps (mean p_learned), knows (mean p_known) and memorisation (M).
    """
    from probe.hallucination.world import exposure_class

    classes = [exposure_class(int(count)) for count in items["exposure"]]
    rows: list[dict[str, Any]] = []
    for each in sorted(set(classes)):
        part = items[[one == each for one in classes]]
        intervals = {
            name: interval(part, part[column].to_numpy(dtype=float), seed) for name, column in QUANTITIES.items()
        }
        intervals["memorisation"] = memorisation_interval(part["p_learned"], part["p_context"], seed, part.get(PERSON))
        for name, value in intervals.items():
            row: dict[str, Any] = {"label": each.label, "low": each.low, "high": each.high, "quantity": name}
            rows.append(row | value.row(len(part)))
    columns = ["label", "low", "high", "quantity", "value", "ci_low", "ci_high", "n"]
    return pd.DataFrame(rows, columns=columns)


def _pair(p_o: ArrayLike, p_s: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    o, s = np.asarray(p_o, dtype=float), np.asarray(p_s, dtype=float)
    if o.shape != s.shape or o.ndim != 1:
        raise DataError(
            f"The memorisation ratio got {o.shape} learned and {s.shape} substituted answers: give one of each for"
            " each question."
        )
    return o, s
