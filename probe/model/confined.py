"""A child process with limits of time and memory, which runs the chat templates and tokenizers of models.

A chat template is a program by an unknown author, and a regular expression is effectively one: jinja's sandbox denies
templates access to files, but nothing bounds time and memory of either. The child renders and tokenizes instead of this
process. If it exceeds a limit it is killed, and another one is started. If Python has no `resource` (Windows) only the
limit of wall-clock time holds; macOS does not enforce that of memory.
"""

import atexit
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

SECONDS = 2
"""Largest CPU time of an answer, in seconds."""
LOADING = 5
"""Factor of the limits of time for loading a tokenizer."""
CLOCK_S = 10.0 if sys.platform == "win32" else 60.0
"""Largest wall-clock time of an answer, in seconds: more than `SECONDS`, since other programs may use the CPUs."""
MEBIBYTES = 1024
"""Memory in MiB that the child may use in addition to that at its start."""
LETTERS = 2**24
"""Largest number of characters of an answer."""
LIMITS = {
    "time": f"takes more than {SECONDS} seconds of computing",
    "memory": f"takes more than {MEBIBYTES:,} MiB of memory",
    "letters": f"writes more than {LETTERS:,} letters",
    "end": f"ended the process that tried it, which may have {MEBIBYTES:,} MiB of memory",
}
"""Messages about exceeded limits, as ends of sentences."""


class Exceeded(Exception):
    """A request that exceeded a limit; the message is one of `LIMITS`."""


class Refused(Exception):
    """A request that failed within the limits; the message is that of the library."""


def render(template: str, messages: list[dict[str, Any]], names: dict[str, Any], answer: bool) -> str:
    """Format messages with a chat template, like transformers.

    Args:
        template: jinja source.
        messages: messages of one conversation, as JSON values.
        names: special tokens that the template may use.
        answer: whether to append the opening of an answer.

    Raises:
        Exceeded: it exceeds a limit.
        Refused: the template is invalid, or refuses the messages.
    """
    return str(_ask("render", template, messages, names, answer))


def try_tokenizer(key: str, description: Callable[[], str], texts: list[str], rows: list[list[int]]) -> None:
    """Check whether a tokenizer can encode texts and decode rows of ids within the limits.

    Args:
        key: key of the tokenizer in the child.
        description: function that returns its tokenizer.json, called if the child does not know it.
        texts: texts to encode.
        rows: rows of ids to decode.

    Raises:
        Exceeded: it exceeds a limit.
        Refused: it failed.
    """
    if not _ask("tokenize", key, texts, rows):
        _ask("load", key, description())
        _ask("tokenize", key, texts, rows)


class _Child:
    """The child process, which answers one request after the other."""

    def __init__(self) -> None:
        threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS"), "1")
        path = os.pathsep.join(folder for folder in sys.path if folder)
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "probe.model.confined"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, **threads, "PYTHONPATH": path, "TOKENIZERS_PARALLELISM": "false"},
            start_new_session=True,  # Ctrl-C is for this process
        )
        self.is_ready = False

    def ask(self, question: bytes) -> dict[str, Any]:
        """Send a request to the child and return its answer as written by `_main`; without one, kill the process."""
        questions, answers = self.process.stdin, self.process.stdout
        assert questions is not None
        assert answers is not None
        is_late, line = threading.Event(), b""

        def end() -> None:
            is_late.set()
            self.process.kill()

        clock = threading.Timer(CLOCK_S, end)
        clock.daemon = True
        try:
            with suppress(BrokenPipeError):
                self.is_ready = self.is_ready or answers.readline() == b"ready\n"
                clock.start()
                questions.write(question)
                questions.flush()
                line = answers.readline(6 * LETTERS + 1000)
        finally:
            clock.cancel()
            if not line.endswith(b"\n"):
                self.close()
        if line.endswith(b"\n"):
            found: dict[str, Any] = json.loads(line)
            return found
        is_slow = is_late.is_set() or self.process.returncode == -getattr(signal, "SIGXCPU", 0)
        return {"limit": "time" if is_slow else "end"}

    def close(self) -> None:
        """End the process."""
        self.process.kill()
        for pipe in (self.process.stdin, self.process.stdout):
            with suppress(OSError):
                if pipe:
                    pipe.close()
        self.process.wait()


_ONE = threading.Lock()
_CHILDREN: list[_Child] = []
"""The child of this process, if one was needed."""


def _ask(*question: Any) -> Any:
    """Return the child's answer to a request: a function of `_ANSWERS` with its arguments.

    Raises:
        Exceeded: it exceeds a limit.
        Refused: it failed.
    """
    line = json.dumps(question, default=lambda value: f"<{type(value).__name__}>").encode() + b"\n"
    with _ONE:
        if not _CHILDREN:
            _CHILDREN.append(_Child())
        found = {"limit": "end"}
        try:
            found = _CHILDREN[0].ask(line)
        finally:
            if "limit" in found:  # the child's cache counts as its memory
                _CHILDREN.pop().close()
                _CHILDREN.append(_Child())
    if "limit" in found:
        raise Exceeded(LIMITS[found["limit"]])
    if "error" in found:
        raise Refused(found["error"])
    return found["answer"]


def start() -> None:
    """Start the child process before it is needed: it takes half a second."""
    with _ONE:
        if not _CHILDREN:
            _CHILDREN.append(_Child())


@atexit.register
def _close() -> None:
    while _CHILDREN:
        _CHILDREN.pop().close()


def _forget() -> None:
    """Drop the child and the lock after a fork, since they belong to the parent process."""
    global _ONE
    _ONE = threading.Lock()
    for each in _CHILDREN:
        each.process.returncode = 0  # the parent waits for it
    _CHILDREN.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


def _render(template: str, messages: list[dict[str, Any]], names: dict[str, Any], answer: bool) -> str:
    from transformers.utils.chat_template_utils import render_jinja_template

    return render_jinja_template([messages], chat_template=template, add_generation_prompt=answer, **names)[0][0]


_TOKENIZERS: dict[str, Any] = {}
"""The last two tokenizers, in the child."""


def _load(key: str, description: str) -> None:
    from tokenizers import Tokenizer

    while len(_TOKENIZERS) > 1:
        del _TOKENIZERS[next(iter(_TOKENIZERS))]
    _TOKENIZERS[key] = Tokenizer.from_str(description)


def _tokenize(key: str, texts: list[str], rows: list[list[int]]) -> bool:
    """Encode the texts and decode the rows if the child knows the tokenizer; return whether it does."""
    tokenizer = _TOKENIZERS.get(key)
    if tokenizer is None:
        return False
    for text in texts:
        tokenizer.encode(text)
    for row in rows:
        tokenizer.decode(row, skip_special_tokens=False)
    return True


_ANSWERS: dict[str, Callable[..., Any]] = {"render": _render, "load": _load, "tokenize": _tokenize}


def _answer(line: bytes) -> dict[str, Any]:
    try:
        name, *arguments = json.loads(line)
        answer = _ANSWERS[name](*arguments)
        return {"limit": "letters"} if isinstance(answer, str) and len(answer) > LETTERS else {"answer": answer}
    except MemoryError:
        return {"limit": "memory"}
    except BaseException as error:  # panics of Rust libraries are not `Exception`s
        return {"error": str(error)[:2000] or type(error).__name__}


def _limit(kind: str, most: float) -> None:
    """Set a limit of this process, unless a lower one is set."""
    if sys.platform != "win32":
        import resource

        _, highest = resource.getrlimit(getattr(resource, kind))
        if highest == resource.RLIM_INFINITY or most < highest:
            resource.setrlimit(getattr(resource, kind), (int(most), highest))


def _main() -> None:
    """Answer the requests on the lines of the standard input until it ends."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # other output goes to stderr
    import tokenizers  # noqa: F401
    import transformers.utils.chat_template_utils  # noqa: F401

    with suppress(OSError, ValueError):  # macOS has no /proc
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        _limit("RLIMIT_AS", pages * os.sysconf("SC_PAGE_SIZE") + MEBIBYTES * 2**20)
    answers.write(b"ready\n")
    answers.flush()
    for line in sys.stdin.buffer:
        share = LOADING if line.startswith(b'["load"') else 1
        _limit("RLIMIT_CPU", time.process_time() + share * SECONDS + 1)
        answers.write(json.dumps(_answer(line)).encode() + b"\n")
        answers.flush()


if __name__ == "__main__":
    _main()
