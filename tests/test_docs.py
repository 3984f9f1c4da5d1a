"""The documents keep to what exists: every file, function and test that they name is there."""

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache, reduce
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from docs import pictures
from probe.analyses.catalogue import ANALYSES
from probe.diagnosis.fault_record import FAULTS
from probe.findings.bench import Bench
from probe.findings.claim import Finding
from probe.findings.claims import CLAIMS
from probe.findings.ledger import read_record
from probe.findings.verdicts import read_plan
from probe.model.lm import LM
from probe.scorecard.method_record import METHODS
from probe.world import of
from probe.world.extensions import ANNOTATORS, VERIFIERS
from tests.places import SAMPLES
from tests.tree import FILE, tree
from trainers.samples import real_samples
from trainers.samples.make_samples import tables

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
EQUATIONS = (ROOT / "docs" / "equations.md").read_text()
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
PRESENT = [document for document in DOCUMENTS if document.name != "log.md"]
"""Those that say what is; the log says what was."""
FILES = re.compile(r"(?<![\w./-])(?:probe|trainers|dashboard|tests|docs|benchmarks)/[a-z\d_/]+\.(?:py|md)\b")
SOURCES = sorted(path for package in ("probe", "trainers", "dashboard") for path in (ROOT / package).rglob("*.py"))
GROUPS = {registry.group for registry in (ANALYSES, ANNOTATORS, FAULTS, METHODS, VERIFIERS)}
"""Entry points, which look like the names of modules."""


def named(text: str) -> list[str]:
    """The dotted names of ours in a text, but for those with a placeholder such as `trainers.METHOD`."""
    names = re.findall(r"(?<![\w./@-])(?:probe|trainers|dashboard)(?:\.[A-Za-z_]\w*)+", text)
    return sorted({name for name in names if not re.search(r"\.(NAME|METHOD)\b", name)} - GROUPS)


def found(name: str) -> object:
    """What a dotted name stands for: a module, something in one, or a field that a class declares."""
    parts = name.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            module = import_module(".".join(parts[:cut]))
        except ModuleNotFoundError:
            continue
        return reduce(attribute, parts[cut:], module)
    raise ModuleNotFoundError(name)


def attribute(owner: object, name: str) -> object:
    """An attribute, or the annotation of a field without a default."""
    fields = getattr(owner, "__annotations__", {})
    return fields[name] if name in fields else getattr(owner, name)


def docstrings(path: Path) -> Iterator[str]:
    """Every text that stands for itself in a source: what a module, a class, a function or a name is."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node.value.value


@pytest.mark.parametrize("name", named(EQUATIONS))
def test_equations_name_functions_that_exist(name: str):
    assert callable(found(name))


def is_there(name: str) -> bool:
    """Whether a dotted name stands for something."""
    try:
        return found(name) is not None
    except (AttributeError, KeyError, ModuleNotFoundError):
        return False


def test_names_exist():
    """In docstrings and documents, so that what moves or is renamed takes what is said of it along."""
    texts = {path: path.read_text() for path in PRESENT} | {path: "\n".join(docstrings(path)) for path in SOURCES}
    places: dict[str, Path] = {}
    files: dict[str, Path] = {}
    for path, text in texts.items():
        places |= dict.fromkeys(named(text), path)
        files |= dict.fromkeys(FILES.findall(text), path)
    missing = [f"{path.relative_to(ROOT)}: {name}" for name, path in places.items() if not is_there(name)]
    missing += [f"{path.relative_to(ROOT)}: {file}" for file, path in files.items() if not (ROOT / file).is_file()]
    assert missing == []


def test_a_name_that_does_not_exist_is_seen():
    for name in named("`probe.logits.lens.logit_lense`, `probe.nowhere.at_all` and probe.logits.Lens.neither(x)"):
        with pytest.raises((AttributeError, ModuleNotFoundError)):
            found(name)


@pytest.mark.parametrize("path", sorted(set(re.findall(r"`(tests/[\w/]+\.py)`", EQUATIONS))))
def test_equations_name_tests_that_exist(path: str):
    assert (ROOT / path).is_file()


def test_the_tree_is_made_of_the_docstrings():
    assert FILE.read_text() == tree(), "docs/tree.md is stale: run `make tree`."


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path):
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)[^)]*\)", document.read_text()):
        assert (document.parent / target).exists(), target


def test_a_page_shows_what_the_sample_runs_gave():
    page = (ROOT / "docs" / "samples.md").read_text()
    for table in (*tables(SAMPLES).split("\n\n"), real_samples.table(SAMPLES, columns=real_samples.CONTROLS)):
        assert table in page
    table = real_samples.table(SAMPLES)
    assert len(table.splitlines()) == 6
    assert table in page


@cache
def agreement() -> str:
    """The table of what the real sample runs agree with."""
    return real_samples.table(SAMPLES, columns=real_samples.AGREEMENT)


def test_agreement_on_the_real_model_is_what_is_stored():
    """Cell by cell; a number that was stored without is the one thing that a document may know better."""
    stored = [cells(line) for line in agreement().splitlines()]
    lines = (ROOT / "docs" / "samples.md").read_text().splitlines()
    first = next(at for at, line in enumerate(lines) if cells(line) == stored[0])
    shown = [cells(line) for line in lines[first : first + len(stored)]]
    assert [row[0] for row in shown] == [row[0] for row in stored]
    for row, known in zip(shown, stored, strict=True):
        assert [
            cell for cell, other in zip(row, known, strict=True) if other not in (cell, real_samples.NOT_KNOWN)
        ] == []
    assert len({len(row) for row in shown}) == 1


def cells(line: str) -> list[str]:
    """The cells of a line of a table."""
    return [cell.strip() for cell in line.strip("| ").split("|")]


def findings_row(name: str, found: Finding) -> str:
    """A claim as the page shows it."""
    null = f"{found.null.holds} of {found.null.repetitions}" if found.null.repetitions else "not measured"
    over = found.mean_number if len(found.deciding) > 1 else "one training"
    held = f"{found.held} of {len(found.deciding)}"
    return f"| `{name}` | {found.number} | {over} | {held} | {null} | {found.verdict} |"


def test_a_page_shows_what_every_claim_is_held_to():
    page = (ROOT / "docs" / "findings.md").read_text()
    for name, terms in read_plan().claims.items():
        sign = "above" if terms.direction == "above" else "below"
        assert f"| `{name}` | {terms.refuted_by} | {sign} {terms.threshold:g} | {terms.null} |" in page


def test_a_page_shows_the_published_claims_as_they_are_on_record():
    """What is on record of the sample runs stands in the page as it was found."""
    page = (ROOT / "docs" / "findings.md").read_text()
    rows = [line for line in page.splitlines() if line.startswith("| `") and line.count("|") == 7]
    assert [row.split("`")[1] for row in rows] == [claim.name for claim in CLAIMS]
    for name, each in read_record(Bench(SAMPLES), CLAIMS).items():
        assert findings_row(name, each) in page


def test_the_readme_is_short():
    """Two screens: what is there and where to read on."""
    assert len(README.splitlines()) <= 70


def test_the_sample_runs_stay_small():
    """What is committed; results of experiments that somebody ran lie beside it."""
    listed = subprocess.run(["git", "ls-files", "-z", "sample_runs"], cwd=ROOT, capture_output=True, check=True).stdout
    files = [ROOT / name for name in listed.decode().split("\0") if name]
    assert len(files) > 100
    assert sum(path.stat().st_size for path in files if path.is_file()) < 80e6


@pytest.mark.parametrize("page", ["README.md", "docs/index.md", "docs/interventions.md"])
def test_the_first_python_of_a_page_runs(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """The README's in a process of its own, which has loaded nothing before."""
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
    assert len(code.split("\n")) <= 13
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PROBE_RUNS", str(SAMPLES))
    if page == "README.md":
        command, path = [sys.executable, "-W", "ignore", "-c", code], {"PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, env=os.environ | path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        printed = done.stdout
    else:
        exec(compile(code, page, "exec"), {})
        printed = capsys.readouterr().out
    if page != "docs/interventions.md":  # that one prints an array
        told = re.findall(r"print\(.*\)  # (.+)", code)
        assert printed.splitlines() == told
        assert told[0] != told[1], "the aligned model gives the answer of the base"


@pytest.mark.parametrize("page", ["README.md", "docs/index.md"])
def test_a_page_says_how_to_get_the_command_before_it_uses_it(page: str):
    text = (ROOT / page).read_text()
    assert 0 <= text.find(". .venv/bin/activate") < re.search(r"^probe ", text, re.MULTILINE).start()


@pytest.mark.parametrize(
    ("name", "at"),
    [
        *(("compare", at) for at in range(4)),
        ("model", 0),
        ("model", 3),
        ("world", 0),
        ("world", 1),
        ("runs", 3),
        ("runs", 4),
        ("runs", 5),
    ],
)
def test_the_python_of_the_documents_runs(name: str, at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """With the names that the text around it speaks of."""
    monkeypatch.chdir(tmp_path)
    code = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / f"{name}.md").read_text(), re.DOTALL)[at]
    base, lm = (LM.load(SAMPLES / run) for run in ("base", "rlvr"))
    world = of(base)
    assert world
    prompt = world.questions("opinion_false", 1, 0)[0].prompt
    space = {"base": base, "lm": lm, "world": world, "text": prompt, "train_one_step": lambda: 1.0}
    space |= {"process": SimpleNamespace(wait=lambda: None)}
    exec(compile(code.replace("n=400", "n=4").replace("s3://", "memory://"), name, "exec"), space)


def test_every_picture_of_the_documents_is_taken_by_the_script():
    """So that all are taken anew by one command (docs/pictures.py); none lies about that no document shows."""
    shown = {
        target for document in DOCUMENTS for target in re.findall(r"!\[[^\]]+\]\(([^)\s]+)\)", document.read_text())
    }
    folder = ROOT / "docs" / "images"
    assert {Path(target).parent.name for target in shown} == {folder.name}
    assert {Path(target).stem for target in shown} == pictures.NAMES == {file.stem for file in folder.iterdir()}
    for file in folder.iterdir():
        assert file.stat().st_size < pictures.MOST_BYTES
        with Image.open(file) as image:
            assert image.width == pictures.WIDTH
