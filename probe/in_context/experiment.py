"""The experiment on in-context learning: use of examples against the Bayes predictor, and the heads behind it."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd

import probe.world
from probe import stats
from probe.errors import ConfigError
from probe.experiments.metrics import Given, Mean, Metric, Share, interval_of
from probe.experiments.registry import experiment
from probe.experiments.result import MODEL, Evidence, Result
from probe.in_context.few_shot import (
    LABEL,
    RELABELLED,
    SHOTS,
    TEMPLATE,
    TEXT,
    LabelledText,
    few_shot_curve,
    read_classification,
)
from probe.model.dialogues import Form
from probe.plotting.intervals import percent
from probe.rows import Rows
from probe.stats import GAIN, SHARE
from probe.ticks import Tick, ignore, part

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from probe.in_context.chains import Repeats
    from probe.model.lm import LM
    from probe.world import World


def say(result: Result) -> str:
    """Summarise the effect of examples on each model: in maps or few-shot prompts, else in chains, else in repeats.

    For models trained on pools of different sizes, name the Bayes predictor that each is closer to.
    """
    parts, pools = [], joined_curve(result)
    if pools is not None:
        parts.append(pools_in_words(pools, leanings(result.items, pools)))
    for label in result.models:
        if pools is not None and label in set(pools[MODEL]):
            continue
        items = result.items[result.items[MODEL] == label]
        parts.append(_few_shot(label, items) or _pairs(label, items) or _chains(label, items) or _repeats(label, items))
    return "; ".join(parts) + "."


def joined_curve(result: Result) -> pd.DataFrame | None:
    """Return the curve over pool sizes of a result's models with one modulus and one document length.

    Args:
        result: result of the experiment `in_context`, with any number of models.

    Returns:
        One row per model, kind and predictor: model, pool_size, modulus, tasks, kind (function: in the pool;
        function_new: outside it), predictor (pool or all), value (KL(Bayes || model), nats), ci_low, ci_high, n;
        smaller pools first. None if there are fewer than two pool sizes. If several moduli or lengths have a
        curve, the one with the most pool sizes.
    """
    if "pool" not in result.tables:
        return None
    table = result.tables["pool"]
    functions = result.items[result.items["kind"] == "function"]
    most = table["model"].map(functions.groupby("model")["examples"].max())
    curves = [rows for _, rows in table.groupby([table["modulus"], most])]
    curve = max(curves, key=lambda rows: rows["pool_size"].nunique())
    if curve["pool_size"].nunique() < 2:
        return None
    return curve.sort_values(["pool_size", "kind", "predictor"], kind="stable", ignore_index=True)


def leanings(items: pd.DataFrame, curve: pd.DataFrame) -> pd.DataFrame:
    """Measure how much closer each model of a curve is to Bayes over its pool than to Bayes over all tasks.

    Both distances concern the same answers, so their difference is taken document by document.

    Args:
        items: items of a result: model, kind, sequence (the document), kl_pool, kl_all.
        curve: result of `joined_curve`.

    Returns:
        One row per model and kind: model, pool_size, kind, value (KL(all || model) - KL(pool || model) in nats, mean
        over documents of the mean over numbers of examples: above 0 is closer to the pool), ci_low, ci_high (bootstrap
        over documents), n.
    """
    rows = []
    for (size, model, kind), _ in curve.groupby(["pool_size", "model", "kind"]):
        group = items[(items["model"] == model) & (items["kind"] == kind)]
        gaps = (group["kl_all"] - group["kl_pool"]).groupby(group["sequence"]).mean()
        rows.append({"model": model, "pool_size": size, "kind": kind, **stats.bootstrap_mean(gaps).row(len(gaps))})
    return pd.DataFrame(rows)


def pools_in_words(curve: pd.DataFrame, found: pd.DataFrame) -> str:
    """Describe which Bayes predictor each model of a curve is closer to, and how far the models are from generalising.

    Args:
        curve: result of `joined_curve`.
        found: its `leanings`; if an interval includes 0, the model is closer to neither.
    """
    tasks, parts = int(curve["tasks"].iloc[0]), []
    for kind, words in (("function", "functions of the pool"), ("function_new", "other functions")):
        rows = found[found["kind"] == kind]
        sides = {
            "nearer to Bayes over the pool": rows[rows["ci_low"] > 0],
            f"nearer to Bayes over all {tasks}": rows[rows["ci_high"] < 0],
            "nearer to neither": rows[~((rows["ci_low"] > 0) | (rows["ci_high"] < 0))],
        }
        clauses = [
            f"with {_list_pools(side)} are {what}{_pool_gaps(side)}" for what, side in sides.items() if len(side)
        ]
        parts += [f"on {words} models {', '.join(clauses)}"] if clauses else []
    far = curve[(curve["kind"] == "function_new") & (curve["predictor"] == "all")]
    if len(far):
        ends = [f"{_in_nats(row)} with {row['pool_size']}" for _, row in far.iloc[[0, -1]].iterrows()]
        parts.append(f"on these, KL to Bayes over all goes from {ends[0]} to {ends[1]}")
    return "; ".join(parts)


def _list_pools(rows: pd.DataFrame) -> str:
    names = [str(size) for size in dict.fromkeys(rows["pool_size"])]
    return f"a pool of {names[0]}" if len(names) == 1 else f"pools of {', '.join(names[:-1])} and {names[-1]}"


def _pool_gaps(rows: pd.DataFrame) -> str:
    """Return the absolute differences of the smallest and the largest pool; empty if all intervals include 0."""
    if not ((rows["ci_low"] > 0) | (rows["ci_high"] < 0)).any():
        return ""
    ends = rows.iloc[[0, -1] if len(rows) > 1 else [0]]
    opposite = ends.assign(value=-ends["value"], ci_low=-ends["ci_high"], ci_high=-ends["ci_low"])
    gaps = ends if (ends["ci_low"] > 0).all() else opposite
    return f" (by {' to '.join(_in_nats(row) for _, row in gaps.iterrows())})"


def _in_nats(row: pd.Series) -> str:
    return stats.Interval(row["value"], row["ci_low"], row["ci_high"]).format(2, "nats")


def _mean(items: pd.DataFrame, column: str) -> stats.Interval | None:
    values = items[column].dropna() if column in items else ()
    bounds = stats.SHARE if "accuracy" in column else None
    return stats.bootstrap_mean(values, bounds=bounds) if len(values) > 1 else None


def _pairs(label: str, items: pd.DataFrame) -> str:
    for kind, words in (("map", "the label of a map"), ("function", "the value of a function of its pool")):
        accuracy, best = _mean(items, f"{kind}_accuracy"), _mean(items, f"{kind}_accuracy_bayes")
        if accuracy is None or best is None:
            continue
        k = int(items.loc[items["kind"] == kind, "examples"].max())
        sentence = f"after {k} examples {label} gives {words} with probability {percent(*accuracy)}"
        sentence += f" (Bayes {100 * best.value:.0f} %"
        counting = _mean(items, f"{kind}_accuracy_counting")
        sentence += f", counting labels {100 * counting.value:.0f} %)" if counting is not None else ")"
        random = _random_labels(items)
        sentence += f", with random labels {random}" if random else ""
        return sentence
    return ""


def _random_labels(items: pd.DataFrame) -> str:
    right = items.loc[items["labels"] == "random", "right"] if "labels" in items else pd.Series(dtype=float)
    return percent(*stats.wilson(int(right.sum()), len(right))) if len(right) else ""


def _chains(label: str, items: pd.DataFrame) -> str:
    divergence, counting = _mean(items, "chain_kl_bayes"), _mean(items, "counting")
    if divergence is None or counting is None:
        return ""
    return (
        f"{label} is {divergence.format(3, 'nats')} from Bayes' rule on Markov chains (KL), and counting states"
        f" {counting.value:.3f}"
    )


def _few_shot(label: str, items: pd.DataFrame) -> str:
    rows = items[items["kind"] == "few_shot"]
    if not len(rows):
        return ""
    most = int(rows["examples"].max())
    accuracies = []
    for k in sorted({0, most} & set(rows["examples"])):
        right = rows[rows["examples"] == k]["right"]
        accuracies.append(f"{percent(*stats.wilson(int(right.sum()), len(right)))} with {k} examples")
    random = _random_labels(items)
    accuracies += [f"{random} with random labels in the examples"] if random else []
    sentence = f"{label} labels texts right in {', '.join(accuracies)}"
    if "bias_right" in rows and rows["bias_right"].notna().any():
        blind = (percent(*interval_of(rows, f"{name}_right", SHARE)) for name in ("majority", "bias"))
        sentence += "; the most frequent label is right in {}, the label that it prefers without a text in {}".format(
            *blind
        )
    if "vector_gain" in items and items["vector_gain"].notna().any():
        own, null = (items[column].mean() for column in ("vector_gain", "vector_gain_shuffled"))
        sentence += (
            f"; without examples in the prompt, their function vector adds {own:.2f} to the probability of the"
            " true label"
        )
        sentence += f", and the vector of permuted labels {null:.2f}"
    return sentence


def _repeats(label: str, items: pd.DataFrame) -> str:
    change = _mean(items, "olsson_repeat")
    if change is None:
        return f"{label} got no questions that its context could answer"
    gain = stats.Interval(-change.value, -change.high, -change.low).format(2, "nats")
    return f"the loss of {label} is {gain} lower on repeated random tokens"


NEW, POOL = {"kind": "function_new"}, {"kind": "function"}
METRICS: tuple[Metric, ...] = (
    Mean("map_accuracy", bounds=SHARE),
    Mean("map_accuracy_bayes", bounds=SHARE),
    Mean("map_accuracy_counting", bounds=SHARE),
    Mean("map_kl_bayes", "kl_bayes", where={"kind": "map"}, unit="sequence"),
    Mean("function_accuracy", bounds=SHARE),
    Mean("function_accuracy_bayes", bounds=SHARE),
    Mean("function_kl_pool", "kl_pool", where=POOL, unit="sequence"),
    Mean("function_kl_all", "kl_all", where=POOL, unit="sequence"),
    Mean("function_accuracy_new", bounds=SHARE),
    Mean("function_new_kl_pool", "kl_pool", where=NEW, unit="sequence"),
    Mean("function_new_kl_all", "kl_all", where=NEW, unit="sequence"),
    Mean("chain_kl_unigram"),
    Mean("chain_kl_bigram"),
    Mean("chain_kl_bayes"),
    Share("few_shot_accuracy_zero", "right", where={"kind": "few_shot", "examples": 0}),
    Share("few_shot_accuracy", "most_right"),
    Share("few_shot_majority", "majority_right"),
    Share("few_shot_bias", "bias_right"),
    Share("accuracy_gold_labels", "right", where={"labels": "gold"}),
    Share("accuracy_random_labels", "right", where={"labels": "random"}),
    Share("accuracy_permuted_labels", "right", where={"labels": "permuted"}),
    Share("accuracy_flipped_labels", "right", where={"labels": "flipped"}),
    Share("flip_followed"),
    Mean("flip_effect", bounds=GAIN),
    Share("accuracy_unrelated_labels", "right", where={"labels": "unrelated"}),
    Share("accuracy_unrelated_permuted_labels", "right", where={"labels": "unrelated_permuted"}),
    Mean("unrelated_binding", bounds=GAIN),
    Mean("label_effect", bounds=GAIN),
    Mean("binding_effect", bounds=GAIN),
    Mean("olsson_repeat"),
    Mean("olsson_corpus"),
    *(
        Mean(f"ablation_{what}_{texts}")
        for texts in ("repeat", "markov", "map")
        for what in ("induction", "random", "gap")
    ),
    Mean("function_vector", unit="task", bounds=GAIN),
    *(
        Mean(f"vector_{what}", unit="vector", bounds=GAIN)
        for scale in ("", "accuracy_")
        for what in (f"{scale}gain", f"{scale}gain_shuffled", f"{scale}gain_random", f"{scale}binding")
    ),
)
"""Metrics of the summary, if measured; docs/in_context.md defines them."""


def draw(result: Result) -> "Mapping[str, go.Figure]":
    """Draw the figures of a result with any number of models; the first figure answers the experiment's question.

    Models trained on pools of different sizes are drawn by pool size.
    """
    from probe.in_context import figures as plots

    tables, styles = result.tables, result.styles
    figures: dict[str, go.Figure] = {}
    pools = joined_curve(result)
    if pools is not None:
        styles = styles | plots.by_size(pools)
        figures["pool_sizes"] = plots.pool_sizes(pools)
    if "curve" in tables:
        figures["curve"] = plots.example_curves(tables["curve"], styles)
    if "few_shot" in tables:
        figures["few_shot"] = plots.few_shot(tables["few_shot"], tables.get("labels"), styles)
    if "text_vectors" in tables:
        figures["text_vectors"] = plots.text_vectors(tables["text_vectors"], styles)
    if "over_training" in tables:
        figures["phase_change"] = plots.phase_change(tables["over_training"], styles)
    if "distances" in tables:
        figures["distances"] = plots.distances(tables["distances"], styles)
    if "labels" in tables and "few_shot" not in tables:
        figures["labels"] = plots.labels(tables["labels"], styles)
    if "repeats" in tables:
        figures["repeats"] = plots.repeats(tables["repeats"], styles)
    if "ablation" in tables:
        figures["ablation"] = plots.ablation(tables["ablation"], styles)
    if "heads" in tables:
        figures["heads"] = plots.heads(tables["heads"], styles)
    return figures


def read(
    *,
    data: str | Path | None,
    strict: bool,
    limit: int | None = None,
    text_field: str = TEXT,
    label_field: str = LABEL,
    columns: str = "",
    label_names: str = "",
    **_: Any,
) -> list[Rows[LabelledText]]:
    """Read the examples of the data file, if there is one."""
    if data is None and label_names:
        raise ConfigError("label_names names the labels of a data file: give a file with data, or leave it out.")
    fields = (text_field, label_field)
    return [] if data is None else [read_classification(data, *fields, strict, limit, columns, label_names)]


def count_tokens(
    lm: "LM",
    *,
    data: str | Path,
    n: int,
    limit: int | None,
    seed: int,
    draws: int,
    shots: tuple[int, ...],
    text_field: str,
    label_field: str,
    template: str,
    form: Form,
    only: str,
    columns: str,
    label_names: str,
    **_: Any,
) -> int:
    """Count the tokens of a file's few-shot prompts and, unless left out, about those of the other parts.

    The lengths are means over a few queries.
    """
    from probe.in_context.few_shot import mean_lengths

    examples = read_classification(data, text_field, label_field, False, limit, columns, label_names)
    lengths = mean_lengths(lm, examples, shots, template, seed, form)
    prompts = sum(lengths.values()) + RELABELLED * lengths[max(lengths)]
    others = lengths[min(lengths)] * (1 + (2 + draws) / 16) if only == "all" else 0.0
    return round(min(n, len(examples)) * (prompts + others))


@experiment(
    "in_context",
    title="In-context learning",
    metrics=METRICS,
    draw=draw,
    say=say,
    read=read,
    across_worlds=True,
    light={"heads": 1, "draws": 1},
    cheap={"only": "shots", "shots": (0, 4)},
    tokens=count_tokens,
)
def run(
    lm: "LM",
    *,
    data: str | Path | None = None,
    n: int = 200,
    limit: int | None = None,
    seed: int = 0,
    heads: int = 2,
    draws: int = 8,
    shots: tuple[int, ...] = SHOTS,
    text_field: str = TEXT,
    label_field: str = LABEL,
    template: str = TEMPLATE,
    form: Form = "plain",
    only: Literal["all", "shots"] = "all",
    columns: str = "",
    label_names: str = "",
    tick: Tick = ignore,
) -> Evidence:
    """Measure what a model learns from its context, how close it comes to the Bayes predictor, and which heads do it.

    In a world, exactly: accuracy and loss by number of examples on maps and on functions y = (a x + b) mod p, compared
    with the Bayes predictors over the task pool and over all tasks; distances to the unigram, bigram and Bayes
    predictors of Markov chains, also over training from the run's captures, with the phase change when induction heads
    form; gold, random and permuted labels; function vectors. For any model: random tokens that are written twice
    (Olsson score), scores of every head, and the in-context loss without the induction heads and without as many random
    ones. With a file of classified texts: accuracy by number of shots, compared with always giving the most frequent
    label and with the model's label bias; accuracy with random, permuted, flipped and unrelated labels; and function
    vectors.

    Args:
        lm: the model.
        data: JSON Lines, JSON, CSV or TSV of texts with labels, or the set `agreeableness` of `probe.questions`;
            without it, the model's world, or only random tokens.
        n: number of documents of each kind; half as many chains, repeats and rows of the corpus, a quarter as many for
            heads; with a file, the maximum number of queries.
        limit: number of rows to read from the beginning of a file, of which n are drawn; all of them by default.
        seed: random seed; with equal seeds, models of one world are asked the same questions.
        heads: number of induction heads to ablate together.
        draws: number of random sets of as many other heads.
        shots: numbers of examples in few-shot prompts; those that do not fit the context are left out.
        text_field: column of the text in the file, or several such as `premise+hypothesis`; for `text` also sentence,
            content or review.
        label_field: column of the label; for `label` also category, class or sentiment.
        template: format of an example; it ends with the label.
        form: form of few-shot prompts from a file: without the tokenizer's chat template (plain), with it (chat), or
            with it if there is one (auto).
        only: with a file, `shots` measures only accuracy by number of examples: no vectors, repeated tokens or heads.
        columns: names of the columns of a file without a header, separated by commas, such as `label,title,text`; _ for
            one that is not used. Unless `text_field` names others, all but the label are joined.
        label_names: names of the labels, separated by commas: one for each number among the labels, in their order, as
            in `World,Sports,Business,Sci/Tech`, or `1=World,2=Sports` and so on.
        tick: progress.
    """
    from probe.autoregression.lags import require_tokens
    from probe.in_context.chains import Repeats, text_rows
    from probe.in_context.induction import REFERENCE, context_texts, head_parts, training_parts
    from probe.in_context.text_vectors import has_heads, vector_parts
    from probe.in_context.world import corpus_items, repeat_items, world_parts

    require_tokens(lm)
    if heads < 1 or draws < 1 or not shots or min(shots) < 0:
        raise ConfigError(
            f"heads is {heads}, draws {draws} and shots {shots}; expected 1 or more heads and draws, and shots"
            " from 0 on."
        )
    if only == "shots":
        if data is None:
            raise ConfigError(
                "only=shots counts right labels of a data file: give a file with data, or leave only out."
            )
        examples = read_classification(data, text_field, label_field, False, limit, columns, label_names)
        items, tables = shot_parts(*few_shot_curve(lm, examples, n, shots, template, seed, form, tick))
        return Evidence(pd.concat(items, ignore_index=True), tables)
    world = probe.world.of(lm) if data is None else None
    items, tables = [], {}
    facts: dict[str, Any] = {}
    numbers: list[Given] = []
    if data is not None:
        examples = read_classification(data, text_field, label_field, False, limit, columns, label_names)
        asked, seen = (part(part(tick, 0, 3), half, 2) for half in (0, 1))
        items, tables = shot_parts(*few_shot_curve(lm, examples, n, shots, template, seed, form, asked))
        more, more_tables, facts = vector_parts(lm, examples, n, max(shots), template, seed, seen)
        items, tables = [*items, *more], tables | more_tables
        rows = text_rows(lm, [example.text for example in examples], n)
        items += [corpus_items(lm, rows)] if rows else []
    elif world is not None:
        length = _length(lm)
        items, tables, facts = world_parts(lm, world, n, length, seed, part(tick, 0, 3))
    repeats = _find_repeats(lm, world, max(8, n // 2 if world is not None else n // 8), seed)
    if repeats is not None:
        subset = Repeats(repeats.rows[:-REFERENCE], repeats.begin, repeats.size)
        repeat_rows, tables["repeats"] = repeat_items(lm, subset)
        items.append(repeat_rows)
    few = max(8, n // 4 if world is not None else n // 16)
    if has_heads(lm):
        texts = context_texts(lm, world, repeats, few, seed)
        if texts:
            more, more_tables, rows_given = head_parts(lm, texts, heads, draws, seed, part(tick, 1, 3))
            items, tables, numbers = [*items, *more], tables | more_tables, [Given(*each) for each in rows_given]
    if world is not None and lm.run_dir is not None:
        more_tables, rows_given, more_facts = training_parts(probe.open_run(lm.run_dir), world)
        tables, facts = tables | more_tables, facts | more_facts
        numbers += [Given(*each) for each in rows_given]
    tick(1.0)
    return Evidence(pd.concat(items, ignore_index=True), tables, numbers, facts=facts)


def shot_parts(curve: pd.DataFrame, labels: pd.DataFrame) -> tuple[list[pd.DataFrame], dict[str, pd.DataFrame]]:
    """Return items and tables of few-shot prompts, from the results of `few_shot_curve`."""
    from probe.in_context.world import average_by, label_items, label_table

    names = [f"few_shot-{number}-{k}" for number, k in zip(curve["question"], curve["examples"], strict=True)]
    curve = curve.assign(item=names, kind="few_shot")
    curve["most_right"] = curve["right"].where(curve["examples"] == curve["examples"].max())
    table = average_by(curve, ["examples"], "right").rename(columns={"value": "accuracy"})
    for at, (_, rows) in enumerate(curve.groupby("examples")):
        interval = stats.wilson(int(rows["right"].sum()), len(rows))
        table.loc[at, ["ci_low", "ci_high"]] = interval.low, interval.high
    losses = average_by(curve, ["examples"], "loss")
    table = table.assign(loss=losses["value"], loss_low=losses["ci_low"], loss_high=losses["ci_high"])
    table["chance"] = 1 / curve["expected"].nunique()
    items, tables = [curve.drop(columns="question")], {"few_shot": table}
    if len(labels):
        items.append(label_items(labels))
        tables["labels"] = label_table(labels)
    return items, tables


def _length(lm: "LM") -> int:
    """Return the tokens per row with which the model's run was trained."""
    length = probe.open_run(lm.run_dir).config.get("length") if lm.run_dir is not None else None
    return length if isinstance(length, int) and length > 20 else 96


def _find_repeats(lm: "LM", world: "World | None", n: int, seed: int) -> "Repeats | None":
    """Return repeats in the form of the world's corpus if it has some, or of the whole vocabulary without a world."""
    from probe.in_context.chains import token_repeats, world_repeats
    from probe.in_context.induction import REFERENCE

    if world is None:
        return token_repeats(lm, n + REFERENCE, seed=seed)
    return world_repeats(lm, world, n + REFERENCE, seed) if "repeat" in world.config.mixture else None
