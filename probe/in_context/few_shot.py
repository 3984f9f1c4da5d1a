"""Few-shot classification with any model: accuracy by number of examples, baselines, and other labels in the examples.

The data are rows of JSON Lines, JSON, CSV or TSV, each with a text and a label. A prompt is k labelled examples and a
query; the answer is the label of the highest summed log-likelihood, as `lm-evaluation-harness` scores multiple choice
(`acc`). The examples of a query are the first k of one list, so that prompts with more examples contain those with
fewer. Accuracy is compared with two baselines that read no text: the most frequent label of the file, and the label
that the model prefers after the same examples for a text without content (Zhao et al. 2021, arXiv 2102.09690).
"""

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd

from probe.errors import ConfigError, DataError, brief
from probe.model.dialogues import Form, Turn, answer_logprobs, completion, dialogue, uses_chat
from probe.rows import UNUSED, Row, Rows, Selection, list_few, read_rows, split_names
from probe.ticks import Tick, ignore, part

if TYPE_CHECKING:
    from probe.model.lm import LM

TEMPLATE = "Text: {text}\nLabel: {label}"
SEPARATOR = "\n\n"
SHOTS = (0, 1, 2, 4, 8, 16)
TEXT, LABEL = "text", "label"
ALIASES = {TEXT: ("sentence", "content", "review"), LABEL: ("category", "class", "sentiment")}
"""Column name to alternative names in common files; they are used if the file has no column of that name."""
NO_CONTENT = "N/A"
"""Text without content."""
RELABELLED = 6
"""Number of further prompts of each query with the most examples: a text without content, and random, permuted,
flipped, unrelated, and permuted unrelated labels."""
UNRELATED = (
    *(
        "lamp",
        "river",
        "chair",
        "apple",
        "button",
        "ladder",
        "carpet",
        "window",
        "pencil",
        "bottle",
        "garden",
        "bridge",
    ),
    *("candle", "pocket", "basket", "mirror", "hammer", "saddle", "copper", "walnut", "pillow", "tunnel", "feather"),
    *("kettle", "marble", "ribbon", "thimble", "violin", "wagon", "anchor"),
)
"""Words that stand for labels with whose meaning they have nothing to do, each used at most once."""
MEASURED = 16
"""Number of queries by which the length of prompts is estimated."""
ROOM = 16
"""Number of tokens of the context reserved for the label."""


class LabelledText(NamedTuple):
    """A labelled text."""

    text: str
    label: str
    row: str = ""
    """Name of its row in the file, from 1: `row-7`."""


def read_classification(
    file: str | Path,
    text: str = TEXT,
    label: str = LABEL,
    strict: bool = False,
    limit: int | None = None,
    columns: str = "",
    label_names: str = "",
) -> Rows[LabelledText]:
    """Read labelled texts from a file of rows (`probe.rows.read_rows`).

    Args:
        file: the file; each row has a text and a label.
        text: column of the text, or several joined by "+" (`premise+hypothesis`), each written on a separate line after
            its name. If there is no column `text`, one of its `ALIASES` is used.
        label: column of the label, with aliases likewise: text, or an integer or Boolean, which is written as text.
        strict: refuse a file if a row has no text or no label; otherwise such rows are skipped.
        limit: number of rows to read from the beginning. All of them are used: for the labels, and as examples of each
            query.
        columns: names of the columns of a CSV or TSV file without a header (`probe.rows.Selection.columns`); the text
            is then all columns but the label, unless `text` names others.
        label_names: names of the labels, separated by commas; see `name_labels`.

    Raises:
        ConfigError: the names of columns or labels cannot be used.
        DataError: the file cannot be read, or there are fewer than three examples or two labels.
    """
    named = [name for name in split_names(columns) if name not in (UNUSED, label, *ALIASES.get(label, ()))]
    text = "+".join(named) if named and text == TEXT else text
    path, selection = Path(file).expanduser(), Selection(limit=limit, columns=columns)
    examples = read_rows(path, lambda row: _example(row, text, label), strict, selection=selection)
    if label_names:
        new_names = name_labels({example.label for example in examples}, label_names, path)
        examples = examples.each(lambda example: _rename_label(example, new_names, path))
    if len(examples) < 3 or len({example.label for example in examples}) < 2:
        raise DataError(f"`{file}` has {len(examples)} examples: give three or more, of two or more labels.")
    return examples


def name_labels(labels: Collection[str], label_names: str, path: Path) -> dict[str, str]:
    """Return the name of each label of a file.

    Args:
        labels: labels of the rows.
        label_names: `World,Sports`, names of labels that are whole numbers, in the order of the numbers; or
            `1=World,2=Sports`, names of any labels.
        path: the file, for messages.

    Raises:
        ConfigError: the names are empty or repeated, or some have their label and some do not.
        DataError: names without their labels are not as many as the labels, or these are not whole numbers.
    """
    parts = [part.strip() for part in label_names.split(",")]
    pairs = [tuple(side.strip() for side in part.split("=", 1)) for part in parts]
    new_names = [pair[-1] for pair in pairs]
    named = {pair[0] for pair in pairs if len(pair) == 2}
    if not all(new_names) or len(set(new_names)) < len(parts) or len(named) not in (0, len(parts)):
        raise ConfigError(
            f"label_names is {brief(label_names)!r}; expected a different name for each label, such as"
            " World,Sports or 1=World,2=Sports."
        )
    if named:
        return dict(pair for pair in pairs if len(pair) == 2)
    numbers = [label for label in labels if re.fullmatch(r"-?\d{1,9}", label)]
    if len(numbers) < len(labels) or len(labels) != len(parts):
        raise DataError(
            f"`{path}` has {len(labels)} labels ({list_few(sorted(labels))}), and label_names is"
            f" {brief(label_names)!r}: give one name for each number, or name each label, such as 1=World,2=Sports."
        )
    return dict(zip(sorted(labels, key=int), parts, strict=True))


def _rename_label(example: LabelledText, names: Mapping[str, str], path: Path) -> LabelledText:
    if example.label not in names:
        where, found = example.row.replace("row-", "Row "), brief(example.label)
        raise DataError(
            f"{where} of `{path}` has the label {found!r}, and label_names names {list_few(list(names))}: name it."
        )
    return example._replace(label=names[example.label])


def _example(row: Row, text: str, label: str) -> LabelledText:
    columns = [name.strip() for name in text.split("+")] if text not in row.values else [text]
    contents, kind = [row.values.get(_column(row, name)) for name in columns], row.values.get(_column(row, label))
    texts = [content.strip() for content in contents if isinstance(content, str) and content.strip()]
    if len(texts) < len(columns) or not isinstance(kind, str | int) or not str(kind).strip():
        wanted = " and ".join(f"`{name}`" for name in columns)
        raise DataError(
            f"{row.where} has the fields {', '.join(map(str, row.values)) or 'none'}, expected a text in"
            f" {wanted} and a label in `{label}`: name the file's own with text_field and label_field."
        )
    named = [f"{name}: {content}" for name, content in zip(columns, texts, strict=True)]
    return LabelledText(texts[0] if len(texts) == 1 else "\n".join(named), str(kind).strip(), row.label)


def _column(row: Row, name: str) -> str:
    """Return the first of a name and its aliases that is a column of the row, or the name itself if none is."""
    return next((each for each in (name, *ALIASES.get(name, ())) if each in row.values), name)


class Query(NamedTuple):
    """A query with the examples that can precede it, in order."""

    number: int
    query: LabelledText
    examples: list[LabelledText]


def draw_questions(data: Sequence[LabelledText], n: int, shots: int, seed: int = 0) -> list[Query]:
    """Draw `n` queries (all of them if there are fewer), each with `shots` other examples in random order."""
    rng = np.random.default_rng(seed)
    picks = rng.permutation(len(data))[:n]
    questions = []
    for at in picks.tolist():
        others = [other for other in rng.permutation(len(data))[: shots + 1].tolist() if other != at][:shots]
        questions.append(Query(at, data[at], [data[other] for other in others]))
    return questions


def few_shot_prompt(examples: Sequence[LabelledText], query: str, template: str = TEMPLATE) -> str:
    """Write examples and a query up to the position of its label, without trailing blanks.

    Raises:
        ConfigError: the template lacks {text} or {label}, or something follows the label.
    """
    if "{text}" not in template or not template.endswith("{label}") or template.count("{label}") != 1:
        raise ConfigError(
            f"The template is {template!r}; expected a text that contains {{text}} and ends in {{label}}."
        )
    done = [template.replace("{label}", each.label).replace("{text}", each.text) for each in examples]
    last = template.removesuffix("{label}").rstrip().replace("{text}", query)
    return SEPARATOR.join([*done, last])


def in_form(lm: "LM", prompt: str, form: Form) -> str:
    """Return a few-shot prompt unchanged, or as a user's message in the tokenizer's chat template."""
    return dialogue(lm, [Turn("user", prompt)], "chat") if uses_chat(lm, form) else prompt


def label_logprobs(lm: "LM", prompts: Sequence[str], labels: Sequence[str]) -> np.ndarray:
    """Return the summed log-likelihoods [N L] in nats of all labels, each preceded by a blank."""
    return np.stack(answer_logprobs(lm, prompts, [[completion(prompt, each) for each in labels] for prompt in prompts]))


def answer_table(lm: "LM", prompts: Sequence[str], questions: Sequence[Query], labels: Sequence[str]) -> pd.DataFrame:
    """Score questions: question, row, prompt, expected, answer, right, p_true (among the labels), loss (nats)."""
    logprobs = label_logprobs(lm, prompts, labels)
    logprobs = logprobs - np.logaddexp.reduce(logprobs, axis=1, keepdims=True)
    truth = np.array([labels.index(question.query.label) for question in questions])
    best = logprobs.argmax(1)
    true = logprobs[np.arange(len(truth)), truth]
    return pd.DataFrame(
        {
            "question": [question.number for question in questions],
            "row": [question.query.row for question in questions],
            "prompt": list(prompts),
            "expected": [labels[at] for at in truth],
            "answer": [labels[at] for at in best],
            "right": (best == truth).astype(float),
            "p_true": np.exp(true),
            "loss": -true,
        }
    )


def fitting_shots(
    lm: "LM", questions: Sequence[Query], shots: Sequence[int], template: str, form: Form = "plain"
) -> list[int]:
    """Return the numbers of examples with which every prompt fits into the context and has that many examples.

    Raises:
        DataError: even prompts without examples do not fit.
    """
    from probe.model.text import context_length, encode

    context = context_length(lm.model)
    fitting = []
    for k in sorted(set(shots)):
        if any(len(question.examples) < k for question in questions):
            break
        texts = [few_shot_prompt(question.examples[:k], question.query.text, template) for question in questions]
        prompts = [in_form(lm, text, form) for text in texts]
        if context is not None and max(len(encode(lm.tokenizer, prompt)) for prompt in prompts) + ROOM > context:
            break
        fitting.append(k)
    if not fitting:
        raise DataError(f"A text is longer than the {context} tokens of the model's context: give shorter texts.")
    return fitting


def mean_lengths(
    lm: "LM", data: Sequence[LabelledText], shots: Sequence[int], template: str, seed: int = 0, form: Form = "plain"
) -> dict[int, float]:
    """Return the mean number of tokens in a prompt by number of examples, from a few queries."""
    from probe.model.text import encode

    questions = draw_questions(data, MEASURED, max(shots), seed)
    lengths = {}
    for k in fitting_shots(lm, questions, shots, template, form):
        texts = [few_shot_prompt(question.examples[:k], question.query.text, template) for question in questions]
        lengths[k] = sum(len(encode(lm.tokenizer, in_form(lm, text, form))) for text in texts) / len(texts)
    return lengths


def few_shot_curve(
    lm: "LM",
    data: Sequence[LabelledText],
    n: int = 100,
    shots: Sequence[int] = SHOTS,
    template: str = TEMPLATE,
    seed: int = 0,
    form: Form = "plain",
    tick: Tick = ignore,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Measure accuracy by number of examples, and with gold and other labels at the largest number.

    The other labels are random, permuted, flipped and unrelated ones (Wei et al. 2023, arXiv 2303.03846).

    Args:
        lm: any model of tokens.
        data: labelled texts.
        n: number of queries.
        shots: numbers of examples; those that exceed the context or the data are left out.
        template: format of an example.
        seed: random seed of queries, examples and labels.
        form: form of the prompts, see `probe.model.dialogues.Form`.
        tick: progress.

    Returns:
        Two tables with the columns of `answer_table`: by number of examples (column examples; at the largest number
        also majority_right and bias_right: whether the most frequent label, and the label that the model prefers for a
        text without content, are right), and by labels (columns examples, labels, label_effect; see `pairs`; further
        `flipped_rows` and `unrelated_rows`), empty if no example fits.

    Raises:
        DataError, ConfigError: the data or the template cannot be used.
    """
    from probe.in_context.pairs import Mode, ablate_labels, relabel

    labels = sorted({example.label for example in data})
    questions = draw_questions(data, n, max(shots), seed)
    fitting = fitting_shots(lm, questions, shots, template, form)
    parts = len(fitting) + 2
    after = dict(zip(labels, [*labels[1:], labels[0]], strict=True))

    def prompt(question: Query, new_labels: Sequence[str], text: str) -> str:
        context = [LabelledText(each.text, label) for each, label in zip(question.examples, new_labels, strict=False)]
        return in_form(lm, few_shot_prompt(context, text, template), form)

    def score(k: int, mode: Mode, rng: np.random.Generator) -> pd.DataFrame:
        prompts = []
        for question in questions:
            new_labels = relabel([example.label for example in question.examples[:k]], labels, mode, rng)
            prompts.append(prompt(question, new_labels, question.query.text))
        return answer_table(lm, prompts, questions, labels).assign(examples=k)

    def score_as(k: int, names: Mapping[str, str], name: str, rng: np.random.Generator | None = None) -> pd.DataFrame:
        """Score new names of the labels, which are permuted among the examples by a random generator."""
        prompts = []
        for each in questions:
            own = [names[example.label] for example in each.examples[:k]]
            own = own if rng is None else relabel(own, list(names.values()), "permuted", rng)
            prompts.append(prompt(each, own, each.query.text))
        asked = [each._replace(query=each.query._replace(label=names[each.query.label])) for each in questions]
        return answer_table(lm, prompts, asked, sorted(names.values())).assign(examples=k, labels=name)

    def flipped_rows(k: int, gold: pd.DataFrame) -> pd.DataFrame:
        """Replace each label by the next one; the answer that follows is counted with gold labels as well."""
        table = score_as(k, after, "flipped")
        followed = table["right"].to_numpy()
        before = (gold["answer"] == gold["expected"].map(after)).to_numpy(dtype=float)
        truth = gold["expected"].to_numpy()
        right = (table["answer"].to_numpy() == truth).astype(float)
        return table.assign(expected=truth, right=right, flip_followed=followed, flip_effect=followed - before)

    def unrelated_rows(k: int) -> list[pd.DataFrame]:
        """Replace each label by an unrelated word; nothing if there are more labels than words."""
        taken = {label.casefold() for label in labels}
        words = [word for word in UNRELATED if word not in taken]
        if len(words) < len(labels):
            return []
        drawn = np.random.default_rng((seed, 3)).permutation(len(words))[: len(labels)].tolist()
        names = {label: words[at] for label, at in zip(labels, drawn, strict=True)}
        own = score_as(k, names, "unrelated")
        other = score_as(k, names, "unrelated_permuted", np.random.default_rng((seed, 4)))
        return [own.assign(unrelated_binding=own["right"].to_numpy() - other["right"].to_numpy()), other]

    def baselines(k: int) -> dict[str, np.ndarray]:
        prompts = [prompt(each, [example.label for example in each.examples[:k]], NO_CONTENT) for each in questions]
        preferred = [labels[at] for at in label_logprobs(lm, prompts, labels).argmax(1)]
        counts = Counter(example.label for example in data)
        majority = max(labels, key=counts.__getitem__)  # the first of equally frequent labels
        expected = [question.query.label for question in questions]
        answers = {"majority_right": [majority] * len(questions), "bias_right": preferred}
        return {
            name: np.array([a == b for a, b in zip(each, expected, strict=True)], float)
            for name, each in answers.items()
        }

    curves = []
    for index, k in enumerate(fitting):
        curves.append(score(k, "gold", np.random.default_rng(seed)))
        part(tick, index, parts)(1.0)
    most = fitting[-1]
    curves[-1] = curves[-1].assign(**baselines(most))
    if most == 0:
        return pd.concat(curves, ignore_index=True), pd.DataFrame()
    gold = curves[-1].drop(columns=["majority_right", "bias_right"])
    other = ablate_labels(lambda mode, rng: gold.copy() if mode == "gold" else score(most, mode, rng), seed)
    other_labels = [other, flipped_rows(most, gold), *unrelated_rows(most)]
    tick(1.0)
    return pd.concat(curves, ignore_index=True), pd.concat(other_labels, ignore_index=True)
