"""Damage that has a name: each of these once raised a foreign error, never ended, took all memory, or hid the rest."""

import gzip
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from probe.cli import main
from probe.errors import DataError, ModelError, ProbeError, RunError
from probe.experiments.result import Result
from probe.hallucination.files import read_questions
from probe.model import adapters
from probe.model.lm import LM
from probe.runs import RunWarning, list_runs, open_run
from tests.fuzz import formats
from tests.fuzz.mutator import difference, mutant, mutate_json
from tests.models import saved_lm


def edit(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_a_message_is_one_line_that_can_be_printed():
    error = ModelError("first\n  second\ud800 \x1b[31m \u00e9")
    assert str(error) == "first second\\ud800 \\x1b[31m \u00e9"
    str(error).encode()


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("num_hidden_layers", 10**6, "num_hidden_layers to 1,000,000, but the weights have 21 tensors"),
        ("hidden_size", 10**9, "describes a model of"),
        ("vocab_size", 10**9, "describes a model of"),
        ("intermediate_size", 2**40, "describes a model of"),
        ("num_hidden_layers", 3, "lack 9 tensors"),
        ("hidden_act", 1, "cannot be loaded as a causal language model"),
        ("model_type", ["llama"], "names no model_type"),
        ("architectures", [None], "damaged entry `architectures`"),
    ],
)
def test_a_configuration_beyond_the_weights_is_refused_at_once(tmp_path: Path, name: str, value: Any, says: str):
    path = saved_lm(tmp_path / "model")
    edit(path / "config.json", **{name: value})
    start = time.monotonic()
    with pytest.raises(ModelError, match=says):
        LM.load(path)
    assert time.monotonic() - start < 20


def test_layers_are_counted_wherever_they_are_said(tmp_path: Path):
    path = saved_lm(tmp_path / "model", "gpt2")
    edit(path / "config.json", n_layer=10**7)
    with pytest.raises(ModelError, match="n_layer to 10,000,000"):
        LM.load(path)


def test_adapters_that_are_each_others_base(tmp_path: Path):
    first = formats.adapter(tmp_path)
    second = first.rename(tmp_path / "second")
    (tmp_path / "adapter").mkdir()
    for file in second.iterdir():
        (first / file.name).write_bytes(file.read_bytes())
    for one, other in ((first, second), (second, first)):
        edit(one / adapters.ADAPTER_CONFIG, base_model_name_or_path=str(other))
    with pytest.raises(ModelError, match="These adapters rest only on each other"):
        LM.load(first)


@pytest.mark.parametrize("base", ["a" * 5000, "a" * 5000 + "/checkpoints/0001", "a\0/checkpoints/1", "a/b\0/1"])
def test_an_adapter_whose_base_no_file_can_be_named(tmp_path: Path, base: str):
    path = formats.adapter(tmp_path)
    edit(path / adapters.ADAPTER_CONFIG, base_model_name_or_path=base)
    with pytest.raises(ModelError, match=r"of the adapter in `.*` cannot be used: "):
        formats.read_model(path)


def test_an_adapter_that_names_code_is_refused(tmp_path: Path):
    path = formats.adapter(tmp_path)
    edit(path / adapters.ADAPTER_CONFIG, megatron_config={"a": 1}, megatron_core="antigravity")
    with pytest.raises(ModelError, match="names code to import"):
        LM.load(path)


def test_a_broken_chat_template_is_said(tmp_path: Path):
    path = formats.model(tmp_path)
    (path / "chat_template.jinja").write_text("{% for m in messages %}")
    lm = LM.load(path)
    with pytest.raises(DataError, match=r"The chat template of `.*` refuses the messages"):
        lm.prompt_text([{"role": "user", "content": "mira"}])


def test_a_packed_file_is_unpacked_up_to_a_limit(tmp_path: Path):
    path = formats.result(tmp_path)
    (path / "items.json.gz").write_bytes(gzip.compress(b" " * 200_000_000, 1))
    with pytest.raises(DataError, match=r"unpacks to more than \d+ MB"):
        Result.load(path)


def test_numbers_beyond_all_bounds_in_items_are_missing(tmp_path: Path):
    path = formats.result(tmp_path)
    held = {"item": ["a", "b"], "model": ["m", "m"], "x": [0.5, 10**400], "said": ["yes", "no"]}
    (path / "items.json.gz").write_bytes(gzip.compress(json.dumps(held).encode()))
    assert Result.load(path).items["x"].isna().tolist() == [False, True]


def test_captures_in_bfloat16_are_read(tmp_path: Path):
    path = formats.captures(tmp_path)
    file = path / "captures" / "00000002.safetensors"
    halves = {name: t.bfloat16() if t.is_floating_point() else t for name, t in load_file(file).items()}
    save_file(halves, file)
    loaded = open_run(path).captures().load(2)
    assert loaded["attention"].dtype == np.float32
    for name, tensor in halves.items():
        torch.testing.assert_close(
            torch.from_numpy(loaded[name].copy()), tensor.float() if name != "lens_top_ids" else tensor
        )


def test_a_capture_without_attention_says_so(tmp_path: Path):
    path = formats.captures(tmp_path)
    file = path / "captures" / "00000002.safetensors"
    save_file({name: tensor for name, tensor in load_file(file).items() if name != "attention"}, file)
    tensors = open_run(path).captures().load(2)
    assert tensors["entropy"].shape == (2, 2)
    with pytest.raises(RunError, match="holds no `attention`"):
        tensors["attention"]


def test_a_capture_of_another_shape_is_said(tmp_path: Path):
    path = formats.captures(tmp_path)
    file = path / "captures" / "00000002.safetensors"
    save_file(load_file(file) | {"residual_norm": torch.ones(2, 5, 2)}, file)
    with pytest.raises(RunError, match=r"`residual_norm` has the shape \[2, 5, 2\]"):
        open_run(path).captures().load(2)


def test_prompts_with_null_among_their_tokens(tmp_path: Path):
    path = formats.captures(tmp_path)
    file = path / "captures" / "prompts.json"
    content = json.loads(file.read_text())
    content["prompts"][0]["tokens"][1] = None
    file.write_text(json.dumps(content))
    with pytest.raises(RunError, match=r"prompts.json` is damaged"):
        open_run(path).captures().load(2)
    assert len(open_run(path).metrics()) == 3


@pytest.mark.parametrize(
    ("entry", "value"),
    [("step", "many"), ("pid", "Infinity"), ("pid", -1), ("heartbeat", "1e400"), ("heartbeat", []), ("seed", "NaN")],
)
def test_a_run_with_a_damaged_entry_hides_no_other(
    tmp_path: Path, entry: str, value: Any, capsys: pytest.CaptureFixture
):
    path = formats.run(tmp_path)
    edit(path / "run.json", **{entry: "@"})
    number = value if value in ("Infinity", "1e400", "NaN") else json.dumps(value)
    (path / "run.json").write_text((path / "run.json").read_text().replace('"@"', number))
    assert main(["runs", "list", "--root", str(tmp_path)]) == 0
    said = capsys.readouterr()
    assert "other" in said.out
    assert f"damaged entry `{entry}`" in " ".join(said.out.split())


@pytest.mark.parametrize("n", [2**63, True, float("inf")])
def test_a_headline_without_a_count_is_shown(tmp_path: Path, n: Any):
    path = formats.run(tmp_path)
    edit(path / "run.json", headline=[{**formats.HEADLINE[0], "n": n}, *formats.HEADLINE[1:]])
    found = open_run(path).headline
    assert found["value"].notna().all()
    assert found["n"].fillna(-1).tolist() == [-1, 40]
    formats.sent(found)


def test_a_headline_without_a_finite_value_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture):
    path = formats.run(tmp_path)
    text = (path / "run.json").read_text()
    edit(
        path / "run.json",
        headline=[{**row, "value": "@" if at else 10**400} for at, row in enumerate(formats.HEADLINE)],
    )
    assert text != (path / "run.json").read_text()
    (path / "run.json").write_text((path / "run.json").read_text().replace('"@"', "1e400"))
    found = open_run(path).headline
    assert found["value"].isna().all()
    assert found["n"].tolist() == [400, 40]
    assert main(["runs", "show", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["headline"][0]["value"] is None


def test_half_a_surrogate_pair_breaks_no_list(tmp_path: Path, capsys: pytest.CaptureFixture):
    path = formats.run(tmp_path)
    rows = [{"metric": "deferral\ud800", "value": 0.5, "ci_low": None, "ci_high": None, "n": 4}]
    edit(path / "run.json", headline=rows, config={"a\udfff": "\ud800"}, method="d\ud800po")
    with open(path / "metrics.jsonl", "a") as file:
        file.write('{"step": 3, "\\ud800": 1.0}\n')
    assert open_run(path).metrics()["\ufffd"].tolist()[-1] == 1.0
    assert open_run(path).headline["metric"].tolist() == ["deferral\ufffd"]
    assert {run.name for run in list_runs(tmp_path)} == {"run", "other"}
    for command in (["runs", "list", "--root", str(tmp_path)], ["runs", "show", str(path)]):
        assert main(command) == 0
        capsys.readouterr().out.encode()


def test_rollouts_with_numbers_beyond_all_floats(tmp_path: Path):
    path = formats.rollouts(tmp_path)
    row = {"step": 3, "prompt": "p", "completion": "c", "tokens": ["c"], "reward": 10**400, "logprobs": [10**400]}
    with open(path / "rollouts.jsonl", "a") as file:
        file.write(json.dumps(row) + "\n" + json.dumps(row).replace(str(10**400), "1e400") + "\n")
    formats.read_rollouts(path)
    table = formats.rollout_table(open_run(path).rollouts())
    assert table["reward"].tolist()[:2] == [1.0, 1.0]
    assert table["reward"].isna().tolist() == [False, False, True, True]


@pytest.mark.parametrize("value", ["\ud800", 10**400, 2**70, -(2**63) - 1])
def test_a_figure_with_what_no_page_holds(tmp_path: Path, value: Any):
    path = formats.result(tmp_path)
    edit(path / "figures" / "main.json", layout={"height": value, "title": {"text": value}})
    formats.read_result(path)


@pytest.mark.parametrize("value", ["\ud800", 10**400, 2**70, -(2**63) - 1, ["\ud800", 2**70]])
def test_a_result_with_what_no_page_holds(tmp_path: Path, value: Any):
    path = formats.result(tmp_path)
    items = json.loads(gzip.decompress((path / "items.json.gz").read_bytes()))
    for column in ("item", "model", "said"):
        damaged = items | {column: [value, *items[column][1:]]}
        (path / "items.json.gz").write_bytes(gzip.compress(json.dumps(damaged).encode()))
        formats.read_result(path)
    (path / "tables" / "curve.jsonl").write_text(json.dumps({"model": value, "step": 1, "y": 0.1}) + "\n")
    formats.read_result(path)
    meta = json.loads((path / "result.json").read_text())["meta"]
    edit(path / "result.json", meta=meta | {"title": value, "finding": value})
    formats.read_result(path)


def test_a_summary_whose_n_is_no_number(tmp_path: Path):
    path = formats.result(tmp_path)
    summary = json.loads((path / "result.json").read_text())["summary"]
    edit(path / "result.json", summary=[row | {"n": [[]]} for row in summary])
    with pytest.raises(DataError, match="an n is not a number"):
        formats.read_result(path)


def test_a_result_with_two_columns_of_one_name(tmp_path: Path):
    path = formats.result(tmp_path)
    columns = json.loads((path / "result.json").read_text())["columns"]
    edit(path / "result.json", columns=columns | {"summary": ["metric", "value", "value", "ci_high", "n"]})
    with pytest.raises(DataError, match="two columns have one name"):
        formats.read_result(path)


def test_a_capture_whose_name_no_file_has_is_missing(tmp_path: Path):
    path = formats.captures(tmp_path)
    with open(path / "captures/index.jsonl", "a") as file:
        file.write(json.dumps({"step": 99, "file": "x" * 5000}) + "\n")
    with pytest.warns(RunWarning, match="is listed and missing"):
        assert 99 not in open_run(path).captures().steps


def test_rollouts_with_half_a_surrogate_pair_for_a_number(tmp_path: Path):
    path = formats.rollouts(tmp_path)
    row = {"step": 3, "prompt": "p", "completion": "c", "tokens": ["c"], "rewards": {"length": "\ud800"}}
    with open(path / "rollouts.jsonl", "a") as file:
        file.write(json.dumps(row) + "\n")
    formats.read_rollouts(path)


@pytest.mark.parametrize("head", ['"Question', 'Question,"Best" Answer'])
def test_a_broken_quote_in_the_first_line_of_a_csv_file(tmp_path: Path, head: str):
    file = tmp_path / "a.csv"
    file.write_text(f"{head},Best Answer,Correct Answers,Incorrect Answers\nA?,b,b,c\n")
    with pytest.raises(DataError, match=r"line \d of `.*a.csv` is not valid CSV"):
        read_questions(file)


def test_a_mutant_is_made_again_from_its_seed():
    sound = json.dumps({"a": [1, 2, {"b": "text"}], "c": None}).encode()
    made = [mutant(sound, mutate_json, seed) for seed in range(200)]
    assert made == [mutant(sound, mutate_json, seed) for seed in range(200)]
    assert len(set(made)) > 100
    assert difference(b"abcdef", b"abXdef") == "at byte 2: b'abcdef' -> b'abXdef'"


def test_an_error_of_our_own_inside_a_foreign_call_stays_what_it_is():
    from probe.untrusted import foreign

    with pytest.raises(RunError, match="ours"), foreign(lambda reason: ModelError(reason)):
        raise RunError("ours")
    with pytest.raises(ProbeError, match="theirs"), foreign(lambda reason: ModelError(reason)):
        raise Exception("theirs. And more.")


@pytest.mark.parametrize("name", ["vocab_size", "hidden_size", "intermediate_size"])
def test_a_size_of_zero_is_named(name: str, tmp_path: Path):
    directory = saved_lm(tmp_path / "model")
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(config | {name: 0}))
    with pytest.raises(ModelError, match=r"config.json|embed_tokens|mlp"):
        LM.load(directory)


def test_a_setting_that_is_no_number_is_named(tmp_path: Path):
    directory = saved_lm(tmp_path / "model", "gpt2")
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(config | {"resid_pdrop": float("nan")}))
    with pytest.raises(ModelError, match="sets resid_pdrop to NaN"):
        LM.load(directory)


def test_fewer_than_no_layers_are_refused(tmp_path: Path):
    directory = saved_lm(tmp_path / "model")
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(config | {"num_hidden_layers": -1}))
    with pytest.raises(ModelError, match="sets num_hidden_layers to -1"):
        LM.load(directory)


def test_a_tokenizer_that_fails_on_an_unknown_word_is_refused(tmp_path: Path):
    directory = saved_lm(tmp_path / "model")
    told = json.loads((directory / "tokenizer.json").read_text())
    told["model"]["vocab"] = {}
    (directory / "tokenizer.json").write_text(json.dumps(told))
    with pytest.raises(ModelError, match="no usable tokenizer"):
        LM.load(directory)
