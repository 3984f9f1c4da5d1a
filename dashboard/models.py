"""Models and comparisons, each made once: keyed by where the weights lie and when they were written."""

from importlib import import_module
from pathlib import Path
from threading import Event, Lock, Thread
from typing import TYPE_CHECKING

import streamlit as st

from dashboard.text import note, plain
from probe.references import HUB_ID

if TYPE_CHECKING:
    from probe.analyses.compare import Comparison
    from probe.lm import LM

COSTLY_BYTES = 2 * 2**30
"""Weights above this size are loaded only when asked for."""

PATIENCE_S = 4.0
"""Seconds that the first page has for itself before models are prepared."""

_ONE = Lock()
"""One computation at a time: hooks and caches belong to the model, and the pages of all sessions share it."""


class Warmth:
    """Imports what models need (seconds long) while the reader looks at the first page; the page itself goes first."""

    def __init__(self) -> None:
        self._now = Event()
        self._thread = Thread(target=self._run, name="probe-warm", daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Import at once, and come back when it is done."""
        self._now.set()
        self._thread.join()

    def _run(self) -> None:
        self._now.wait(PATIENCE_S)
        import_module("probe.analyses.compare")


@st.cache_resource(show_spinner=False)
def warm() -> Warmth:
    """Begin to import what models need, once a server."""
    return Warmth()


def load(ref: str) -> "LM | None":
    """The model that `ref` names; None while the page waits for the user's word on a download or a large file.

    Raises:
        ModelError: there is none, or it cannot be used.
    """
    agreed = st.session_state.setdefault("_agreed", set())
    if HUB_ID.fullmatch(ref) and not is_here(ref) and ref not in agreed:
        _offer(ref, f"{ref} is neither a run nor a folder here: fetch it from the Hugging Face hub?", "Fetch")
        return None
    with st.spinner("Starting torch"):
        warm().wait()
    from probe.references import resolve

    with st.spinner(plain(f"Looking for {ref}")):
        directory = resolve(ref).directory
    files = sorted([*directory.glob("*.safetensors"), directory / "config.json"])
    size = sum(file.stat().st_size for file in files)
    if size > COSTLY_BYTES and ref not in agreed:
        _offer(ref, f"{ref} has {size / 2**30:.1f} GiB of weights, which fill as much memory or twice that.", "Load")
        return None
    with st.spinner(plain(f"Loading {Path(ref).name}"), show_time=True):
        return _load(str(directory), tuple(file.stat().st_mtime_ns for file in files))


@st.cache_resource(max_entries=4, show_spinner=False)
def _load(directory: str, changed: tuple[int, ...]) -> "LM":
    from probe.lm import LM

    with _ONE:
        return LM.load(directory)


def is_here(ref: str) -> bool:
    """Whether a reference names something on this machine, so that nothing would be fetched."""
    from probe.errors import RunError
    from probe.runs.roots import find

    base = ref.rpartition("@")[0] or ref
    if Path(base).expanduser().exists() or ref.startswith((".", "/", "~")):
        return True
    try:
        find(base)
    except RunError:
        return False
    return True


def comparison(
    base: "LM", aligned: "LM", prompt: str, *, chat: bool, length: int, temperature: float, seed: int
) -> "Comparison":
    """Both continuations read by both models; computed once for each choice.

    Raises:
        DataError: the tokenizers differ, or the prompt is empty or too long.
    """
    with st.spinner("Both models continue the prompt and read both texts", show_time=True):
        return _comparison(
            (str(base.directory), str(aligned.directory)),
            prompt,
            chat,
            length,
            temperature,
            seed,
            _models=(base, aligned),
        )


@st.cache_resource(max_entries=64, show_spinner=False)
def _comparison(
    key: tuple[str, str],
    prompt: str,
    chat: bool,
    length: int,
    temperature: float,
    seed: int,
    _models: "tuple[LM, LM]",
) -> "Comparison":
    from probe.analyses.compare import compare

    asked = [{"role": "user", "content": prompt}] if chat else prompt
    with _ONE:
        return compare(*_models, asked, max_new_tokens=length, temperature=temperature, seed=seed, k=8)


def _offer(ref: str, sentence: str, action: str) -> None:
    note(sentence)
    if st.button(f"{action} {plain(ref)}", key=f"agree-{ref}"):
        st.session_state["_agreed"].add(ref)
        st.rerun()
