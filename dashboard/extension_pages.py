"""Pages and panels that packages and plugins add; what is wrong with one becomes a sentence in its place."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd
import streamlit as st

from dashboard import models
from dashboard.components.figure import figure
from dashboard.components.table import show_table
from dashboard.markdown import escape_markdown, finding, guard, note, prose
from dashboard.pages import page_names
from dashboard.state import SharedChoices, current
from probe import extensions
from probe.errors import ConfigError, ProbeError
from probe.plotting.names import file_name
from probe.plugins import failure, problems, source_hash

if TYPE_CHECKING:
    from probe.model.lm import LM

ICON = ":material/extension:"


def extension_pages() -> list[Any]:
    """Return a `st.Page` for each added page, but for those whose title or address is taken (`_is_taken`)."""
    return [_page(each) for each in extensions.pages() if not _is_taken(each)]


def extension_problems() -> list[str]:
    """Return one sentence for each extension that cannot be used."""
    clashes = [
        f"The page `{each.title}` of {extensions.PAGES.origin(each.title)} has the title of a built-in page and is left"
        " out: choose another one."
        for each in extensions.pages()
        if _is_taken(each)
    ]
    return [*problems(), *clashes]


def show_problems() -> None:
    """Say what is wrong with extensions, if anything is."""
    for sentence in extension_problems():
        st.warning(prose(sentence))


def panels(page: str) -> "list[Panel]":
    """Return the panels of a page, to be drawn at its end.

    Args:
        page: its file name (`attention`), its title, or its path.
    """
    return [Panel(each) for each in extensions.panels(page)]


def draw_panels(page: str) -> None:
    """Draw all panels of a page."""
    for panel in panels(page):
        panel.draw()


@dataclass(frozen=True)
class Panel:
    """A panel as the dashboard draws it."""

    extension: extensions.Panel

    def draw(self) -> None:
        """Draw the panel below its title; an error inside it is one sentence, and the page goes on.

        A panel that takes `shared` draws by itself. Any other is a pure function of models and prompt, computed once
        for each choice.
        """
        about, choices = self.extension, current()
        with st.container(border=True), guard():
            head = st.empty()
            head.subheader(escape_markdown(about.title), anchor=False)
            names = [
                name for name in extensions.PANEL_ARGUMENTS if name in inspect.signature(about.function).parameters
            ]
            lms = {name: _model(choices, name) for name in names if name in ("base", "aligned")}
            if any(lm is None for lm in lms.values()):
                note("This panel waits for the models that it is about.")
                return
            prompt: dict[str, Any] = {"prompt": choices.prompt} if "prompt" in names else {}
            if "shared" in names:
                output = _call(f"The panel `{about.title}`", about.function, {**lms, **prompt, "shared": choices})
            else:
                output = models.compute_once(
                    _pure,
                    *lms.values(),  # type: ignore[arg-type]
                    say=escape_markdown(about.title),
                    page=about.page,
                    title=about.title,
                    version=source_hash(about.function),
                    names=tuple(lms),
                    **prompt,
                )
            if any(hasattr(part, "to_plotly_json") for part in _parts(output)):
                head.empty()  # a figure brings its title
            source: dict[str, object] = {
                "panel": about.title,
                "base": choices.base,
                "aligned": choices.aligned,
                "prompt": choices.prompt,
            }
            _show(output, f"panel-{about.page}-{file_name(about.title).lower()}", about.title, source)


def _pure(*lms: "LM", page: str, title: str, version: str, names: tuple[str, ...], **prompt: str) -> Any:
    """Call the function of a panel, and return what it gives."""
    function = next(each.function for each in extensions.panels(page) if each.title == title)
    return _call(f"The panel `{title}`", function, {**dict(zip(names, lms, strict=True)), **prompt})


def _page(each: extensions.Page) -> Any:
    path = file_name(each.title).lower()

    def draw() -> None:
        show_problems()
        with guard():
            arguments = {"shared": current()} if "shared" in inspect.signature(each.function).parameters else {}
            output = _call(f"The page `{each.title}`", each.function, arguments)
            _show(output, f"page-{path}", each.title, {"page": each.title})

    try:
        return st.Page(draw, title=each.title, icon=each.icon or ICON, url_path=path)
    except st.errors.StreamlitAPIException:  # an icon that it does not know
        return st.Page(draw, title=each.title, icon=ICON, url_path=path)


def _is_taken(each: extensions.Page) -> bool:
    """Return whether a built-in page has the title, or an earlier page its address."""
    earlier = extensions.pages()[: extensions.pages().index(each)]
    paths = set(page_names()) | {file_name(other.title).lower() for other in earlier}
    return bool({extensions.page_key(each.title), file_name(each.title).lower()} & paths)


def _model(choices: SharedChoices, name: str) -> "LM | None":
    """Load a chosen model; None while the page waits for the reader's consent.

    Raises:
        ConfigError: none is chosen.
        ModelError: it cannot be loaded.
    """
    ref = choices.reference(choices.base if name == "base" else choices.aligned)
    if ref is None:
        raise ConfigError(f"No {name} model is chosen: choose one above.")
    return models.load(ref)


def _call(what: str, function: Callable[..., Any], arguments: dict[str, Any]) -> Any:
    try:
        return function(**arguments)
    except ProbeError:
        raise
    except Exception as error:  # the function is somebody else's
        raise failure(what, error, function) from error


def _show(output: Any, name: str, title: str, source: dict[str, object]) -> None:
    """Draw what a function returned: nothing, a figure, a table, a sentence, or several of these.

    Raises:
        ConfigError: it is something else.
    """
    import plotly.graph_objects as go

    parts = _parts(output)
    odd = next((part for part in parts if not isinstance(part, go.Figure | pd.DataFrame | str)), None)
    if odd is not None:
        raise ConfigError(f"`{title}` gave a {type(odd).__name__}: let it return a figure, a table or a sentence.")
    tables = [part for part in parts if isinstance(part, pd.DataFrame)]
    charts = [part for part in parts if isinstance(part, go.Figure)]
    for sentence in (part for part in parts if isinstance(part, str)):
        finding(sentence)
    for index, chart in enumerate(charts):
        data = tables[min(index, len(tables) - 1)] if tables else _points(chart)
        figure(chart, data, name if not index else f"{name}-{index + 1}", title=title, source=source)
    for table in tables if not charts else ():
        show_table(table, hide_index=True)


def _parts(output: Any) -> list[Any]:
    return list(output) if isinstance(output, tuple | list) else [] if output is None else [output]


def _points(chart: Any) -> pd.DataFrame:
    """Return the x and y of a figure's traces as a table, for a figure that came without one."""
    rows = []
    for trace in chart.data:
        values = {axis: getattr(trace, axis, None) for axis in ("x", "y")}
        columns = {axis: pd.Series(list(value)) for axis, value in values.items() if value is not None}
        if columns:
            rows.append(pd.DataFrame({"trace": trace.name or "", **columns}))
    return pd.concat(rows, ignore_index=True) if rows else pd.DataFrame()
