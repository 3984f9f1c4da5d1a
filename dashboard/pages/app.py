"""Entrypoint of the dashboard: navigation and the choices above a page; each page has its own folder."""

from importlib.util import find_spec
from typing import Any

import numpy as np
import streamlit as st
from PIL import Image

from dashboard import access
from dashboard.data import tell_problems
from dashboard.extension_pages import draw_own, extension_pages, own_analyses
from dashboard.garbage import collect_later
from dashboard.jobs import draw_ended, draw_live
from dashboard.markdown import escape_markdown, forget_sentence_place, guard, prose, spin
from dashboard.models import warm
from dashboard.pages import page_file
from dashboard.pages.in_context.choices import usual_models
from dashboard.sides import note_real_model, warn_of_worlds
from dashboard.state import ALIGNED, ASKED, BASE, PROMPT, Visit, ask, current, folders, keep_choices, return_to
from dashboard.without_base import draw_stored
from probe.errors import MissingBaseError


def icon() -> Image.Image:
    """Draw the icon, a causal attention map; an icon given by name would be fetched from the network."""
    shade = np.tril(np.linspace(60, 220, 16).reshape(4, 4)[::-1])
    image = np.stack([shade * 0.25, shade * 0.55, np.where(shade > 0, 190, 0), np.where(shade > 0, 255, 0)], axis=-1)
    return Image.fromarray(image.repeat(8, axis=0).repeat(8, axis=1).astype(np.uint8))


def logo() -> str:
    """Return the icon and the name as SVG, in a colour that is visible in both themes."""
    cells = [
        f'<rect x="{8 * x}" y="{8 * y}" width="8" height="8" fill="#3b6fd4" opacity="{0.35 + 0.2 * x:.2f}"/>'
        for y in range(4)
        for x in range(y + 1)
    ]
    name = '<text x="42" y="27" font-family="sans-serif" font-size="28" font-weight="600" fill="#3b6fd4">Probe</text>'
    return f'<svg xmlns="http://www.w3.org/2000/svg" width="130" height="34">{"".join(cells)}{name}</svg>'


EXPERIMENTS = {
    "sycophancy": ("Sycophancy", "thumb_up"),
    "hallucination": ("Hallucination", "blur_on"),
    "in_context": ("In-context learning", "format_list_numbered"),
    "chain_of_thought": ("Chain of thought", "route"),
    "retrieval": ("Retrieval", "library_books"),
    "continual": ("Continual learning", "update"),
}
"""Title and icon of the page of each built-in experiment."""
ASKS = {
    **dict.fromkeys(("start", "overview", "train", "sweep", "training", "diagnosis", "findings", "scorecard"), ()),
    **dict.fromkeys(EXPERIMENTS, (BASE, ALIGNED)),
    "experiments": (BASE, ALIGNED),
    "audit": (BASE, ALIGNED),
    "traits": (BASE, ALIGNED),
    "probes": (BASE, ALIGNED),
    "features": (BASE, ALIGNED),
}
"""Choices above a page, by page; other pages have all of them."""
METHODS = ("scorecard",)
"""Pages without a choice of models that import what looks into models."""
DEFAULTS = {"in_context": usual_models}
"""Functions that choose the initial models of pages with special defaults."""


STYLE = """<style>
.stMainBlockContainer { padding: 2rem 1.7rem 4rem; }
[data-testid=stHeader] { background: transparent; }
[data-testid=stHeader], [data-testid=stHeader] div { pointer-events: none; }
[data-testid=stHeader] :is(button, a, [role=button], [data-testid=stMainMenu]) { pointer-events: auto; }
[data-testid=stCaptionContainer] { color: inherit; opacity: 0.8; }
[data-testid=stMain]:focus-visible { outline: 2px solid #2F66B3; outline-offset: -2px; }
[data-variant=segmented_control]:focus-visible { outline: 2px solid; outline-offset: 1px; z-index: 1; }
[data-testid=stButtonGroup] [role=radiogroup] { flex-wrap: wrap; overflow: visible; mask-image: none; }
[data-testid=stButtonGroup]:has([data-testid=stWidgetLabel]) { min-height: 4.25rem; }
[kind=tertiary]:is(:active, [aria-expanded=true]) { color: light-dark(#215497, #8CBBF0) !important; }
[data-tag], [data-testid=stBaseButton-primary] { color: light-dark(#FFFFFF, #0E1117); }
[data-testid=stPopoverBody] :is([data-tag], [data-testid=stBaseButton-primary]) { background: #2F66B3; color: #FFFFFF; }
[data-testid=stCode] .token:is(.keyword, .function, .class-name, .property) { color: light-dark(#1A5FB4, #8CBBF0); }
[data-testid=stCode] .token:is(.string, .char) { color: light-dark(#0B6B2B, #86D49B); }
[data-testid=stCode] .token:is(.operator, .decorator) { color: light-dark(#A84300, #F0A875); }
[data-testid=stCode] .token:is(.number, .boolean, .builtin) { color: light-dark(#0B6B60, #7FD3C7); }
[data-testid=stCode] .token.comment { color: light-dark(#5C636E, #A2A9B4); }
[class*=st-key-view-] { display: none; }
[data-testid=stTabs] { scroll-margin-top: 3rem; }
.parcoords .axis :is(path, line) { stroke: light-dark(#5C636E, #A2A9B4) !important; opacity: 1 !important; }
.heatmap-label text[style*="rgb(68, 68, 68)"] { fill: #0E1117 !important; }
.stApp:has([data-testid=stExpandSidebarButton]) .st-key-page-name { padding-left: 9rem; margin-top: -1rem; }
@media (max-width: 1279px) {
  .stApp:not(:has([data-testid=stExpandSidebarButton])) [data-testid=stSidebar] { max-width: 14.5rem; }
  .stMainBlockContainer { padding: 2rem 1.25rem 4rem; }
  [data-testid=stColumn] { min-width: min(8rem, 100%); }
  [data-testid=stColumn]:has([data-testid=stSelectbox], [role=radiogroup]) { min-width: min(11rem, 100%); }
  [data-testid=stColumn]:has(.stPlotlyChart, [data-testid=stMultiSelect], [data-testid=stColumn]) { min-width: 100%; }
}
@media (prefers-reduced-motion: reduce) {
  *, ::before, ::after { animation: none !important; transition: none !important; scroll-behavior: auto !important; }
}
@media (max-width: 1000px) { .heatmap-label text { font-size: 8px !important; } }
</style>"""
"""Style sheet: smaller margins, so that the main figure is visible without scrolling; sufficient contrast of text (WCAG
2.2, 4.5 to 1) and a visible focus; axes of parallel coordinates, which Plotly draws in black; all options of a choice
on a narrow page, and the label of a choice on one line with those of the fields next to it; the page's name next to the
logo while the sidebar is closed; and on pages too narrow for two columns of charts, one column of charts and choices in
several rows. What a button opens lies outside of the part that says which theme it has, so it has one colour in both.
"""


def own_page(name: str, title: str, icon: str, **options: Any) -> Any:
    """Return a page of the dashboard; its name is also the path of its address."""
    return st.Page(page_file(name), title=title, icon=f":material/{icon}:", url_path=name, **options)


st.set_page_config(page_title="Probe", page_icon=icon(), layout="wide", menu_items={"About": "Probe: look inside."})
st.logo(logo(), size="large")
added = extension_pages()
page = st.navigation(
    {
        "": [own_page("start", "Start", "home", default=True)],
        "Compare": [
            own_page("compare", "Side by side", "compare_arrows"),
            own_page("audit", "Audit", "rule"),
            own_page("attention", "Attention", "grid_on"),
            own_page("logits", "Logits", "bar_chart"),
            own_page("interventions", "Interventions", "biotech"),
            own_page("autoregression", "Autoregression", "linear_scale"),
            own_page("traits", "Traits", "explore"),
            own_page("probes", "Probes", "frame_inspect"),
            own_page("features", "Features", "bubble_chart"),
        ],
        "Behaviour": [
            *(own_page(name, *EXPERIMENTS[name]) for name in EXPERIMENTS if find_spec(f"probe.{name}")),
            own_page("experiments", "Your experiments", "science"),
        ],
        "Training": [
            own_page("overview", "Runs", "account_tree"),
            own_page("train", "New run", "model_training"),
            own_page("sweep", "Sweep", "grid_view"),
            own_page("training", "Curves and captures", "show_chart"),
            own_page("diagnosis", "Diagnosis", "troubleshoot"),
            own_page("rewards", "Rewards and KL", "trophy"),
        ],
        "Evidence": [
            own_page("findings", "Published claims", "fact_check"),
            own_page("scorecard", "Scorecard", "scoreboard"),
        ],
        **({"Extensions": added} if added else {}),
    },
    expanded=True,
)
name = page.url_path or "start"
with guard():
    return_to(page.url_path)
    st.html(STYLE)
    with st.container(key="page-name", horizontal=True, vertical_alignment="center"):
        st.markdown(f"##### {page.icon} {escape_markdown(page.title)}")
        draw_ended()
    draw_live()
    asks = ASKED if own_analyses(name) else ASKS.get(name, ASKED)
    shared = ask(asks, DEFAULTS.get(name))
    if asks:
        note_real_model(shared)
    if PROMPT in asks:
        warn_of_worlds(shared)
    with st.sidebar:
        folders(current().store)
        if not access.may_write():
            st.info(prose(access.READ_ONLY), icon=":material/lock:")
    body, below = st.container(), st.empty()  # additions to the previous page disappear immediately
    try:
        with body, tell_problems():
            if name in METHODS or asks:  # it imports what the server may be importing: of two one gets half a module
                with spin("Starting torch"):
                    warm().wait_for_needed()
            try:
                page.run()
            except MissingBaseError as error:
                if not draw_stored(name, shared):
                    raise error
        forget_sentence_place()
        with below.container():
            draw_own(name)
        Visit.current().drawn = True
    finally:
        keep_choices()
warm()
collect_later()
