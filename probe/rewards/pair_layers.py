"""Chosen and rejected completions of fixed pairs through the layers, over the training of a run (docs/runs.md).

No model is loaded. Axes: S captured steps, Q pairs, D blocks, C tokens of prompt and completion.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import pandas as pd

from probe.analyses.analysis_record import Input
from probe.analyses.catalogue import analysis
from probe.errors import ConfigError, DataError
from probe.numbers import signed
from probe.plotting.notebook import Drawable, titled
from probe.runs.captured import texts, token_names
from probe.runs.captures import Captures
from probe.runs.reader import Run

if TYPE_CHECKING:
    import plotly.graph_objects as go

MARGINS = (
    r"m^l = \sum_t \log \mathrm{lens}_l(y^+_t) - \sum_t \log \mathrm{lens}_l(y^-_t)",
    r"m^D = \log \pi(y^+ \mid x) - \log \pi(y^- \mid x)",
)
ALL = "all"
"""Choice of the mean over all pairs."""
SIDES = ("chosen", "rejected")
HEIGHT, TOKENS_HEIGHT = 340, 360
"""Heights of the figures in pixels."""


def pair_choices(found: "PairLayers") -> dict[str, str]:
    """Return the labels of the pairs, and of the mean over all."""
    names = {str(n + 1): f"{n + 1}: {found.label(n)}" for n in range(len(found.names))}
    return {ALL: f"all {len(names)} pairs"} | names if len(names) > 1 else names


def first_choice(found: "PairLayers") -> str:
    """Return the first choice: the mean over all pairs, or the only pair."""
    return next(iter(pair_choices(found)))


Pair = Annotated[str | None, Input("Pair", key="rew_layer_pair", choices=pair_choices, first=first_choice)]
"""Pair, counted from 1, or all."""
Step = Annotated[
    int | None,
    Input("Step", key="rew_layer_step", choices=lambda found: found.steps, first=lambda found: found.steps[-1]),
]
"""Captured step of the figure by token."""


@dataclass(frozen=True)
class PairLayers(Drawable):
    """Log-probabilities of both completions of Q pairs after every layer, at every captured step."""

    run: Run
    """Run that captured them."""
    steps: list[int]
    """[S] captured steps."""
    ids: np.ndarray
    """[Q 2 C] tokens of prompt and completion, chosen first; -1 after the end."""
    sizes: np.ndarray
    """[Q] number of tokens of the prompts."""
    logprobs: np.ndarray
    """[S Q 2 D+1 C] log-probability of each token of the completions after each layer, nats; 0 elsewhere."""
    reference: np.ndarray | None
    """[Q 2] log pi_ref of the completions, nats; None if the run recorded none."""
    names: list[tuple[str, str, str]]
    """[Q] prompt, chosen and rejected completion."""

    notes = (
        "The logit lens reads each layer as if the model stopped there. The last row is the model's output, whose"
        " margin is log \u03c0(chosen) \u2212 log \u03c0(rejected), summed over the tokens of a completion. Earlier"
        " rows show where the difference can be read, not which layer makes it.",
    )

    @property
    def margins(self) -> np.ndarray:
        """[S Q D+1] log-probability of the chosen minus that of the rejected completion, nats."""
        sums = self.logprobs.sum(-1)
        return sums[:, :, 0] - sums[:, :, 1]

    @property
    def layers(self) -> list[str]:
        """Names of the D + 1 rows."""
        return ["embedding", *(f"block {block}" for block in range(self.logprobs.shape[3] - 1))]

    @property
    def beta(self) -> float | None:
        """Strength of the KL in the run's settings, if recorded."""
        beta = self.run.config.get("beta")
        return float(beta) if isinstance(beta, int | float) and not isinstance(beta, bool) else None

    def label(self, pair: int) -> str:
        """Return a short label of a pair: its completions."""
        chosen, rejected = (" ".join(text.split())[:24] for text in self.names[pair][1:])
        return f"{chosen} against {rejected}"

    def sentence(self) -> str:
        """Say how the mean margin of the pairs changed at the output, and from which layer on half of that is read."""
        course = self.margins.mean(1)
        count = len(self.names)
        of = f"the mean margin of {count} training pairs" if count > 1 else "the margin of a training pair"
        start, end = float(course[0, -1]), float(course[-1, -1])
        if len(self.steps) == 1:
            return f"At step {self.steps[0]:,} of {self.run.name}, {of} is {signed(start)} nats at the output."
        said = (
            f"From step {self.steps[0]:,} to step {self.steps[-1]:,} of {self.run.name}, {of} (log-probability of"
            f" chosen minus rejected) changed from {signed(start)} to {signed(end)} nats at the output"
        )
        change = course[-1] - course[0]
        short = np.flatnonzero(change / change[-1] < 0.5) if change[-1] else np.array([], dtype=int)
        if not change[-1] or not len(short) or short[-1] + 1 >= len(change):
            return f"{said}."
        row = self.layers[int(short[-1]) + 1]
        return f"{said}; from {row} on, the lens reads at least half of that change."

    def table(self) -> pd.DataFrame:
        """Return one row per step, pair and layer.

        Columns step, pair (from 1), layer, chosen, rejected, margin (nats), and, with a reference and beta,
        implicit_margin: beta times the margin minus the reference's, for the last layer only.
        """
        step, pair, layer = (axis.ravel() for axis in np.indices(self.margins.shape))
        sums = self.logprobs.sum(-1)
        table = pd.DataFrame(
            {
                "step": np.array(self.steps)[step],
                "pair": pair + 1,
                "layer": np.array(self.layers, dtype=object)[layer],
                "chosen": sums[:, :, 0].ravel(),
                "rejected": sums[:, :, 1].ravel(),
                "margin": self.margins.ravel(),
            }
        )
        if self.reference is not None and self.beta is not None:
            own = self.beta * (self.margins - (self.reference[:, 0] - self.reference[:, 1])[None, :, None])
            table["implicit_margin"] = np.where(layer == len(self.layers) - 1, own.ravel(), np.nan)
        return table

    def tables(self) -> dict[str, pd.DataFrame]:
        """Return the margins of every layer, and the log-probabilities of every token at the last step."""
        tokens = [self._tokens(number, len(self.steps) - 1) for number in range(len(self.names))]
        return {"pair-layers": self.table(), "pair-tokens": pd.concat(tokens, ignore_index=True)}

    def data(self, figure: str, pair: str | None = None, step: int | None = None) -> pd.DataFrame:
        """Return the rows behind a figure: those of the chosen pair, or of its tokens at the chosen step."""
        at = self._at(pair)
        if figure == "pair-tokens":
            return self._tokens(at or 0, self._step(step))
        table = self.table()
        return table if at is None else table[table["pair"] == at + 1].reset_index(drop=True)

    def lists(self) -> dict[str, pd.DataFrame]:
        """Return the pairs with their margins at the output, at the first and at the last step."""
        rows = [
            {"pair": number + 1, "prompt": prompt, "chosen": chosen, "rejected": rejected}
            for number, (prompt, chosen, rejected) in enumerate(self.names)
        ]
        ends = {f"margin at step {self.steps[at]:,}, nats": self.margins[at, :, -1] for at in (0, -1)}
        return {"Pairs": pd.DataFrame(rows).assign(**ends)}

    def figures(self, pair: Pair = None, step: Step = None) -> "dict[str, go.Figure]":
        """Draw the margin by layer and step, and both completions of one pair token by token.

        Args:
            pair: number of a pair, from 1; `all` is the mean over all, whose tokens are those of the first pair.
            step: captured step of the figure by token; by default the last one.
        """
        from probe.logits.part_figures import training_map

        at, when = self._at(pair), self._step(step)
        values = self.margins.mean(1) if at is None else self.margins[:, at]
        bound = max(1e-6, float(np.nanmax(np.abs(values), initial=0.0)))
        which = f"mean over {len(self.names)} pairs" if at is None else self.label(at)
        label = "chosen \u2212 rejected\n(nats)"
        chart = training_map(values.T, self.steps, self.layers, label=label, low=-bound, high=bound, diverging=True)
        title = f"{self.run.name}: margin of chosen over rejected through the layers, {which}"
        tokens = f"Pair {(at or 0) + 1} at step {self.steps[when]:,}, token by token"
        return {
            "pair-layers": titled(chart, title, HEIGHT),
            "pair-tokens": titled(self._token_map(at or 0, when), tokens, TOKENS_HEIGHT),
        }

    def _token_map(self, pair: int, step: int) -> "go.Figure":
        """Draw the log-probability of every token of both completions after every layer."""
        from probe.plotting.marks import cells, few_ticks
        from probe.plotting.panels import Panels
        from probe.plotting.theme import colour_axis, escape, numbered, token_axis

        table = self._tokens(pair, step)
        panels = Panels(list(SIDES), shared_y=True, widths=[1 + int(self._own(pair, side).sum()) for side in (0, 1)])
        for column, side in enumerate(SIDES, start=1):
            own = table[table["side"] == side]
            grid = own.pivot(index="row", columns="position", values="logprob").to_numpy(float)
            names = own.drop_duplicates("position")["token"].tolist()
            hover = [
                [f"{escape(layer)}, {name}: {value:.3f} nats" for name, value in zip(numbered(names), row, strict=True)]
                for layer, row in zip(self.layers, grid, strict=True)
            ]
            panels.add(column, cells(grid, hover=hover))
            panels.axis("x", column, title="token of the completion", tickangle=-45, **token_axis(names))
            panels.axis("y", column, **few_ticks([escape(layer) for layer in self.layers], 14))
        low = float(table["logprob"].min())
        return panels.figure(
            showlegend=False, coloraxis=colour_axis("log-prob.<br>(nats)", low=min(low, -1e-6), high=0)
        )

    def _tokens(self, pair: int, step: int) -> pd.DataFrame:
        """Return one row per side, layer and token of the completions of a pair at a step, by number."""
        parts = []
        for side, name in enumerate(SIDES):
            own = np.flatnonzero(self._own(pair, side))
            pieces = np.array(token_names(self.run, self.ids[pair, side, own]), dtype=object)
            row, position = (axis.ravel() for axis in np.indices((len(self.layers), len(own))))
            values: dict[str, Any] = {"step": self.steps[step], "pair": pair + 1, "side": name}
            places = {"position": position, "token": pieces[position], "row": row}
            layers = np.array(self.layers, dtype=object)[row]
            numbers = self.logprobs[step, pair, side][:, own].ravel()
            parts.append(pd.DataFrame({**values, **places, "layer": layers, "logprob": numbers}))
        return pd.concat(parts, ignore_index=True)

    def _own(self, pair: int, side: int) -> np.ndarray:
        """Return [C] whether each token belongs to a completion."""
        return (np.arange(self.ids.shape[-1]) >= self.sizes[pair]) & (self.ids[pair, side] >= 0)

    def _at(self, pair: str | None) -> int | None:
        """Return the number of a pair from 0; None for the mean over all.

        Raises:
            ConfigError: there is no such pair.
        """
        known = list(pair_choices(self))
        if pair is not None and pair not in known:
            raise ConfigError(f"There is no pair {pair!r} here: give one of {', '.join(known)}.")
        chosen = known[0] if pair is None else pair
        return None if chosen == ALL else int(chosen) - 1

    def _step(self, step: int | None) -> int:
        """Return the number of a captured step.

        Raises:
            ConfigError: the step was not captured.
        """
        if step is not None and step not in self.steps:
            raise ConfigError(f"Step {step:,} was not captured: give one of {', '.join(map(str, self.steps))}.")
        return len(self.steps) - 1 if step is None else self.steps.index(step)


def pair_steps(captures: Captures) -> list[int]:
    """Return the steps at which pairs were captured through the layers: all of them, if the last one has them."""
    steps = captures.steps
    return steps if steps and "pair_lens_logprobs" in captures.load(steps[-1]) else []


@analysis("rewards", title="Pairs through the layers", equations=MARGINS, key="rew_layers", widths=((1, 1),))
def follow_pair_layers(*, run: Annotated[Path, Input("Run", key="rew_layers_run")]) -> PairLayers:
    """Follow chosen and rejected completions of fixed pairs through the layers while a run is trained.

    DPO captures what the logit lens gives to both completions of a few training pairs, token by token after each layer.
    The margin is the log-probability of the chosen completion minus that of the rejected one, summed over tokens; at
    the last layer it is that of the model. No model is loaded.

    Args:
        run: folder of a run with captures.

    Raises:
        DataError: the run captured no pairs through the layers.
    """
    opened = Run(run)
    captures = opened.captures()
    read: dict[int, dict[str, np.ndarray]] = {}
    for step in pair_steps(captures):
        tensors = captures.load(step)
        own = [name for name in tensors if name.startswith("pair_")]
        if "pair_lens_logprobs" in own:
            read[step] = {name: tensors[name] for name in ("pair_ids", "pair_prompt", *own)}
    if not read:
        raise DataError(
            f"{run.name} captured no pairs through the layers: `probe train dpo` and TRL's DPOTrainer with a "
            "ProbeCallback do; other loops with the instrument probe.recording.pair_lens.PairLens."
        )
    read = {step: each for step, each in read.items() if _is_sound(each)}
    if not read:
        raise DataError(f"The captures of {run.name} hold pairs that are not finite or damaged: choose another run.")
    last = next(reversed(read.values()))
    ids, sizes = last["pair_ids"].astype(np.int64), last["pair_prompt"].astype(np.int64)
    alike = {step: each for step, each in read.items() if _is_same(each, last)}
    written = (np.arange(ids.shape[-1]) >= sizes[:, None, None]) & (ids >= 0)
    if not len(ids) or not written.any(-1).all():
        raise DataError(f"The captures of {run.name} hold pairs without tokens: copy the run again from its origin.")
    logprobs = np.stack([each["pair_lens_logprobs"] for each in alike.values()]).astype(np.float32)
    logprobs = np.where(written[None, :, :, None], logprobs, 0)
    lengths = [[int((side >= 0).sum()) for side in pair] for pair in ids]
    parts = [
        [pair[0, :size], pair[0, size : ends[0]], pair[1, size : ends[1]]]
        for pair, size, ends in zip(ids, sizes, lengths, strict=True)
    ]
    names: list[Any] = [tuple(texts(opened, each)) for each in parts]
    reference = last.get("pair_ref_logprobs")
    return PairLayers(opened, list(alike), ids, sizes, logprobs, reference, names)


def _is_sound(tensors: dict[str, np.ndarray]) -> bool:
    """Return whether a capture holds finite log-probabilities of tokens."""
    whole = all(tensors[name].dtype.kind in "iu" for name in ("pair_ids", "pair_prompt"))
    return whole and bool(np.isfinite(tensors["pair_lens_logprobs"]).all())


def _is_same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    """Return whether two captures hold the same pairs and layers."""
    shapes = one["pair_lens_logprobs"].shape == other["pair_lens_logprobs"].shape
    return shapes and all(np.array_equal(one[name], other[name]) for name in ("pair_ids", "pair_prompt"))
