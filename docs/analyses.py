"""What the documents say of an analysis, made from its record whenever the site is built.

In a page `<!-- analysis: weight_change | dpo-agreeable base -->` becomes its definition, its equations, its inputs, its
command, its Python lines, and what it says and draws of these two sample runs; options (`| --run sample_runs/rlhf`) and
a prompt may follow. `<!-- analyses -->` becomes a table of all.
"""

import re
import shlex
from collections.abc import Iterator
from html import escape
from typing import Any

from figures import SAMPLES, html
from latex2mathml.converter import convert

from probe.analyses.analysis_record import PAIR, Analysis
from probe.analyses.catalogue import analyses, find_analysis, summaries
from probe.model.rewards import analysable
from probe.options import parse
from probe.plotting.notebook import Drawable, Look, title_of
from probe.plotting.theme import METHODS

PLACE = re.compile(
    r"^<!-- analysis: (?P<name>\w+)(?: \| (?P<models>(?!--)[^|]+?))?(?: \| (?P<options>--[^|]+?))?"
    r"(?: \| (?P<prompt>.+?))? -->$",
    re.MULTILINE,
)
ALL = "<!-- analyses -->"
DRAWN = re.compile(r"<!-- drawn: (?P<name>\w+) (?P<figure>[\w-]+) -->")
RESULTS: dict[str, Drawable] = {}
"""What was computed for the page that is being built, by the name of the analysis."""


def write(markdown: str) -> str:
    """Return a page with the text of its analyses in their places."""

    def replace(match: re.Match[str]) -> str:
        models, options = (match["models"] or "").split(), shlex.split(match["options"] or "")
        return "\n".join(section(find_analysis(match["name"]), models, options, match["prompt"] or ""))

    return PLACE.sub(replace, markdown.replace(ALL, "\n".join(table()) if ALL in markdown else ALL))


def table() -> Iterator[str]:
    """Yield the lines of a table of all analyses."""
    yield "| name | page | what it does |"
    yield "|---|---|---|"
    for name, (page, summary) in summaries().items():
        yield f"| [`{name}`]({page}.md) | {page} | {summary} |"


def section(analysis: Analysis, models: list[str], options: list[str], prompt: str) -> Iterator[str]:
    """Yield the lines about an analysis: definition, inputs, command, Python, and what it finds in sample runs.

    Args:
        analysis: which one.
        models: names of sample runs, the model first and its base behind it.
        options: of the command; without these and models nothing is computed.
        prompt: what they read, where the analysis takes one.
    """
    yield f"{analysis.about}\n"
    for equation in analysis.equations:
        yield f'<div class="equation">{convert(equation, display="block")}</div>\n'
    analysis = analysis.with_words(options)
    fields = analysis.fields()
    if fields:
        yield "| input | default | meaning |"
        yield "|---|---|---|"
        for field in fields:
            default = "" if field["required"] or field["default"] in (None, "") else f"`{field['default']}`"
            yield f"| `{field['flag']}` | {default} | {field['help']} |"
        yield ""
    words = [
        "probe show",
        analysis.name,
        *(models or ["MODEL", "BASE"][: len(analysis.models)]),
        *(
            f"{field['flag']} {field['flag'][2:].upper()}"
            for field in fields
            if field["required"] and not field["shared"] and field["flag"] not in options
        ),
        *options,
        *([f'--prompt "{prompt}"'] if prompt else []),
    ]
    yield f"```bash\n{' '.join(words)}\n```\n"
    if not (models or options):
        return
    names = models[::-1]
    lms = [analysable(SAMPLES / name) for name in names]
    groups = [lms] if analysis.models == PAIR else [[lm] for lm in lms] or [[]]
    words = [*options, *([f"--prompt={prompt}"] if any(field["shared"] for field in fields) else [])]
    form: Any = parse(analysis.form(analysis.inputs), words, analysis.name)
    given = {name: getattr(form, analysis.option_of(name)) for name in analysis.inputs}
    given = analysis.settled(given, *lms)
    results = [analysis.run(*group, **given) for group in groups]
    looks = [Look(name, colour) for name, colour in zip(names, (METHODS["pretrain"], METHODS["dpo"]), strict=False)]
    (result,) = analysis.together(results, looks)
    RESULTS[analysis.name] = result
    yield f"> {escape(result.sentence(), quote=False)}\n"
    figures = result.figures()
    if figures:
        yield f"<!-- drawn: {analysis.name} {next(iter(figures))} -->\n"


def draw(page: str) -> str:
    """Return the HTML of a page with the figures of its analyses in their places."""

    def replace(match: re.Match[str]) -> str:
        chart = RESULTS[match["name"]].figures()[match["figure"]]
        return html(chart, title_of(chart, analyses()[match["name"]].title))

    return DRAWN.sub(replace, page)
