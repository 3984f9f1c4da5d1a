"""Attention that a run captured: patterns of a step and the course of a head, from arrays that are written here."""

import json

import numpy as np
import pytest

from probe.attention.patterns import head_distance
from probe.attention.reading import Attentions, read_attention
from probe.attention.scores import pattern_scores
from probe.attention.trained_heads import DISTANCE, SHARES, captured_attention, follow_attention
from probe.errors import ConfigError, DataError
from probe.numbers import rate
from probe.plotting.notebook import Look, title_of
from probe.runs import open_run
from tests.models import random_lm
from tests.places import SAMPLES

RUN = SAMPLES / "base"


@pytest.fixture(scope="module")
def patterns() -> dict[int, np.ndarray]:
    """[D H T T] of the first prompt by step, as the files have them."""
    captures = open_run(RUN).captures()
    length = captures.prompts[0].length
    return {
        step: captures.load(step)["attention"][0, :, :, :length, :length].astype(np.float32) for step in captures.steps
    }


def prompt() -> str:
    return str(open_run(RUN).captures().prompts[0].text)


def test_a_step_stands_beside_the_first_one(patterns: dict[int, np.ndarray]):
    found = captured_attention(run=RUN, captured=prompt(), step=200)
    assert [look.name for look in found.looks] == ["step 0", "step 200"]
    for read, step in zip(found.results, (0, 200), strict=True):
        np.testing.assert_array_equal(read.pattern, patterns[step])
    head = found.tables()["heads-moved"]["name"][0]
    assert found.sentence().startswith(f"Between step 0 and step 200 of base, {head} changed its attention most")
    assert not found.hooked, "nothing was run"
    change = found.data("heads")
    assert set(change["model"]) == {"step 0", "step 200"}
    alone = captured_attention(run=RUN, captured=prompt(), step=200, since=False)
    assert alone.sentence().startswith("On this prompt, at step 200 of base, ")
    assert title_of(alone.figures("L1H2")["head"]) == "L1H2 of step 200 of base"
    rows = alone.data("head", "L1H2")
    np.testing.assert_array_equal(rows["weight"], patterns[200][1, 2][np.tril_indices(len(patterns[200][1, 2]))])
    first = captured_attention(run=RUN, captured=prompt(), step=0)
    assert len(first.results) == 1
    assert "first captured step" in first.notes[-1]


def test_the_course_of_a_head_is_that_of_its_patterns(patterns: dict[int, np.ndarray]):
    shares: list[float] = []
    found = follow_attention(run=RUN, captured=prompt(), tick=shares.append)
    assert found.steps == list(patterns)
    assert shares[-1] == 1
    reads = [captured_attention(run=RUN, captured=prompt(), step=step, since=False).results[0] for step in patterns]
    for index, read in enumerate(reads):
        values = pattern_scores(read).values
        for name in SHARES:
            np.testing.assert_allclose(found.courses[name][index], values[name])
        np.testing.assert_allclose(found.courses[DISTANCE][index], head_distance(reads[0], read, "other_tokens"))
    moved = found.courses[DISTANCE][-1]
    layer, head = np.unravel_index(moved.argmax(), moved.shape)
    assert f", L{layer}H{head} moved {rate(moved[layer, head])} of its attention among tokens other" in found.sentence()
    lines = {line.name: line.y for line in found.figures("L2H3", step=200)["training"].data}
    np.testing.assert_allclose(lines["induction"], found.courses["induction"][:, 2, 3])
    assert set(found.data("training", "L2H3")["head"]) == {"L2H3"}
    assert len(found.tables()["training"]) == moved.size * len(patterns)


def test_what_was_not_captured_is_told():
    with pytest.raises(DataError, match="Step 7 was not captured: give one of 0, "):
        captured_attention(run=RUN, step=7)
    with pytest.raises(DataError, match="base did not capture the prompt 'hi'"):
        follow_attention(run=RUN, captured="hi")
    with pytest.raises(ConfigError, match="no head 'L9H0' here: give one of L0H0, "):
        captured_attention(run=RUN).figures("L9H0")
    with pytest.raises(ConfigError, match="no head 'L9H0' here"):
        follow_attention(run=RUN).sentence("L9H0")


def test_the_figures_of_patterns_show_the_chosen_head_and_its_layers():
    lm = random_lm(num_hidden_layers=40)
    read = read_attention(lm, "mira lives in oslo .")
    pair = Attentions(
        (read, read_attention(random_lm(num_hidden_layers=40, seed=1), read.ids)), (Look("a", "red"),) * 2
    )
    assert list(pair.figures()) == ["heads"]
    for shown in (read, pair):
        head = json.loads(shown.figures("L17H2")["heads"].to_json())
        assert head["layout"]["yaxis"]["ticktext"][0] == "L16"
        assert len(head["layout"]["shapes"]) == (1 if shown is read else 3)
        assert json.loads(shown.figures("L17H2", "L0\u2013L15")["heads"].to_json())["layout"].get("shapes", []) == []
        assert set(shown.data("heads", "L17H2")["layer"]) == set(range(16, 32))
    assert list(read.figures()) == ["heads", "head"]
    np.testing.assert_array_equal(
        read.data("head", "L17H2")["weight"], read.pattern[17, 2][np.tril_indices(len(read.tokens))]
    )
    with pytest.raises(ConfigError, match="no layers 'L3' here: give one of L0\u2013L15, "):
        read.figures("L0H0", "L3")
