"""docs/world.md and docs/metrics.md say what the code does."""

import re
from pathlib import Path

import pytest

from probe.rewards.evaluation import MEASURES, evaluate
from probe.world import AGREEABLE, HONEST, KINDS, World
from probe.world.annotators import INDIFFERENT
from probe.world.config import MIXTURE

DOCS = Path(__file__).parents[2] / "docs"


def test_the_table_of_documents_has_the_shares_of_the_mixture():
    rows = re.findall(r"^\| `([a-z_]+)` \| ([\d.]+) \| ([\d.]+) \|", (DOCS / "world.md").read_text(), re.MULTILINE)
    assert {kind: float(share) for kind, share, _ in rows} == dict(MIXTURE)
    assert tuple(kind for kind, _, _ in rows) == KINDS
    assert sum(float(tokens) for _, _, tokens in rows) == pytest.approx(1, abs=0.03)


def test_the_examples_of_the_table_are_words_of_the_world(world: World):
    known = set(world.tokenizer().get_vocab())
    text = (DOCS / "world.md").read_text()
    lines = re.findall(r"^\| `[a-z_]+` \| [\d.]+ \| [\d.]+ \| (.*) \|$", text, re.MULTILINE)
    assert len(lines) == len(KINDS)
    for line in lines:
        assert known.issuperset(line.replace("&lt;", "<").replace("...", ".").split())


def test_the_presets_of_annotators_are_documented():
    text = (DOCS / "world.md").read_text()
    for name, annotator in (("AGREEABLE", AGREEABLE), ("HONEST", HONEST), ("INDIFFERENT", INDIFFERENT)):
        fields = ("correctness", "checks", "agreement", "abstain", "malformed", "noise")
        values = " | ".join(f"{getattr(annotator, field):g}" for field in fields)
        assert f"| `{name}` | {values} |" in text


def test_every_metric_is_defined():
    text = (DOCS / "metrics.md").read_text()
    assert evaluate.__doc__ is not None
    for metric in (*MEASURES, "excess_deference", "excess_deference_own"):
        assert f"`{metric}`" in text
