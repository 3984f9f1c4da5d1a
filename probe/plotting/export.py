"""Export of figures as PNG, SVG, PDF and HTML and of their data as CSV and LaTeX, each with its provenance.

Provenance is written into the image itself (PNG text chunk, SVG metadata, PDF document information, HTML meta) and,
for a whole folder, next to it in `provenance.json`. CSV stays plain, so that any program reads it. Provenance never
contains a folder of this machine. A PDF contains the fonts of its text; an SVG keeps text as text and embeds its font.

One Chromium stays open for static images, so that an image takes 0.2 s instead of 3 s. Kaleido waits for ever for a
browser that is missing or has died. Therefore the browser is looked for first, every image has a time limit, and any
error closes the browser, so that the next image starts a new one.
"""

import asyncio
import atexit
import base64
import html
import json
import logging
import re
import struct
import threading
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import lru_cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from probe.errors import ConfigError, MissingToolError
from probe.plotting.csv_text import to_csv
from probe.plotting.latex import to_latex
from probe.plotting.names import file_name, without_paths
from probe.plotting.paper import PIXELS, Paper, paper_of, put_on_paper
from probe.runs.storage import write_file
from probe.texts import visible_parts

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

FONTS = {"sans": "Arimo", "serif": "Tinos", "mono": "Cousine"}
"""Shipped font of each family of `probe.plotting.paper.FAMILIES`, with letters as wide as in Arial, Times New Roman and
Courier New: the text also fits in a program that ignores embedded fonts."""
TYPEFACES = Path(__file__).with_name("typefaces")
"""Folder of the fonts, with Latin, Greek, punctuation, arrows and mathematical signs (about 500 characters, 18 kB).

They were made from Debian's package fonts-croscore by `python -m fontTools.subset FONT-Regular.ttf --flavor=woff2
--no-hinting --layout-features=kern,mark,mkmk,ccmp --unicodes=20-7E,A0-17F,370-3FF,2010-2026,2030,2032,2033,20AC,2122,
2190-2195,2200-2265`. Any other character is drawn with a font of the reader's machine.
"""


@lru_cache
def font_face(name: str) -> str:
    """Return the CSS rule that embeds a font."""
    content = base64.b64encode((TYPEFACES / f"{name}.woff2").read_bytes()).decode()
    return f'@font-face {{ font-family: {name}; src: url("data:font/woff2;base64,{content}") format("woff2"); }}'


def embed_fonts(svg: bytes) -> bytes:
    """Embed the shipped fonts that an SVG names."""
    named = [name for name in FONTS.values() if f"font-family: {name}".encode() in svg]
    if not named:
        return svg
    exact = "text { text-rendering: geometricPrecision; }"  # exact letter widths, not rounded to pixels
    style = f"<style>{' '.join(map(font_face, named))} {exact}</style>"
    end = svg.index(b">", svg.index(b"<svg")) + 1
    return svg[:end] + style.encode() + svg[end:]


FORMATS = ("png", "svg", "pdf", "html", "csv", "tex")
STATIC = ("png", "svg", "pdf")
TABLES = ("csv", "tex")
MIME = {
    "png": "image/png",
    "svg": "image/svg+xml",
    "pdf": "application/pdf",
    "html": "text/html",
    "csv": "text/csv",
    "tex": "application/x-tex",
}


def provenance(**facts: object) -> dict[str, object]:
    """Return the provenance of a file: the given facts without local paths, Probe's version, and the time (UTC)."""
    stamp = {"probe": version("probe-lm"), "created": datetime.now(UTC).isoformat(timespec="seconds")}
    return {key: without_paths(value, key) for key, value in facts.items() if value is not None} | stamp


def parse_formats(text: str) -> list[str]:
    """Parse a comma-separated list of formats, such as `png,csv`.

    Raises:
        ConfigError: a format is not known.
    """
    formats = [part.strip().lower() for part in text.split(",") if part.strip()]
    wrong = [part for part in formats if part not in FORMATS]
    if wrong or not formats:
        raise ConfigError(
            f"The format {', '.join(wrong) or '(none)'} was requested; expected some of {', '.join(FORMATS)},"
            " separated by commas."
        )
    return list(dict.fromkeys(formats))


def render(
    figure: "go.Figure",
    data: "pd.DataFrame | None",
    kind: str,
    source: Mapping[str, object] | None = None,
    *,
    paper: Paper | None = None,
    title: str = "",
) -> bytes:
    """Return a figure, or its data, as the bytes of a file.

    Args:
        figure: the figure.
        data: data of the figure, for CSV and LaTeX.
        kind: format, one of `FORMATS`.
        source: provenance to write into the file.
        paper: width, text and theme of an image; `Paper()` by default.
        title: title of the figure in words: caption of a table, and title of an image whose figure has none.

    Raises:
        ConfigError: the format is unknown, or a table was requested without data.
        MissingToolError: an image was requested and no browser was found.
    """
    source, paper = visible_parts(without_paths(dict(source or {}))), paper or Paper()
    if kind in TABLES and data is not None:
        return render_table(data, kind, title, str(source.get("figure") or title))
    if kind == "html":
        return to_html(figure, source)
    if kind not in STATIC:
        raise ConfigError(f"A figure cannot be saved as {kind}; expected one of {', '.join(FORMATS)}.")

    printed = put_on_paper(figure, paper, title)
    scale = paper.dpi / PIXELS if kind == "png" else 1.0
    layout = printed.layout
    if kind == "svg" and paper.font in FONTS:
        layout.template.layout.font.family = f"{FONTS[paper.font]}, {paper.family}"
    image = renderer.image(printed.to_plotly_json(), kind, layout.width, layout.height, scale)
    note = json.dumps(source, default=str)
    if kind == "png":
        return _sign_png(image, note, paper.dpi)
    return _sign_svg(embed_fonts(image), note, paper.inches) if kind == "svg" else _sign_pdf(image, note)


def render_table(table: "pd.DataFrame", kind: str, title: str = "", label: str = "") -> bytes:
    """Return a table as CSV, or as LaTeX with its title as caption."""
    text = to_csv(table) if kind == "csv" else to_latex(table, title, label)
    return text.encode(errors="backslashreplace")


def to_html(figure: "go.Figure", source: Mapping[str, object]) -> bytes:
    """Return the figure as a standalone HTML page that needs no network; plotly.js is embedded."""
    source = visible_parts(without_paths(dict(source)))
    figure = type(figure)(visible_parts(figure.to_plotly_json()))
    note = html.escape(json.dumps(source, default=str), quote=True)
    body = figure.to_html(full_html=False, include_plotlyjs=True, include_mathjax=False, config={"displaylogo": False})
    title = html.escape(str(source.get("figure", "figure")))
    return (
        f'<!doctype html><html><head><meta charset="utf-8"><meta name="provenance" content="{note}">'
        f"<title>{title}</title></head><body>{body}</body></html>"
    ).encode()


def save(
    figure: "go.Figure",
    path: str | Path,
    data: "pd.DataFrame | None" = None,
    *,
    source: Mapping[str, object] | None = None,
    title: str = "",
    **options: Any,
) -> Path:
    """Write a figure, or its data, in the format of the path's suffix: `save(figure, "lens.pdf", width="single")`.

    Args:
        figure: the figure.
        path: path of the file; its suffix is one of `FORMATS`.
        data: data of the figure, for CSV and LaTeX.
        source: provenance to write into the file.
        title: title of the figure in words.
        options: fields of `Paper`: width, height, font_size, font, dpi, show_title, theme.

    Raises:
        ConfigError: the format or an option is unknown.
        MissingToolError: an image was requested and no browser was found.
        RunError: the file cannot be written.
    """
    path = Path(path).expanduser()
    kind = path.suffix[1:].lower()
    if kind not in FORMATS:
        raise ConfigError(f"`{path.name}` ends in {path.suffix or 'nothing'}: end it in .{', .'.join(FORMATS)}.")
    content = render(figure, data, kind, source or provenance(figure=path.stem), paper=paper_of(options), title=title)
    write_file(path, content)
    return path


def save_all(
    figure: "go.Figure",
    data: "pd.DataFrame | None",
    directory: str | Path,
    name: str,
    formats: Iterable[str] = FORMATS,
    source: Mapping[str, object] | None = None,
    *,
    paper: Paper | None = None,
    title: str = "",
) -> list[Path]:
    """Write a figure in several formats as `directory/name.FORMAT`; return the paths written.

    Raises:
        RunError: a file cannot be written.
    """
    directory = Path(directory)
    paths = []
    for kind in formats:
        if kind in TABLES and data is None:
            continue
        path = directory / f"{file_name(name)}.{kind}"
        write_file(path, render(figure, data, kind, source, paper=paper, title=title))
        paths.append(path)
    return paths


def save_provenance(directory: str | Path, files: Sequence[Path], source: Mapping[str, object]) -> Path:
    """Write `provenance.json` next to exported files: their common provenance and the list of files.

    Raises:
        RunError: the file cannot be written.
    """
    path = Path(directory) / "provenance.json"
    record = {**visible_parts(without_paths(dict(source))), "files": [file.name for file in files]}
    write_file(path, (json.dumps(record, indent=2, default=str) + "\n").encode())
    return path


def _sign_png(image: bytes, note: str, dpi: int) -> bytes:
    """Add the pixels per metre and the note (text chunk `provenance`) to a PNG, after its header."""
    size = _chunk(b"pHYs", struct.pack(">IIB", round(dpi / 0.0254), round(dpi / 0.0254), 1))
    text = _chunk(b"iTXt", b"provenance\0\0\0\0\0" + note.encode())
    header = 8 + 25
    return image[:header] + size + text + image[header:]


def _chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def _sign_svg(image: bytes, note: str, inches: float) -> bytes:
    """Set the size of an SVG in inches, and add the note as its first `metadata` element."""
    start = image.index(b"<svg")
    end = image.index(b">", start) + 1
    tag = image[start:end]
    scale = inches / float(re.findall(rb' width="([\d.]+)"', tag)[0])
    head = re.sub(rb' (width|height)="([\d.]+)"', lambda m: b' %b="%.6gin"' % (m[1], scale * float(m[2])), tag)
    return image[:start] + head + f"<metadata>{html.escape(note, quote=False)}</metadata>".encode() + image[end:]


def _sign_pdf(image: bytes, note: str) -> bytes:
    """Add the note to a PDF as the subject of its document information, in an incremental update at the end."""
    start = re.findall(rb"startxref\s+(\d+)", image)
    trailer = re.findall(rb"trailer\s*<<(.*?)>>", image, re.DOTALL)
    root = re.search(rb"/Root\s+(\d+ \d+ R)", trailer[-1]) if trailer else None
    size = re.search(rb"/Size\s+(\d+)", trailer[-1]) if trailer else None
    if not (start and root and size):
        return image
    number = int(size.group(1))
    text = note.encode("utf-16-be").hex().upper().encode()
    offset = len(image) + 1
    update = b"\n%d 0 obj\n<</Producer (Probe) /Subject <FEFF%b>>>\nendobj\n" % (number, text)
    table = (
        b"xref\n%d 1\n%010d 00000 n \ntrailer\n<</Size %d /Root %b /Info %d 0 R /Prev %b>>\nstartxref\n%d\n%%%%EOF\n"
        % (
            number,
            offset,
            number + 1,
            root.group(1),
            number,
            start[-1],
            len(image) + len(update),
        )
    )
    return image + update + table


SECONDS = 60.0
"""Time limit for one image in seconds, including the start of the browser."""

REMEDY_BROWSER = (
    "PNG, SVG and PDF need Chrome or Chromium and none was found: install it (Debian and Ubuntu: "
    "`apt install chromium`; macOS and Windows: Google Chrome; anywhere: `kaleido_get_chrome`) or name its program in "
    "$BROWSER_PATH; HTML and CSV work without."
)
REMEDY_PACKAGE = (
    "PNG, SVG and PDF need the package kaleido and it is not installed: run `pip install kaleido`; HTML and "
    "CSV work without."
)


def find_browser() -> Path | None:
    """Return the Chrome or Chromium that draws the images, or None."""
    if find_spec("choreographer") is None:
        return None
    from choreographer.browsers.chromium import Chromium

    path = Chromium.find_browser(skip_local=False)
    return Path(path) if path and Path(path).is_file() else None


def missing() -> str | None:
    """Return a sentence about what to install for static images; None if nothing is missing."""
    if find_spec("kaleido") is None:
        return REMEDY_PACKAGE
    return None if find_browser() else REMEDY_BROWSER


class Renderer:
    """Browser that draws one figure after another, for any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._kaleido: Any = None

    def image(self, figure: dict, kind: str, width: float, height: float, scale: float) -> bytes:
        """Return the image of a figure (as `Figure.to_dict()`) in the format `kind`: png, svg or pdf.

        Raises:
            MissingToolError: kaleido or a browser is missing, or the browser does not answer.
        """
        if reason := missing():
            raise MissingToolError(reason)
        options = {"format": kind, "width": width, "height": height, "scale": scale}
        with self._lock:
            try:
                return self._run(self._draw(figure, options))
            except Exception as error:
                self._stop()
                raise MissingToolError(
                    f"The browser {find_browser()} drew no {kind} within {SECONDS:.0f} s ({type(error).__name__}): try "
                    "again, name another browser in $BROWSER_PATH, or use HTML, which needs none."
                ) from error

    def close(self) -> None:
        """Close the browser, if it is open."""
        with self._lock:
            self._stop()

    async def _draw(self, figure: dict, options: dict) -> bytes:
        if self._kaleido is None:
            from kaleido import Kaleido, PageGenerator

            page = PageGenerator(mathjax=False)
            faces = " ".join(map(font_face, FONTS.values()))  # text is measured with the font that an SVG embeds
            page.header += f"<style>{faces}</style><script>document.fonts.forEach(font => font.load())</script>"
            browser = Kaleido(n=1, timeout=SECONDS, page_generator=page, path=str(find_browser()))
            await browser.open()
            self._kaleido = browser
        image = await self._kaleido.calc_fig(figure, opts=options)
        return bytes(image)

    def _run(self, coroutine: Any) -> bytes:
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            self._thread = threading.Thread(target=self._loop.run_forever, name="probe-render", daemon=True)
            self._thread.start()
        future = asyncio.run_coroutine_threadsafe(asyncio.wait_for(coroutine, SECONDS), self._loop)
        return future.result(SECONDS + 10)

    def _stop(self) -> None:
        loop, thread, browser = self._loop, self._thread, self._kaleido
        self._loop = self._thread = self._kaleido = None
        if loop is None or thread is None:
            return
        with _hush_browser():
            if browser is not None:
                closing = asyncio.run_coroutine_threadsafe(asyncio.wait_for(browser.close(), 5), loop)
                closing.exception(10)
            loop.call_soon_threadsafe(loop.stop)
            thread.join(10)
        if not thread.is_alive():
            loop.close()


@contextmanager
def _hush_browser() -> Iterator[None]:
    """Silence the traceback that Choreographer logs for a half-received message when the browser closes."""
    logger = logging.getLogger("choreographer")
    before = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(before)


renderer = Renderer()
atexit.register(renderer.close)
