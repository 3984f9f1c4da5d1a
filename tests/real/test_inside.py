"""The equations, interventions and pages on a real checkpoint: 30 blocks, 9 query heads on 3 key heads."""

import copy
from pathlib import Path

import pytest
import torch
from streamlit.testing.v1 import AppTest
from transformers import AutoModelForSequenceClassification

import probe
from dashboard.consent import NAMED
from probe.attention.scores import repeat_scores
from probe.autoregression.jacobian import block_norms, jacobian_split, neutral_jacobian
from probe.autoregression.lags import lag_profile
from probe.autoregression.snowballs import snowball
from probe.interventions.patching import attribute, pair_of, patch
from probe.interventions.steering import Controls, Dosing, contrast, dose_response
from probe.logits.attribution import attribute as direct
from probe.logits.targets import target_of
from probe.model.equations import read_network, recompose, states
from probe.model.rewards import pair_ids, reward_lm
from probe.rewards.token_effects import attribute as attribute_reward
from tests.dashboard.pages import turn_to
from tests.places import ROOT
from tests.real.conftest import CHECKPOINT

pytestmark = [pytest.mark.real, pytest.mark.timeout(1500), pytest.mark.filterwarnings("ignore::DeprecationWarning")]
PAGES = {
    "attention": {},
    "logits": {},
    "interventions": {"int_do": "ablate"},
    "autoregression": {},
    "rewards": {},
}


def test_the_equations_make_its_logits(lm: probe.LM):
    """E1 to E6, and E23 on its heads."""
    ids = lm.tokenizer.encode("The capital of France is Paris, and the capital of Italy is")
    net = read_network(lm)
    own = lm.logits([ids])[0].detach()
    assert float((recompose(net, ids) - own).abs().max()) < 1e-4 * float(own.std())
    maps, h = net.blocks[7].maps, net.blocks[7].norm(states(net, ids)[7])
    alpha, linear, bilinear, total = block_norms(maps, h)
    split = jacobian_split(maps, h, 7, 10, 4)
    for norms, matrix in ((linear, split.linear), (bilinear, split.bilinear), (total, split.total)):
        assert float(norms[7, 10, 4]) == pytest.approx(float(matrix.norm()), rel=1e-3)
    assert float((alpha.sum(-1) - 1).abs().max()) < 1e-5


def test_one_head_carries_the_capital(lm: probe.LM):
    """Attribution patching finds the head that exact patching confirms."""
    pair = pair_of(lm, "The capital of Norway is", "The capital of Italy is")
    target = target_of(lm, pair.clean, " Oslo", " Rome")
    guess = attribute(lm, pair, target, ["head"])["head"].normalised
    layer, head = divmod(int(guess.argmax()), guess.shape[1])
    assert guess[layer, head] > 5 * sorted(guess.ravel())[-10]
    exact = patch(lm, pair, target, "resid").normalised
    assert exact[0, pair.differing[-1]] == pytest.approx(1, abs=0.02)  # the embedding at the name is all there is
    assert exact[0, 0] == pytest.approx(0, abs=0.02)


def test_it_has_induction_heads_and_looks_back(lm: probe.LM):
    scores = repeat_scores(lm, seed=0)
    found = scores.values["prefix_matching"]
    assert found.max() > 0.7
    assert (found > 0.5).sum() < found.size / 10
    profile = lag_profile(lm, ["The capital of France is Paris, and the capital of Italy is"], resamples=2, lags=8)
    assert profile.influence[0] == profile.influence.max() > 1


def test_a_wrong_token_and_a_direction_move_it(lm: probe.LM):
    """The snowball, and steering by sentiment beside random directions."""
    found = snowball(lm, ["The capital of France is"], steps=4)
    assert found.clean[0] != found.wrong[0]
    assert found.forced_kl[0, 0] > 0.05
    like = ["I love this, it is wonderful and", "What a great, beautiful day, I am", "The best and happiest"]
    hate = ["I hate this, it is terrible and", "What an awful, ugly day, I am", "The worst and saddest"]
    direction = contrast(lm, like, hate, layer=15)
    text = "The film was really"
    target = target_of(lm, lm.tokenizer.encode(text), " good", " bad")
    dose = dose_response(lm, [text], [target], direction, Dosing((-0.3, 0.0, 0.3)), Controls(3))
    assert dose.effect(1) == pytest.approx(0, abs=1e-3)
    assert dose.effect(2) > max(dose.null_effects(2).max(), 0) > -1 > dose.effect(0) + dose.null_effects(0).max()


def test_its_last_blocks_are_near_neutral(lm: probe.LM):
    found = neutral_jacobian(lm, "The capital of France is Paris").table()
    assert len(found) == 30
    gain = found["geometric_mean"].to_numpy()
    assert (gain[-3:] > 0.5).all()
    assert (gain[-3:] < 2).all()
    assert gain[0] < 0.5 * gain[-1]


def test_a_reward_head_on_it_is_read_like_any_other(lm: probe.LM):
    """A scalar head beside its body: what the parts and the tokens add sums to the reward."""
    config = copy.deepcopy(lm.model.config)
    config.num_labels, config.pad_token_id = 1, lm.tokenizer.eos_token_id
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForSequenceClassification.from_config(config)
    model.model.load_state_dict(lm.model.model.state_dict())
    rewards = probe.RewardModel(model.eval(), lm.tokenizer)
    prompt, completion = "The capital of France is", " Paris."
    score = float(rewards.score([prompt], [completion]))
    scalar = reward_lm(rewards)
    ids = [token for part in pair_ids(lm.tokenizer, prompt, completion) for token in part]
    assert float(scalar.logits([ids])[0, -1, 0].detach()) == pytest.approx(score, abs=1e-4)
    parts = direct(scalar, ids, target_of(scalar, ids)).table()
    assert parts["value"].sum() == pytest.approx(score, abs=1e-3)
    left_out = attribute_reward(scalar, prompt, completion, steps=0)
    assert left_out.score == pytest.approx(score, abs=1e-4)


@pytest.mark.parametrize("page", PAGES)
def test_every_page_opens_on_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, page: str):
    monkeypatch.setenv("PROBE_RUNS", str(tmp_path))
    app = AppTest.from_file(ROOT / "dashboard" / "pages" / "app.py", default_timeout=300)
    query = {"base": str(CHECKPOINT), "aligned": str(CHECKPOINT), "prompt": "The capital of France is"}
    for name, value in (query | PAGES[page]).items():
        app.query_params[name] = value
    app.session_state[NAMED] = {str(CHECKPOINT)}  # as if typed
    turn_to(app, page).run()
    assert not app.exception
    assert not app.error
    assert len(app.subheader[0].value) > 30
