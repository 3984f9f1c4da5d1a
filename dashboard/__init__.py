"""The dashboard: Streamlit pages over run directories and models; the only package that imports Streamlit."""
