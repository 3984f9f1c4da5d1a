"""The line between them, on Side by side: an experiment at weights between two models and beyond, against alpha."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import streamlit as st

from dashboard import access
from dashboard.components.details import csv_button, details
from dashboard.components.figure import figure
from dashboard.components.focus import take_focus
from dashboard.components.form import options
from dashboard.components.metric_words import COLUMNS, after_numbers
from dashboard.components.table import show_table
from dashboard.computing import compute_when_asked
from dashboard.data import Stamp, stamp
from dashboard.markdown import escape_markdown, note, prose
from dashboard.models import compute_part
from dashboard.named import may_open
from dashboard.pages.compare.choices import EXPERIMENT, METRICS, SPACING, Pair
from dashboard.phenomena.compute import Question, refusal, seconds, sendable_result
from dashboard.state import keep
from probe.compare.path import measure_at, place_at
from probe.errors import ProbeError
from probe.experiments.forms import count_again
from probe.experiments.result import RESULT_FILE
from probe.experiments.run import call as call_of
from probe.experiments.store import WORK, may_make
from probe.numbers import in_unit
from probe.options import describe, words
from probe.terms import DIFFERENCE, RATES, Term
from probe.texts import visible
from probe.ticks import part
from probe.world import of

if TYPE_CHECKING:
    from probe.compare.path import WeightPath
    from probe.experiments.definition import Experiment
    from probe.experiments.result import Result
    from probe.model.lm import LM
    from probe.ticks import Tick

ENDS = (-0.5, 1.5)
SPACINGS = (0.5, 0.25, 0.125)
QUICK = {"n": 40, "interventions": 0, "turns": 1, "samples": 4, "shuffles": 20}
"""What options of experiments are at first here, where many models are asked."""
REAL = QUICK | {"n": 24, "samples": 1}
"""The same for models without a world, which take longer."""
FIRST = "sycophancy"
"""The experiment at first."""
KEPT = WORK / "line"
"""Where the results of the line are."""
TRAINS = ("continual",)
"""Experiments that train models, and ask none that is there."""
MOST = 6
"""Metrics that are drawn."""
EQUATIONS = [
    r"\theta(\alpha) = (1 - \alpha)\, \theta_{\mathrm{base}} + \alpha\, \theta_{\mathrm{aligned}}",
    r"\mathrm{departure}(\alpha) = m(\theta(\alpha)) - \big((1 - \alpha)\, m(\theta(0)) + \alpha\, m(\theta(1))\big)",
]
DEFINITION = """
At alpha 0 are the weights of the base and at 1 those of the aligned model; between them is interpolation, outside
extrapolation. The same questions are asked at each alpha. The dashed line is the straight one through the values of
the two models. *R²* is that of the least-squares line through the values for alpha from 0 to 1; an S-shaped curve has a
high one too, so read the *departure* with it: the largest from the straight line, for alpha from 0 to 1. Its interval
is a bootstrap over items that are drawn together for all alphas, and holds for all of them at once (Bonferroni); it is
there for means over the same items. Rates end at 0 and 100 %, so beyond the two models they leave the straight line.
"""


def draw(pair: Pair) -> None:
    """Draw the tab from its choices to its folded section."""
    if not pair.write("answer to measure along a line"):
        return
    from probe.experiments.registry import experiments

    every = experiments()
    known = {name: every[name] for name in dict.fromkeys((FIRST, *every)) if name not in TRAINS}
    columns = st.columns([4, 4, 3], vertical_alignment="bottom", gap="medium")
    with columns[0]:
        name = st.selectbox(
            "Experiment",
            list(known),
            format_func=lambda name: visible(known[name].title),
            key=keep(EXPERIMENT, known, FIRST),
            bind="query-params",
        )
    with columns[1]:
        spacing = st.segmented_control(
            "Distance of the alphas", SPACINGS, key=keep(SPACING, SPACINGS, 0.5), bind="query-params", required=True
        )
    with columns[2]:
        question = choose_options(known[name], REAL if of(pair.base) is None else QUICK)
    step = float(spacing or SPACINGS[0])
    alphas = tuple(ENDS[0] + step * index for index in range(round((ENDS[1] - ENDS[0]) / step) + 1))
    if question is None:
        pair.tell("The file of the questions comes from a link and has not been opened.")
        return
    title = known[name].title
    try:
        problem = refusal(question)
        path = None if problem else measure(pair, question, alphas)
    except ProbeError as error:
        problem = str(error)
    if problem:
        pair.tell(f"{title} cannot be measured on the line between {pair.names[0]} and {pair.names[1]}.")
        st.error(prose(problem))
        return
    if path is None:
        pair.tell(f"Press the button to measure {title} at {len(alphas)} points of the line.")
        note("It draws every metric against alpha, and says how far each is from a straight line between the models.")
        return
    path = replace(path, names=pair.names)
    show(pair, path, known[name], question)


def choose_options(experiment: "Experiment", quick: Mapping[str, int]) -> Question | None:
    """Draw the folded form of the experiment's options; None while a link's file waits for the reader's consent."""
    from probe.experiments.definition import form

    fields = [
        field | {"default": quick[field["name"]], "optional": False} if field["name"] in quick else field
        for field in describe(form(experiment))
    ]
    with st.popover("Options", icon=":material/tune:", width="stretch"):
        chosen = options(f"line.{experiment.name}", fields, link=True)
        take_focus("options")
    flags = {field["flag"]: str(field["default"]) for field in fields if field["name"] in quick} | chosen
    files = [flags[field["flag"]] for field in fields if field["file"] and field["flag"] in flags]
    return Question(experiment, tuple(words(flags))) if all(may_open(str(file)) for file in files) else None


def measure(pair: Pair, question: Question, alphas: tuple[float, ...]) -> "WeightPath | None":
    """Measure the experiment at every alpha; None while the measurement is only offered."""
    given = question.options
    request = call_of(question.experiment, pair.aligned, **given)
    each, again = seconds(request, pair.shared.store), count_again(pair.aligned, request.arguments)
    if each is not None and again:  # stored results have both forms of prompts
        each *= given["n"] / (given["n"] + again)
    places = [place_at(*pair.lms, alpha, question.experiment.name, KEPT, **given) for alpha in alphas]
    new = sum(not (place / RESULT_FILE).is_file() for place in places)
    return compute_when_asked(
        run_along,
        *pair.lms,
        button=escape_markdown(f"Run {question.experiment.title} at {new} points"),
        seconds=0.0 if not new else None if each is None else each * new,
        most="" if again else " at most",
        key="line-run",
        say=escape_markdown(f"{question.experiment.title}: asking {len(alphas)} models"),
        alphas=alphas,
        name=question.experiment.name,
        words=question.words,
        source=question.experiment.source,
        versions=tuple(stamp(Path(value).expanduser()) for value in given.values() if isinstance(value, str | Path)),
    )


def run_along(
    base: "LM", aligned: "LM", tick: "Tick", alphas: tuple[float, ...], name: str, **call: Any
) -> "WeightPath":
    """`along`, of which every alpha is kept by itself: after Cancel, or with more alphas, none is measured twice."""
    from probe.compare.path import WeightPath
    from probe.compare.weights import model_names

    results = []
    for index, alpha in enumerate(alphas):
        own = part(tick, index, len(alphas))
        results.append(compute_part(run_at, base, aligned, tick=own, alpha=alpha, name=name, **call))
        own(1.0)
    return WeightPath(name, model_names(base, aligned), alphas, tuple(results))


def run_at(
    base: "LM",
    aligned: "LM",
    tick: "Tick",
    alpha: float,
    name: str,
    words: tuple[str, ...],
    source: str | None,
    versions: tuple[Stamp, ...],
) -> "Result":
    """Run the experiment at one alpha, or load its stored result; store a new one where the reader may write."""
    from probe.experiments.registry import find_experiment

    options = Question(find_experiment(name), words).options
    place = place_at(base, aligned, alpha, name, KEPT, **options)
    keeps = (place / RESULT_FILE).is_file() or (access.may_write() and may_make(place))
    return sendable_result(measure_at(base, aligned, alpha, name, KEPT if keeps else None, tick, **options))


def show(pair: Pair, path: "WeightPath", experiment: "Experiment", question: Question) -> None:
    """Sentence, figure, table and folded section."""
    table, linearity = path.table(), path.linearity()
    known = table.loc[table["chord"].notna(), "metric"].unique().tolist()
    terms = {name: experiment.term(name) for name in known}
    if METRICS in st.session_state:  # else the URL may bring some
        st.session_state[METRICS] = [name for name in st.session_state[METRICS] if name in known]
    chosen = st.multiselect(
        "Metrics",
        known,
        format_func=lambda name: visible(terms[name].label),
        key=METRICS,
        bind="query-params",
        max_selections=MOST,
        placeholder="those by which the models differ most, against their intervals",
    )
    drawn = chosen or path.most_moved()
    pair.tell(sentence(path, table, linearity, drawn[0], terms))
    chart = path.figure(drawn)
    title = f"{experiment.title} on the line from {path.names[0]} to {path.names[1]}"
    about = pair.source | {"experiment": path.experiment, "options": question.words, "alphas": list(path.alphas)}
    figure(chart, table[table["metric"].isin(drawn)], "line", title=title, source=about)
    kept = f" What was measured is kept in `{KEPT}`." if access.may_write() else ""
    note(f"Bands are 95 % intervals.{kept}")
    rows = pd.DataFrame(list(lines(table, linearity, terms, path.names)))
    show_table(rows, hide_index=True, height=38 + 35 * min(10, len(rows)), key="line-table", column_config=COLUMNS)
    csv_button(linearity, "linearity")
    options = "".join(f", {name}={value!r}" for name, value in changed(question).items())
    code = [
        "import probe",
        "",
        pair.loads,
        f"path = probe.compare.along(base, aligned, {path.alphas}, {path.experiment!r}{options})",
        f"path.figure({drawn!r}), path.table(), path.linearity()",
    ]
    details(EQUATIONS, DEFINITION, "\n".join(code), {"line": table, "linearity": linearity})


def changed(question: Question) -> dict[str, Any]:
    """Return the options that differ from the experiment's own defaults, as Python values."""
    from dashboard.phenomena.compute import changed_options

    return {name: str(value) if isinstance(value, Path) else value for name, value in changed_options(question).items()}


def lines(
    table: pd.DataFrame, linearity: pd.DataFrame, terms: Mapping[str, Term], names: tuple[str, str]
) -> Iterator[dict[str, Any]]:
    """One row a metric, as it is read."""
    ends = [table[table["alpha"] == alpha].set_index("metric") for alpha in (0, 1)]
    for row in linearity[linearity["metric"].isin(list(terms))].to_dict("records"):
        about = terms[row["metric"]]
        values = [in_unit(about.unit, *end.loc[row["metric"], ["value", "ci_low", "ci_high"]]) for end in ends]
        yield {
            "metric": about.label,
            **dict(zip(names, values, strict=True)),
            "largest departure": departure(row, about),
            "at alpha": f"{row['alpha']:g}",
            "R\u00b2": "\u2014" if row["r2"] != row["r2"] else f"{row['r2']:.2f}",
            **after_numbers(row["metric"], about),
        }


def departure(row: Mapping[Any, Any], about: Term) -> str:
    """Format the largest departure of a metric from the straight line, with its interval."""
    unit = DIFFERENCE if about.unit in RATES else about.unit
    return in_unit(unit, row["departure"], row["departure_low"], row["departure_high"], sign=True)


def sentence(
    path: "WeightPath", table: pd.DataFrame, linearity: pd.DataFrame, metric: str, terms: Mapping[str, Term]
) -> str:
    """Describe the first drawn metric along the line, and count how many of all metrics leave the straight line."""
    about, rows = terms[metric], table[table["metric"] == metric].set_index("alpha")["value"]
    way = ", ".join(
        f"{in_unit(about.unit, rows[alpha], None, None)} at {alpha:g}" for alpha in path.alphas if alpha in rows
    )
    row = linearity.set_index("metric").loc[metric].to_dict()
    known = linearity[linearity["departure_low"].notna() & linearity["metric"].isin(list(terms))]
    off = int(((known["departure_low"] > 0) | (known["departure_high"] < 0)).sum())
    return (
        f"{about.title} from {path.names[0]} (alpha 0) to {path.names[1]} (alpha 1) and beyond: {way}; its largest "
        f"departure from the straight line is {departure(row, about)} at alpha {row['alpha']:g}. Of {len(known)} "
        f"metrics with an interval {off} leave the line by more than it."
    ).replace(" -", " \u2212")
