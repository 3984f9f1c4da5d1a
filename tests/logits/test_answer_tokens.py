"""Answers that begin alike: the first token that differs is read, against plain forward passes of the model."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from probe.errors import DataError
from probe.interventions.controls import intervene
from probe.interventions.patching import Filling, ablate, pair_of, patch
from probe.interventions.patching import attribute as estimate
from probe.interventions.sites import Site, activations, counterpart, hooks_of
from probe.interventions.steering import Controls, Dosing, contrast, dose_response
from probe.logits.answer_tokens import answer_tokens, whole_logprobs
from probe.logits.attribution import attribute
from probe.logits.lens import Lenses, logit_lens
from probe.logits.parts import read_parts
from probe.logits.targets import Target, target_of, value
from probe.logits.writing import follow_writing
from probe.model.lm import LM
from probe.plotting.notebook import Look
from probe.recording.recorder import as_prompt, measure
from probe.sycophancy.choices import shared_prefix
from tests.models import digit_tokenizer, random_lm, word_tokenizer

TEXT = "7 + 8 ="
PAIR = " 15", " 14"


@pytest.fixture(scope="module")
def lm() -> LM:
    return random_lm(tokenizer=digit_tokenizer(), max_position_embeddings=64)


def plain(lm: LM, text: str) -> torch.Tensor:
    """[V] the model's own logits after a text, with nothing of Probe in between."""
    with torch.no_grad():
        return lm.model(torch.tensor([lm.tokenizer.encode(text)])).logits[0, -1].float()


def column(lm: LM, letter: str) -> int:
    (token,) = lm.tokenizer.encode(letter, add_special_tokens=False)
    return token


def gap(lm: LM, text: str) -> float:
    """logit(5) - logit(4) after a text."""
    logits = plain(lm, text)
    return float(logits[column(lm, "5")] - logits[column(lm, "4")])


def test_two_numbers_are_told_apart_by_their_last_digit(lm: LM) -> None:
    ids = lm.tokenizer.encode(TEXT)
    target = target_of(lm, ids, *PAIR)
    assert (target.answer, target.against) == (column(lm, "5"), column(lm, "4"))
    assert target.text(ids) == lm.tokenizer.encode(f"{TEXT} 1")
    assert target.position == len(ids) + 1
    assert float(value(lm.logits([target.text(ids)]).detach(), target)) == pytest.approx(gap(lm, f"{TEXT} 1"), abs=1e-5)
    assert target.name == "5 \u2212 4"
    assert target.note == (
        "\u201c15\u201d and \u201c14\u201d begin alike: \u201c\u00b71\u201d is added to the prompt, and the first "
        "tokens that differ are followed: \u201c5\u201d and \u201c4\u201d."
    )


def test_attribution_is_that_of_the_token_that_differs(lm: LM) -> None:
    found = attribute(lm, TEXT, target_of(lm, TEXT, *PAIR))
    assert found.total == pytest.approx(gap(lm, f"{TEXT} 1"), abs=1e-5)
    assert found.sum == pytest.approx(found.total, abs=1e-5)
    assert np.abs(found.heads).max() > 1e-3
    assert "".join(found.tokens) == "7\u00b7+\u00b78\u00b7=\u00b71"


def test_curves_of_lens_and_trajectories_differ(lm: LM) -> None:
    logprobs = plain(lm, f"{TEXT} 1").log_softmax(-1)
    own = [float(logprobs[column(lm, digit)]) for digit in "54"]
    asked = dict(zip(("answer", "against"), PAIR, strict=True))
    read = logit_lens(lm, TEXT, **asked)
    assert read.answer_logprobs[-1, -1] == pytest.approx(own, abs=1e-5)
    assert follow_writing(lm, TEXT, n=1, **asked).logprobs[0] == pytest.approx(own, abs=1e-5)
    assert np.abs(np.diff(read.answer_logprobs[:, -1])).min() > 1e-3
    ids = lm.tokenizer.encode(TEXT, add_special_tokens=False)
    for word, whole in zip(PAIR, read.whole, strict=True):
        answer = lm.tokenizer.encode(word, add_special_tokens=False)
        rows = lm.logits([[*ids, *answer]])[0].log_softmax(-1)[len(ids) - 1 : -1]
        assert whole == pytest.approx(float(rows[range(len(answer)), answer].sum().detach()), abs=1e-4)
    assert "Log-probability of the whole answer" in Lenses((read,), (Look("m", "#111111"),)).notes[1]


def test_patching_and_ablation_feed_in_what_is_shared(lm: LM) -> None:
    pair = pair_of(lm, TEXT, "7 + 9 =")
    target = target_of(lm, pair.clean, *PAIR)
    found = patch(lm, pair, target, "resid")
    ends = gap(lm, f"{TEXT} 1"), gap(lm, "7 + 9 = 1")
    assert (found.clean, found.corrupted) == pytest.approx(ends, abs=1e-4)
    assert found.values[-1, -1] == pytest.approx(ends[0], abs=1e-4)  # the last residual decides all
    assert found.values[-1, -2] == pytest.approx(ends[1], abs=1e-4)
    roughly = estimate(lm, pair, target, ["resid"])["resid"]
    assert (roughly.clean, roughly.corrupted) == pytest.approx(ends, abs=1e-4)
    assert ablate(lm, TEXT, target, "head", Filling("zero")).value == pytest.approx(ends[0], abs=1e-4)


def test_texts_without_what_is_shared_are_refused_where_activations_come_along(lm: LM) -> None:
    ids = lm.tokenizer.encode(TEXT)
    target = target_of(lm, ids, *PAIR, position=2)  # inside the text, where another token stands
    sources = [activations(lm, ids, hooks_of(lm, ["mlp"]))]
    with pytest.raises(DataError, match=r"ids of `target\.text\(ids\)`"):
        intervene(lm, ids, [Site("mlp", 0)], sources, target)
    with pytest.raises(DataError, match=r"ids of `target\.text\(ids\)`"):
        attribute(lm, read_parts(lm, ids, target.position), target)


def test_a_place_inside_the_text(lm: LM) -> None:
    ids = lm.tokenizer.encode(TEXT)
    target = target_of(lm, ids, *PAIR, position=4)
    assert attribute(lm, ids, target).total == pytest.approx(gap(lm, f"{TEXT[:5]} 1"), abs=1e-5)
    assert target.text(target.text(ids)) == target.text(ids)


def test_steering_reads_the_token_that_differs(lm: LM) -> None:
    direction = contrast(lm, ["good"], ["bad"], 0)
    dose = dose_response(lm, [TEXT], [target_of(lm, TEXT, *PAIR)], direction, Dosing([0.0]), Controls(1, neutral=["a"]))
    assert dose.unsteered[0] == pytest.approx(gap(lm, f"{TEXT} 1"), abs=1e-4)


def test_an_answer_is_right_where_all_its_tokens_are() -> None:
    """Its first token alone would make an answer right that goes on otherwise."""
    models = (random_lm(tokenizer=digit_tokenizer(), seed=seed) for seed in range(100))
    lm, said = next((lm, said) for lm in models if (said := written(lm, TEXT)).isascii() and said.isprintable())
    wrong = said[0] + ("x" if said[1] != "x" else "y")
    dose = dose_response(
        lm,
        [TEXT],
        [target_of(lm, TEXT)],
        contrast(lm, ["good"], ["bad"], 0),
        Dosing([0.0]),
        Controls(1, questions=[(TEXT, said), (TEXT, wrong)]),
    )
    assert dose.right is not None
    assert dose.right[:, 0].tolist() == [True, False]


def written(lm: LM, text: str) -> str:
    """The two likeliest bytes after a text, one after the other, as far as they are letters."""
    said = ""
    for _ in range(2):
        byte = lm.tokenizer.decode([int(plain(lm, text + said).argmax())], skip_special_tokens=True)
        if len(byte) != 1:
            return "\ufffd"
        said += byte
    return said


def test_whole_answers_are_sums_over_tokens(lm: LM) -> None:
    found = whole_logprobs(lm, lm.tokenizer.encode(TEXT), answer_tokens(lm, PAIR))
    for total, answer in zip(found, PAIR, strict=True):
        steps = [plain(lm, TEXT + answer[:at]).log_softmax(-1)[column(lm, letter)] for at, letter in enumerate(answer)]
        assert total == pytest.approx(float(sum(steps)), abs=1e-4)


def test_a_capture_holds_what_is_shared_and_says_so(lm: LM) -> None:
    prompt = as_prompt(lm, {"text": TEXT, "answers": PAIR}, 0)
    assert (prompt.shared, prompt.text) == (2, TEXT)
    assert prompt.text_ids == lm.tokenizer.encode(TEXT)
    assert prompt.note.startswith("\u201c15\u201d and \u201c14\u201d begin alike")
    tensors = measure(lm, [prompt])
    assert float(tensors["attribution_total"][0, 1]) == pytest.approx(gap(lm, f"{TEXT} 1"), abs=1e-5)
    whole = tensors["attribution"][0].sum() + tensors["attribution_total"][0, 0]
    assert float(whole) == pytest.approx(gap(lm, f"{TEXT} 1"), abs=1e-5)
    rows = tensors["lens_answer_logprobs"][0, :, prompt.length - 1]
    assert float((rows[:, 0] - rows[:, 1]).abs().min()) > 1e-3


def test_known_sums_have_their_answers(lm: LM) -> None:
    assert counterpart(lm, "2 + 2 =").answer == " 4"


def test_one_mechanism_for_answers_behind_a_bracket(lm: LM) -> None:
    assert shared_prefix(lm, "Q:", (" (A)", " (B)")) == (
        [*lm.tokenizer.encode("Q: (")],
        column(lm, "A"),
        column(lm, "B"),
    )


def test_first_tokens_that_differ_are_what_they_were() -> None:
    lm = random_lm()
    ids = lm.tokenizer.encode("mira lives in")
    target = target_of(lm, ids, "oslo", "rome")
    oslo, rome = (lm.tokenizer.convert_tokens_to_ids(word) for word in ("oslo", "rome"))
    assert target == Target(len(ids) - 1, oslo, rome, "oslo \u2212 rome")
    assert target.text(ids) == ids
    assert answer_tokens(lm, ["oslo lives", "rome"]).note == (
        "\u201coslo lives\u201d and \u201crome\u201d differ in their first tokens, which are followed: "
        "\u201coslo\u201d and \u201crome\u201d."
    )


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ((" 15", " 15"), r"\u201c15\u201d was given twice"),
        ((" 1", " 15"), r"\u201c15\u201d begins with the whole of \u201c1\u201d"),
        ((" 15", " 1", " 1x"), r"\u201c15\u201d begins with the whole of \u201c1\u201d"),
        ((" 15", " 14", " 2"), r"\u201c15\u201d and \u201c14\u201d still begin alike where others differ"),
        (("", " 2"), "no tokens"),
        ((5, 5), "given twice"),
        ((99999,), "99999 was requested"),
    ],
)
def test_answers_that_no_token_tells_apart_are_refused(lm: LM, answers: tuple, message: str) -> None:
    with pytest.raises(DataError, match=message):
        answer_tokens(lm, answers)


def test_unknown_words_of_what_is_compared_are_named() -> None:
    lm = random_lm(tokenizer=word_tokenizer(closed=True))
    with pytest.raises(DataError, match="does not know \u201cberlin\u201d"):
        answer_tokens(lm, ["oslo berlin", "oslo rome"])
    assert answer_tokens(lm, ["oslo berlin", "rome"]).count == 0


@given(st.lists(st.lists(st.integers(0, 4), min_size=1, max_size=5), min_size=1, max_size=4))
def test_the_first_difference_of_any_lists(ids: list[list[int]]) -> None:
    """Fed in: the longest common beginning; followed: tokens that are all different; or the lists are refused."""
    lm = random_lm()
    try:
        chosen = answer_tokens(lm, ids)
    except DataError:
        tails = [tuple(each[: n + 1]) for n in range(5) for each in ids]
        alike = any(a == b[: len(a)] for i, a in enumerate(ids) for j, b in enumerate(ids) if i != j)
        assert alike or len(tails) > len(set(tails))
        return
    assert len(set(chosen.tokens)) == len(ids)
    for each, token in zip(ids, chosen.tokens, strict=True):
        assert each[: chosen.count + 1] == [*chosen.shared, token]
