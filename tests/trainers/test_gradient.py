"""One gradient for all methods: the weighted sum against each trainer's own loss, by autograd, and by hand."""

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest
import torch
from torch import nn

from probe import LM
from probe.errors import ConfigError, DataError
from probe.model.scoring import completion_logprobs
from tests.models import byte_tokenizer, random_lm
from tests.trainers.quick import COMMON
from trainers import rlvr, rsft
from trainers.config import (
    ContinualConfig,
    DPOConfig,
    PretrainConfig,
    RLHFConfig,
    RLVRConfig,
    RSFTConfig,
    SFTConfig,
    TrainConfig,
)
from trainers.dpo import DPO, with_reference
from trainers.gradient import (
    KINDS,
    Gradient,
    GroupTerms,
    gradient_gap,
    group_weights,
    pair_weights,
    policy_weights,
    read,
    side_by_side,
    token_weights,
    value_weights,
)
from trainers.loop import Loss
from trainers.preferences import Preference
from trainers.pretrain import PADDING, Pretraining
from trainers.rlhf import RLHF, Collector
from trainers.rlvr import RLVR, with_advantages
from trainers.rsft import RSFT
from trainers.sampling import Completion, CompletionGroup
from trainers.scalar_heads import HeadedTrainee, ScalarHead, width_of
from trainers.session import Session
from trainers.sft import SFT, Demonstration
from trainers.trainee import Trainee

END, LONGEST = 3, 5
PROMPTS = [[2, 5, 7, 9], [2, 8]]
COMPLETIONS = [[[11, 12, END], [13, 14, 15, 16, 17], []], [[20, END], [21, 22, 4, 5, 6], [7, 8, 9, END]]]
REWARDS = [[1.0, -1.0, 0.25], [0.0, 2.0, 0.5]]
PAIRS = [
    Preference([2, 5, 7, 9], [11, 12], [13, 14, 15, END]),
    Preference([2, 8], [20, END], [21, END]),
    Preference([2, 8, 9, 10, 24, 23], [5, 6, 7, END], [4]),
]
ROWS = [np.array([2, 5, 7, 9, 11, 12, END]), np.array([2, 8, 20, END, PADDING, PADDING, PADDING])]
DEMONSTRATIONS = [
    Demonstration([2, 5, 7, 9], [11, 12, END], [True] * 3),
    Demonstration([2, 8], [20, 21, 22, 4, END], [True, False, False, True, True]),
]
TOLERANCE = 1e-5


def moved(module: Any, scale: float, seed: int) -> Any:
    """A copy with other weights nearby."""
    other, generator = copy.deepcopy(module), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter += scale * torch.randn(parameter.shape, generator=generator)
    return other


class Case:
    """A batch of a method under a model that has moved since it was sampled, and the trainer's own loss."""

    def __init__(self, kind: type[TrainConfig], lm: LM, rewards: Sequence[Sequence[float]], **options: Any) -> None:
        sizes: dict[str, Any] = {}
        if kind in (RSFTConfig, RLHFConfig, RLVRConfig):
            sizes = {"batch_size": 2, "group": 3, "max_new_tokens": LONGEST, "minibatches": 1}
        chosen = {"out": Path("unused"), "base": "unused"} | COMMON | sizes | options
        self.config, self.lm, self.rewards = kind(**chosen), lm, rewards  # type: ignore[arg-type]
        self.session, self.model, self.trainee = Session(self.config), lm.model, Trainee(lm)
        self.reference = moved(lm.model, 0.05, 1)
        self.loss, self.examples = self._method()

    def _method(self) -> tuple[Callable[..., Any], Sequence[Any]]:
        config, absent = self.config, None
        match config:
            case PretrainConfig():
                return Pretraining(self.session, self.trainee, absent).loss, ROWS  # type: ignore[arg-type]
            case SFTConfig():
                return SFT(self.session, config, self.trainee, DEMONSTRATIONS).loss, DEMONSTRATIONS
            case DPOConfig():
                pairs = with_reference(self.session, self.reference, PAIRS)
                return DPO(self.session, config, self.trainee, pairs).loss, pairs
            case RSFTConfig():
                select = rsft.SELECTIONS[config.select]
                examples = [
                    rsft.SelectedGroup(g, select([c.reward for c in g.completions], config.threshold))
                    for g in self.groups()
                ]
                return RSFT(config, self.trainee, absent, absent).loss, examples  # type: ignore[arg-type]
            case RLHFConfig():
                head = ScalarHead(width_of(self.lm.model), torch.Generator().manual_seed(2))
                headed = HeadedTrainee(self.trainee, head)
                experiences = Collector(self.session, headed.module, config).collect(self.groups(), config.beta)
                self.model = headed.module
                self.model.load_state_dict(moved(self.model, 0.02, 4).state_dict())
                return RLHF(self.session, config, headed, absent, absent).loss, experiences  # type: ignore[arg-type]
            case RLVRConfig():
                made = with_advantages(self.groups(), config.normalisation)
                self.model.load_state_dict(moved(self.model, 0.02, 4).state_dict())
                return RLVR(config, self.trainee, absent, absent).loss, made  # type: ignore[arg-type]
        raise AssertionError(config)

    @torch.no_grad()
    def groups(self) -> list[CompletionGroup]:
        """The completions above as the model would have sampled them."""
        made = []
        for number, (prompt, several, rewards) in enumerate(zip(PROMPTS, COMPLETIONS, self.rewards, strict=True)):
            policy, reference = (self.logprobs(model, prompt, several) for model in (self.lm.model, self.reference))
            completions = [
                Completion(ids, "", logprobs, [0.5] * len(ids), END in ids, {}, reward, ref)
                for ids, logprobs, ref, reward in zip(several, policy, reference, rewards, strict=True)
            ]
            made.append(CompletionGroup("", prompt, {}, completions, number))
        return made

    def logprobs(self, model: nn.Module, prompt: list[int], several: list[list[int]]) -> list[list[float]]:
        """log pi of each token, at the temperature of the method."""
        temperature = getattr(self.config, "temperature", 1.0)
        values = completion_logprobs(model, [prompt], [several], temperature=temperature).values.tolist()
        return [row[: len(ids)] for row, ids in zip(values, several, strict=True)]

    def gap(self) -> float:
        return gradient_gap(self.config, self.loss, self.model, self.examples)

    def read(self) -> Gradient:
        return read(self.config, self.model, self.examples)


NAN = [[1.0, -1.0, 0.25], [math.nan, 2.0, 0.5]]
HARD: dict[str, Any] = {"temperature": 0.7, "updates": 2}
VARIANTS: dict[str, tuple[type[TrainConfig], dict[str, Any], list[list[float]]]] = {
    "pretrain": (PretrainConfig, {}, REWARDS),
    "sft": (SFTConfig, {}, REWARDS),
    "rsft best": (RSFTConfig, {}, REWARDS),
    "rsft threshold": (RSFTConfig, {"select": "threshold", "threshold": 0.1}, REWARDS),
    "dpo sigmoid": (DPOConfig, {"beta": 0.5}, REWARDS),
    "dpo conservative": (DPOConfig, {"beta": 0.5, "loss": "conservative", "label_smoothing": 0.2}, REWARDS),
    "dpo ipo": (DPOConfig, {"beta": 0.5, "loss": "ipo"}, REWARDS),
    "rlhf": (RLHFConfig, HARD | {"gamma": 0.9, "lam": 0.8, "vf_coef": 0.3, "epsilon_value": 0.05}, REWARDS),
    "rlhf without beta and values": (RLHFConfig, {"beta": 0.0, "vf_coef": 0.0}, REWARDS),
    "rlhf without value clip": (RLHFConfig, {"epsilon_value": 0.0}, REWARDS),
    "rlhf without a reward": (RLHFConfig, HARD, NAN),
    **{
        f"rlvr {normalisation} {estimator}": (
            RLVRConfig,
            HARD
            | {"beta": 0.3, "normalisation": normalisation, "kl_estimator": estimator, "epsilon_high": 1.5}
            | ({"epsilon": 0.02, "epsilon_high": 0.02} if normalisation == "gspo" else {}),
            REWARDS,
        )
        for normalisation in rlvr.NORMALISATIONS
        for estimator in ("k1", "k2", "k3", "k3w")
    },
    "rlvr on policy": (RLVRConfig, {"beta": 0.3}, REWARDS),
    "rlvr without beta": (RLVRConfig, HARD | {"beta": 0.0}, REWARDS),
    "rlvr without cut completions": (RLVRConfig, HARD | {"mask_truncated": True, "normalisation": "dapo"}, REWARDS),
    "rlvr without a reward": (RLVRConfig, HARD, NAN),
}


def make(name: str, lm: LM | None = None, **changes: Any) -> Case:
    kind, options, rewards = VARIANTS[name]
    return Case(kind, lm or random_lm(), rewards, **options | changes)


@pytest.mark.parametrize("name", VARIANTS)
def test_the_weighted_sum_is_the_gradient_of_the_trainers_own_loss(name: str) -> None:
    """In every parameter, with unequal lengths, an empty completion, masks and clips."""
    assert make(name).gap() < TOLERANCE


@pytest.mark.parametrize("name", VARIANTS)
def test_a_wrong_denominator_is_seen(name: str) -> None:
    """There is a gradient in every batch, and the tolerance hides no difference."""
    case = make(name)

    def loss(*given: Any) -> Loss:
        result = case.loss(*given)
        return replace(result, count=result.count + 1)

    assert gradient_gap(case.config, loss, case.model, case.examples) > 1000 * TOLERANCE


@pytest.mark.parametrize(
    ("name", "change"),
    [("rlvr grpo k3w", {"beta": 0.31}), ("rlhf", {"vf_coef": 0.31}), ("dpo sigmoid", {"beta": 0.51})],
)
def test_a_wrong_option_is_seen(name: str, change: dict[str, float]) -> None:
    case = make(name)
    assert gradient_gap(replace(case.config, **change), case.loss, case.model, case.examples) > 100 * TOLERANCE


@pytest.mark.parametrize("name", ["gpt2", "qwen3"])
@pytest.mark.parametrize("method", ["pretrain", "sft", "rsft best", "dpo sigmoid", "rlhf", "rlvr grpo k3w"])
def test_on_other_architectures(name: str, method: str) -> None:
    assert make(method, random_lm(name)).gap() < TOLERANCE


def test_the_clip_acts_on_both_sides_in_the_batches() -> None:
    """Tokens lose their weight above for a good completion and below for a bad one, and never the other way round."""
    for name in ("rlhf", "rlvr grpo k3w"):
        case = make(name, beta=0.0)
        gradient = case.read()
        traces = [t for e in case.examples for t in getattr(e, "traces", ())]
        completions = [c for e in case.examples for c in e.group.completions]
        old = [t.logprobs for t in traces] or [c.logprobs for c in completions]
        advantages = [t.advantages for t in traces] or [
            [a] * len(c.ids) for e in case.examples for a, c in zip(e.advantages, e.group.completions, strict=True)
        ]
        high, seen = case.config.epsilon_high if name != "rlhf" else 0.2, set[str]()  # type: ignore[attr-defined]
        for i, (before, worth) in enumerate(zip(old, advantages, strict=True)):
            for t, (logprob, a) in enumerate(zip(before, worth, strict=True)):
                ratio = math.exp(float(gradient.logprobs[i, t].detach()) - logprob)
                weight = float(gradient.weights.values[i, t])
                if a > 0 and ratio > 1 + high:
                    seen.add("high")
                    assert weight == 0
                elif a < 0 and ratio < 0.8:
                    seen.add("low")
                    assert weight == 0
                else:
                    assert math.copysign(1, weight) == math.copysign(1, a)
                    seen.add("free outside" if not 0.8 < ratio < 1 + high else "free")
        assert seen >= {"high", "low", "free outside"}, name


def test_against_finite_differences() -> None:
    """Of the clipped loss with its KL, by single log-probabilities: no autograd on either side."""
    generator = torch.Generator().manual_seed(0)
    logprobs, old, reference = (
        -torch.rand(3, 4, generator=generator, dtype=torch.float64) - torch.tensor([0.1, 0.5, 1.0, 0.3]) for _ in "abc"
    )
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 1, 0]]).bool()
    advantages = torch.tensor([1.2, -0.7, 0.4], dtype=torch.float64)

    def loss(x: torch.Tensor, estimator: str) -> float:
        policy = rlvr.surrogate(x, old, advantages[:, None], 0.2, 0.28)
        kl = rlvr.ESTIMATORS[estimator].value(x - reference)
        kl = kl * ((x - old).exp() if rlvr.ESTIMATORS[estimator].weighted else 1)
        shares, count = rlvr.NORMALISATIONS["grpo"].weights(mask, 4)
        return float(((policy.losses + 0.3 * kl) * shares)[mask].sum()) / count

    for estimator in rlvr.ESTIMATORS:
        terms = GroupTerms(beta=0.3, kl_estimator=estimator, epsilon_high=0.28)
        known = {"old": old, "advantages": advantages, "reference": reference, "terms": terms}
        found = token_weights("rlvr", logprobs, mask, **known).values
        for place in np.ndindex(3, 4):
            step = torch.zeros(3, 4, dtype=torch.float64)
            step[place] = 1e-6
            expected = -(loss(logprobs + step, estimator) - loss(logprobs - step, estimator)) / 2e-6
            assert float(found[place]) == pytest.approx(expected, abs=1e-8)


def test_closed_forms_by_hand() -> None:
    """Two tokens each, with numbers that can be worked out on paper."""
    logprobs, mask = torch.tensor([[-1.0, -2.0], [-0.5, 0.0]]), torch.tensor([[True, True], [True, False]])
    third = pytest.approx(1 / 3)
    assert token_weights("sft", logprobs, mask).values.flatten().tolist() == [third, third, third, 0]
    kept = torch.tensor([False, True])
    assert token_weights("rsft", logprobs, mask, kept=kept).values.tolist() == [[0, 0], [1, 0]]
    reference = torch.tensor([-3.5, -0.5])  # h(y+) = 0.5, h(y-) = 0
    sigmoid, other = 1 / (1 + math.exp(1.0)), 1 / (1 + math.exp(-1.0))  # beta Delta = 1
    pull = {
        "sigmoid": 2 * sigmoid,
        "conservative": 2 * (0.9 * sigmoid - 0.1 * other),
    }
    for loss, size in pull.items():
        found = pair_weights(logprobs, mask, reference, 2.0, loss, 0.1).values
        assert found.flatten().tolist() == [pytest.approx(w) for w in (size, size, -size, 0)]
    found = pair_weights(logprobs, mask, reference, 2.0, "ipo").values  # Delta' = 0.25 = 1 / (2 beta): at rest
    assert found.flatten().tolist() == [pytest.approx(0)] * 4
    old = logprobs - torch.tensor([[0.1, 0.5], [0.5, 0.0]])
    found = policy_weights(logprobs, mask, old, torch.tensor([[1.0, 1.0], [-1.0, 0.0]])).values
    assert found.flatten().tolist() == [pytest.approx(w) for w in (math.exp(0.1) / 3, 0, -math.exp(0.5) / 3, 0)]
    values, was = torch.tensor([[1.0, 1.0], [1.0, 0.0]]), torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    found = value_weights(values, mask, was, torch.tensor([[0.0, 0.0], [3.0, 0.0]]), 0.2, 0.3)
    assert found.flatten().tolist() == [pytest.approx(w) for w in (-0.1, -0.1, 0.0, 0.0)]


def test_a_masked_token_weighs_nothing_and_changes_nothing() -> None:
    generator = torch.Generator().manual_seed(1)
    logprobs, old, reference, other = (-torch.rand(4, 3, generator=generator) for _ in range(4))
    mask = torch.tensor([[1, 1, 1], [1, 0, 0], [0, 0, 0], [1, 1, 0]]).bool()
    advantages = torch.tensor([1.0, -1.0, 0.5, -0.5])
    known: dict[str, dict[str, Any]] = {
        "pretrain": {},
        "sft": {},
        "rsft": {"kept": torch.tensor([True, False, True, True])},
        "dpo": {"reference": reference.sum(1)},
        "rlhf": {"old": old, "advantages": advantages[:, None].expand(4, 3)},
        "rlvr": {"old": old, "advantages": advantages, "reference": reference},
    }
    assert known.keys() == {each.method for each in KINDS.values()}
    for method, rest in known.items():
        found = token_weights(method, logprobs, mask, **rest)
        assert found.values.shape == found.kl.shape == logprobs.shape
        assert not found.values[~mask].any()
        assert found.values.any()
        again = token_weights(method, logprobs.where(mask, other), mask, **rest)
        assert torch.equal(again.values, found.values), method
        nothing = token_weights(method, logprobs, torch.zeros_like(mask), **rest)
        assert not nothing.values.any()


def test_the_kl_is_a_part_of_its_own() -> None:
    """Without advantages all of the weight is the KL's, with a beta of 0 none of it."""
    generator = torch.Generator().manual_seed(1)
    logprobs, old, reference = (-torch.rand(2, 3, generator=generator) for _ in range(3))
    mask = torch.ones(2, 3).bool()
    known = {"old": old, "reference": reference}
    only = group_weights(logprobs, mask, advantages=torch.zeros(2), terms=GroupTerms(beta=0.5), **known)
    assert only.kl.any()
    assert torch.equal(only.values, only.kl)
    without = group_weights(logprobs, mask, advantages=torch.ones(2), terms=GroupTerms(beta=0.0), **known)
    assert not without.kl.any()
    both = group_weights(logprobs, mask, advantages=torch.ones(2), terms=GroupTerms(beta=0.5), **known)
    torch.testing.assert_close(both.values, without.values + only.kl)


def test_nothing_kept_has_no_gradient() -> None:
    case = make("rsft threshold", threshold=9.0)
    assert not case.read().weights.values.any()
    assert case.gap() == 0


def test_side_by_side_on_one_prompt() -> None:
    lm = random_lm()
    reference = LM(moved(lm.model, 0.05, 1), lm.tokenizer)
    texts, rewards = [" oslo", " mira lives in rome", " paris"], [0.0, 1.0, 0.5]
    found = side_by_side(lm, "where does mira live ?", texts, rewards, reference)
    table = found.table().set_index("method")
    assert list(dict.fromkeys(table.index)) == ["pretrain", "sft", "rsft", "dpo", "rlhf", "rlvr"]
    assert set(table.loc["pretrain", "position"]) == set(range(1, 11))
    sft = table.loc["sft"]
    assert list(sft["token"]) == ["mira", "lives", "in", "rome", "<end>"]
    assert list(sft["weight"]) == pytest.approx([0.2] * 5)
    assert (table.loc["rsft"].query("completion == 1")["weight"] > 0).all()
    assert (table.loc["rsft"].query("completion != 1")["weight"] == 0).all()
    dpo = table.loc["dpo"]
    assert (dpo.query("completion == 1")["weight"] > 0).all()
    assert (dpo.query("completion == 0")["weight"] < 0).all()
    assert 2 not in set(dpo["completion"])
    alike = side_by_side(lm, "where does mira live ?", texts, rewards).table().set_index("method")
    assert (alike["kl"] == 0).all()  # the policy is the reference
    assert list(alike.loc["dpo", "weight"].abs()) == pytest.approx([0.05] * 7)  # beta / 2
    grpo = alike.loc["rlvr"]
    for number, a in enumerate((-1, 1, 0)):
        rows = grpo[grpo["completion"] == number]
        assert list(rows["weight"]) == pytest.approx([a / (1 + 2e-4) / 3 / len(rows)] * len(rows), rel=1e-3)
    assert table.loc["rlvr", "kl"].any()
    figure = found.figure()
    assert isinstance(figure, go.Figure)
    assert len(figure.data) == 6
    scale = figure.layout.coloraxis
    assert scale.cmax == -scale.cmin == pytest.approx(table["weight"].abs().max())
    drawn = np.concatenate([trace.z[np.isfinite(trace.z)] for trace in figure.data])
    assert sorted(drawn) == pytest.approx(sorted(table["weight"]))
    relative = found.figure(relative=True)
    assert relative.layout.coloraxis.cmax == 1
    for trace, (_, rows) in zip(relative.data, table.groupby(level=0, sort=False), strict=True):
        assert np.nanmax(np.abs(trace.z)) == pytest.approx(1)
        assert rows["weight"].max() == pytest.approx(rows["weight"].abs().max() * np.nanmax(trace.z))


def test_several_losses_of_one_method_side_by_side() -> None:
    lm, options = random_lm(), {"out": Path("unused"), "base": "unused"}
    configs = {"DPO": DPOConfig(**options), "IPO": DPOConfig(**options, loss="ipo")}
    table = side_by_side(lm, "where ?", [" oslo", " rome"], [1, 0], configs=configs).table()
    assert list(dict.fromkeys(table["method"])) == ["DPO", "IPO"]
    assert table.groupby("method")["weight"].max().to_dict() == pytest.approx({"DPO": 0.05, "IPO": 5.0})


def test_errors_say_what_to_give() -> None:
    lm, x = random_lm(), torch.zeros(1, 2)
    with pytest.raises(ConfigError, match=r"'ppo' has no weights of tokens: give one of pretrain, sft"):
        token_weights("ppo", x, x.bool())
    with pytest.raises(DataError, match=r"shape \[1, 2\] and the mask \[2, 1\]: give one flag"):
        token_weights("sft", x, x.bool().T)
    with pytest.raises(DataError, match="1 completions: give a chosen and a rejected one"):
        token_weights("dpo", x, x.bool(), reference=x[:, 0])
    with pytest.raises(ConfigError, match="'hinge' has no weights"):
        token_weights("dpo", torch.zeros(2, 2), torch.zeros(2, 2).bool(), reference=torch.zeros(2), loss="hinge")
    group = {"old": x, "advantages": x[:, 0], "reference": x}
    with pytest.raises(ConfigError, match="estimator 'k4'"):
        token_weights("rlvr", x, x.bool(), terms=GroupTerms(kl_estimator="k4"), **group)
    with pytest.raises(ConfigError, match="normalisation 'sum'"):
        token_weights("rlvr", x, x.bool(), terms=GroupTerms(normalisation="sum"), **group)
    with pytest.raises(ConfigError, match="ContinualConfig is of a method without weights of tokens"):
        read(ContinualConfig(out=Path("unused"), base="unused"), nn.Linear(1, 1), [])
    for texts, rewards in (([" oslo"], [1.0]), ([" oslo", " rome"], [1.0, 1.0]), ([" oslo", " rome"], [1.0, math.nan])):
        with pytest.raises(DataError, match="give each a finite number, and two of them different ones"):
            side_by_side(lm, "where ?", texts, rewards)
    with pytest.raises(DataError, match="have different tokenizers"):
        side_by_side(lm, "where ?", [" oslo", " rome"], [1.0, 0.0], random_lm("gpt2", byte_tokenizer()))
    with pytest.raises(DataError, match="the model reads at most 48"):
        side_by_side(lm, "where ?", [" oslo", " rome" * 60], [1.0, 0.0])
