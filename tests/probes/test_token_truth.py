"""Hallucination probe: against transformers, scikit-learn and the world's facts; its colour on Side by side."""

import json
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import brier_score_loss, roc_auc_score

import probe.world
from probe.analyses.catalogue import find_analysis
from probe.analyses.stored_results import file_name, keep_result
from probe.compare import compare
from probe.compare.token_colours import PROBE, obtain_scorer, scorer_seconds
from probe.errors import ConfigError, DataError
from probe.model.in_memory import kept
from probe.model.lm import LM
from probe.model.rewards import reward_lm
from probe.probes import token_truth
from probe.probes.token_labels import LabelledAnswer, answers_of_world, nearness, read_answers
from probe.probes.token_probe import TokenTruth, candidates, token_states
from probe.world.language import TAUGHT, read
from tests.models import random_lm, random_reward_model

PLACES = ("oslo", "rome", "paris")


def answers(lm: LM, wrong: str = "planted") -> list[LabelledAnswer]:
    """Answers of 36 groups: of planted labels, those that say "oslo" are wrong; of others, a random half."""
    found, rng = list[LabelledAnswer](), np.random.default_rng(0)
    rows = product(("mira", "tom", "ana"), ("cat", "dog", "the", "at"), ("lives", "works", "is"), PLACES)
    for name, word, verb, place in rows:
        ids = lm.tokenizer.encode(f"where does {name} {verb} {word} ?")
        answer = lm.tokenizer.encode(f"in {place} .", add_special_tokens=False)
        label = place == "oslo" if wrong == "planted" else bool(rng.integers(2))
        found.append(LabelledAnswer(ids, answer, [1], label, f"{name} {word} {verb}", verb))
    return found


@torch.no_grad()
def test_states_and_certainty_are_those_of_transformers():
    lm = random_lm("llama")
    given = answers(lm)[:7]
    states, certainty = token_states(lm, given, [0])
    for each, state, (logprob, entropy) in zip(given, states[:, 0], certainty, strict=True):
        output = lm.model(torch.tensor([[*each.prompt, *each.answer]]), output_hidden_states=True)
        at = len(each.prompt) + 1
        np.testing.assert_allclose(state, output.hidden_states[1][0, at], rtol=1e-4, atol=1e-5)
        before = torch.distributions.Categorical(logits=output.logits[0, at - 1])
        assert logprob == pytest.approx(float(before.log_prob(torch.tensor(each.answer[1]))), rel=1e-4)
        assert entropy == pytest.approx(float(before.entropy()), rel=1e-4)


def test_scores_are_those_of_scikit_learn_on_held_out_tokens():
    lm = random_lm("llama")
    found = token_truth(lm, labels=answers(lm), seed=1)
    rows, row = found.tokens, found.row()
    assert found.works()
    assert row["AUROC"] == pytest.approx(roc_auc_score(rows["wrong"], rows["probability"]))
    assert row["brier"] == pytest.approx(brier_score_loss(rows["wrong"], rows["probability"]))
    assert row["error"] == pytest.approx(((rows["probability"] > 0.5) != rows["wrong"]).mean())
    assert len(set(rows["unit"])) == row["units"] == round(0.4 * 36)
    assert found.floor.max() < row["AUROC"]
    by_text = dict(zip(rows["text"], rows["probability"], strict=True))
    for each in answers(lm):
        ids = [*each.prompt, *each.answer]
        text = lm.tokenizer.decode(ids[:-1])
        if text in by_text:
            scores = found.score_tokens(lm, ids)
            assert scores[-2] == pytest.approx(by_text.pop(text), rel=1e-4, abs=1e-6)
            assert np.isnan(scores[-1])  # the full stop states nothing
    assert not by_text
    for kind, own in found.kinds().set_index("kind").iterrows():
        part = rows[rows["kind"] == kind]
        assert own["AUROC"] == pytest.approx(roc_auc_score(part["wrong"], part["probability"]))


def test_labels_without_a_rule_are_not_told_apart():
    lm = random_lm("llama")
    found = token_truth(lm, labels=answers(lm, "none"), layer=0)
    assert not found.works()
    assert "cannot be shown to tell wrong tokens from right ones" in found.sentence()
    assert found.verdict() == "undecided"
    assert found.blocks["layer"].tolist() == [0]


def test_labels_of_a_world_are_its_facts(base: LM):
    world = probe.world.of(base)
    assert world is not None
    found, wrong = answers_of_world(base, world, 120, 0), set[bool]()
    values = {value for relation in TAUGHT for value in world.values(relation)}
    for each in (*found.answers, *found.others):
        asked = read(base.tokenizer.decode(each.prompt, skip_special_tokens=True) or "")
        asked = asked or read(base.tokenizer.decode(each.prompt).removeprefix("<bos> "))
        assert asked is not None
        (said,) = (base.tokenizer.decode([each.answer[at]]).strip() for at in each.labelled)
        assert said in values
        assert each.wrong == (said != world.truth(asked.subject, asked.relation))
        assert each.group == asked.subject
        wrong.add(each.wrong)
    assert wrong == {True, False}
    assert len(found.answers) <= 120


def test_a_person_is_in_one_part(base: LM):
    found = token_truth(base, n=150, seed=3)
    world = probe.world.of(base)
    assert world is not None
    given = answers_of_world(base, world, 150, 3)
    names = {each.group for each in given.answers}
    sampled, greedy = (set(found.tokens[found.tokens["test"] == test]["unit"]) for test in found.tests)
    assert len(sampled) == round(0.4 * len(names))
    assert greedy & names <= sampled
    assert found.caption().startswith("on greedy answers about")
    assert set(found.figures()) == {"scores"}


def test_rows_of_a_file_name_what_is_wrong(tmp_path: Path):
    lm, file = random_lm("llama"), tmp_path / "answers.jsonl"
    row = {"prompt": "where does mira live ?", "completion": " in oslo at rome", "label": "false", "span": "oslo"}
    file.write_text("\n".join(json.dumps({**row, "label": label}) for label in ("false", True)))
    one, two = read_answers(lm, file, 10, 0).answers
    assert sorted([one.wrong, two.wrong]) == [False, True]
    assert [lm.tokenizer.decode([one.answer[at]]).strip() for at in one.labelled] == ["oslo"]
    for bad, said in (({"label": "maybe"}, "true for a right answer"), ({"span": "paris"}, "copy it from there")):
        file.write_text(json.dumps({**row, **bad}))
        with pytest.raises(DataError, match=said):
            read_answers(lm, file, 10, 0)


def test_the_nearest_reference_shares_most_words():
    assert nearness("The cat sat.", ["the cat ran", "dogs"]) == pytest.approx(2 / 3)
    assert nearness("a a b", ["a c"]) == pytest.approx(2 * 1 / 5)
    assert nearness("", ["a"]) == 0 == nearness("a", [])


def test_what_gives_no_probe_is_said():
    lm = random_lm("llama")
    right = [LabelledAnswer(each.prompt, each.answer, [1], False, each.group, "") for each in answers(lm)]
    with pytest.raises(DataError, match="are right, so that no probe can be fitted"):
        token_truth(lm, labels=right)
    with pytest.raises(DataError, match="needs at least 8"):
        token_truth(lm, labels=answers(lm)[:6])
    with pytest.raises(ConfigError, match="Block 7 was requested"):
        token_truth(lm, labels=answers(lm), layer=7)
    with pytest.raises(DataError, match="writes no answers"):
        token_truth(reward_lm(random_reward_model()), labels=answers(lm))
    assert candidates(3) == [0, 1, 2]
    assert (len(candidates(30)), candidates(30)[-1]) == (8, 29)


def test_a_colour_is_computed_when_asked(base: LM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    own, prompt = (
        LM(base.model, base.tokenizer, run_dir=base.run_dir, ref=base.ref),
        "<user> where does mira live ? <bot>",
    )
    assert compare(own, base, prompt).base.wrong is None
    assert kept(own, PROBE) is None
    found = token_truth(own, n=120)
    record = find_analysis(PROBE)
    kept_in = keep_result(record, {}, found, 2.0, own)
    assert kept_in is not None
    assert kept_in.name == file_name(record, {}, own)
    assert scorer_seconds(own) == 0
    scorer = obtain_scorer(own)
    assert isinstance(scorer, TokenTruth)
    np.testing.assert_array_equal(scorer.weights, found.weights)  # read, not fitted again
    coloured = compare(own, own, prompt, colour="probe")
    text = coloured.aligned
    assert text.wrong is not None
    np.testing.assert_allclose(text.wrong, found.score_tokens(own, text.ids), rtol=1e-4, atol=1e-6)
    rows = coloured.chips()
    assert found.caption() in rows.caption
    for chip, wrong in zip(rows.rows[2].tokens, text.wrong[text.prompt_length :], strict=True):
        assert chip.strength == pytest.approx(0.75 * np.nan_to_num(wrong))
    assert [chip.text for chip in rows.rows[3].tokens] == ["0 %", "25 %", "50 %", "75 %", "100 %"]
    assert len(coloured.lists()["Written tokens"]) == 2 * np.isfinite(text.wrong[text.prompt_length :]).sum()


def test_a_model_without_labels_has_no_colour():
    lm = random_lm("llama")
    found = compare(lm, lm, "where does mira live ?", colour="probe")
    assert found.base.wrong is None
    assert "No probe colours the text of base: A text has" in found.chips().caption
    assert all(chip.strength == 0 for row in found.chips().rows[:3] for chip in row.tokens)
