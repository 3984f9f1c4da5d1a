"""`probe export`: writes the figures of a run or a result as files for a paper, with data and provenance."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

from probe.commands.opened import open_runs
from probe.errors import ConfigError, MissingToolError, RunError
from probe.options import parse
from probe.texts import say

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import pandas as pd
    import plotly.graph_objects as go

    from probe.runs.reader import Run

    Drawing = tuple[str, str, dict[str, str], go.Figure, pd.DataFrame]


def export(argv: list[str]) -> int:
    """Write the figures of a run or of an experiment's result as PNG, SVG, PDF, HTML, CSV and LaTeX.

    A result is also written as a log of Inspect or as samples of lm-evaluation-harness.
    """
    import tyro

    from probe.plotting.paper import Paper, paper_of

    @dataclass(frozen=True, kw_only=True)
    class Export(Paper):
        """Write the figures of a run as files: metric curves, captured attention and lens, headline figures.

        For the result of an experiment, it writes the figures, and summary, items and tables as CSV and LaTeX.
        """

        ref: tyro.conf.Positional[str]
        """Run to export: its directory, or its name in a run directory; or the folder of a saved experiment result."""
        format: str = "png,svg,pdf,html,csv,tex"
        """Formats, separated by commas; html, csv and tex need no browser. The result of an experiment has two more:
        inspect (a log of Inspect for each model) and lm-eval (samples of lm-evaluation-harness)."""
        out: Path
        """Folder to write to; existing files of the same names are replaced."""
        step: int | None = None
        """Captured step to draw; the last one by default."""
        group: bool = False
        """Draw the run's group of seeds instead of the run alone: means over trainings with their t intervals."""

    from probe.commands.progress import Progress
    from probe.experiments.result import RESULT_FILE, Result
    from probe.logs.log_writers import FORMATS, write_logs
    from probe.plotting.export import parse_formats, provenance, save_all, save_provenance
    from probe.plotting.names import file_stem
    from probe.runs import Run
    from probe.runs.storage import check_folder

    settings = parse(Export, argv, "probe export")
    options = {each.name: getattr(settings, each.name) for each in fields(Paper)}
    named = [part.strip().lower() for part in settings.format.split(",") if part.strip()]
    of_logs = [form for form in FORMATS if form in named]
    others = [form for form in named if form not in FORMATS]
    formats = parse_formats(",".join(others)) if others or not of_logs else []
    _require_browser(formats)
    check_folder(settings.out)
    command = f"probe export {Path(settings.ref).name} --format {settings.format}" + " --group" * settings.group
    if (Path(settings.ref).expanduser() / RESULT_FILE).is_file():
        if settings.step is not None or settings.group:
            given = "--group" if settings.group else "--step"
            raise ConfigError(
                f"{given} was given for the result of an experiment, and only a run has that: leave it out."
            )
        result = Result.load(settings.ref)
        files = result.export(settings.out, formats, command=command, **options) if formats else []
        for form in of_logs:
            files += write_logs(result, settings.out, form)
        say(f"{len(files)} files in {settings.out}")
        return 0
    if of_logs:
        raise ConfigError(
            f"The format {of_logs[0]} was requested for a run, and only the result of an experiment has items: give the"
            " folder of one."
        )
    (place,) = open_runs((settings.ref,))
    run = Run(place)
    source = provenance(
        run=run.name, method=run.method, created_by=command, run_created=run.created, git=run.meta.get("git")
    )
    files = []
    if settings.group:
        figures, more = group_drawings(run)
        source |= more
    else:
        figures = list(drawings(run, settings.step))
    with Progress("Exporting") as bar:
        for index, (name, title, asked, chart, data) in enumerate(figures):
            bar.at(name, index + 1, len(figures))
            about = {"figure": name, **source, **asked}
            stem, paper = file_stem(name, about), paper_of(options)
            files += save_all(chart, data, settings.out, stem, formats, about, paper=paper, title=title)
            bar.tick((index + 1) / len(figures))
    settings.out.mkdir(parents=True, exist_ok=True)
    save_provenance(settings.out, files, source)
    say(f"{len(files)} files in {settings.out}")
    return 0


def drawings(run: "Run", step: int | None = None) -> "Iterator[Drawing]":
    """Yield name, title, inputs (prompt, note), figure and data of all results of a run.

    Args:
        run: run to draw.
        step: captured step to draw, the last one by default.

    Raises:
        RunError: the step was not captured.
    """
    from probe.plotting.curves import metric_curves, sections, styles
    from probe.plotting.intervals import headline_intervals

    look = styles({run.name: run.method})
    frame = run.metrics()
    for section, metrics in sections([str(column) for column in frame.columns]).items():
        chart = metric_curves({run.name: frame}, metrics, look, methods={run.name: run.method})
        chart.update_layout(height=90 + 230 * -(-len(metrics) // 2))
        yield f"metrics-{section}", f"Metrics of training: {section}", {}, chart, frame[["step", "time", *metrics]]
    if len(run.headline):
        table = run.headline.assign(run=run.name)
        title = "Headline metrics with their 95 % intervals over answers"
        yield "headline", title, {}, headline_intervals(table, look), table
    captures = run.captures()
    if len(captures):
        yield from _capture_drawings(run, captures.steps, captures.steps[-1] if step is None else step)


def group_drawings(run: "Run") -> "tuple[list[Drawing], dict[str, object]]":
    """Return the figures of the run's group of seeds, as means over trainings, and the facts that they state.

    Raises:
        RunError: no other run differs from it only by its seed.
    """
    import pandas as pd

    from probe.plotting.curves import Spread, metric_curves, sections, styles
    from probe.plotting.intervals import headline_intervals
    from probe.runs import list_runs
    from probe.seeds import curves, group_of, headline

    group = group_of(run, [*list_runs(), *list_runs(run.path.parent)])
    if group.count < 2:
        raise RunError(
            f"`{run.name}` has no other seed in the run directories: leave --group out, or train it again with --seed."
        )
    found, look = curves(group), styles({group.name: group.method})
    spread, drawn = Spread(found.low, found.high, list(found.members.values())), list["Drawing"]()
    over = f"means of {len(group.runs)} seeds, 95 % t intervals over trainings"
    for section, metrics in sections([str(column) for column in found.mean.columns]).items():
        frames, methods = {group.name: found.mean}, {group.name: group.method}
        chart = metric_curves(frames, metrics, look, methods=methods, spreads={group.name: spread})
        chart.update_layout(height=90 + 230 * -(-len(metrics) // 2))
        sides = ("low", found.low), ("high", found.high)
        ends = {f"{name}_{end}": side[name] for name in metrics for end, side in sides}
        table = found.mean[["step", "time", *metrics]].assign(**ends)
        drawn.append((f"metrics-{section}-seeds", f"Metrics of training: {section} ({over})", {}, chart, table))
    table = headline(group).assign(run=group.name)
    if len(table):
        values = [each.headline.assign(run=group.name) for each in group.runs if len(each.headline)]
        chart = headline_intervals(table, look, seeds=pd.concat(values))
        drawn.append(("headline-seeds", f"Headline metrics ({over})", {}, chart, table))
    return drawn, {"seeds": list(group.seeds), "group": group.about, "intervals": over}


def _capture_drawings(run: "Run", steps: "Sequence[int]", step: int) -> "Iterator[Drawing]":
    import numpy as np

    from probe.attention.figures import attention_mosaic
    from probe.logits.figures import lens_grid
    from probe.logits.trained import answer_names
    from probe.plotting.curves import answer_curves
    from probe.runs.captured import (
        answers_table,
        attention,
        attention_table,
        favourites,
        has_attention,
        has_lens,
        lens_table,
    )

    captures = run.captures()
    tensors = captures.load(step)
    answers = [captures.load(each)["lens_answer_logprobs"] for each in steps if has_lens(tensors)]
    for index, prompt in enumerate(captures.prompts):
        name, asked = f"{prompt.id}-step-{step}", {"prompt": prompt.text}
        if has_attention(tensors):
            weights = attention(tensors, index, prompt)
            first = prompt.length - weights.shape[2]
            height = max(420, 110 * weights.shape[0])
            chart = attention_mosaic(weights[..., first:], prompt.tokens[first:], height=height)
            title = f"Attention of every head at step {step}"
            yield f"attention-{name}", title, asked, chart, attention_table(weights, prompt.tokens)
        if not has_lens(tensors):
            continue
        lens = favourites(run, tensors, index, prompt)
        chart, title = lens_grid(lens, prompt.tokens, width=700), f"Logit lens at step {step}"
        yield f"lens-{name}", title, asked, chart, lens_table(lens, prompt.tokens)
        if prompt.answers:
            count = len(prompt.answers)
            logprobs = np.array([row[index, -1, prompt.length - 1, :count] for row in answers], dtype=np.float32)
            chart = answer_curves(steps, logprobs, answer_names(run, prompt.answers), marker=step)
            table, title = answers_table(steps, logprobs, prompt.answers), "Log-probability of answers over training"
            if prompt.note:
                title, asked = f"{title}. {prompt.note}", asked | {"note": prompt.note}
            yield f"answers-{prompt.id}", title, asked, chart, table


def _require_browser(formats: "Sequence[str]") -> None:
    """Raise an error with the remedy if images cannot be drawn, before any work is done.

    Raises:
        MissingToolError: an image is requested and cannot be drawn here.
    """
    from probe.plotting.export import STATIC, missing

    if set(formats) & set(STATIC) and (reason := missing()):
        raise MissingToolError(f"{reason} (`--format html,csv,tex` does.)")
