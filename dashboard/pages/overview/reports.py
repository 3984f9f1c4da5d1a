"""Reports on runs: written by a job, kept in the working directory, and downloaded from here."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import streamlit as st

from dashboard import access
from dashboard.jobs import act, find_live, launch
from dashboard.markdown import escape_markdown, note
from dashboard.opening import HTML
from probe.jobs.control import name_of
from probe.runs.directories import WORK
from probe.runs.reader import Run
from probe.runs.storage import disk
from probe.texts import visible
from probe.untrusted import DOCUMENT, read_file

FOLDER = WORK / "reports"
"""Folder below the working directory for reports."""
SHOWN = 6
"""Number of written reports that are listed, the newest."""
NAMED = 3
"""Number of runs that the name of a report tells."""


def title_of(runs: Sequence[Run]) -> str:
    """Return the title of the report on some runs."""
    names = [run.name for run in runs]
    return f"Report on {' and '.join(names)}" if len(names) < NAMED else f"Report on {len(names)} runs"


def file_of(runs: Sequence[Run]) -> Path:
    """Return the file of the report on some runs: named after them, or after their number and a hash of their paths."""
    key = hashlib.sha256("\n".join(sorted(os.path.realpath(run.path) for run in runs)).encode()).hexdigest()[:6]
    return FOLDER / f"{name_of(title_of(runs)).removeprefix('report-on-')}-{key}.html"


def draw_reports(offers: Mapping[str, Sequence[Run]]) -> None:
    """Draw buttons that write reports, and the reports that were written.

    Args:
        offers: label of a button -> runs of its report.
    """
    written = written_reports()
    if access.may_write():
        with st.container(horizontal=True, gap="small"):
            for index, (label, runs) in enumerate(offers.items()):
                st.button(
                    escape_markdown(label),
                    key=f"report-{index}",
                    icon=":material/description:",
                    disabled=find_live(title_of(runs)) is not None,
                    on_click=act,
                    args=(write, list(runs)),
                    help="Writes one file with lineage, numbers, figures, stored results, settings and commands; it "
                    "needs no network. A job does it, in about ten seconds.",
                )
    elif not written:
        note("No report has been written yet.")
    for file, size, at in written[:SHOWN]:
        with st.container(horizontal=True, vertical_alignment="center", gap="small"):
            st.download_button(
                escape_markdown(visible(file.name)),
                data=partial(read_file, file, DOCUMENT, follow=False),
                file_name="report.html",
                mime=HTML,
                key=f"written-{file.name}",
                on_click="ignore",
                icon=":material/download:",
                type="tertiary",
            )
            st.caption(f"written {at:%Y-%m-%d %H:%M} UTC, {size / 1e6:.1f} MB")


def written_reports() -> list[tuple[Path, int, datetime]]:
    """Return the written reports with size in bytes and time, the newest first."""
    found = []
    for file in FOLDER.glob("*.html") if FOLDER.is_dir() and not FOLDER.is_symlink() else ():
        state = file.lstat()
        if file.is_file() and not file.is_symlink():
            found.append((file, state.st_size, datetime.fromtimestamp(state.st_mtime, UTC)))
    return sorted(found, key=lambda each: each[2], reverse=True)


def write(runs: Sequence[Run]) -> None:
    """Start the job that writes the report on some runs.

    Raises:
        ConfigError: the reader may only read.
        RunError: it cannot be started.
    """
    file = file_of(runs).absolute()
    with disk(file):
        file.parent.mkdir(parents=True, exist_ok=True)
    launch(
        ["report", *(str(run.path.absolute()) for run in runs), "--out", str(file)],
        title_of(runs),
        {"page": "overview"},
    )
