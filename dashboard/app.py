"""Entrypoint of the dashboard: navigation and the shared sidebar; what a page shows is in `views/`."""

import numpy as np
import streamlit as st
from PIL import Image

from dashboard.models import warm
from dashboard.state import sidebar
from dashboard.text import guard


def icon() -> Image.Image:
    """The page's icon, a causal attention map; drawn here, because an icon by name is fetched from the network."""
    shade = np.tril(np.linspace(60, 220, 16).reshape(4, 4)[::-1])
    image = np.stack([shade * 0.25, shade * 0.55, np.where(shade > 0, 190, 0), np.where(shade > 0, 255, 0)], axis=-1)
    return Image.fromarray(image.repeat(8, axis=0).repeat(8, axis=1).astype(np.uint8))


st.set_page_config(page_title="Probe", page_icon=icon(), layout="wide", menu_items={"About": "Probe: look inside."})
page = st.navigation(
    {
        "Runs": [
            st.Page("views/overview.py", title="Overview", icon=":material/account_tree:", default=True),
            st.Page("views/train.py", title="Train", icon=":material/model_training:"),
            st.Page("views/training.py", title="Training", icon=":material/show_chart:"),
        ],
        "Inside": [
            st.Page("views/compare.py", title="Compare", icon=":material/compare_arrows:"),
            st.Page("views/attention.py", title="Attention", icon=":material/grid_on:"),
            st.Page("views/logits.py", title="Logits", icon=":material/bar_chart:"),
            st.Page("views/interventions.py", title="Interventions", icon=":material/biotech:"),
            st.Page("views/autoregression.py", title="Autoregression", icon=":material/linear_scale:"),
            st.Page("views/rewards.py", title="Rewards", icon=":material/trophy:"),
        ],
    }
)
with guard():
    sidebar()
    page.run()
warm()
