"""Policy as tests: the import direction, light starts, and no unsafe loading."""

import ast
import functools
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FORBIDDEN = {
    "probe": {"trainers", "dashboard", "streamlit"},
    "trainers": {"dashboard", "streamlit"},
    "dashboard": {"trainers"},
}
SOURCES = sorted(path for package in FORBIDDEN for path in (ROOT / package).rglob("*.py"))


@functools.cache
def parse(path: Path) -> ast.Module:
    """The syntax tree of a file."""
    return ast.parse(path.read_text())


@functools.cache
def walk(path: Path) -> tuple[ast.AST, ...]:
    """All nodes of a file."""
    return tuple(ast.walk(parse(path)))


@pytest.fixture(scope="module", autouse=True)
def forget() -> Iterator[None]:
    """Millions of nodes would slow every search for garbage of the tests that follow."""
    yield
    walk.cache_clear()
    parse.cache_clear()


def places_of(holds: Callable[[ast.AST], bool], but: Path | None = None) -> list[str]:
    """File and line of each node of the sources for which something holds."""
    return [
        f"{path.relative_to(ROOT)}:{node.lineno}"  # type: ignore[attr-defined]
        for path in SOURCES
        if path != but
        for node in walk(path)
        if holds(node)
    ]


def imported(nodes: Iterable[ast.AST]) -> set[str]:
    """Top-level names of everything that is imported, wherever the import stands."""
    names = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names.add(node.module.partition(".")[0])
    return names


def test_imports_one_way():
    found = {}
    for path in SOURCES:
        if wrong := imported(walk(path)) & FORBIDDEN[path.relative_to(ROOT).parts[0]]:
            found[str(path.relative_to(ROOT))] = wrong
    assert found == {}


LAYERS = (
    "errors terms texts ticks",
    "untrusted",
    "numbers options plugins questions stats",
    "tokenizer_parts",
    "rows runs",
    "world",
    "jobs model plotting",
    "analyses cli diagnosis",
    "experiments logits",
    "seeds",
    "attention autoregression continual interventions rewards",
    "circuits compare",
    "chain_of_thought hallucination in_context recording report",
    "features sycophancy traits",
    "audit findings integrations probes retrieval sweep",
    "logs scorecard",
    "commands",
)
"""The subjects of probe, lowest first: each may import from those below it, whose order has no circles."""
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in SOURCES
    if path.relative_to(ROOT).parts[0] == "probe"
}


def subjects_of(path: Path) -> set[str]:
    """What a module imports of probe, by the folder or the file at its top, wherever the import stands."""
    full = set()
    for node in walk(path):
        if isinstance(node, ast.ImportFrom) and node.module:
            full |= {f"{node.module}.{each.name}" for each in node.names}
        elif isinstance(node, ast.Import):
            full |= {each.name for each in node.names}
    return {name.split(".")[1] for name in full if name.startswith("probe.")}


def test_subjects_import_from_below():
    layer = {name: height for height, names in enumerate(LAYERS) for name in names.split()}
    wrong = []
    for module in MODULES.keys() - {"probe"}:
        own = module.split(".")[1]
        others = subjects_of(MODULES[module]) - {own}
        wrong += [f"{module} imports from {other}" for other in others if layer[other] >= layer[own]]
    assert wrong == []


def test_every_subject_has_its_layer():
    names = {module.split(".")[1] for module in MODULES if module != "probe"}
    assert sorted(names) == sorted(" ".join(LAYERS).split())


FILES = {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in SOURCES}


def files_of(module: str) -> set[str]:
    """The files that a module imports, inside of functions and for type checkers too."""
    found = set()
    for node in walk(FILES[module]):
        if isinstance(node, ast.ImportFrom) and node.module:
            wholes = {f"{node.module}.{each.name}" for each in node.names}
            found |= {whole if whole in FILES else node.module for whole in wholes}
        elif isinstance(node, ast.Import):
            found |= {each.name for each in node.names}
    return found & FILES.keys() - {module}


def in_circles(graph: dict[str, set[str]]) -> set[str]:
    """What is left of a graph when, again and again, all that leads nowhere or is led to by nothing is taken away."""
    while True:
        led_to = set().union(*graph.values())
        ends = {name for name, others in graph.items() if not others & graph.keys() or name not in led_to}
        if not ends:
            return set(graph)
        graph = {name: others for name, others in graph.items() if name not in ends}


def test_no_file_comes_back_to_itself_by_its_imports():
    assert in_circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}, "e": set()}) == {"b", "c"}
    assert in_circles({module: files_of(module) for module in FILES}) == set()


ROLES = {
    *("__init__", "page", "choices", "compute", "figures", "words"),  # of a page
    *("experiment", "world", "files", "figures", "measures", "config"),  # of a subject
}
"""File names that say a role, which each folder may have once; commands are named as what they are typed."""


def test_a_file_name_stands_in_one_folder():
    names: dict[str, list[str]] = {}
    for path in SOURCES:
        if path.stem not in ROLES and path.parent.name != "commands":
            names.setdefault(path.stem, []).append(str(path.relative_to(ROOT)))
    assert {name: places for name, places in names.items() if len(places) > 1} == {}


SUBJECTS = {path.parent.name for path in (ROOT / "probe").glob("*/__init__.py")} - {"commands"}
PAGES = {path.parent.name for path in (ROOT / "dashboard" / "pages").glob("*/page.py")}
PAGE_OF = dict.fromkeys(("model", "plotting", "report", "runs", "seeds", "world"), "overview")
PAGE_OF |= {
    "jobs": "train",
    "recording": "training",
    "questions": "experiments",
    "analyses": "compare",
    "features": "compare",
    "circuits": "interventions",
    "logs": "experiments",
}
"""Subjects that are shown on the page of another name."""
DOCUMENTS = [file for file in (ROOT / "docs").glob("*.md") if file.name not in ("tree.md", "log.md")]


@pytest.mark.parametrize("subject", sorted(SUBJECTS))
def test_a_subject_has_a_page_tests_and_a_document(subject: str):
    assert PAGE_OF.get(subject, subject) in PAGES
    assert any((ROOT / "tests" / subject).glob("test_*.py"))
    text = "".join(file.read_text() for file in DOCUMENTS)
    assert f"probe/{subject}/" in text or f"probe.{subject}" in text


WEIGHS = "trainers.gradient"
"""What each method would do to tokens, without a step: all that pages know of the trainers, once a reader asks."""


def test_dashboard_does_not_train():
    """Pages start training as a process of its own; they never import a trainer, and no page begins with `WEIGHS`."""
    for path in (ROOT / "dashboard").rglob("*.py"):
        for node in walk(path):
            weighs = isinstance(node, ast.ImportFrom) and node.module == WEIGHS and node not in parse(path).body
            if not weighs:
                assert "trainers" not in imported([node]), path


def is_unsafe(node: ast.AST) -> bool:
    """Whether a node allows raw HTML or remote code, or loads a pickle."""
    if isinstance(node, ast.keyword):
        unsafe = node.arg in {"unsafe_allow_html", "trust_remote_code", "unsafe_allow_javascript"}
        return unsafe and isinstance(node.value, ast.Constant) and node.value.value is True
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        return (node.value.id, node.attr) in {("torch", "load"), ("pickle", "load"), ("pickle", "loads")}
    return False


def test_nothing_unsafe():
    """No pickles, no remote code, no raw HTML (DESIGN: security and failure)."""
    assert places_of(is_unsafe) == []


@pytest.mark.parametrize("module", ["probe", "probe.cli", "trainers.commands", "dashboard.command"])
def test_light_start(module: str):
    """Nothing heavy is imported before a command runs, so that `probe --help` answers at once."""
    heavy = "torch transformers transformer_lens pandas numpy streamlit plotly scipy tyro rich"
    code = f"import sys, {module}; print(*(set('{heavy}'.split()) & set(sys.modules)))"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.strip() == ""


REACTIONS = {"on_click", "on_change", "on_select"}
"""What Streamlit calls outside of the page that names it."""


def in_guard(function: ast.FunctionDef) -> bool:
    """Whether a function is decorated with `guard_callback`, or is one `with guard()` from first line to last."""
    body = function.body[1:] if ast.get_docstring(function) else function.body
    whole = len(body) == 1 and isinstance(body[0], ast.With) and ast.unparse(body[0].items[0]) == "guard()"
    return whole or any(ast.unparse(each) == "guard_callback" for each in function.decorator_list)


def test_no_error_of_a_page_escapes():
    """Callbacks and fragments run outside of the guard around the page, so each has its own (dashboard/markdown.py)."""
    paths = list((ROOT / "dashboard").rglob("*.py"))
    functions = {path: [node for node in walk(path) if isinstance(node, ast.FunctionDef)] for path in paths}
    checked = 0
    for path in paths:
        for call in (node for node in walk(path) if isinstance(node, ast.Call)):
            if not isinstance(call.func, ast.Attribute):
                continue  # a part of the page (`figure`), which hands it on to Streamlit
            given = [each.value for each in call.keywords if each.arg in REACTIONS]
            given += call.args[:1] if call.func.attr == "fragment" else []
            for value in given:
                checked += 1
                if isinstance(value, ast.Constant):
                    continue  # "rerun" or "ignore"
                if isinstance(value, ast.Call) and ast.unparse(value.func) == "guard_callback":
                    continue
                called = [each for each in functions[path] if each.name == ast.unparse(value)]
                called = called or [
                    each for own in functions.values() for each in own if each.name == ast.unparse(value)
                ]
                assert called, f"{path}:{call.lineno}"
                assert all(in_guard(each) for each in called), f"{path}:{call.lineno}"
    assert checked > 10


SESSION = ("st.session_state", "st.query_params")
KEYED = ("begin", "has_changed", "keep", "preset", "lasting_key", "tell_again")
"""Functions of the dashboard whose first argument is a key."""


def keys(node: ast.AST) -> list[ast.expr]:
    """What a node names in the session or the URL: by a subscript, `in`, a method, a function above, a widget's key."""
    if isinstance(node, ast.Subscript) and ast.unparse(node.value) in SESSION:
        return parts(node.slice)
    if isinstance(node, ast.Compare) and ast.unparse(node.comparators[0]) in SESSION:
        return parts(node.left)
    if not isinstance(node, ast.Call):
        return []
    owner, _, called = ast.unparse(node.func).rpartition(".")
    named = [each.value for each in node.keywords if each.arg == "key"]
    named += node.args[:1] if owner in SESSION or called in KEYED else []
    return [part for key in named for part in parts(key)]


def parts(key: ast.expr) -> list[ast.expr]:
    """The one or the other of a choice, both ends of a sum, all of a tuple; anything else as it is."""
    match key:
        case ast.IfExp(body=first, orelse=second) | ast.BinOp(left=first, right=second):
            return parts(first) + parts(second)
        case ast.Tuple(elts=elements):
            return [part for each in elements for part in parts(each)]
    return [key]


def test_a_key_of_the_session_is_written_once():
    """A key that is needed twice has a name. Keys that are plain words count only where they are used as keys."""
    paths = sorted((ROOT / "dashboard").rglob("*.py"))
    used = {path: [key for node in walk(path) for key in keys(node)] for path in paths}
    names = {path: {key.id for key in found if isinstance(key, ast.Name)} for path, found in used.items()}
    constants = {name for own in names.values() for name in own if name.isupper()}  # others may import them
    for path in paths:
        for node in walk(path):
            if isinstance(node, ast.Assign):
                targets = {ast.unparse(each) for each in parts(node.targets[0])}
                used[path] += parts(node.value) if targets & (names[path] | constants) else []
    own = {id(key): ast.unparse(key) for found in used.values() for key in found if is_text(key)}
    known, places = set(own.values()), dict[str, list[str]]()
    for path in paths:
        for node in filter(is_text, walk(path)):
            key = ast.unparse(node)
            if id(node) in own or (key in known and not key.strip("'").isalpha()):
                places.setdefault(key, []).append(f"{path.relative_to(ROOT)}:{node.lineno}")  # type: ignore[attr-defined]
    assert len(places) > 100
    assert {key: where for key, where in places.items() if len(where) > 1} == {}


def is_text(node: ast.AST) -> bool:
    """Whether a node is a string, formatted or not."""
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str))


PRINTER = ROOT / "probe" / "texts.py"
"""The one file that prints: it makes text from data safe for a terminal."""


def prints(node: ast.AST) -> bool:
    """Whether a call writes to the terminal by itself."""
    if not isinstance(node, ast.Call):
        return False
    called = ast.unparse(node.func)
    parts = called.split(".")
    return (
        (
            called in ("print", "Console", "rich.print", "pprint", "sys.exit")
            and not (called == "sys.exit" and ast.unparse(node.args[0]).startswith("main("))
        )
        or (parts[:2] in (["sys", "stdout"], ["sys", "stderr"]) and parts[-1] in ("write", "writelines"))
        or (parts[0] == "traceback" and parts[-1].startswith("print"))
        or parts[-1] == "Console"
    )


def test_all_printed_text_is_made_safe():
    """Escape sequences in a run's name or in a file must not reach the terminal, whichever command prints them."""
    assert places_of(prints, but=PRINTER) == []


WRITES_CSV = {"probe/plotting/csv_text.py", "probe/experiments/run.py", "probe/experiments/store.py"}
"""Who calls pandas' own writer: the one way to an export; a hash; a file that the dashboard alone reads back."""


def test_csv_is_written_one_way():
    """A text in an exported table must not become a formula of a spreadsheet (`probe.plotting.csv_text`)."""
    calls = {
        str(path.relative_to(ROOT))
        for path in SOURCES
        for node in walk(path)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "to_csv"
    }
    assert calls == WRITES_CSV


def is_shown_safely(call: ast.Call) -> bool:
    """Whether a call shows no text of data as it is: it makes it `visible`, or shows a constant or our own report."""
    name = call.func.attr if isinstance(call.func, ast.Attribute) else ""
    if name in ("selectbox", "multiselect"):
        return any(each.arg == "format_func" for each in call.keywords)
    if name in ("text", "code") and ast.unparse(call.func).startswith("st."):
        first = ast.unparse(call.args[0])
        return first.startswith(("visible(", "report(")) or first.isupper()
    return name not in ("dataframe", "data_editor", "json", "table") or not ast.unparse(call.func).startswith("st.")


def test_panels_are_made_one_way():
    """`probe.plotting.panels.Panels` lays panels out, breaks their titles and leaves room for them, for all figures."""

    def makes_subplots(node: ast.AST) -> bool:
        return "make_subplots" in (getattr(node, "id", ""), getattr(node, "attr", ""), getattr(node, "name", ""))

    assert places_of(makes_subplots) == []


def test_a_page_shows_text_of_data_letter_by_letter():
    """Tables go through `components.table`, texts and options through `visible`, all else through `markdown`."""
    wrong = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in (ROOT / "dashboard").rglob("*.py")
        if path.relative_to(ROOT).as_posix() != "dashboard/components/table.py"
        for node in walk(path)
        if isinstance(node, ast.Call) and not is_shown_safely(node)
    ]
    assert not wrong


OPENER = ROOT / "probe" / "untrusted.py"
"""The one file that opens and parses what somebody else may have written."""
OPENS = {"open", "read_text", "read_bytes", "fdopen"}
PARSES = {"json.load", "json.loads", "tomllib.load", "tomllib.loads"} | {
    f"pd.read_{kind}" for kind in ("json", "csv", "table", "parquet", "feather", "pickle", "excel", "html", "xml")
}
OPEN_THEMSELVES = {"load_file", "load_arrays", "safe_open", "ParquetFile", "OSFile", "memory_map"}
"""Calls of libraries that take a path: it goes through `regular`."""
OTHERS = {
    ("dashboard/components/focus.py", "read_text"): "comes with Probe",
    ("dashboard/components/tokens.py", "read_text"): "comes with Probe",
    ("dashboard/components/view.py", "read_text"): "comes with Probe",
    ("dashboard/components/zoom.py", "read_text"): "comes with Probe",
    ("dashboard/command.py", "webbrowser.open"): "opens no file",
    ("probe/jobs/trainings.py", "json.loads"): "what a command of Probe has printed",
    ("probe/jobs/control.py", "open"): "makes a new file",
    ("probe/jobs/job.py", "part.open"): "makes a new file",
    ("probe/jobs/job.py", "os.open"): "makes a new file",
    ("probe/jobs/job.py", "fdopen"): "makes a new file",
    ("probe/experiments/store.py", "pd.read_csv"): "of bytes that `read_file` has read",
    ("probe/cli.py", "os.open"): "os.devnull",
    ("probe/model/confined.py", "fdopen"): "the standard output of the child",
    ("probe/model/confined.py", "json.loads"): "what this process and its child write to each other",
    ("probe/diagnosis/score.py", "read_text"): "comes with Probe",
    ("probe/model/confined.py", "read_text"): "of the system, below /proc",
    ("probe/continual/training.py", "read_text"): "in a temporary folder of this process",
    ("probe/continual/training.py", "open"): "in a temporary folder of this process",
    ("probe/continual/worker.py", "json.loads"): "what the process that started it has written",
    ("probe/continual/worker.py", "os.open"): "in a temporary folder of the process that started it",
    ("probe/model/identity.py", "json.loads"): "what a tokenizer in memory has written",
    ("probe/model/loading.py", "open"): "makes a new file",
    ("probe/model/memory.py", "read_text"): "of the system, below /proc and /sys",
    ("probe/plotting/export.py", "browser.open"): "opens no file",
    ("probe/plotting/export.py", "read_bytes"): "comes with Probe",
    ("probe/questions/draw.py", "open"): "a source that the developer has fetched",
    ("probe/questions/draw.py", "json.loads"): "a source that the developer has fetched",
    ("probe/questions/draw.py", "read_text"): "a source that the developer has fetched",
    ("probe/questions/sets.py", "read_text"): "comes with Probe",
    ("probe/questions/sets.py", "json.loads"): "comes with Probe",
    ("probe/report/document.py", "read_text"): "comes with Probe",
    ("probe/report/document.py", "json.loads"): "a figure that was made here",
    ("probe/rows.py", "read_text"): "the function of that module, which calls `read_file`",
    ("probe/rows.py", "read_bytes"): "the function of that module, which calls `read_file`",
    ("probe/runs/metric_log.py", "open"): "makes a new file",
    ("probe/runs/metric_log.py", "os.open"): "makes a new file",
    ("probe/runs/store/remote.py", "open"): "makes a new file",
    ("probe/runs/storage.py", "open"): "makes a new file",
    ("probe/runs/storage.py", "os.open"): "a folder; and a file of lines, which is looked at once it is open",
    ("probe/runs/storage.py", "read_text"): "of the system, below /proc",
    ("probe/seeds/coverage.py", "open"): "comes with Probe",
    ("probe/experiments/interval_coverage.py", "open"): "comes with Probe",
    ("probe/sweep/attempt.py", "open"): "writes, to a regular file or a new one",
    ("probe/terms.py", "open"): "comes with Probe",
    ("trainers/loop.py", "record.open"): "opens no file",
    ("trainers/record.py", "read_text"): "that of `probe.rows`",
    ("trainers/session.py", "read_text"): "that of `probe.rows`",
}
"""Other calls that open or parse, and why they may: (file, what is called)."""


def opening(node: ast.AST) -> str | None:
    """What a call opens or parses with, if it does so without the opener."""
    if not isinstance(node, ast.Call):
        return None
    called = ast.unparse(node.func)
    owner, _, last = called.rpartition(".")
    if last in OPEN_THEMSELVES:
        return None if ast.unparse(node.args[0]).startswith(("regular(", "str(regular(")) else called
    if last == "from_pretrained":
        return None if any(ast.unparse(each).startswith("sound_folder(") for each in node.args) else called
    if called in PARSES or (called.startswith("gzip.") and last == "open"):
        return called
    if last in OPENS:
        simple = not owner or not owner.isidentifier() or last != "open" or owner == "file"
        return last if simple else called
    return None


def test_files_are_opened_and_parsed_in_one_place():
    """A pipe, a device, a file without an end, or values nested too deeply: `probe.untrusted` knows them all."""
    found = {
        (path.relative_to(ROOT).as_posix(), call)
        for path in SOURCES
        if path != OPENER
        for node in walk(path)
        if (call := opening(node))
    }
    assert found == set(OTHERS)


RIDDLES = re.compile(r"(Of|By|In|To|For|From|With|What|Which)\b")
"""How a docstring begins that names no thing."""


def names_nothing(node: ast.AST) -> Iterator[str]:
    """Docstrings of a module, a class, or its fields and constants that begin with no noun."""
    body = getattr(node, "body", None)
    if not isinstance(body, list) or isinstance(node, ast.FunctionDef):
        return
    for index, each in enumerate(body):
        before = body[index - 1] if index else None
        owned = isinstance(before, ast.Assign | ast.AnnAssign) or (index == 0 and isinstance(node, ast.ClassDef))
        if owned and isinstance(each, ast.Expr) and isinstance(each.value, ast.Constant):
            text = str(each.value.value)
            if RIDDLES.match(text):
                yield f"{each.lineno}: {text.partition(chr(10))[0]}"


def test_a_docstring_of_a_thing_begins_with_a_noun():
    found = [
        f"{path.relative_to(ROOT)}:{line}" for path in SOURCES for node in walk(path) for line in names_nothing(node)
    ]
    assert found == []
