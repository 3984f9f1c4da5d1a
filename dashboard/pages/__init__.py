"""The pages: `NAME/page.py` is a script that Streamlit runs from top to bottom, and NAME the end of its address.

Beside it lie what it asks of the reader (`choices`), what it computes (`compute`), its `figures` and its `words`. No
script lies in this folder itself: Streamlit would take it for a page of its own.
"""

from pathlib import Path


def page_file(name: str) -> str:
    """The script of the page of a name, from the folder of the dashboard."""
    return f"pages/{name}/page.py"


def page_names() -> list[str]:
    """All pages."""
    return sorted(file.parent.name for file in Path(__file__).parent.glob("*/page.py"))
