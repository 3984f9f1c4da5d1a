"""The logit lens: its last row is the model, its rows are norm and unembedding of the residual stream."""

import numpy as np
import pytest
import scipy.stats
import torch

from probe.errors import ConfigError, DataError, ModelError
from probe.logits.lens import Lenses, LensReader, lens_logprobs, logit_lens, read_lens
from probe.logits.readout import residual_names, unembed
from probe.logits.targets import NOTHING
from probe.model.rewards import reward_lm
from probe.plotting.notebook import Look, title_of
from tests.models import ARCHITECTURES, OTHERS, random_lm, random_reward_model

TEXT = "mira lives in oslo ."


@pytest.mark.parametrize("name", [*ARCHITECTURES, *OTHERS])
def test_the_last_row_is_the_models_own_output(name):
    lm = random_lm(name)
    own = lm.logits(TEXT)[0].log_softmax(-1).detach()
    lens = logit_lens(lm, TEXT, k=3, answer="rome", against="oslo paris")
    assert lens.top_ids.shape == (3, 6, 3)
    top = own.topk(3, dim=-1)
    assert lens.top_ids[-1].tolist() == top.indices.tolist()
    np.testing.assert_allclose(lens.top_logprobs[-1], top.values, atol=1e-5, rtol=1e-4)
    np.testing.assert_allclose(lens.answer_logprobs[-1], own[:, lens.target.answers], atol=1e-5, rtol=1e-4)
    np.testing.assert_allclose(lens.entropy[-1], -(own.exp() * own).sum(-1), atol=1e-5, rtol=1e-4)
    following = own[range(5), lens.ids[1:]]
    np.testing.assert_allclose(lens.next_logprobs[-1, :-1], following, atol=1e-5, rtol=1e-4)
    assert np.isnan(lens.next_logprobs[:, -1]).all()


@pytest.mark.parametrize("name", [*ARCHITECTURES, *OTHERS])
def test_the_rule_gives_the_output_from_the_last_residual(name):
    """Not only by passing the output through: norm, unembedding, scale and cap of the last residual are the logits."""
    lm = random_lm(name)
    logits, cache = lm.run_with_cache(TEXT, residual_names(lm))
    torch.testing.assert_close(unembed(lm, cache[residual_names(lm)[-1]]), logits, atol=1e-4, rtol=1e-4)


def test_reading_fires_no_hooks():
    lm = random_lm()
    _, cache = lm.run_with_cache(TEXT, residual_names(lm))
    fired = []
    with lm.hooks([(name, lambda *_: fired.append(1)) for name in ("ln_final.hook_out", "unembed.hook_out")]):
        unembed(lm, cache[residual_names(lm)[0]])
    assert not fired


def test_the_first_rows_are_those_of_the_plain_modules():
    lm = random_lm()
    ids = torch.tensor([lm.tokenizer.encode(TEXT)])
    states = lm.model(ids, output_hidden_states=True).hidden_states
    lens = logit_lens(lm, TEXT, k=1)
    for row in (0, 1):
        logprobs = lm.model.lm_head(lm.model.model.norm(states[row]))[0].log_softmax(-1)
        np.testing.assert_allclose(lens.top_logprobs[row, :, 0], logprobs.amax(-1).detach(), atol=1e-5, rtol=1e-4)
        assert lens.top_ids[row, :, 0].tolist() == logprobs.argmax(-1).tolist()


def test_learned_positions_are_part_of_the_first_row():
    lm = random_lm("gpt2")
    state = lm.model(torch.tensor([[4, 4, 4]]), output_hidden_states=True).hidden_states[0]
    expected = lm.model.lm_head(lm.model.transformer.ln_f(state))[0].log_softmax(-1).amax(-1)
    np.testing.assert_allclose(
        logit_lens(lm, [4, 4, 4], k=1).top_logprobs[0, :, 0], expected.detach(), atol=1e-5, rtol=1e-4
    )


def test_a_batch_reads_like_single_texts():
    lm = random_lm()
    texts = [lm.tokenizer.encode(text) for text in (TEXT, "tom works")]
    ids = torch.tensor([texts[0], texts[1] + [0] * 3])
    logits, cache = lm.run_with_cache(texts, residual_names(lm))
    answers = torch.tensor([[7, 8], [9, -1]])
    rows = read_lens(lens_logprobs(lm, cache, logits), ids, 2, answers)
    assert rows.top_ids.shape == (2, 3, 6, 2)
    assert rows.answer_logprobs.shape == (2, 3, 6, 2)
    assert (rows.answer_logprobs[1, :, :, 1] == -torch.inf).all()
    assert (rows.answer_ranks[1, :, :, 1] == -1).all()
    for at, row, t in np.ndindex(2, 3, 2):
        stream = cache[residual_names(lm)[row]][at, t]
        order = unembed(lm, stream).argsort(descending=True).tolist()
        asked = [token for token in answers[at].tolist() if token >= 0]
        assert rows.answer_ranks[at, row, t, : len(asked)].tolist() == [order.index(token) for token in asked]
    for at, (text, words) in enumerate(zip(texts, (lm.tokenizer.decode([7]), lm.tokenizer.decode([9])), strict=True)):
        single, length = logit_lens(lm, text, k=2, answer=words, against=NOTHING), len(text)
        np.testing.assert_allclose(rows.top_logprobs[at, :, :length], single.top_logprobs, atol=1e-5, rtol=1e-4)
        np.testing.assert_allclose(rows.entropy[at, :, :length], single.entropy, atol=1e-5, rtol=1e-4)
        np.testing.assert_allclose(
            rows.answer_logprobs[at, :, :length, 0], single.answer_logprobs[..., 0], atol=1e-5, rtol=1e-4
        )
        np.testing.assert_allclose(
            rows.next_logprobs[at, :, : length - 1], single.next_logprobs[:, :-1], atol=1e-5, rtol=1e-4
        )


def test_tables_are_tidy():
    lm = random_lm()
    lens = logit_lens(lm, TEXT, k=2, answer="rome", against="oslo")
    table, measures = lens.table(), lens.measures()
    assert len(table) == 3 * 6 * 2
    assert len(measures) == 3 * 6 * (2 + 2 * 2)
    assert list(table.columns) == ["layer", "name", "position", "token", "rank", "predicted", "logprob"]
    row = table[(table.layer == 2) & (table.position == 3) & (table["rank"] == 0)].iloc[0]
    assert (row["name"], row.token) == ("block 1", "in")
    assert row.predicted == lens.top_tokens[2, 3, 0]
    assert row.logprob == lens.top_logprobs[2, 3, 0]
    assert list(measures.columns) == ["layer", "name", "position", "token", "measure", "answer", "value"]
    own = measures[(measures.layer == 1) & (measures.measure == "rank") & (measures.answer == "oslo")]
    assert own[own.position == 3].value.item() == lens.answer_ranks[1, 3, 1]


def test_equal_probabilities_share_a_rank():
    row = torch.tensor([[[0.2, 0.3, 0.2, 0.3]]]).log()
    reader = LensReader(torch.tensor([[0]]), 2, torch.tensor([[0, 1, 2, -1]]))
    reader.add(row)
    assert reader.readings().answer_ranks.tolist() == [[[[2, 0, 2, -1]]]]


def test_more_tokens_than_the_vocabulary_are_all_of_it():
    lm = random_lm()
    assert logit_lens(lm, "tom", k=10_000).top_ids.shape[-1] == len(lm.tokenizer)


def test_an_answer_without_tokens_is_refused():
    with pytest.raises(DataError, match="no tokens"):
        logit_lens(random_lm(), TEXT, answer="")


def test_a_scalar_has_no_tokens_to_list():
    with pytest.raises(DataError, match="A reward model outputs one number and no tokens"):
        logit_lens(reward_lm(random_reward_model()), TEXT)


def test_no_tokens_cannot_be_kept():
    with pytest.raises(ConfigError, match="0 tokens were requested"):
        logit_lens(random_lm(), TEXT, k=0)


def test_an_output_that_is_not_norm_and_unembedding_is_refused(monkeypatch):
    lm = random_lm()
    logits, cache = lm.run_with_cache(TEXT, residual_names(lm))
    with pytest.raises(ModelError, match="LlamaForCausalLM"):
        list(lens_logprobs(lm, cache, logits.flip(-1)))


def test_the_sentence_says_what_the_output_says_and_since_when():
    lm = random_lm()
    lens = logit_lens(lm, TEXT)
    own = lm.logits(TEXT)[0, -1].softmax(-1)
    word, share = lm.tokenizer.decode(int(own.argmax())).strip(), 100 * float(own.max().detach())
    assert lens.sentence().startswith(f"model says \u201c{word}\u201d ({share:.0f} %), its favourite ")
    row = lens.decision_row()
    assert (lens.top_ids[row:, -1, 0] == int(own.argmax())).all()
    assert row == 0 or lens.top_ids[row - 1, -1, 0] != int(own.argmax())


def test_two_models_are_said_and_drawn_together():
    asked = {"answer": "rome", "against": "oslo"}
    results = tuple(logit_lens(random_lm(seed=seed), TEXT, **asked) for seed in (0, 1))
    found = Lenses(results, (Look("a", "#111111"), Look("b", "#222222")))
    assert found.sentence().startswith("a says ")
    assert "; b says " in found.sentence()
    assert list(found.figures()) == ["lens", "layers"]
    maps = [trace for trace in found.figure().data if trace.type == "heatmap"]
    change = results[1].answer_logprobs[..., 0] - results[0].answer_logprobs[..., 0]
    np.testing.assert_allclose(maps[2].z, change, atol=1e-6, rtol=1e-4)
    assert set(found.lists()["After \u201c.\u201d"]["model"]) == {"a", "b"}
    deeper = Lenses((results[0], logit_lens(random_lm(num_hidden_layers=3), TEXT, **asked)), found.looks)
    assert sum(trace.type == "heatmap" for trace in deeper.figure().data) == 2  # no difference
    other = Lenses((results[0], logit_lens(random_lm(), "tom works", **asked)), found.looks)
    assert [title_of(chart).rpartition(": ")[2] for chart in other.figures().values()] == ["a", "a", "b", "b"]


@torch.no_grad()
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_layers_are_those_of_the_plain_model(name):
    """The reference reads hidden states of transformers, sorts all probabilities, and counts."""
    lm = random_lm(name)
    ids = lm.tokenizer.encode(TEXT)
    found = logit_lens(lm, TEXT, answer="rome", against=lm.tokenizer.convert_tokens_to_ids("oslo"), k=3)
    states = lm.model(torch.tensor([ids]), output_hidden_states=True).hidden_states
    norm = getattr(lm.model.base_model, "norm", None) or getattr(lm.model.base_model, "ln_f", None)
    norm = norm or lm.model.base_model.final_layer_norm
    for row in range(3):
        stream = states[row][0] if row == 2 else norm(states[row][0])  # transformers norms the last state itself
        probabilities = lm.model.get_output_embeddings()(stream).double().softmax(-1).numpy()
        for t in range(len(ids)):
            ordered = np.sort(probabilities[t])[::-1]
            assert found.entropy[row, t] == pytest.approx(scipy.stats.entropy(probabilities[t]), abs=1e-4)
            assert found.margin[row, t] == pytest.approx(np.log(ordered[0] / ordered[1]), abs=1e-4)
            for a, answer in enumerate(("rome", "oslo")):
                p = probabilities[t, lm.tokenizer.convert_tokens_to_ids(answer)]
                assert found.answer_logprobs[row, t, a] == pytest.approx(np.log(p), abs=1e-4)
                assert found.answer_ranks[row, t, a] == np.flatnonzero(ordered == p)[0]
    assert found.answers == ["rome", "oslo"]


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_some_columns_are_read_as_all_are(name):
    lm = random_lm(name)
    asked = {"answer": "rome", "against": "oslo", "position": 3}
    whole, part = (logit_lens(lm, TEXT, columns=columns, **asked) for columns in (None, 2))
    own = slice(part.start, part.start + 2)
    assert part.start <= 3 < part.start + 2
    for measure in ("entropy", "margin", "answer_logprobs", "answer_ranks"):
        np.testing.assert_allclose(getattr(part, measure), getattr(whole, measure)[:, own], atol=1e-5, rtol=1e-4)
    assert part.top_ids.tolist() == whole.top_ids[:, own].tolist()
    assert part.decision_row(part.column) == whole.decision_row(3)
    merged = whole.measures().merge(part.measures(), on=["layer", "name", "position", "token", "measure", "answer"])
    assert len(merged) == len(part.measures())
    np.testing.assert_allclose(merged.value_x, merged.value_y, atol=1e-5, rtol=1e-4)
    assert whole.sentence() == part.sentence()


def test_the_row_of_decision_is_the_first_that_stays():
    found = logit_lens(random_lm(), TEXT)
    for t in range(6):
        favourites, decided = found.top_ids[:, t, 0], found.decision_row(t)
        assert set(favourites[decided:]) == {favourites[-1]}
        assert decided == 0 or favourites[decided - 1] != favourites[-1]


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"answer": 27}, "token 27 was requested and the model has 27"),
        ({"position": 9}, "Position 9 was requested in a text of 6"),
        ({"prompt": []}, "has no tokens"),
    ],
)
def test_what_is_not_possible_is_one_sentence(asked, says):
    with pytest.raises(DataError, match=says):
        logit_lens(random_lm(), **{"prompt": TEXT, **asked})
