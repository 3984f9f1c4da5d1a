"""The pages: `NAME/page.py` is a script that Streamlit runs from top to bottom, and NAME the end of its address.

Beside it lie what it asks of the reader (`choices`), what it computes (`compute`), its `figures` and its `words`. The
entrypoint `app` lies here too: Streamlit has rules of its own for a folder `pages` beside an entrypoint.
"""

from pathlib import Path


def page_file(name: str) -> str:
    """Return the path of a page's script, relative to the folder of the entrypoint."""
    return f"{name}/page.py"


def page_names() -> list[str]:
    """All pages."""
    return sorted(file.parent.name for file in Path(__file__).parent.glob("*/page.py"))
