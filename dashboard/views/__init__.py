"""The pages; each is a script that Streamlit runs from top to bottom."""
