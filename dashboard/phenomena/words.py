"""The end of an experiment's page: what it measures, the Python lines that give the same, and every download."""

import inspect
import io
import zipfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd

from dashboard.components.details import details
from dashboard.phenomena.compute import Outcome, Question, changed_options
from probe.experiments.definition import HELP
from probe.experiments.result import Result
from probe.options import argument_help


def explain(
    question: Question, outcomes: Sequence[Outcome], result: Result, summaries: dict[str, pd.DataFrame]
) -> None:
    """Draw the folded section with the definition, the Python lines and every download.

    Args:
        question: the experiment with its options.
        outcomes: what is shown, the base first.
        result: of all models.
        summaries: of each model by label.
    """
    experiment = question.experiment
    module = vars(_module(experiment.function))
    long = pd.concat([table.assign(model=label) for label, table in summaries.items()], ignore_index=True)
    tables = {"summary": long, "items": result.items, **result.tables}
    details(
        module.get("EQUATIONS", ()),
        definition(question),
        code(question, [each.subject.ref for each in outcomes]),
        tables,
        {f"{experiment.name}.zip": partial(zip_result, result)},
    )


def definition(question: Question) -> str:
    """Return the experiment's description of itself and of its options, as Markdown."""
    experiment = question.experiment
    helps = HELP | argument_help(experiment.function)
    lines = [f"- `{name}` = `{value!r}`: {helps.get(name, '')}" for name, value in question.options.items()]
    return "\n\n".join([experiment.about, "\n".join(lines)])


def code(question: Question, refs: Sequence[str]) -> str:
    """Return the Python lines that give the page's numbers, items and figures."""
    experiment = question.experiment
    options = [f"{name}={_literal(value)}" for name, value in changed_options(question).items()]
    lines = ["import probe"]
    if experiment.origin.endswith(".py"):
        lines += ["from probe.experiments.registry import load_plugin", "", f"load_plugin({experiment.origin!r})"]
    name = repr(experiment.name)
    base, *others = refs
    if not others:
        lines += ["", f"result = probe.run_experiment({', '.join([name, repr(base), *options])})"]
    elif len(others) == 1:
        arguments = ", ".join([name, repr(others[0]), f"baseline={base!r}", *options])
        lines += ["", f"result = probe.run_experiment({arguments})"]
    else:
        lines.insert(1, "from probe.experiments.registry import find_experiment")
        lines.insert(2, "from probe.experiments.run import join")
        lines += ["", f"refs = {[*others, base]!r}"]
        lines.append(f"parts = [probe.run_experiment({', '.join([name, 'ref', *options])}) for ref in refs]")
        lines.append(f"result = join(find_experiment({name}), parts)")
    return "\n".join([*lines, "result.finding, result.summary, result.items, result.figures"])


def zip_result(result: Result) -> bytes:
    """Pack the folder that `Result.save` writes into a ZIP file, and return its bytes."""
    buffer = io.BytesIO()
    with TemporaryDirectory() as folder, zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        place = result.save(Path(folder) / result.name)
        for file in sorted(place.rglob("*")):
            if file.is_file():
                archive.write(file, file.relative_to(folder))
    return buffer.getvalue()


def _literal(value: Any) -> str:
    """Return an option as a Python literal."""
    return repr(str(value)) if isinstance(value, Path) else repr(value)


def _module(function: Any) -> Any:
    return inspect.getmodule(function) or inspect
