"""The equations, interventions and pages on a real checkpoint: 30 blocks, 9 query heads on 3 key heads."""

from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

import probe
from probe.analyses.head_scores import repeat_scores
from probe.analyses.jacobian import block_norms
from probe.analyses.jacobian_split import jacobian_split
from probe.analyses.lags import lag_profile
from probe.analyses.patching import attribute, pair_of, patch
from probe.analyses.targets import target_of
from probe.equations import read_network, recompose, states

pytestmark = [pytest.mark.real, pytest.mark.filterwarnings("ignore::DeprecationWarning")]
ROOT = Path(__file__).resolve().parents[2]
CHECKPOINT = ROOT / ".cache" / "SmolLM2-135M-Instruct"
PAGES = {
    "attention": {},
    "logits": {},
    "interventions": {"int_do": "ablate"},
    "autoregression": {},
    "rewards": {},
}


@pytest.fixture(scope="module")
def lm() -> probe.LM:
    return probe.LM.load(CHECKPOINT)


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


@pytest.mark.parametrize("page", PAGES)
def test_every_page_opens_on_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, page: str):
    monkeypatch.setenv("PROBE_RUNS", str(tmp_path))
    app = AppTest.from_file(ROOT / "dashboard" / "app.py", default_timeout=300)
    query = {"base": str(CHECKPOINT), "aligned": str(CHECKPOINT), "prompt": "The capital of France is"}
    for name, value in (query | PAGES[page]).items():
        app.query_params[name] = value
    app.switch_page(f"views/{page}.py").run()
    assert not app.exception
    assert not app.error
    assert len(app.subheader[0].value) > 30
