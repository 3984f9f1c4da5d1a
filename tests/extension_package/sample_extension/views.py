"""A panel and a page of the dashboard."""

import pandas as pd
import plotly.graph_objects as go

import probe


@probe.panel("attention", title="Words that the prompt has")
def spread(base, prompt):
    table = pd.DataFrame({"word": prompt.split()})
    table["tokens"] = [len(base.tokenizer(word, add_special_tokens=False)["input_ids"]) for word in table["word"]]
    return go.Figure(go.Bar(x=table["word"], y=table["tokens"])), table


@probe.page("Sample notes", icon=":material/edit_note:")
def notes(shared):
    import streamlit as st

    st.write(f"{len(shared.store.runs)} runs are known.")
