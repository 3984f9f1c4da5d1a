"""What a reader does with runs: search them, pin, tag, note, rename, archive and delete them, and bring them back."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import streamlit as st

from dashboard import access
from dashboard.data import Store
from dashboard.jobs import act
from dashboard.markdown import escape_markdown, note
from dashboard.state import keep
from probe.runs.reader import Run
from probe.runs.run_filter import RunFilter
from probe.runs.run_marks import NOTE, TAG, Marks, write_marks
from probe.runs.trash import TrashedRun, dependents, empty_trash, rename_run, restore_run, trash_run, trashed_runs
from probe.texts import visible

SEARCH, METHOD, STATUS, TAGS = "search", "of_method", "of_status", "tag"
"""Keys of the search's text and of the chosen method, status and tags."""
ANY = "any"
SHOWN = 12
"""Number of archived and of deleted runs in their lists."""


def choose_runs(store: Store) -> RunFilter | None:
    """Draw the search and the filters of the runs, and return them; None if there is nothing to choose from."""
    runs = list(store.runs.values())
    methods = [ANY, *dict.fromkeys(run.method for run in runs)]
    states = [ANY, *dict.fromkeys(run.status for run in runs)]
    tags = sorted({tag for run in runs for tag in run.marks.tags})
    if len(runs) < 2:
        return None
    columns = st.columns([5, 3, 3, *[4] * bool(tags)], vertical_alignment="bottom")
    with columns[0]:
        text = st.text_input("Search", key=SEARCH, bind="query-params", placeholder="name, tag, note, or lr=0.001")
    with columns[1]:
        key = keep(METHOD, methods, ANY)
        method = st.selectbox("Method", methods, key=key, bind="query-params", format_func=visible)
    with columns[2]:
        key = keep(STATUS, states, ANY)
        status = st.selectbox("Status", states, key=key, bind="query-params", format_func=visible)
    chosen: list[str] = []
    if tags:
        if TAGS in st.session_state:
            st.session_state[TAGS] = [tag for tag in st.session_state[TAGS] if tag in tags]
        with columns[3]:
            chosen = st.multiselect("Tags", tags, key=TAGS, bind="query-params", placeholder="all", format_func=visible)
    plain = [None if each == ANY else each for each in (method, status)]
    return RunFilter(text=text or "", method=plain[0], status=plain[1], tags=chosen)


def draw_actions(runs: Sequence[Run], place: str) -> None:
    """Draw the buttons that mark, rename, archive and delete some runs; nothing for readers who may only read.

    Args:
        runs: the runs, at least one.
        place: name of the place on the page, for the keys of the buttons.
    """
    if not access.may_write():
        return
    pinned, single = all(run.marks.pinned for run in runs), len(runs) == 1
    small: Any = {"type": "tertiary"}
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.markdown(f"**{escape_markdown(runs[0].name) if single else f'{len(runs)} runs'}**", width="content")
        st.button(
            "Unpin" if pinned else "Pin",
            icon=":material/keep_off:" if pinned else ":material/keep:",
            key=f"{place}-pin",
            help="Lists pinned runs first.",
            on_click=act,
            args=(_change, runs, {"pinned": not pinned}),
            **small,
        )
        with st.popover("Tags", icon=":material/label:", **small):
            _tags(runs, place)
        with st.popover("Note", icon=":material/edit_note:", **small):
            key = f"{place}-note-{_names(runs)}"
            before = runs[0].marks.note if len({run.marks.note for run in runs}) == 1 else ""
            st.text_area("Note", value=before, max_chars=NOTE, key=key)
            st.button("Save note", key=f"{place}-save-note", on_click=act, args=(_note, runs, key))
        if single:
            with st.popover("Rename", icon=":material/drive_file_rename_outline:", **small):
                key = f"{place}-name-{_names(runs)}"
                st.text_input("New name", value=visible(runs[0].name), key=key)
                st.button("Save name", key=f"{place}-save-name", on_click=act, args=(_rename, runs[0], key))
        st.button(
            "Archive",
            icon=":material/archive:",
            key=f"{place}-archive",
            help="Leaves the runs out of all pages, until they are brought back here.",
            on_click=act,
            args=(_change, runs, {"archived": True}),
            **small,
        )
        with st.popover("Delete", icon=":material/delete:", **small):
            users = dependents(*(run.path for run in runs))
            if users:
                more = f" and {len(users) - 6} more" if len(users) > 6 else ""
                note(f"Runs that were made with {'it' if single else 'them'}: {', '.join(users[:6])}{more}.")
            note("The trash keeps what is deleted until it is emptied.")
            st.button("Move to trash", key=f"{place}-delete", type="primary", on_click=act, args=(_delete, runs))


def _names(runs: Sequence[Run]) -> str:
    return "|".join(str(run.path) for run in runs)


def _tags(runs: Sequence[Run], place: str) -> None:
    """Draw the choice of the tags that all of these runs have."""
    common = [tag for tag in runs[0].marks.tags if all(tag in run.marks.tags for run in runs)]
    known = sorted({tag for run in runs for tag in run.marks.tags})
    key = f"{place}-tags-{_names(runs)}"
    st.multiselect(
        f"Tags, at most {TAG} characters each",
        known,
        default=common,
        key=key,
        accept_new_options=True,
        placeholder="type a tag",
        format_func=visible,
    )
    st.button("Save tags", key=f"{place}-save-tags", on_click=act, args=(_tag, runs, key, common))


def _change(runs: Sequence[Run], marks: dict[str, Any]) -> None:
    for run in runs:
        write_marks(run.path, replace(run.marks, **marks))


def _tag(runs: Sequence[Run], key: str, before: Sequence[str]) -> None:
    chosen = st.session_state[key]
    for run in runs:
        write_marks(run.path, run.marks.with_tags(chosen, [tag for tag in before if tag not in chosen]))


def _note(runs: Sequence[Run], key: str) -> None:
    for run in runs:
        write_marks(run.path, replace(run.marks, note=str(st.session_state[key]).strip()))


def _rename(run: Run, key: str) -> None:
    rename_run(run.path, str(st.session_state[key]).strip())


def _delete(runs: Sequence[Run]) -> None:
    for run in runs:
        trash_run(run.path)


def draw_aside(store: Store) -> None:
    """Draw the lists of archived and of deleted runs behind buttons; nothing if there are none."""
    trashed = trashed_runs(store.roots)
    if not trashed and not store.archived:
        return
    may, small = access.may_write(), dict[str, Any](type="tertiary")
    with st.container(horizontal=True, gap="small"):
        if store.archived:
            with st.popover(f"Archived: {len(store.archived)}", icon=":material/archive:", **small):
                for run in store.archived[:SHOWN]:
                    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
                        st.markdown(escape_markdown(run.name))
                        if may:
                            back: Any = {"on_click": act, "args": (_change, [run], {"archived": False})}
                            st.button("Bring back", key=f"back-{run.path}", **back, **small)
                if len(store.archived) > SHOWN:
                    note(f"{len(store.archived) - SHOWN} more: `probe runs list --archived` lists all.")
        if trashed:
            with st.popover(f"Trash: {len(trashed)}", icon=":material/delete:", **small):
                _draw_trash(trashed, may)


def _draw_trash(trashed: Sequence[TrashedRun], may: bool) -> None:
    for run in trashed[:SHOWN]:
        with st.container(horizontal=True, vertical_alignment="center", gap="small"):
            st.markdown(escape_markdown(f"{run.name}, deleted {run.deleted:%Y-%m-%d %H:%M} (UTC)"))
            if may:
                back: Any = {"on_click": act, "args": (restore_run, run), "type": "tertiary"}
                st.button("Restore", key=f"restore-{run.path}", **back)
    if len(trashed) > SHOWN:
        note(f"{len(trashed) - SHOWN} more: `probe runs trash` lists all.")
    if may:
        st.button(
            f"Delete all {len(trashed)} for good" if len(trashed) > 1 else "Delete it for good",
            key="empty-trash",
            icon=":material/delete_forever:",
            on_click=act,
            args=(empty_trash, trashed),
        )


def told(marks: Marks) -> str:
    """Return what the marks of a run say, for its page."""
    words = ["pinned"] * marks.pinned + [f"tagged {', '.join(marks.tags)}"] * bool(marks.tags)
    first = ", ".join(words)
    return ". ".join(filter(None, (first[:1].upper() + first[1:], marks.note)))
