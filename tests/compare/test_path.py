"""The straight line between two models: its ends are the models to the bit, and metrics along it are those of each."""

import copy
import math

import numpy as np
import pandas as pd
import pytest
import torch

from probe import LM
from probe.analyses.catalogue import find_analysis
from probe.compare.path import QUICK, REAL, departures, follow_line, interpolate, place_at, r_squared
from probe.compare.weights import weight_change
from probe.errors import ConfigError, DataError, ModelError
from probe.experiments import run_experiment
from probe.model.loading import tensors
from probe.terms import term
from tests.models import ARCHITECTURES, byte_tokenizer, random_lm
from tests.places import SAMPLES
from tests.plain_modules import nano_lm

TEXT = "mira lives in oslo ."
FAST = {"n": 12, "interventions": 0, "turns": 1}


@pytest.fixture(scope="module")
def models() -> tuple[LM, LM]:
    return LM.load(SAMPLES / "base"), LM.load(SAMPLES / "dpo-agreeable")


@pytest.fixture(scope="module")
def path(models):
    ticks: list[float] = []
    path = follow_line(*models, alphas=[1, 0, 0.5, 0.25, 1.5], tick=ticks.append, **FAST)
    assert ticks == sorted(ticks)
    assert ticks[-1] == 1
    return path


@pytest.mark.parametrize("name", [*ARCHITECTURES, "gptj", "mixtral"])
def test_ends_are_the_models_and_the_rest_is_between(name: str):
    base, aligned = random_lm(name), random_lm(name, seed=1)
    aligned = LM(aligned.model, base.tokenizer)
    prints = base.fingerprint, aligned.fingerprint
    for alpha in (-0.5, 0.0, 0.3, 1.0, 1.5):
        lm = interpolate(base, aligned, alpha)
        mixed, first, last = (tensors(each.model) for each in (lm, base, aligned))
        assert mixed.keys() == first.keys() == last.keys()  # tied weights once
        for key, value in mixed.items():
            expected = (1 - alpha) * first[key].double() + alpha * last[key].double()
            torch.testing.assert_close(value.double(), expected, rtol=1e-6, atol=1e-6)
            assert value.data_ptr() not in (first[key].data_ptr(), last[key].data_ptr())
        assert lm.tokenizer is aligned.tokenizer
        assert not lm.model.training
        if alpha in (0, 1):
            assert lm.fingerprint == prints[int(alpha)]
            assert torch.equal(lm.logits(TEXT), (base, aligned)[int(alpha)].logits(TEXT))
        else:
            assert lm.fingerprint not in prints
        with torch.no_grad():
            for parameter in lm.model.parameters():
                parameter.add_(1.0)
    assert (base.fingerprint, aligned.fingerprint) == prints


def test_half_precision_is_mixed_in_single_precision():
    base, aligned = random_lm(), random_lm(seed=1)
    base.model.bfloat16()
    aligned.model.bfloat16()
    aligned = LM(aligned.model, base.tokenizer)
    lm = interpolate(base, aligned, 0.01)
    assert lm.dtype == torch.float32
    assert aligned.dtype == base.dtype == torch.bfloat16
    for key, value in tensors(lm.model).items():
        first, last = (tensors(each.model)[key].detach().float() for each in (base, aligned))
        torch.testing.assert_close(value, 0.99 * first + 0.01 * last, rtol=1e-6, atol=1e-7)
    ends = interpolate(base, aligned, 0), interpolate(base, aligned, 1)
    for end, lm in zip(ends, (base, aligned), strict=True):
        for key, value in tensors(end.model).items():
            assert torch.equal(value, tensors(lm.model)[key].float())


def test_what_cannot_be_mixed_is_refused():
    lm = random_lm()
    with pytest.raises(ConfigError, match="alpha=nan"):
        interpolate(lm, lm, math.nan)
    with pytest.raises(DataError, match="different tokenizers"):
        interpolate(lm, random_lm("llama", byte_tokenizer()), 0.5)
    with pytest.raises(ModelError, match="choose two models of the same architecture"):
        interpolate(lm, random_lm(num_hidden_layers=3), 0.5)
    for alphas in ([0, 0.5], [0, 1, 1], []):
        with pytest.raises(ConfigError, match="with 0 and 1 among them"):
            follow_line(lm, lm, alphas=alphas)
    with pytest.raises(ConfigError, match="alpha 0 is the baseline"):
        follow_line(lm, lm, alphas=[0, 1], baseline=lm)
    with pytest.raises(ConfigError, match="has no option `m`"):
        follow_line(lm, lm, alphas=[0, 1], m=3)


@pytest.mark.slow
def test_the_ends_of_the_path_are_the_experiments_on_the_models(models, path):
    assert path.alphas == (0, 0.25, 0.5, 1, 1.5)
    assert path.names == ("base", "dpo-agreeable")
    for lm, result in zip(models, (path.results[0], path.results[3]), strict=True):
        alone = run_experiment("sycophancy", lm, **FAST)
        pd.testing.assert_frame_equal(alone.summary, result.summary)
        pd.testing.assert_frame_equal(alone.items.drop(columns="model"), result.items.drop(columns="model"))


def test_the_table_has_every_metric_and_its_chord(path):
    table = path.table()
    for alpha, result in zip(path.alphas, path.results, strict=True):
        rows = table[table["alpha"] == alpha].set_index("metric")
        assert rows.index.tolist() == result.summary["metric"].tolist()
        assert rows.loc["deferral", "value"] == result.value("deferral")
        first, last = (path.results[at].value("deferral_exact") for at in (0, 3))
        assert rows.loc["deferral_exact", "chord"] == pytest.approx((1 - alpha) * first + alpha * last)
    ends = table[table["alpha"].isin([0, 1])]
    assert ends["departure"].dropna().abs().max() == 0
    deferral = table[table["metric"] == "deferral_exact"].set_index("alpha")["value"]
    assert deferral[0] < deferral[0.5] < deferral[1]  # trained to agree


def test_linearity_is_that_of_numpy_with_items_drawn_together(path):
    lines = path.linearity().set_index("metric")
    row = lines.loc["deferral_exact"]
    at = np.array([0, 0.25, 0.5, 1])
    frames = [result.items.query("kind == 'opinion_false'").set_index("item") for result in path.results[:4]]
    items = np.stack([frame["p_deferred"].to_numpy(dtype=float) for frame in frames], axis=1)
    values = items.mean(axis=0)
    fit = np.polyval(np.polyfit(at, values, 1), at)
    assert row["r2"] == pytest.approx(1 - ((values - fit) ** 2).sum() / ((values - values.mean()) ** 2).sum())
    gaps = values - np.interp(at, [0, 1], values[[0, 3]])
    assert row["departure"] == pytest.approx(gaps[np.abs(gaps).argmax()])
    assert row["alpha"] == at[np.abs(gaps).argmax()]
    assert row["items"] == 12
    rng = np.random.default_rng(7)
    drawn = np.stack([items[rng.integers(0, 12, 12)].mean(axis=0) for _ in range(4000)])
    gap = (drawn - (1 - at) * drawn[:, :1] - at * drawn[:, 3:])[:, np.abs(gaps).argmax()]
    ends = np.quantile(gap, [0.0125, 0.9875])  # two alphas between the ends
    np.testing.assert_allclose([row["departure_low"], row["departure_high"]], ends, atol=0.15 * np.ptp(ends))
    assert row["r2_low"] < row["r2"] < row["r2_high"]
    pd.testing.assert_frame_equal(path.linearity(), path.linearity())


def test_a_line_is_a_line_and_a_step_is_none():
    at = np.array([0, 0.25, 0.5, 0.75, 1])
    assert r_squared(at, 2 - 3 * at) == pytest.approx(1)
    np.testing.assert_allclose(departures(at, 2 - 3 * at), 0, atol=1e-12)
    np.testing.assert_allclose(departures(at, at**2), [0, -0.1875, -0.25, -0.1875, 0])
    assert r_squared(at, np.abs(at - 0.5)) == pytest.approx(0)
    assert math.isnan(r_squared(at, np.ones(5)))
    assert math.isnan(r_squared(np.array([0.0, 1.0]), np.array([0.0, 1.0])))


def test_one_model_twice_has_no_departure(models):
    same = follow_line(models[0], models[0], alphas=[0, 0.5, 1], **FAST)
    assert "beyond" not in same.sentence()
    rows = same.linearity()
    assert rows["departure"].dropna().abs().max() < 1e-3
    assert rows.set_index("metric").loc["deferral", "items"] == 12


def test_what_is_measured_is_kept_in_a_folder(models, tmp_path, monkeypatch):
    first = follow_line(*models, alphas=[0, 1], folder=tmp_path, n=2, interventions=0, turns=1)
    assert len(list(tmp_path.glob("sycophancy-*/result.json"))) == 2
    (place_at(*models, 0, "sycophancy", tmp_path, n=2, interventions=0, turns=1) / "result.json").write_text("{")
    asked: list[float] = []

    def mix(base: LM, aligned: LM, alpha: float) -> LM:
        asked.append(alpha)
        return interpolate(base, aligned, alpha)

    monkeypatch.setattr("probe.compare.path.interpolate", mix)
    again = follow_line(*models, alphas=[0, 0.5, 1], folder=tmp_path, n=2, interventions=0, turns=1)
    assert asked == [0, 0.5]  # the one that was damaged, and the new one
    for old, new in zip(first.results, (again.results[0], again.results[2]), strict=True):
        pd.testing.assert_frame_equal(old.summary, new.summary, check_dtype=False)
        pd.testing.assert_frame_equal(old.items, new.items, check_dtype=False)
    follow_line(*models[::-1], alphas=[0, 1], folder=tmp_path, n=2, interventions=0, turns=1)
    assert len(asked) == 4  # another line
    assert "kept in" in again.notes[0]
    price, kept = find_analysis("follow_line").cost, {"folder": tmp_path, "n": 2}
    assert price(*models, alphas=(0, 0.5, 1), **kept) == 0
    assert price(*models, alphas=(0, 0.25, 0.5, 1), **kept) > 0  # as long as the others took
    assert price(*models, alphas=(0, 1), n=2) > 0
    unknown = follow_line(*models, alphas=[0, 1], folder=tmp_path / "none", keep=False, n=2)
    assert not (tmp_path / "none").exists()
    assert "kept" not in unknown.notes[0]


def test_nobody_knows_how_long_a_model_takes_that_none_like_it_was_asked():
    price = find_analysis("follow_line").cost
    lm = random_lm("llama", byte_tokenizer())
    assert price(lm, lm, data=str(SAMPLES.parent / "probe/questions/sums.jsonl")) is None
    with pytest.raises(ModelError, match="choose two models of the same architecture"):
        price(lm, LM(random_lm("llama", num_hidden_layers=3).model, lm.tokenizer))


def test_the_experiment_brings_its_options(models):
    record = find_analysis("follow_line")
    fields = {each["name"]: each for each in record.with_words(["--experiment=hallucination"]).fields(*models)}
    assert {"samples", "shuffles", "preamble"} <= set(fields)
    assert "turns" not in fields
    assert (fields["n"]["key"], fields["n"]["default"], fields["n"]["folded"]) == (
        "line.hallucination.n",
        QUICK["n"],
        "Options",
    )
    assert fields["data"]["file"]
    lm = random_lm()
    assert {each["name"]: each for each in record.fields(lm, lm)}["n"]["default"] == REAL["n"]
    assert next(iter(fields["experiment"]["choices"])) == "sycophancy"
    assert "continual" not in fields["experiment"]["choices"]
    assert record.complete({"n": 7}, *models)["turns"] == QUICK["turns"]
    with pytest.raises(ConfigError, match="no experiment `nothing`"):
        record.with_words(["--experiment", "nothing"]).form()


def test_the_sentence_and_the_list_tell_of_the_metric_that_is_drawn(path):
    sentence = path.sentence(["deferral"])
    row, title = path.linearity().set_index("metric").loc["deferral"], term("deferral", "sycophancy").title
    assert sentence.startswith(f"{title} from base (alpha 0) to dpo-agreeable (alpha 1) and beyond: ")
    assert f"at alpha {row['alpha']:g}. Of " in sentence
    known = path.linearity().dropna(subset="departure_low")
    off = ((known["departure_low"] > 0) | (known["departure_high"] < 0)).sum()
    assert f"Of {len(known)} metrics with an interval, {off} depart from the line" in sentence
    (table,) = path.lists().values()
    assert set(table["name in files"]) == set(path.table().dropna(subset="chord")["metric"])
    assert list(path.tables()) == ["line", "linearity"]


def test_the_figure_marks_both_models(path):
    figure = path.figure()
    names = {trace.name for trace in figure.data}
    assert {"base (alpha 0)", "dpo-agreeable (alpha 1)", "straight line between the models"} <= names
    assert len([each for each in figure.layout if each.startswith("xaxis")]) == 6
    one = path.figure(["deferral"])
    _, chord, line, first, last = one.data
    table = path.table().query("metric == 'deferral'")
    assert list(line.x) == [0, 0.25, 0.5, 1, 1.5]
    assert list(line.y) == table["value"].tolist()
    assert list(chord.y) == table["chord"].tolist()
    assert (first.x[0], last.x[0]) == (0, 1)
    assert one.layout.yaxis.tickformat == ".0%"
    with pytest.raises(ConfigError, match="`nothing` was not measured"):
        path.figure(["nothing"])


def test_a_forward_that_was_put_on_a_model_is_not_copied():
    base = random_lm()
    aligned = LM(copy.deepcopy(base.model), base.tokenizer)
    expected = base.logits(TEXT)
    aligned.model.forward = lambda *_, **__: None
    assert torch.equal(interpolate(base, aligned, 0).logits(TEXT), expected)


def test_plain_modules_are_mixed_and_compared_too():
    base, aligned = nano_lm(), nano_lm()
    with torch.no_grad():
        for parameter in aligned.model.parameters():
            parameter.mul_(1.5)
    table = weight_change(base, aligned).table().query("base_norm > 0")
    assert table["relative"].to_numpy() == pytest.approx(0.5)
    assert table["cosine"].to_numpy() == pytest.approx(1)
    assert set(table["kind"]) == {"embed", "norm", "qkv", "o", "mlp"}
    middle = interpolate(base, aligned, 0.5)
    for name, value in tensors(middle.model).items():
        torch.testing.assert_close(value, 1.25 * tensors(base.model)[name])
    assert not torch.allclose(middle.logits(TEXT), base.logits(TEXT))
    assert torch.equal(interpolate(base, aligned, 1).logits(TEXT), aligned.logits(TEXT))
