"""Record of an analysis: a function of models and inputs, and what page, command and documents need to know about it.

The signature of the function declares its arguments: `base` and `aligned` are two models to compare, `lm` is one model
(a page may run several and show them side by side), `tick` reports the progress. Every other argument is an input with
a type, a default, and an explanation under `Args:`. The result is a `Drawable`. The arguments of its `figures` and
`lists` are inputs too: they select a part of an existing result, so changing them recomputes nothing.
"""

import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, make_dataclass, replace
from functools import cache, cached_property
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_origin

from probe.errors import ConfigError, ProbeError
from probe.options import argument_help, description, hint_of, option, value_of
from probe.options import describe as describe_form
from probe.plotting.notebook import Beside, Drawable, Look
from probe.plugins import BUILT_IN, failure, source_hash
from probe.ticks import Tick, ignore

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from probe.model.lm import LM
    from probe.plotting.chips import TokenRows

PAIR, SINGLE = ("base", "aligned"), ("lm",)
"""Names of the arguments that stand for models."""
TICK = "tick"
NONE = "none"
VIEWS = ("sentence", "chips", "figures", "lists")
"""Methods of a result whose arguments select the part of it that is shown."""


@dataclass(frozen=True)
class Input:
    """Description of an argument for forms and commands: `n: Annotated[int, Input("Texts")] = 10`.

    Functions of the models may also take inputs that stand before this one, by their names: `within=every_token` with
    `def every_token(*lms, prompt, chat)`.
    """

    label: str = ""
    """Label above the widget; the argument's name by default."""
    key: str = ""
    """Name of the input in the page's URL; the record's key plus the argument's name by default."""
    placeholder: str | Callable[..., str] = ""
    """Text shown in an empty field; may be a function of the suggestions, or of the models where there are none."""
    first: Callable[..., Any] | None = None
    """Function that computes the default for these models (or, for a view, for a result) where the argument's own is
    None.
    """
    choices: Callable[..., Collection[Any]] | None = None
    """Function that lists the allowed values for these models (or, for a view, for a result) where the type does not; a
    mapping gives the label of each value.
    """
    shared: str = ""
    """Name of the choice at the top of the page that fills this input (`prompt`), which then has no widget of its own.
    """
    suggestions: Callable[..., Sequence[str]] | None = None
    """Function that suggests values for these models; others may be entered too. The label `nothing`, if given, is
    among the suggestions.
    """
    lines: bool = False
    """Whether it is a text of several lines."""
    within: tuple[float, float] | Callable[..., tuple[float, float]] | None = None
    """Smallest and largest allowed number, or a function of the models (for a view, of the result) that returns them.
    """
    folded: str = ""
    """Name of the popover that holds the widget."""
    instead: str = ""
    """Name of the input that this one replaces: only one of the two has more than one value."""
    labels: Mapping[Any, str] | Callable[[Any], str] = str
    """Labels of the values on a page and in its URL."""
    nothing: str = NONE
    """Label of the choice "no value"."""
    advanced: bool = False
    """Whether only the command and Python offer it; pages use its default."""
    aside: bool = False
    """Whether the result does not depend on it, as on a folder of earlier answers."""
    added: bool = False
    """Whether results were stored before there was this input: one without it counts as one with its default."""
    type: Any = None
    """Type that a form or a command passes, where Python callers may pass more: `Path | None` for a `Behaviour | Path`.
    """
    help: str = ""
    """Explanation, for an input without an entry in a docstring."""
    brings: Callable[[Any], Mapping[str, inspect.Parameter]] | None = None
    """Function that maps a value of this input to further inputs, which the analysis takes as `**options`: an
    experiment's name brings the options of that experiment.
    """

    def label_of(self, value: Any) -> str:
        """Return the label of a value on a page."""
        return self.labels[value] if isinstance(self.labels, Mapping) else self.labels(value)


SHARED = {"prompt": Input("Prompt", shared="prompt"), "chat": Input("Chat template", key="chat")}
"""Inputs that several analyses share, by name."""
Prompt = Annotated[str, SHARED["prompt"]]
"""Prompt given to the models: the text field at the top of every page, `--prompt` on the command line. Both take a
conversation as JSON, too (`Analysis.settled`)."""
Asked = Annotated[str | Sequence[int], Input("Prompt", shared="prompt", type=str)]
"""Prompt as text; Python callers may pass token ids instead."""
Chat = Annotated[bool, SHARED["chat"]]
"""Whether the prompt is sent as a user's message in the model's chat template."""


def _call(function: Callable[..., Any], *of: Any, **given: Any) -> Any:
    return function(*of, **given)


def _asked(
    function: Callable[..., Any], of: tuple[Any, ...], given: Mapping[str, Any], ask: Callable[..., Any] = _call
) -> Any:
    """Call a function of an input with the models and those of the other inputs, by name, that it takes."""
    taken = inspect.signature(function).parameters
    return ask(function, *of, **{name: each for name, each in given.items() if name in taken or _takes_all(function)})


def _takes_all(function: Callable[..., Any]) -> bool:
    return any(each.kind is each.VAR_KEYWORD for each in inspect.signature(function).parameters.values())


@dataclass(frozen=True, eq=False)
class Preview:
    """Quick result that a page shows before a slow one is requested."""

    button: str
    """Label of the button that requests the full result."""
    inputs: Mapping[str, Any]
    """Input values that make the analysis quick."""


@dataclass(frozen=True)
class Analysis:
    """Analysis as the registry stores it."""

    name: str
    """Name of the analysis: the name of its function."""
    page: str
    """Page that shows the analysis; also its subject."""
    title: str
    """Title shown to people."""
    function: Callable[..., Any]
    equations: tuple[str, ...] = ()
    """Equations in LaTeX, each on a line of its own."""
    seconds: Callable[..., float | None] | None = None
    """Function that estimates the seconds needed, from the same models and inputs; None for one that runs no model."""
    key: str = ""
    """Prefix of the names of its inputs in the URL; the analysis's name by default."""
    widths: tuple[tuple[int, ...], ...] = ()
    """Relative widths of the figures in each row of the page; a figure beyond these rows gets a row of its own."""
    beside: type[Beside[Any]] | None = None
    """Function that merges the results of several models into one to draw and describe; without it, they stand side by
    side.
    """
    settle: Callable[..., Mapping[str, Any]] | None = None
    """Function that, from the models and the inputs, gives inputs without a value the same value for all models."""
    preview: Preview | None = None
    """Quick result that the page shows until the reader requests the full one."""
    stored: bool = True
    """Whether results that took long are stored; that of one reading of a prompt is as large as it is quick."""
    origin: str = BUILT_IN
    """Source of the analysis: built in, a distribution, or a file."""
    chosen: Mapping[str, Any] = field(default_factory=dict, compare=False)
    """Values of the inputs that bring others; the defaults where missing."""

    @cached_property
    def models(self) -> tuple[str, ...]:
        """Names of the arguments that stand for models, the base first."""
        taken = inspect.signature(self.function).parameters
        return PAIR if "base" in taken else tuple(name for name in SINGLE if name in taken)

    @cached_property
    def inputs(self) -> dict[str, inspect.Parameter]:
        """Inputs that the computation of a result depends on; those brought by other inputs come last."""
        found = dict(self._signature)
        for name, bring in self._bringing.items():
            value = self.chosen.get(name, found[name].default)
            more = bring(value)
            if clash := more.keys() & {*found, *self.views}:
                raise ConfigError(f"`{value}` and {self.name} both have an input `{min(clash)}`: rename one of them.")
            found |= more
        return found

    @cached_property
    def _signature(self) -> dict[str, inspect.Parameter]:
        """Return the inputs in the function's own signature."""
        taken = inspect.signature(self.function).parameters
        skip = (*self.models, TICK)
        return {name: each for name, each in taken.items() if name not in skip and not _is_for_python(each)}

    @cached_property
    def _bringing(self) -> dict[str, Callable[[Any], Mapping[str, inspect.Parameter]]]:
        """Return the functions that bring further inputs, by the name of the input that they depend on."""
        about = {name: _marked(self.function, each) for name, each in self._signature.items()}
        return {name: each.brings for name, each in about.items() if each is not None and each.brings is not None}

    def with_values(self, values: Mapping[str, Any]) -> "Analysis":
        """Return the analysis with the inputs that these values of its own inputs bring.

        Raises:
            ProbeError: a value is not valid for the input that brings others.
        """
        chosen = {name: values[name] for name in self._bringing if name in values}
        return replace(self, chosen={**self.chosen, **chosen}) if chosen else self

    def with_words(self, argv: Sequence[str]) -> "Analysis":
        """Return the analysis with the inputs that the arguments of a command line bring.

        Raises:
            ProbeError: see `with_values`.
        """
        values = {name: value_of(argv, option(name)) for name in self._bringing}
        return self.with_values({name: value for name, value in values.items() if value is not None})

    @property
    def added(self) -> dict[str, Any]:
        """Defaults of the inputs that earlier results lack."""
        return {name: each.default for name, each in self.inputs.items() if self.about_input(name).added}

    @cached_property
    def views(self) -> dict[str, inspect.Parameter]:
        """Inputs that select the part of a result that is shown."""
        methods = self._methods
        names = dict.fromkeys(name for method in methods for name in _keywords(method))
        return {name: _keywords(self._owner(name))[name] for name in names}

    def views_of(self, method: str) -> Collection[str]:
        """Return the names of the inputs that a method of the result takes."""
        return [name for each in self._methods if each.__name__ == method for name in _keywords(each)]

    @property
    def has_chips(self) -> bool:
        """Whether its results contain texts as rows of coloured tokens."""
        return any(each.__name__ == "chips" and each is not Drawable.chips for each in self._methods)

    @cached_property
    def _methods(self) -> list[Callable[..., Any]]:
        """Return the methods of the result's class that take views."""
        kind = hint_of(self.function, inspect.signature(self.function).return_annotation)
        return [getattr(kind, name) for name in VIEWS] if isinstance(kind, type) and issubclass(kind, Drawable) else []

    @property
    def about(self) -> str:
        """Description of the analysis: its docstring without the arguments."""
        return description(self.function)

    @property
    def summary(self) -> str:
        """The first line of its docstring."""
        return self.about.partition("\n")[0]

    @property
    def version(self) -> str | None:
        """Hash of the defining file, for an analysis that is not built in: edited code gets its own results."""
        return None if self.origin == BUILT_IN else source_hash(self.function)

    @property
    def call(self) -> str:
        """Python name that calls the function: `probe.SUBJECT.NAME`, or how a plugin's function is found."""
        module = self.function.__module__
        if self.origin == BUILT_IN:
            return (
                f"probe.{module.split('.')[1]}.{self.name}" if module.startswith("probe.") else f"{module}.{self.name}"
            )
        return f"probe.analyses.find_analysis({self.name!r}).function"

    def about_input(self, name: str) -> Input:
        """Return the `Input` that describes an argument."""
        return _marked(self._owner(name), (self.inputs | self.views)[name]) or SHARED.get(name, Input())

    def option_of(self, name: str) -> str:
        """Return the command-line name of an input: its shared name if it has one, otherwise its own."""
        return self.about_input(name).shared or name

    def _owner(self, name: str) -> Callable[..., Any]:
        """Return the function or method whose argument an input is."""
        return next((each for each in self._methods if name in _keywords(each)), self.function)

    def depends(self, name: str) -> list[str]:
        """Return the names of the preceding inputs that an input's allowed values depend on."""
        about = self.about_input(name)
        hint = None if about.suggestions else about.placeholder
        given = [each for each in (about.first, about.within, about.choices, about.suggestions, hint) if callable(each)]
        taken = {each for function in given for each in inspect.signature(function).parameters}
        names = list(self.inputs)
        before = names[: names.index(name)] if name in names and any(map(_takes_all, given)) else []
        return [each for each in names if each in taken or each in before] if name in names else []

    def form(self, names: Collection[str] | None = None) -> type:
        """Build a dataclass with a field for each input: type, default and explanation, as `probe.options` reads it.

        Args: names: inputs to include; all by default.

        Raises:
            ConfigError: an input has neither a type nor a default.
        """
        import tyro

        helps = {
            name: text
            for each in (*reversed(self._methods), self.function)
            for name, text in argument_help(each).items()
        }
        entries = []
        for name, parameter in (self.inputs | self.views).items():
            if names is not None and name not in names:
                continue
            hint = hint_of(self._owner(name), parameter.annotation)
            if hint is None and name in SHARED:
                hint = str
            if hint is None and parameter.default not in (parameter.empty, None):
                hint = type(parameter.default)
            if hint is None:
                raise ConfigError(f"The input `{name}` of the analysis `{self.name}` needs a type or a default.")
            plain = self.about_input(name).type or (get_args(hint)[0] if get_origin(hint) is Annotated else hint)
            text = self.about_input(name).help or helps.get(name, "")
            default = {} if parameter.default is parameter.empty else {"default": parameter.default}
            entry: Any = field(kw_only=True, metadata={"help": text}, **default)
            entries.append((self.option_of(name), Annotated[plain, tyro.conf.arg(help=text)], entry))
        return make_dataclass(self.name, entries, frozen=True)

    def fields(
        self,
        *lms: "LM",
        result: Drawable | None = None,
        given: Mapping[str, Any] | None = None,
        names: Collection[str] | None = None,
        ask: Callable[..., Any] = _call,
    ) -> list[dict[str, Any]]:
        """Describe the inputs for a form (`probe.options.describe`), including their allowed values for these models.

        Further keys are those of `Input`, `labels` as a function of a value, `depends` (the inputs that its allowed
        values depend on), `late` (whether its choices are known only once these inputs or a result are known), and
        `view` (for an input that selects a part of a result: the method of the result that takes it).

        Args:
            lms: the models.
            result: result whose views are described with their allowed values.
            given: values of inputs by name; without them, inputs that depend on others are described without allowed
                values.
            names: inputs to include; all by default.
            ask: function that calls a function of an input with the models and with inputs by name.

        Raises:
            ProbeError: the models cannot be used with these inputs.
        """
        entries, known = [], {self.option_of(name): name for name in self.inputs | self.views}
        for each in describe_form(self.form(names)):
            name = known[each["name"]]
            about, depends = self.about_input(name), self.depends(name)
            entry = each | {
                "name": name,
                "label": about.label or name.replace("_", " "),
                "key": about.key or f"{self.key or self.name}_{name}",
                "placeholder": about.placeholder if isinstance(about.placeholder, str) else "",
                "shared": about.shared,
                "advanced": about.advanced,
                "labels": about.label_of,
                "nothing": about.nothing,
                "folded": about.folded,
                "instead": about.instead,
                "lines": about.lines,
                "brings": about.brings is not None,
                "within": None if callable(about.within) else about.within,
                "view": self._owner(name).__name__ if name in self.views else "",
                "depends": depends,
                "late": about.choices is not None and bool(name in self.views or depends),
            }
            of: tuple[Any, ...] = lms if name in self.inputs else (result,)
            is_there = bool(lms or not self.models) if name in self.inputs else result is not None
            if is_there and not about.advanced and (given is not None or not depends):
                entry |= self._possible(about, entry, of, given or {}, ask)
            entries.append(entry)
        return entries

    def _possible(
        self,
        about: Input,
        entry: Mapping[str, Any],
        of: tuple[Any, ...],
        given: Mapping[str, Any],
        ask: Callable[..., Any],
    ) -> dict[str, Any]:
        """Return the allowed values of an input for these models or, for a view, for a result."""
        found: dict[str, Any] = {}
        if callable(about.within):
            found |= {"within": _asked(about.within, of, given, ask)}
        if about.suggestions is not None:
            words = list(_asked(about.suggestions, of, given, ask))
            found |= {"suggestions": [*words, *[about.nothing] * (about.nothing != NONE and bool(words))]}
            found |= {} if isinstance(about.placeholder, str) else {"placeholder": about.placeholder(words)}
        elif not isinstance(about.placeholder, str):
            found |= {"placeholder": _asked(about.placeholder, of, given, ask)}
        if about.choices is not None:
            choices = _asked(about.choices, of, given, ask)
            found |= {"choices": list(choices), "type": "list" if entry["type"] == "list" else "choice"}
            found |= {"labels": choices.__getitem__} if isinstance(choices, Mapping) else {}
        if about.first is not None and entry["default"] is None:
            found |= {"default": _asked(about.first, of, given, ask), "optional": False}
        return found

    def complete(self, values: Mapping[str, Any], *lms: "LM") -> dict[str, Any]:
        """Return the inputs that the computation depends on, including defaults that depend on the models.

        Raises:
            ConfigError: a value is not allowed for these models.
        """
        own = self.with_values(values)
        whole = {name: values.get(name, each.default) for name, each in own.inputs.items()}
        for name, value in whole.items():
            about = own.about_input(name)
            if value is None and about.first is not None:
                whole[name] = value = _asked(about.first, lms, whole)
            own._require(name, value, lms, whole)
        return whole

    def _require(self, name: str, value: Any, of: tuple[Any, ...], given: Mapping[str, Any]) -> None:
        """Raise a ConfigError unless a value is allowed for these models or, for a view, for a result."""
        about = self.about_input(name)
        ends = _asked(about.within, of, given) if callable(about.within) else about.within
        known = None if about.choices is None else list(_asked(about.choices, of, given))
        for each in value if isinstance(value, tuple) else (value,):
            if each is not None and ends is not None and not ends[0] <= each <= ends[1]:
                raise ConfigError(f"`{name}` of {self.name} is {each}; expected {ends[0]:g} to {ends[1]:g}.")
            if each is not None and known is not None and each not in known:
                some = f"one of {', '.join(map(str, known))}" if known else "none: there is nothing to choose from"
                raise ConfigError(f"`{name}` of {self.name} is {each!r}; expected {some}.")

    def is_usual(self, name: str, values: Mapping[str, Any], *lms: "LM") -> bool:
        """Return whether an input has its default value, or an advanced input the value derived from the models.

        Python lines on a page leave such inputs out.
        """
        about, value = self.about_input(name), values[name]
        if value == self.inputs[name].default:
            return True
        return about.advanced and about.first is not None and value == _asked(about.first, lms, values)

    def cost(self, *lms: "LM", **values: Any) -> float | None:
        """Estimate the seconds that a result takes; 0 if it is quick, None if unknown.

        Raises:
            ProbeError: the models or the inputs cannot be used.
        """
        return 0.0 if self.seconds is None else self.seconds(*lms, **self.complete(values, *lms))

    def settled(self, values: Mapping[str, Any], *lms: "LM") -> dict[str, Any]:
        """Return the inputs with one value for all models where each model alone would choose its own.

        A prompt that is a conversation in JSON becomes its text in the last model's chat template.

        Raises:
            ProbeError: the models or the inputs cannot be used.
        """
        from probe.model.asked import written_out

        for name in self.inputs:
            said = values.get(name)
            if self.about_input(name).shared == "prompt" and isinstance(said, str):
                text = written_out(said, *lms)
                plain = {"chat": False} if text != said and "chat" in self.inputs else {}
                values = {**values, name: text, **plain}
        several = self.models != PAIR and len(lms) > 1
        return {**values, **(self.settle(lms, **self.complete(values, *lms)) if self.settle and several else {})}

    def run(self, *lms: "LM", tick: Tick = ignore, **values: Any) -> Drawable:
        """Compute the result; inputs that only select a part of it are ignored.

        Raises:
            ProbeError: the function raised one, or a plugin's function failed.
        """
        given = self.complete(values, *lms)
        if TICK in inspect.signature(self.function).parameters:
            given[TICK] = tick
        try:
            return drawable(self.function(**dict(zip(self.models, lms, strict=True)), **given), self.title)
        except ProbeError:
            raise
        except Exception as error:
            if self.origin == BUILT_IN:
                raise
            raise failure(f"The analysis `{self.name}`", error, self.function) from error

    def together(self, results: Sequence[Drawable], looks: Sequence[Look]) -> list[Drawable]:
        """Merge results of one model each into one for all models, if the analysis has `beside`."""
        if self.models == PAIR:
            return [named(result, looks) for result in results]
        if self.beside is not None and results:
            return [self.beside(tuple(results), tuple(looks))]
        return [named(result, [look]) for result, look in zip(results, looks, strict=True)] if looks else [*results]

    def require_views(self, result: Drawable, values: Mapping[str, Any]) -> None:
        """Raise an error unless a result has the selected views.

        Raises:
            ConfigError: the result does not have a view.
        """
        for name in self.views:
            self._require(name, values.get(name), (result,), {})

    def sentence(self, result: Drawable, values: Mapping[str, Any]) -> str:
        """Return the sentence of a result for the selected views."""
        return result.sentence(**_chosen(result.sentence, values))

    def chips(self, result: Drawable, values: Mapping[str, Any]) -> "TokenRows | None":
        """Return the token rows of a result for the selected views."""
        return result.chips(**_chosen(result.chips, values))

    def figures(self, result: Drawable, values: Mapping[str, Any]) -> "Mapping[str, go.Figure]":
        """Return the figures of a result for the selected views."""
        return result.figures(**_chosen(result.figures, values))

    def data(self, result: Drawable, figure: str, values: Mapping[str, Any]) -> "pd.DataFrame":
        """Return the table behind a figure of a result for the selected views."""
        return result.data(figure, **_chosen(result.data, values))

    def lists(self, result: Drawable, values: Mapping[str, Any]) -> "Mapping[str, pd.DataFrame]":
        """Return the tables of a result that are meant for reading, for the selected views."""
        return result.lists(**_chosen(result.lists, values))


def named(result: Drawable, looks: Sequence[Look]) -> Drawable:
    """Return the result with these model names and colours, as far as it has such fields."""
    known: Any = result
    own = {each.name for each in fields(known)} if is_dataclass(known) else set()
    changes = {"names": tuple(look.name for look in looks), "looks": tuple(looks)}
    return replace(known, **{name: value for name, value in changes.items() if name in own})


@dataclass(frozen=True)
class Bundle(Drawable):
    """Result of a function that returned bare figures, tables and sentences."""

    sentences: tuple[str, ...]
    charts: "tuple[go.Figure, ...]"
    frames: "tuple[pd.DataFrame, ...]"

    def sentence(self) -> str:
        """Join the sentences."""
        return " ".join(self.sentences)

    def tables(self) -> "dict[str, pd.DataFrame]":
        """Return the tables by number, or the points of the figures if there are no tables."""
        frames = self.frames or tuple(map(_points, self.charts))
        return {f"table-{index}" if index > 1 else "table": frame for index, frame in enumerate(frames, start=1)}

    def lists(self) -> "dict[str, pd.DataFrame]":
        """Return the tables that the function returned."""
        return self.tables() if self.frames else {}

    def figures(self) -> "dict[str, go.Figure]":
        """Return the figures by number."""
        return {f"chart-{index}" if index > 1 else "chart": each for index, each in enumerate(self.charts, start=1)}


def drawable(output: Any, title: str) -> Drawable:
    """Convert what a function returned to a `Drawable`.

    Args:
        output: a `Drawable`, a plotly figure, a DataFrame, a text, or a tuple or list of the latter three.
        title: title of the analysis.

    Raises:
        ConfigError: the output is of another type.
    """
    import pandas as pd
    import plotly.graph_objects as go

    if isinstance(output, Drawable):
        return output
    parts = list(output) if isinstance(output, tuple | list) else [] if output is None else [output]
    odd = next((part for part in parts if not isinstance(part, go.Figure | pd.DataFrame | str)), None)
    if odd is not None:
        raise ConfigError(f"`{title}` gave a {type(odd).__name__}: let it return a figure, a table or a sentence.")
    return Bundle(
        tuple(part for part in parts if isinstance(part, str)),
        tuple(part for part in parts if isinstance(part, go.Figure)),
        tuple(part for part in parts if isinstance(part, pd.DataFrame)),
    )


def _points(chart: "go.Figure") -> "pd.DataFrame":
    """Return the x and y of a figure's traces as a table, for a figure that came without a table."""
    import pandas as pd

    rows = []
    for trace in chart.data:
        values = {axis: getattr(trace, axis, None) for axis in ("x", "y")}
        columns = {axis: pd.Series(list(value)) for axis, value in values.items() if value is not None}
        if columns:
            rows.append(pd.DataFrame({"trace": trace.name or "", **columns}))
    return pd.concat(rows, ignore_index=True) if rows else pd.DataFrame()


def _marked(function: Callable[..., Any], parameter: inspect.Parameter) -> Input | None:
    """Return the `Input` in an argument's annotation, if any."""
    marks = getattr(hint_of(function, parameter.annotation), "__metadata__", ())
    return next((each for each in marks if isinstance(each, Input)), None)


@cache
def _keywords(method: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """Return the keyword arguments of a method."""
    return {name: each for name, each in inspect.signature(method).parameters.items() if name != "self"}


def _chosen(method: Callable[..., Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of the values that a method takes."""
    taken = _keywords(getattr(method, "__func__", method))  # cached per function, so that the result itself is not kept
    return {name: value for name, value in values.items() if name in taken}


def _is_for_python(parameter: inspect.Parameter) -> bool:
    """Return whether only Python callers can pass an argument: its default is a function, or it is variadic."""
    return (callable(parameter.default) and parameter.default is not parameter.empty) or parameter.kind in (
        parameter.VAR_KEYWORD,
        parameter.VAR_POSITIONAL,
    )
