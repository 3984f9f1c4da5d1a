"""Captures of a run on one prompt over training: lens by layer, parts, neurons and KL.

The tables are those of `probe.logits.trained`; no model is loaded.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import pandas as pd

from probe.analyses.analysis_record import Input, Prompt
from probe.analyses.catalogue import analysis
from probe.errors import DataError
from probe.logits.attribution import SUM_OF_PARTS
from probe.logits.lens import LENS
from probe.logits.trained import (
    MEASURES,
    attribution_over_training,
    kl_over_training,
    neurons_over_training,
    over_training,
    promoted_over_training,
)
from probe.plotting.notebook import Drawable, titled
from probe.runs.captured import captured_prompts, captures_of, numbers_of, usual_prompt, why_without_answers
from probe.runs.reader import Run
from probe.runs.schema import CHECKPOINTS, ProbePrompt

if TYPE_CHECKING:
    import plotly.graph_objects as go

TABLES: dict[str, Callable[[Run, int], pd.DataFrame]] = {
    "training": over_training,
    "training-parts": attribution_over_training,
    "training-promoted": promoted_over_training,
    "training-neurons": neurons_over_training,
    "training-kl": kl_over_training,
}
"""Name of each table to the function that reads it from captures."""
OF_ANSWERS = ("training-parts", "training-promoted", "training-neurons")
"""Tables that need a prompt with answers."""
LAYERS = "training-layers"
"""Title of the figure of one measure by layer."""
HEIGHT = 300
"""Height of the first two figures in pixels."""
SHOWN = 12
"""Numbers of parts and neurons that are drawn."""
LONGEST = 60
"""Maximum number of letters of a prompt in a sentence."""
LEAST = -20.0
"""Smallest log-probability of the colour scale, nats."""


def known_measures(found: "TrainedLogits") -> list[str]:
    """Return the measures that colours can show."""
    return list(found.measures)


def known_parts(found: "TrainedLogits") -> list[str]:
    """Return the parts whose promoted tokens are known."""
    named = found.read.get("training-promoted")
    return [] if named is None else list(dict.fromkeys(part_names(named)))


def strongest_part(found: "TrainedLogits") -> str | None:
    """Return the part that contributed most to the logit; None if no part is known."""
    if "training-promoted" not in found.read or "training-parts" not in found.read:
        return None
    parts = found.read["training-parts"]
    strongest = parts[parts["layer"] >= 0]
    return str(part_names(strongest).iloc[int(strongest["value"].abs().argmax())])


def part_names(table: pd.DataFrame) -> pd.Series:
    """Name each row's part, such as `L2H1` or `L2 MLP`, from its layer and part."""
    return "L" + table["layer"].astype(str) + table["part"].where(table["part"] != "MLP", " MLP")


Captured = Annotated[
    str | None, Input("Captured prompt", key="log_captured", choices=captured_prompts, first=usual_prompt)
]
"""Text of a captured prompt."""
Measure = Annotated[
    str | None,
    Input("Colour", key="log_measure", choices=known_measures, first=lambda found: next(iter(found.measures))),
]
"""Measure that the figure by layer shows."""
Part = Annotated[str | None, Input("Part", key="log_trained_part", choices=known_parts, first=strongest_part)]
"""Head or MLP."""


@dataclass(frozen=True)
class TrainedLogits(Drawable):
    """Captured predictions of a run on one prompt, step by step."""

    run: Run
    """Run that captured the prompt."""
    prompt: ProbePrompt
    """Captured prompt."""
    steps: list[int]
    """[S] captured steps."""
    read: Mapping[str, pd.DataFrame]
    """Tables of `TABLES` that the captures hold."""
    left_out: str = ""
    """Prompts that should have been captured and could not be."""

    @property
    def reference(self) -> str:
        """Name of the run that its KL refers to; empty if it has none."""
        path = Path(self.run.reference or "")
        parts = path.parts[:-2] if path.parent.name == CHECKPOINTS else path.parts
        return parts[-1].partition("@")[0] if parts else ""

    @property
    def measures(self) -> dict[str, tuple[str, str]]:
        """Measures that colours can show, as (measure, answer) of the table."""
        answers = [(each.strip(), each) for each in self.prompt.answers]
        found = {f"log p({name})": ("logprob", each) for name, each in answers}
        found |= {f"rank of {name}": ("rank", each) for name, each in answers}
        found |= {"entropy": ("entropy", "")} if self._has_inner_entropy else {}
        return found | {"margin": ("margin", ""), "residual norm": ("residual_norm", "")}

    @property
    def _has_inner_entropy(self) -> bool:
        table = self.read["training"]
        return int(table.loc[table["measure"] == "entropy", "layer"].nunique()) > 1

    @property
    def _word(self) -> str:
        return " \u2212 ".join(each.strip() for each in self.prompt.answers[:2])

    def sentence(self) -> str:
        """Describe the change of the output: the first answer's probability or the entropy, and the final KL."""
        from probe.plotting.theme import shorten

        measure, answer = ("logprob", self.prompt.answers[0]) if self.prompt.answers else ("entropy", "")
        course = self._course(measure, answer)[[0, -1]].round(2) + 0.0
        first, last = (f"{each:.2f}".replace("-", "\u2212") for each in course)
        what = f"log p({answer.strip()})" if answer else "the entropy of the next token"
        text = shorten(self.prompt.text, LONGEST)
        said = f"After \u201c{text}\u201d, {what} of {self.run.name} went from {first} to {last} nats"
        kl = self.read.get("training-kl")
        if kl is not None:
            ends = kl[kl["step"] == kl["step"].max()]
            far = ends.loc[ends["kl"].idxmax()]
            said += f"; its KL from {self.reference or 'its reference'} is largest after \u201c{far['token']}\u201d, "
            said += f"{far['kl']:.2f} nats at step {far['step']:,}"
        return f"{said}."

    @property
    def notes(self) -> tuple[str, ...]:  # type: ignore[override]
        """Sentences that explain the rows of the figures, and what the captures lack, and why."""
        of, said = self._word, [self.prompt.note if self.prompt.answers else "", self.left_out]
        if "training-parts" in self.read:
            said.append(
                f"Each row of the parts is the direct contribution of a head or MLP to the logit of {of} after the"
                " last token; the top row has the largest at any step. The CSV has all parts and the rest, which"
                " sum to the logit."
            )
        if "training-neurons" in self.read:
            most = int(self.read["training-neurons"]["rank"].max()) + 1
            said.append(
                f"A capture stores the {most} strongest neurons of each block: a neuron without a value at a step"
                " was not among them."
            )
        return (*filter(None, said), *self._lacking())

    def _lacking(self) -> list[str]:
        """Explain what the captures of the run lack, and why."""
        name, said = self.run.name, []
        if not self._has_inner_entropy:
            said.append(
                f"{name} was captured before this version of Probe: its captures lack the entropy of inner layers, "
                "ranks beyond the five most probable tokens, and direct effects of heads, MLPs and neurons. A new run "
                "has them."
            )
        elif not self.prompt.answers:
            said.append(why_without_answers(self.run, self.prompt))
        elif "training-parts" not in self.read:
            said.append(
                f"The heads and MLPs of {name} do not sum to its logits, so its captures do not say what each part "
                "adds."
            )
        elif "training-neurons" not in self.read:
            said.append(
                f"The captures of {name} name no single neurons: they are older than this version of Probe, or its"
                " MLPs are not W_out times their neurons."
            )
        if "training-kl" not in self.read and self.reference:
            said.append(f"The captures of {name} lack its KL to {self.reference}; a new run has it.")
        elif "training-kl" not in self.read:
            said.append(
                f"{name} captured no KL to a reference: train by a method that has one, or give probe.watch the "
                "instrument probe.recording.ReferenceKL."
            )
        return said

    def tables(self) -> dict[str, pd.DataFrame]:
        """Return the tables read from the captures."""
        return dict(self.read)

    def data(self, figure: str) -> pd.DataFrame:
        """Return the table behind a figure."""
        return self.read.get(figure, self.read["training"])

    def lists(self, part: Part = None) -> dict[str, pd.DataFrame]:
        """Return the tokens whose logits one part raised and lowered most after the last token, strongest first.

        Args:
            part: head or MLP; by default the one that contributed most to the logit.
        """
        part = strongest_part(self) if part is None else part
        if part is None:
            return {}
        named = self.read["training-promoted"]
        rows = named[part_names(named) == part]
        table = rows.pivot_table(index="step", columns="kind", values="token", aggfunc="  ".join, sort=True)
        return {f"What {part} promoted": table.reset_index()}

    def figures(self, measure: Measure = None) -> "dict[str, go.Figure]":
        """Draw one measure by layer, the output, and if captured the parts, the neurons and the KL.

        Args:
            measure: measure of the first figure; by default the log-probability of the first answer.
        """
        from probe.logits.part_figures import training_kl, training_lines, training_parts
        from probe.plotting.theme import method_colour

        name, word = self.run.name, self._word
        panels = {
            "log-probability (nats)": {each.strip(): self._course("logprob", each) for each in self.prompt.answers},
            **{f"{each} (nats)": {each: self._course(each, "")} for each in ("entropy", "margin")},
        }
        panels = {title: lines for title, lines in panels.items() if lines}
        lines = training_lines(panels, self.steps, colour=method_colour(self.run.method))
        charts = {
            LAYERS: self._layers(measure or next(iter(self.measures))),
            "training": titled(lines, "The output over training", HEIGHT),
        }
        if "training-parts" in self.read:
            rows = self.read["training-parts"]
            grid = _grid(rows[rows["layer"] >= 0].assign(name=part_names))
            chart = training_parts(grid.to_numpy(float), _steps(grid), list(grid.index), label=word, k=SHOWN)
            title = f"{name}: what the strongest parts add to {word} over training"
            charts["training-parts"] = titled(chart, title, _height(min(SHOWN, len(grid))))
        if "training-neurons" in self.read:
            rows = self.read["training-neurons"]
            grid = _grid(rows.assign(name="L" + rows["layer"].astype(str) + " neuron " + rows["neuron"].astype(str)))
            chart = training_parts(grid.to_numpy(float), _steps(grid), list(grid.index), label=word, k=SHOWN)
            title = f"{name}: the neurons that add or subtract most"
            charts["training-neurons"] = titled(chart, title, _height(min(SHOWN, len(grid))))
        if "training-kl" in self.read:
            rows = self.read["training-kl"]
            grid = rows.pivot(index="position", columns="step", values="kl")
            tokens = rows.drop_duplicates("position").sort_values("position")["token"].tolist()
            chart = training_kl(grid.to_numpy(float), _steps(grid), tokens)
            title = f"{name}: KL from {self.reference or 'its reference'} after each token"
            charts["training-kl"] = titled(chart, title, _height(SHOWN))
        return charts

    def _layers(self, name: str) -> "go.Figure":
        """Draw one measure by layer and step."""
        from probe.logits.figures import layer_names
        from probe.logits.part_figures import training_map

        measure, answer = self.measures[name]
        table, ranks = self.read["training"], measure == "rank"
        rows = table[(table["measure"] == measure) & (table["answer"] == answer)]
        grid = rows.pivot(index="layer", columns="step", values="value").reindex(columns=self.steps)
        values = grid.to_numpy(dtype=float) + ranks  # counted from 1, as everywhere on the page
        known = values[np.isfinite(values)]
        low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 1.0)
        ends = {"logprob": (max(LEAST, low), 0.0), "rank": (1.0, max(high, 5.0))}
        low, high = ends.get(measure, (0.0, max(high, 1e-6)))
        unit = "1 = likeliest" if ranks else MEASURES[measure].partition("(")[2].rstrip(")")
        names, label = layer_names(len(grid)), f"{name}\n{unit}" if unit else name
        chart = training_map(values, self.steps, names, label=label, low=low, high=high, logarithmic=ranks)
        return titled(chart, f"{self.run.name}: {name} by layer", HEIGHT)

    def _course(self, measure: str, answer: str) -> np.ndarray:
        """Return a measure of the output by step, [S]."""
        table = self.read["training"]
        last = table[table["layer"] == table["layer"].max()]
        rows = last[(last["measure"] == measure) & (last["answer"] == answer)].set_index("step")["value"]
        return rows.reindex(self.steps).to_numpy(dtype=float)


def _grid(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the value of each name at each step, [N S]."""
    return rows.pivot(index="name", columns="step", values="value")


def _steps(grid: pd.DataFrame) -> list[int]:
    return [int(step) for step in grid.columns]


def _height(rows: int) -> int:
    """Return the height in pixels of a map with that many rows."""
    return 120 + 22 * rows


@analysis(
    "logits",
    title="Over training",
    equations=(SUM_OF_PARTS, LENS),
    key="log_training",
    widths=((4, 5), (1,), (1, 1)),
)
def follow_logits(
    *,
    run: Annotated[Path, Input("Run", key="log_run")],
    prompt: Prompt = "",
    captured: Captured = None,
) -> TrainedLogits:
    """Follow a run's predictions on a captured prompt over training.

    After the last token of the prompt: the lens by layer, and the contributions of each head, each MLP and the
    strongest neurons of each block to the logit of the first answer minus that of the second. After every token: KL(π ‖
    π_ref) from the run's reference, which a run from random weights lacks. Captures of older versions hold ranks among
    the five most probable tokens, and only the entropy of the output. No model is loaded.

    Args:
        run: folder of a run with captures.
        prompt: prompt to show if `captured` is empty and it was captured.
        captured: text of a captured prompt; by default the one whose answers changed most.

    Raises:
        DataError: a run without captures, or a prompt that it did not capture.
    """
    captures, opened = captures_of(run), Run(run)
    text = usual_prompt(run=run, prompt=prompt) if captured is None else captured
    numbers = numbers_of(captures)
    if text not in numbers:
        raise DataError(f"{run.name} did not capture the prompt {text!r}: give one of {len(numbers)} that it captured.")
    index = numbers[text]
    chosen = captures.prompts[index]
    read = {}
    for name, reader in TABLES.items():
        if chosen.answers or name not in OF_ANSWERS:
            try:
                read[name] = reader(opened, index)
            except DataError:  # the captures lack this table; the notes say so
                continue
    return TrainedLogits(opened, chosen, captures.steps, read, captures.left_out)
