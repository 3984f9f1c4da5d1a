"""The pages: `NAME/page.py` is a script that Streamlit runs from top to bottom, and NAME the end of its address.

Its folder may also hold the reader's choices (`choices`), computations (`compute`), `figures` and `words`. The
entrypoint `app` is here too, because Streamlit treats a folder `pages` next to an entrypoint specially.
"""

from pathlib import Path


def page_file(name: str) -> str:
    """Return the path of a page's script, relative to the folder of the entrypoint."""
    return f"{name}/page.py"


def page_names() -> list[str]:
    """Return the names of all pages."""
    return sorted(file.parent.name for file in Path(__file__).parent.glob("*/page.py"))
