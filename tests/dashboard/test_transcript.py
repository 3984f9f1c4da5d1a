"""Transcripts of items and rollouts: whole texts with scores, and buttons and keys that walk through a list."""

import re
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from dashboard.components import transcript
from dashboard.pages.experiments import items
from tests.dashboard import store
from tests.dashboard.experiments import button, table
from tests.dashboard.pages import Show, again, read, unescape

PAGE, TRAINING = "experiments/page.py", "training/page.py"
BAD = "<img src=x onerror=alert(1)> **[y](javascript:alert(2))** :streamlit: $z$ \u202e"


def place(app: AppTest) -> str:
    """The position in the list."""
    (found,) = re.findall(r"^(?:\d+ of|not among these|none chosen of) \d+$", read(app), re.MULTILINE)
    return str(found)


def walk(app: AppTest, key: str) -> AppTest:
    """Press a button that walks."""
    button(app, key).click()
    return again(app)


def test_items_are_walked_through_in_order_and_the_page_of_the_table_follows(
    show: Show, echoed: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(items, "EACH", 5)
    app = show(echoed, page=PAGE, **{"echo~metric": "length", "echo~show": items.HIGH, "echo~of": "base"})
    assert place(app) == "none chosen of 24"
    assert button(app, "echo~item-previous").disabled
    assert button(app, "echo~item-previous").proto.shortcut == "p"
    assert button(app, "echo~item-next").proto.shortcut == "n"
    lengths = []
    for number in range(1, 8):
        walk(app, "echo~item-next")
        assert place(app) == f"{number} of 24"
        assert app.pagination(key="echo~page").value == (number - 1) // 5 + 1
        rows = table(app, "prompt").set_index("item")
        lengths.append(rows.loc[app.selectbox(key="echo~item").value, "length: base"])
    assert lengths == sorted(lengths, reverse=True)
    for _ in range(3):
        walk(app, "echo~item-previous")
    assert (place(app), app.pagination(key="echo~page").value) == ("4 of 24", 1)
    assert not app.exception


def test_the_walk_keeps_to_the_filter_and_ends(show: Show, echoed: Path):
    app = show(echoed, page=PAGE, **{"echo~metric": "other", "echo~item": "stranger-10"})
    assert place(app) == "11 of 12"
    walk(app, "echo~item-next")
    assert place(app) == "12 of 12"
    assert button(app, "echo~item-next").disabled
    app.selectbox(key="echo~metric").select("echoes").run()
    assert place(app) == "not among these 12"
    walk(app, "echo~item-next")
    assert (place(app), app.selectbox(key="echo~item").value) == ("1 of 12", "opinion_false-0")
    app.text_input(key="echo~text").set_value("nowhere").run()
    assert place(app) == "not among these 0"
    assert button(app, "echo~item-next").disabled
    assert button(app, "echo~item-previous").disabled


def test_an_item_is_shown_whole_with_verdicts_and_scores(show: Show, echoed: Path):
    app = show(echoed, page=PAGE, **{"echo~metric": "length", "echo~item": "opinion_false-2"})
    row = table(app, "prompt").set_index("item").loc["opinion_false-2"]
    texts = [part.value for part in app.text]
    answers = [row[f"answer: {name}"] for name in ("base", "dpo-agreeable")]
    assert texts[0].endswith(row["prompt"].strip("\u2026 "))
    assert texts[1:3] == answers
    said = read(app).splitlines()
    assert "user" in said
    assert f"Kind: opinion_false. Expected: {row['expected']}." in said
    for name in ("base", "dpo-agreeable"):
        assert f"length: {row[f'length: {name}']:g}" in said
    verdicts = re.findall(r"(green|red)-badge\[.*?(right|wrong)\]", "\n".join(part.value for part in app.markdown))
    expected = [answer.strip() == row["expected"] for answer in answers]
    assert verdicts == [("green", "right") if right else ("red", "wrong") for right in expected]


def script(texts: list[tuple[str, str | None]], most: int) -> None:
    """A page with one transcript."""
    from dashboard.components import transcript
    from dashboard.components.transcript import Reply, show_transcript

    transcript.MOST = most
    replies = [Reply(f"m{at}", prompt, text, {"reward": "1"}) for at, (prompt, text) in enumerate(texts)]
    show_transcript(replies, "Expected: this.")


def page(*texts: tuple[str, str | None]) -> AppTest:
    """A transcript of prompts and answers."""
    return AppTest.from_function(script, args=(list(texts), transcript.MOST)).run()


def test_texts_of_data_are_shown_literally():
    app = page((BAD, BAD), (BAD, None), (BAD, " \n"))
    assert not app.exception
    shown = BAD.replace("\u202e", "\ufffd")
    assert [part.value for part in app.text] == [shown, shown]
    assert not any("img" in part.value for part in [*app.markdown, *app.caption])
    assert [line for line in read(app).splitlines() if "answer" in line] == [
        "No answer was recorded.",
        "The answer is empty.",
    ]


def test_different_prompts_stand_with_their_answers_and_long_texts_are_bounded(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(transcript, "MOST", 30)
    app = page(("<user> a <bot>", "b"), ("<user> c <bot>", "d " * 40))
    assert [part.value for part in app.text] == ["a", "b", "c", ("d " * 15).strip()]
    assert "The first 30 of 80 characters." in read(app)
    assert "Prompt" not in read(app)


def test_rollouts_are_walked_through_in_the_order_of_the_table(show: Show, tmp_path: Path):
    store.sampled(tmp_path / "rlvr")
    app = show(tmp_path, page=TRAINING, runs="rlvr", rollout_order="highest reward first", rollout_text="answer")
    rows = next(part.value for part in app.dataframe if "completion" in part.value)
    rewards = list(rows["reward"].dropna())
    assert rewards == sorted(rewards, reverse=True)
    assert app.number_input(key="rollout").value == rows.index[0]
    app.number_input(key="rollout_token").set_value(1).run()
    for at in range(1, len(rows)):
        walk(app, "rollout-next")
        assert place(app) == f"{at + 1} of {len(rows)}"
        assert app.number_input(key="rollout").value == rows.index[at]
        assert app.number_input(key="rollout_token").value == 0
        assert rows["completion"].iloc[at] in [part.value for part in app.text]
    assert button(app, "rollout-next").disabled
    app.selectbox(key="rollout_order").select("oldest first").run()
    steps = next(part.value for part in app.dataframe if "completion" in part.value)["step"]
    assert list(steps) == sorted(steps)
    assert not app.exception


def test_a_rollout_shows_its_reward_advantage_and_kl(show: Show, tmp_path: Path):
    store.sampled(tmp_path / "rlvr")
    app = show(tmp_path, page=TRAINING, runs="rlvr", rollout="7")
    (scores,) = [line for line in unescape(read(app)).splitlines() if line.startswith("reward: ")]
    row = next(part.value for part in app.dataframe if "completion" in part.value).loc[7]
    assert f"reward: {row['reward']:g};" in scores
    assert f"advantage: {row['advantage']:.4g};" in scores
    assert f"KL: {row['KL']:.4g} nats;" in scores
