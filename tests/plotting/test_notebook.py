"""Results draw themselves: `figure()` beside `table()`, and a notebook shows it."""

import html
from collections.abc import Callable
from typing import Any

import plotly.graph_objects as go
import pytest

import probe
from probe.interventions.patching import Filling
from probe.interventions.sites import Site, activations, hooks_of
from probe.interventions.steering import Controls, Dosing
from probe.model.lm import LM
from probe.model.rewards import reward_lm
from probe.plotting.notebook import Drawable
from tests.models import random_lm, random_reward_model

TEXT = "mira lives in rome"
OTHER = "mira lives in oslo"


def patched(lm: LM, kind: Any) -> Drawable:
    pair = probe.interventions.pair_of(lm, TEXT, OTHER)
    return probe.interventions.patch(lm, pair, probe.logits.target_of(lm, pair.corrupted), kind)


def steered(lm: LM) -> Drawable:
    direction = probe.interventions.contrast(lm, [TEXT], [OTHER], 0)
    target = probe.logits.target_of(lm, TEXT)
    return probe.interventions.dose_response(lm, [TEXT], [target], direction, Dosing((0.0, 1.0)), Controls(3))


def intervened(lm: LM) -> Drawable:
    pair, site = probe.interventions.pair_of(lm, TEXT, OTHER), Site("resid", 0, position=4)
    source = activations(lm, pair.clean, hooks_of(lm, ["resid"]))
    target = probe.logits.target_of(lm, pair.corrupted)
    return probe.interventions.intervene(lm, pair.corrupted, [site], [source], target, draws=3)


RESULTS: dict[str, Callable[[LM], Drawable]] = {
    "attention": lambda lm: probe.attention.attention(lm, TEXT),
    "read_stages": lambda lm: probe.attention.read_stages(lm, TEXT),
    "score_heads": lambda lm: probe.attention.score_heads(lm, TEXT),
    "compare_attention": lambda lm: probe.attention.compare_attention(lm, random_lm(seed=1), TEXT),
    "read_circuits": lambda lm: probe.attention.read_circuits(lm),
    "compose_heads": lambda lm: probe.attention.compose_heads(lm),
    "attention_rollout": lambda lm: probe.attention.attention_rollout(lm, TEXT),
    "attention_statistics": lambda lm: probe.attention.attention_statistics(lm, TEXT),
    "logit_lens": lambda lm: probe.logits.logit_lens(lm, TEXT),
    "attribute": lambda lm: probe.logits.attribute(lm, TEXT, probe.logits.target_of(lm, TEXT)),
    "promoted": lambda lm: probe.logits.promoted_tokens(lm, TEXT, 1, head=1),
    "attribute_answer": lambda lm: probe.logits.attribute_answer(lm, TEXT),
    "compare_layers": lambda lm: probe.logits.compare_layers(lm, random_lm(seed=1), TEXT),
    "follow_writing": lambda lm: probe.logits.follow_writing(lm, TEXT, n=3),
    "patch": lambda lm: patched(lm, "resid"),
    "patch heads": lambda lm: patched(lm, "head"),
    "ablate": lambda lm: probe.interventions.ablate(
        lm, TEXT, probe.logits.target_of(lm, TEXT), filling=Filling("zero")
    ),
    "patch_every_site": lambda lm: probe.interventions.patch_every_site(lm, TEXT, corrupted=OTHER),
    "patch_one_site": lambda lm: probe.interventions.patch_one_site(lm, TEXT, corrupted=OTHER, draws=3),
    "ablate_every_site": lambda lm: probe.interventions.ablate_every_site(lm, TEXT, how="zero"),
    "ablate_one_site": lambda lm: probe.interventions.ablate_one_site(lm, TEXT, how="zero", draws=3),
    "edges": lambda lm: probe.circuits.edges(random_lm(num_key_value_heads=4), TEXT, corrupted=OTHER),
    "dose_response": steered,
    "intervene": intervened,
    "compare": lambda lm: probe.compare.compare(lm, random_lm(seed=1), TEXT, max_new_tokens=3),
    "compare_lenses": lambda lm: probe.compare.compare_lenses(lm, random_lm(seed=1), TEXT, max_new_tokens=3),
    "lag_profile": lambda lm: probe.autoregression.lag_profile(lm, [TEXT], lags=2, resamples=2),
    "effective_order": lambda lm: probe.autoregression.effective_order(lm, [TEXT], longest=2),
    "snowball": lambda lm: probe.autoregression.snowball(lm, [TEXT], steps=3),
    "jacobian_norms": lambda lm: probe.autoregression.jacobian_norms(lm, TEXT),
    "neutral_jacobian": lambda lm: probe.autoregression.neutral_jacobian(lm, TEXT),
}
SCALAR: dict[str, Callable[[LM], Drawable]] = {
    "attribute_scalar": lambda lm: probe.logits.attribute_scalar(lm, TEXT),
    "scalar_lens": lambda lm: probe.logits.scalar_lens(lm, TEXT),
    "compare_scalars": lambda lm: probe.compare.compare_scalars(lm, reward_lm(random_reward_model(seed=1)), TEXT),
    "contrast": lambda lm: probe.rewards.contrast(lm, "mira lives in", " rome", " oslo"),
}


@pytest.mark.parametrize("name", [*RESULTS, *SCALAR])
def test_a_result_draws_itself(name: str):
    found = RESULTS[name](random_lm()) if name in RESULTS else SCALAR[name](reward_lm(random_reward_model()))
    assert isinstance(found, Drawable)
    drawn = found.figure()
    assert isinstance(drawn, go.Figure)
    assert len(drawn.data)
    assert len(found.table())
    assert found._repr_mimebundle_().keys() == drawn._repr_mimebundle_().keys()


def test_samples_show_themselves_as_a_table():
    found = random_lm().generate(["mira", "oslo"], n=2, max_new_tokens=3, seed=0)
    table = found.table()
    assert table["text"].tolist() == found.text
    assert table["prompt"].tolist() == ["mira", "mira", "oslo", "oslo"]
    assert table["logprob"].to_numpy() == pytest.approx(found.logprobs.where(found.mask, 0).sum(1).numpy())
    assert "<table" in found._repr_html_()


def test_captures_show_their_prompts():
    captures = probe.open_run("base").captures()
    page = captures._repr_html_()
    assert f"{len(captures)} steps" in page
    assert all(html.escape(prompt.text) in page for prompt in captures.prompts)
