"""Models whose chat template or tokenizer has no end: they hide themselves, and every page shows the other runs."""

import json
import shutil
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from dashboard.pages import page_file
from tests.dashboard.pages import Show

ENDLESS = "{{ 9**(9**9) }}"
PATTERN = {"type": "Split", "pattern": {"Regex": "([a-z ]+)+!"}, "behavior": "Isolated", "invert": False}
TEXT = "where does helen live and where does helen work ?"


@pytest.fixture(scope="module")
def strangers(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copies of the runs, one more with a template without an end, and one with such a tokenizer."""
    root = tmp_path_factory.mktemp("strangers") / "runs"
    shutil.copytree(runs, root)
    add_strangers(root)
    return root


def add_strangers(root: Path) -> None:
    """Write the runs `frozen` and `stuck`, which are `dpo-agreeable` but for their template and their tokenizer."""
    for name in ("frozen", "stuck"):
        shutil.copytree(root / "dpo-agreeable", root / name)
        for checkpoint in (root / name / "checkpoints").iterdir():
            if name == "frozen":
                (checkpoint / "chat_template.jinja").write_text(ENDLESS)
                continue
            file = checkpoint / "tokenizer.json"
            content = json.loads(file.read_text())
            content["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [PATTERN, content["pre_tokenizer"]]}
            file.write_text(json.dumps(content))


def is_sound(app: AppTest) -> bool:
    """Whether a page has its sentence and no error."""
    return bool(app.subheader) and not app.error and not app.exception


@pytest.mark.parametrize("page", ["start", "overview", "training", "train", "compare", "logits"])
def test_every_page_shows_the_other_runs(show: Show, strangers: Path, page: str):
    app = show(strangers, page=page_file(page), base="base", aligned="dpo-agreeable")
    assert is_sound(app)


@pytest.mark.parametrize(
    ("name", "query", "says"),
    [
        ("frozen", {"chat": "true"}, "takes more than 2 seconds of computing"),
        ("stuck", {"prompt": TEXT, "chat": "false"}, "the regular expression"),
    ],
)
def test_a_model_without_an_end_hides_itself_alone(
    show: Show, strangers: Path, name: str, query: dict[str, str], says: str
):
    app = show(strangers, page="compare/page.py", base="base", aligned=name, **query)
    assert not app.exception
    told = [each.value for each in (*app.subheader, *app.error)]
    assert any(says in each and name in each for each in told), told
    assert is_sound(show(strangers, page="compare/page.py", base="base", aligned="dpo-agreeable", chat="true"))
