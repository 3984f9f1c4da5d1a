"""Static images of figures: one Chromium kept open behind them, so that an image takes 0.2 s instead of 3 s.

Kaleido waits for ever on a browser that is missing or has died. So the browser is looked for first, every image has
a time limit, and whatever goes wrong closes the browser so that the next image starts a new one.
"""

import asyncio
import atexit
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from probe.errors import MissingToolError

SECONDS = 60.0
"""Longest wait for one image, the start of the browser included."""

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
    """The Chrome or Chromium that draws the images, or None."""
    if find_spec("choreographer") is None:
        return None
    from choreographer.browsers.chromium import Chromium

    path = Chromium.find_browser(skip_local=False)
    return Path(path) if path and Path(path).is_file() else None


def missing() -> str | None:
    """What to install before static images work, in one sentence; None if all is there."""
    if find_spec("kaleido") is None:
        return REMEDY_PACKAGE
    return None if find_browser() else REMEDY_BROWSER


class Renderer:
    """A browser that draws one figure after the other, from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._kaleido: Any = None

    def image(self, figure: dict, kind: str, width: int, height: int, scale: float) -> bytes:
        """The image of a figure (as `Figure.to_dict()`), `kind` being png, svg or pdf.

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
                    "again, name another browser in $BROWSER_PATH, or take HTML, which needs none."
                ) from error

    def close(self) -> None:
        """Close the browser, if it is open."""
        with self._lock:
            self._stop()

    async def _draw(self, figure: dict, options: dict) -> bytes:
        if self._kaleido is None:
            from kaleido import Kaleido

            browser = Kaleido(n=1, timeout=SECONDS, mathjax=False, path=str(find_browser()))
            await browser.open()
            self._kaleido = browser
        drawn = await self._kaleido.calc_fig(figure, opts=options)
        return bytes(drawn)

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
        with _hushed():
            if browser is not None:
                closing = asyncio.run_coroutine_threadsafe(asyncio.wait_for(browser.close(), 5), loop)
                closing.exception(10)
            loop.call_soon_threadsafe(loop.stop)
            thread.join(10)
        if not thread.is_alive():
            loop.close()


@contextmanager
def _hushed() -> Iterator[None]:
    """Choreographer logs a traceback for the half message that a browser leaves when it is closed; it means nothing."""
    logger = logging.getLogger("choreographer")
    before = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(before)


renderer = Renderer()
atexit.register(renderer.close)
