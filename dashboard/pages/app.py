"""Entrypoint of the dashboard: navigation and the shared sidebar; what a page shows is in the folder of its name."""

from importlib.util import find_spec
from typing import Any

import numpy as np
import streamlit as st
from PIL import Image

from dashboard import access
from dashboard.extension_pages import draw_panels, extension_pages
from dashboard.garbage import collect_later
from dashboard.markdown import escape_markdown, guard, prose
from dashboard.models import warm
from dashboard.pages import page_file
from dashboard.state import keep_choices, return_to, sidebar


def icon() -> Image.Image:
    """The page's icon, a causal attention map; drawn here, because an icon by name is fetched from the network."""
    shade = np.tril(np.linspace(60, 220, 16).reshape(4, 4)[::-1])
    image = np.stack([shade * 0.25, shade * 0.55, np.where(shade > 0, 190, 0), np.where(shade > 0, 255, 0)], axis=-1)
    return Image.fromarray(image.repeat(8, axis=0).repeat(8, axis=1).astype(np.uint8))


PHENOMENA = {
    "hallucination": ("Hallucination", ":material/blur_on:"),
    "sycophancy": ("Sycophancy", ":material/thumb_up:"),
    "in_context": ("In-context learning", ":material/format_list_numbered:"),
    "chain_of_thought": ("Chain of thought", ":material/route:"),
    "retrieval": ("Retrieval", ":material/library_books:"),
    "continual": ("Continual learning", ":material/update:"),
}
"""Title and icon of the page of each built-in experiment."""


def phenomena() -> list:
    """The pages of the built-in experiments that are there."""
    there = [name for name in PHENOMENA if find_spec(f"probe.{name}")]
    return [own_page(name, *PHENOMENA[name]) for name in there]


def own_page(name: str, title: str, icon: str, **options: Any) -> Any:
    """A page of the dashboard; the path of its address is its name."""
    return st.Page(page_file(name), title=title, icon=icon, url_path=name, **options)


st.set_page_config(page_title="Probe", page_icon=icon(), layout="wide", menu_items={"About": "Probe: look inside."})
added = extension_pages()
page = st.navigation(
    {
        "Runs": [
            own_page("overview", "Overview", ":material/account_tree:", default=True),
            own_page("train", "Train", ":material/model_training:"),
            own_page("training", "Training", ":material/show_chart:"),
        ],
        "Inside": [
            own_page("compare", "Compare", ":material/compare_arrows:"),
            own_page("attention", "Attention", ":material/grid_on:"),
            own_page("logits", "Logits", ":material/bar_chart:"),
            own_page("interventions", "Interventions", ":material/biotech:"),
            own_page("autoregression", "Autoregression", ":material/linear_scale:"),
            own_page("rewards", "Rewards", ":material/trophy:"),
        ],
        "Phenomena": [
            own_page("findings", "Findings", ":material/fact_check:"),
            *phenomena(),
            own_page("experiments", "Experiments", ":material/science:"),
        ],
        **({"Extensions": added} if added else {}),
    },
    position="top",
)
with guard():
    return_to(page.url_path)
    st.sidebar.markdown(f"##### {page.icon} {escape_markdown(page.title)}")  # the menu above tells the group only
    sidebar()
    if not access.may_write():
        st.sidebar.info(prose(access.READ_ONLY), icon=":material/lock:")
    try:
        page.run()
        draw_panels(page.url_path or "overview")
    finally:
        keep_choices()
warm()
collect_later()
