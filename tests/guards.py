"""Guards of the promises in docs/security.md and docs/reliability.md, taken out one by one: `python -m tests.guards`.

Each guard is a piece of the sources and what stands there without it. In a copy of the sources the piece is replaced
and the test that holds the promise is run, which has to fail. `make guards` prints the table.
"""

import argparse
import os
import re
import shutil
import sys
import traceback
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import NoReturn

import pytest

from tests.places import ROOT

LIBRARIES = ("torch", "transformers", "pandas", "plotly.graph_objects", "streamlit.testing.v1", "hypothesis")
COPIED = ("probe", "trainers", "dashboard", "tests", "docs", "pyproject.toml")


@dataclass(frozen=True)
class Guard:
    """A piece of the sources that holds a promise."""

    what: str
    """Guard in words."""
    file: str
    old: str
    """Text of the guard, once in its file."""
    new: str
    """Text without the guard."""
    test: str
    """Test that fails without it: file, `::`, name."""
    second: tuple[str, str] | None = None
    """Second guard of the same promise in the same file, taken out together with the first: each alone holds it."""


SECURITY = (
    Guard(
        "code that only the run names is not imported",
        "trainers/commands.py",
        "        if lacking:\n",
        "        if False:\n",
        "tests/trainers/test_named_code.py::"
        "test_a_run_that_names_code_is_resumed_only_when_the_command_line_names_it_too",
    ),
    Guard(
        "pickles are refused",
        "probe/model/references.py",
        "    if pickles:\n",
        "    if False:\n",
        "tests/model/test_references.py::test_what_is_wrong_in_a_directory_is_one_sentence",
    ),
    Guard(
        "a value of a spec is no option of its own",
        "probe/sweep/spec.py",
        "joined=True",
        "joined=False",
        "tests/sweep/test_trust.py::test_a_value_is_never_a_word_of_its_own",
    ),
    Guard(
        "text on pages is escaped",
        "dashboard/markdown.py",
        r'return _PUNCTUATION.sub(r"\\\1", _LATE.sub(rf"\g<0>{_JOINER}", line))',
        "return line",
        "tests/dashboard/test_text.py::test_every_sign_is_escaped",
    ),
    Guard(
        "a figure in a report holds no markup and no address",
        "probe/report/document.py",
        "(offline(json.loads(_figure_json(apply(chart, theme)))) for theme",
        "(json.loads(_figure_json(apply(chart, theme))) for theme",
        "tests/report/test_report.py::test_nothing_that_a_run_says_becomes_markup",
    ),
    Guard(
        "no cell of a table is a formula",
        "probe/texts.py",
        """return f"'{shown}" if is_formula else shown""",
        "return shown",
        "tests/plotting/test_hostile_exports.py::test_a_text_is_no_formula",
    ),
    Guard(
        "no control character reaches the terminal",
        "probe/texts.py",
        "print(visible(text, lines=True), file=",
        "print(text, file=",
        "tests/probe/test_texts.py::test_say_and_tables_print_safely",
    ),
    Guard(
        "a link in a run leads nowhere else",
        "probe/runs/directories.py",
        "if entry.is_symlink() and not within(entry, places):",
        "if False:",
        "tests/dashboard/test_links.py::test_links_out_of_a_run_are_a_problem_and_are_not_followed",
    ),
    Guard(
        "a name in an index leads nowhere else",
        "probe/runs/captures.py",
        'self.path / Path(str(row.get("file"))).name',
        'self.path / str(row.get("file"))',
        "tests/runs/test_reader.py::test_a_capture_outside_of_the_run_is_not_read",
    ),
    Guard(
        "a name in a manifest leads nowhere else",
        "probe/runs/store/remote.py",
        'if any(not part or part.startswith(".") or len(part) > 200 for part in name.split("/")):',
        "if False:",
        "tests/runs/test_mirror.py::test_a_strangers_names_stay_in_the_cache",
    ),
    Guard(
        "nothing is written through a link",
        "probe/runs/storage.py",
        "    if path.is_symlink():\n        raise RunError(",
        "    if False:\n        raise RunError(",
        "tests/runs/test_writer.py::test_nothing_is_written_through_a_link_in_a_copied_run",
    ),
    Guard(
        "what a link names is opened by a person",
        "dashboard/consent.py",
        "return stray_link(place(base)) is None",
        "return True",
        "tests/dashboard/test_links.py::test_a_link_asks_the_hub_for_nothing",
    ),
    Guard(
        "no host that only the run names is asked",
        "trainers/commands.py",
        '(hosts, "a host",',
        '({}, "a host",',
        "tests/trainers/test_named_hosts.py::test_a_resume_asks_no_host_that_only_the_run_names",
    ),
    Guard(
        "the server answers only at its own address",
        "dashboard/access.py",
        "if host not in gate.hosts:",
        "if False:",
        "tests/dashboard/test_access.py::test_a_websocket_is_answered_to_the_dashboards_own_pages_alone",
    ),
    Guard(
        "the server answers no pages of other sites",
        "dashboard/access.py",
        'if origin != f"http://{host}" and not (origin is None and method):',
        "if False:",
        "tests/dashboard/test_access.py::test_a_websocket_is_answered_to_the_dashboards_own_pages_alone",
    ),
    Guard(
        "no other page frames the dashboard",
        "dashboard/access.py",
        "MutableHeaders(scope=message).update(HEADERS)",
        "pass",
        "tests/dashboard/test_access.py::test_every_response_forbids_frames",
    ),
    Guard(
        "requests that change something need the token",
        "dashboard/access.py",
        "if method and method not in SAFE and not gate.admits(request.cookies):",
        "if False:",
        "tests/dashboard/test_access.py::test_what_changes_something_needs_the_cookie",
    ),
    Guard(
        "actions need the token",
        "dashboard/access.py",
        "    if not may_write():\n        raise",
        "    if False:\n        raise",
        "tests/dashboard/test_access.py::test_an_experiment_is_not_run_without_the_token_whatever_asks_for_it",
    ),
    Guard(
        "the command of a copied job is not run",
        "probe/jobs/job.py",
        "return hmac.compare_digest(self.signature, sign(self.folder, self.directory, self.words))",
        "return True",
        "tests/jobs/test_jobs.py::test_a_copied_folder_of_jobs_is_shown_and_never_acted_on",
    ),
    Guard(
        "the dashboard listens on this machine",
        "dashboard/command.py",
        '"server.address": HOST,',
        '"server.address": "0.0.0.0",',
        "tests/dashboard/test_command.py::test_settings_hold_against_a_users_configuration",
    ),
    Guard(
        "only regular files are read",
        "probe/untrusted.py",
        "    if not stat.S_ISREG(status.st_mode):\n",
        "    if False:\n",
        "tests/fuzz/test_opener.py::test_no_handle_stays_open_after_a_refusal",
    ),
    Guard(
        "values are nested up to a depth",
        "probe/untrusted.py",
        "    if level:\n        raise ValueError(_TOO_DEEP)\n",
        "",
        "tests/fuzz/test_opener.py::test_values_are_nested_up_to_a_depth",
    ),
    Guard(
        "objects have names up to a number",
        "probe/untrusted.py",
        "if type(held) is dict and len(held) > fields:",
        "if False:",
        "tests/fuzz/test_opener.py::test_an_object_has_names_up_to_a_number",
    ),
    Guard(
        "files are read up to a size",
        "probe/untrusted.py",
        "if most is not None and status.st_size > most:",
        "if False:",
        "tests/fuzz/test_opener.py::test_a_file_that_grows_is_read_as_it_was",
    ),
    Guard(
        "lines are read up to a length",
        "probe/runs/storage.py",
        "whole = whole and len(tail) + len(rest) <= LINE",
        "whole = True",
        "tests/fuzz/test_opener.py::test_a_line_that_is_too_long_is_left_out",
    ),
    Guard(
        "packed files are unpacked up to a size",
        "probe/experiments/result.py",
        "    if len(content) > most:\n",
        "    if False:\n",
        "tests/fuzz/test_damage.py::test_a_packed_file_is_unpacked_up_to_a_limit",
    ),
    Guard(
        "a sample of a log has the size that it says",
        "probe/logs/inspect_log.py",
        "    if len(content) != member.file_size or zlib.crc32(content) != member.CRC:\n",
        "    if False:\n",
        "tests/logs/test_untrusted_logs.py::test_a_member_that_lies_about_its_size_is_left_out",
    ),
    Guard(
        "weights that are too few are refused",
        "probe/model/loading.py",
        "    if lacking:\n",
        "    if False:\n",
        "tests/fuzz/test_damage.py::test_a_configuration_beyond_the_weights_is_refused_at_once"
        "[num_hidden_layers-3-lack 9 tensors]",
    ),
    Guard(
        "an error of a library is a sentence",
        "probe/untrusted.py",
        "        raise refuse(short(error)) from None\n",
        "        raise\n",
        "tests/fuzz/test_readers.py::test_a_damaged_file_is_read_or_refused_in_one_sentence",
    ),
    Guard(
        "a chat template has 2 seconds",
        "probe/model/confined.py",
        "SECONDS = 2\n",
        "SECONDS = 150\n",
        "tests/model/test_confined.py::test_a_template_without_an_end_is_ended",
        ("else 60.0", "else 300.0"),
    ),
)
"""Guards of docs/security.md."""
RELIABILITY = (
    Guard(
        "moments of the optimiser come back",
        "trainers/checkpoint.py",
        "                optimizer.state[updated][kind] = part.to(weight.device, copy=True)\n",
        "                pass\n",
        "tests/trainers/test_resume.py::test_killed_and_resumed_to_the_same_files[sft]",
    ),
    Guard(
        "the state of the method comes back",
        "trainers/loop.py",
        "        method.restore(extra)\n",
        "",
        "tests/trainers/test_resume.py::test_killed_and_resumed_to_the_same_files[rlhf]",
    ),
    Guard(
        "what a resume takes back does not count",
        "probe/runs/captures.py",
        'while highest and -highest[0] > row["step"]:',
        "while False:",
        "tests/runs/test_writer.py::test_resume_takes_later_steps_back",
    ),
    Guard(
        "a damaged checkpoint is refused",
        "trainers/resume.py",
        "    if first is not None:\n",
        "    if False:\n",
        "tests/trainers/test_resume.py::test_a_damaged_checkpoint_is_named_and_the_one_before_it_offered[rlhf]",
    ),
    Guard(
        "what killed writers left is removed",
        "probe/runs/storage.py",
        "        if not LEFTOVER.fullmatch(path.name):\n            continue\n",
        "        continue\n",
        "tests/trainers/test_resume.py::test_what_killed_writers_left_is_removed_and_nothing_else",
    ),
    Guard(
        "a run has one writer",
        "probe/runs/storage.py",
        "            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)\n",
        "",
        "tests/runs/test_writer.py::test_one_writer_in_a_process",
    ),
    Guard(
        "a heartbeat from the future is ignored",
        "probe/runs/reader.py",
        "return now - STALE_S < beat < now + STALE_S",
        "return now - STALE_S < beat",
        "tests/runs/test_writer.py::test_a_heartbeat_tells_about_writers_on_other_machines",
    ),
    Guard(
        "a checkpoint appears when it is whole",
        "probe/runs/writer.py",
        'temporary = final.with_name(f".{final.name}.{os.getpid()}.tmp")',
        "temporary = final",
        "tests/runs/test_writer.py::test_a_checkpoint_appears_when_it_is_whole",
    ),
    Guard(
        "an exported file appears when it is whole",
        "probe/runs/storage.py",
        "    with disk(path):\n        write_atomic(path, data)\n",
        "    with disk(path):\n        path.write_bytes(data)\n        os.fsync(os.open(path, os.O_RDONLY))\n",
        "tests/plotting/test_export.py::test_a_file_that_could_not_be_written_leaves_the_older_one",
    ),
    Guard(
        "a library's own temporary file lies in a folder that is removed",
        "probe/runs/storage.py",
        "written = temporary / path.name if callable(data) else temporary",
        "written = temporary",
        "tests/runs/test_writer.py::test_a_capture_that_is_killed_leaves_nothing_after_a_resume",
        ("            temporary.mkdir(exist_ok=True)\n", "            pass\n"),
    ),
    Guard(
        "a failed write leaves no part of a line",
        "probe/runs/storage.py",
        "os.ftruncate(self._handle, before)",
        "pass",
        "tests/runs/test_writer.py::test_a_disk_that_fills_leaves_whole_lines",
    ),
    Guard(
        "an incomplete last line is left out",
        "probe/runs/storage.py",
        "_parse(file.read(end - start)) is None:",
        "False:",
        "tests/runs/test_writer.py::test_resume_takes_later_steps_back",
    ),
    Guard(
        "a full disk is a sentence",
        "probe/runs/storage.py",
        "        if not isinstance(error, OSError):\n            raise\n",
        "        raise\n",
        "tests/runs/test_writer.py::test_a_full_disk_is_one_sentence",
    ),
    Guard(
        "a full disk is a sentence, from Rust too",
        "probe/runs/storage.py",
        "told = RUST_FAILURE.search(str(raised))",
        "told = None",
        "tests/runs/test_writer.py::test_a_full_disk_of_a_library_in_rust_is_one_sentence",
    ),
    Guard(
        "a folder that is gone is noticed",
        "probe/runs/writer.py",
        "        self._check_there()\n\n    def _check_there(self)",
        "\n    def _check_there(self)",
        "tests/runs/test_writer.py::test_a_folder_that_goes_under_its_writer_is_noticed",
    ),
    Guard(
        "a folder that is gone is not made anew",
        "probe/runs/storage.py",
        "        write_atomic(path, data, parents=False)\n",
        "        write_atomic(path, data)\n",
        "tests/runs/test_writer.py::test_a_folder_that_is_gone_is_not_made_anew",
    ),
    Guard(
        "a run that is written is neither renamed nor deleted",
        "probe/runs/trash.py",
        'if Run(path).status == "running":',
        "if False:",
        "tests/runs/test_keeping.py::test_a_run_that_is_being_written_stays",
        ("hold_lock(path) as handle:", "suppress() as handle:"),
    ),
    Guard(
        "a broken run hides only itself",
        "probe/runs/reader.py",
        '            except RunError as error:\n                warnings.warn(f"`{path}` is left out',
        '            except ZeroDivisionError as error:\n                warnings.warn(f"`{path}` is left out',
        "tests/dashboard/test_hostile_runs.py::test_the_list_of_runs_has_the_sound_ones",
    ),
    Guard(
        "a damaged result hides no other",
        "probe/report/collect.py",
        "            except DataError as error:\n                told",
        "            except ZeroDivisionError as error:\n                told",
        "tests/report/test_report.py::test_a_damaged_result_hides_no_other",
    ),
    Guard(
        "no error of a page is a traceback",
        "dashboard/markdown.py",
        "            raise\n        report_failure(error)",
        "            raise\n        raise",
        "tests/dashboard/test_unforeseen.py::test_a_callback_that_fails_is_a_sentence",
    ),
    Guard(
        "a step that is not finite is not taken",
        "trainers/loop.py",
        "return math.isfinite(self.loss) and math.isfinite(self.norm)",
        "return True",
        "tests/trainers/test_loop.py::test_nan_without_a_checkpoint",
    ),
    Guard(
        "a copy from a store is checked by hash",
        "probe/runs/store/remote.py",
        "if size != entry.bytes or digest.hexdigest() != entry.sha256:",
        "if False:",
        "tests/runs/test_remote.py::test_damaged_objects_and_a_full_disk",
    ),
    Guard(
        "a manifest appears when it is whole",
        "probe/runs/storage.py",
        "    write_atomic(whole, data)\n",
        "    path.parent.mkdir(parents=True, exist_ok=True)\n    path.write_bytes(data); write_atomic(whole, data)\n",
        "tests/runs/test_remote.py::test_a_claim_that_cannot_be_written_whole_is_not_there",
    ),
    Guard(
        "without its store, what was fetched is shown",
        "probe/runs/store/mirror.py",
        "self.problem = self._instead(str(error)) if self.path.is_dir() else str(error)",
        "raise",
        "tests/runs/test_mirror.py::test_offline_the_cache_is_shown_with_a_sentence",
    ),
    Guard(
        "an older attempt uploads nothing more",
        "probe/runs/store/remote.py",
        "    if newest > attempt:\n        raise _fenced(folder, attempt, newest)\n",
        "",
        "tests/runs/test_remote.py::test_what_a_lower_attempt_does_after_a_claim_is_not_seen",
    ),
)
"""Guards of docs/reliability.md."""


@dataclass(frozen=True)
class Shown:
    """What a test said without its guard."""

    guard: Guard
    failed: bool
    said: str
    """First line of the failure."""


def copy_sources(target: Path) -> None:
    """Copy the sources and tests; the sample runs are linked."""
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, target / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target / name)
    (target / "sample_runs").symlink_to(ROOT / "sample_runs")


def take_out(guard: Guard, copy: Path) -> Shown:
    """Run the test of a guard without it, in a copy of the sources, and put it back."""
    file, output = copy / guard.file, copy / "output.txt"
    before = file.read_text()
    file.write_text(before.replace(guard.old, guard.new).replace(*guard.second or ("", ""), 1))
    try:
        child = os.fork()  # the libraries are imported once for all tests
        if not child:
            run_test(guard.test, copy, output)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    finally:
        file.write_text(before)
    said = output.read_text(errors="replace").splitlines()
    lines = [line for line in said if re.match(r"E {3}", line)] or said[-1:] or [""]
    return Shown(guard, status == 1, " ".join(lines[0].removeprefix("E").split()))


def run_test(test: str, copy: Path, output: Path) -> NoReturn:
    """Run a test of the copy in this process, which ends with its status."""
    status = 3
    try:
        with open(output, "w") as file:
            for stream in (1, 2):
                os.dup2(file.fileno(), stream)
        os.chdir(copy)
        os.environ |= {"PYTHONPATH": str(copy), "OMP_NUM_THREADS": "1"}
        sys.path[:] = [str(copy), *(path for path in sys.path if path and Path(path) != ROOT)]
        for name in [name for name in sys.modules if name.partition(".")[0] == "tests"]:
            del sys.modules[name]
        sys.modules["__main__"] = ModuleType("__main__")  # processes that a test starts would import this file again
        options = ("-q", "-x", "--no-header", "-p", "no:cacheprovider", "--timeout=100")
        status = pytest.main([*options, "-W", "ignore::pytest.PytestAssertRewriteWarning", test])
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(int(status))


HEAD = "| guard taken out | test | what failed |\n| --- | --- | --- |"


def row(shown: Shown) -> str:
    """Return a line of a table in Markdown."""
    said = shown.said.replace("|", "\\|").replace("`", "'")[:110] if shown.failed else "nothing"
    return f"| {shown.guard.what} (`{shown.guard.file}`) | `{shown.guard.test}` | `{said}` |"


def run(arguments: list[str]) -> int:
    """Take the guards out and print the table; return 1 if a test did not fail."""
    parser = argparse.ArgumentParser(prog="python -m tests.guards", description=__doc__)
    parser.add_argument("words", nargs="*", help="only guards that hold one of these words in their description")
    given = parser.parse_args(arguments)
    passed = 0
    print(HEAD, flush=True)
    sys.dont_write_bytecode = True
    for name in LIBRARIES:
        import_module(name)
    with TemporaryDirectory() as folder:
        copy = Path(folder)
        copy_sources(copy)
        for guard in (*SECURITY, *RELIABILITY):
            if not given.words or any(word in guard.what for word in given.words):
                shown = take_out(guard, copy)
                passed += not shown.failed
                print(row(shown), flush=True)
    return int(passed > 0)


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
