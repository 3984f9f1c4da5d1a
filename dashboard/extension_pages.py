"""Analyses of packages and plugins, at the end of a page or on a separate one; an error is shown in one sentence."""

from functools import partial
from typing import Any

import streamlit as st

from dashboard import analysis, models
from dashboard.inputs import Page
from dashboard.markdown import escape_markdown, guard, prose, spin
from dashboard.pages import page_names
from dashboard.state import current
from probe.analyses.analysis_record import Analysis
from probe.analyses.catalogue import ANALYSES, page_key
from probe.plugins import BUILT_IN, problems

ICON = ":material/extension:"


def own_analyses(page: str) -> list[Analysis]:
    """Return the analyses of packages and plugins on a page, by title.

    Args:
        page: name, title or path of the page.
    """
    return [each for each in _added() if each.page == page_key(page)]


def _added() -> list[Analysis]:
    every = ANALYSES.all().values()
    return sorted((each for each in every if each.origin != BUILT_IN), key=lambda each: (each.page, each.title))


def extension_pages() -> list[Any]:
    """Return a `st.Page` for each page that is not built in but named by an analysis."""
    names = dict.fromkeys(each.page for each in _added())
    return [_page(name) for name in names if name not in page_names()]


def show_problems() -> None:
    """Show the problems of extensions, if there are any."""
    for sentence in problems():
        st.warning(prose(sentence))


def draw_own(page: str) -> None:
    """Draw the analyses of packages and plugins on a page; an error in one is a sentence, and the others are drawn."""
    found = own_analyses(page)
    if found:
        with spin("Starting torch"):
            models.warm().wait()
    for each in found:
        with st.container(border=True), guard():
            st.markdown(f"#### {escape_markdown(each.title)}")
            analysis.draw(each, Page(current(), st.container(), section=f"details-{each.name}"))


def _page(name: str) -> Any:
    title = name.replace("_", " ").capitalize()
    return st.Page(partial(_draw_page, name), title=title, icon=ICON, url_path=name)


def _draw_page(name: str) -> None:
    """Draw a page that has only analyses of packages and plugins, which are added automatically."""
    show_problems()
