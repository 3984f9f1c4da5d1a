"""What the site has beside the Markdown of docs/: the API from docstrings, CONTRIBUTING, CHANGELOG, links, figures.

`mkdocs.yml` names this file; `make docs` runs it.
"""

import ast
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path

import analyses
from figures import draw
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from plotly.offline import get_plotlyjs

ROOT = Path(__file__).resolve().parent.parent
COPIES = {"CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
"""Files at the root that are pages too."""
LINK = re.compile(r"\[([^\]]+)\]\((?!\w+:|#)([^)#\s]+)(#[^)\s]*)?\)")


TOKEN = re.compile(r"<(?:bos|end|user|bot|ctx|unk)>")
"""A token of the world that a browser would take for a tag, since the text has it without backticks."""


def names(face: str) -> dict[str, str]:
    """Public names of a face (`probe`, `probe.logits`) and where each is defined, as its `__init__.pyi` says."""
    tree = ast.parse((ROOT / face.replace(".", "/") / "__init__.pyi").read_text())
    imports = [node for node in tree.body if isinstance(node, ast.ImportFrom) and node.module]
    return {each.name: f"{face}.{node.module}.{each.name}" for node in imports for each in node.names}


def faces() -> list[str]:
    """The subjects of `probe`."""
    return sorted(f"probe.{path.parent.name}" for path in (ROOT / "probe").glob("*/__init__.pyi"))


def api(face: str, defined: dict[str, str], elsewhere: dict[str, str]) -> Iterator[str]:
    """The page of a face, line by line: its docstring, links to what other pages document, and the rest documented.

    Args:
        face: `probe` or a subject.
        defined: names that this page documents, and where each is defined.
        elsewhere: names that another page documents.
    """
    about = ast.get_docstring(ast.parse((ROOT / face.replace(".", "/") / "__init__.py").read_text()))
    yield f"# `{face}`\n\n{about}\n"
    for name, path in elsewhere.items():
        yield f"- [`{face}.{name}`][{path}]"
    for name, path in defined.items():
        yield f'\n::: {path}\n    options:\n      heading: "{face}.{name}"\n      toc_label: "{name}"'


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """One entry of the navigation for each page of the API."""
    for section in config.nav or []:
        if "API" in section:
            section["API"] = [{face: f"api/{face}.md"} for face in ["probe", *faces()]]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that no file of docs/ holds."""
    shown = {path for face in faces() for path in names(face).values()}
    pages = {page: (ROOT / name).read_text() for name, page in COPIES.items()}
    pages |= {f"api/{face}.md": "\n".join(api(face, names(face), {})) for face in faces()}
    top = names("probe")
    defined = {name: path for name, path in top.items() if path not in shown}
    elsewhere = {name: path for name, path in top.items() if path in shown}
    pages["api/probe.md"] = "\n".join(api("probe", defined, elsewhere))
    for page, content in pages.items():
        files.append(File.generated(config, page, content=content))
    files.append(File.generated(config, "assets/plotly.min.js", content=get_plotlyjs()))
    return files


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Make links to files outside of docs/ links of the site, or the file's path where the site does not show it."""
    uri = page.file.src_uri
    copied = uri in COPIES.values()
    folder = "" if copied else posixpath.dirname(f"docs/{uri}")

    def replace(match: re.Match[str]) -> str:
        text, target, anchor = match[1], match[2], match[3] or ""
        path = posixpath.normpath(posixpath.join(folder, target))
        inside = COPIES.get(path) or path.removeprefix("docs/")
        if inside != path:
            return f"[{text}]({posixpath.relpath(inside, posixpath.dirname(uri) or '.')}{anchor})"
        return f"`{path}`" if text.strip("`") == path else f"{text} (`{path}`)"

    return markdown if uri.startswith("api/") else LINK.sub(replace, analyses.write(markdown))


def on_page_content(html: str, page: Page, **_: object) -> str:
    """Draw the figures of a page; refuse one that hides a token, or one of the API without the docstring of a name."""
    if hidden := TOKEN.search(html):
        raise PluginError(f"{page.file.src_uri} hides {hidden[0]}: write it in backticks.")
    face = page.file.src_uri.removeprefix("api/").removesuffix(".md")
    if page.file.src_uri.startswith("api/"):
        for name, path in names(face).items():
            place = html.find(f'id="{path}"')
            if place >= 0 and "<p>" not in html[place:].partition("doc-contents")[2].partition("doc-object")[0]:
                raise PluginError(f"{face}.{name} ({path}) has no documentation.")
            if place < 0 and f"{face}.{name}" not in html:
                raise PluginError(f"{page.file.src_uri} does not show {face}.{name}.")
    return draw(analyses.draw(html), "../" * page.file.src_uri.count("/"))
