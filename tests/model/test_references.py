"""What a reference to a model may be, and the sentence for everything it may not."""

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from probe import LM
from probe.errors import ModelError
from probe.model.references import resolve
from probe.runs.writer import RunWriter
from probe.sycophancy.experiment import reward_model_of
from tests.models import random_lm, random_reward_model, saved_lm


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run `trial` with checkpoints of steps 5 and 20 in the only folder of runs."""
    writer = RunWriter.create(tmp_path / "roots" / "trial", method="watch", config={})
    for step in (5, 20):
        with writer.checkpoint(step) as directory:
            random_lm(seed=step).save(directory)
    writer.finish("finished")
    monkeypatch.setenv("PROBE_RUNS", str(tmp_path / "roots"))
    return tmp_path / "roots" / "trial"


def test_a_run_by_name_and_path_means_its_latest_checkpoint(run):
    for ref in ("trial", run, str(run)):
        lm = LM.load(ref)
        assert lm.directory == run / "checkpoints" / "00000020"
        assert lm.run_dir == run
        assert lm.fingerprint == random_lm(seed=20).fingerprint
        assert lm.ref == str(ref)


def test_a_step_chooses_a_checkpoint(run):
    for ref in ("trial@5", f"{run}@5", run / "checkpoints" / "00000005"):
        lm = LM.load(ref)
        assert lm.fingerprint == random_lm(seed=5).fingerprint
        assert lm.run_dir == run
    with pytest.raises(ModelError, match="no checkpoint of step 7: it has those of steps 5, 20"):
        resolve("trial@7")
    with pytest.raises(ModelError, match="no run `other`"):
        resolve("other@7")


def test_a_hugging_face_directory_belongs_to_no_run(tmp_path):
    located = resolve(saved_lm(tmp_path / "model"))
    assert located == (tmp_path / "model", None)
    assert resolve(saved_lm(tmp_path / "odd@name")) == (tmp_path / "odd@name", None)
    assert resolve(saved_lm(tmp_path / "model@12")) == (tmp_path / "model@12", None)


def test_a_home_directory_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    saved_lm(tmp_path / "model")
    assert resolve("~/model").directory == tmp_path / "model"


def test_a_run_without_checkpoints(run):
    shutil.rmtree(run / "checkpoints")
    with pytest.raises(ModelError, match="has no checkpoints"):
        resolve("trial")


@pytest.mark.parametrize("ref", ["./nowhere", "/nowhere/at/all", "~/nowhere-at-all", "a/b/c", "what is this?", ""])
def test_nothing_there(ref):
    with pytest.raises(ModelError, match=r"no model|not a model"):
        LM.load(ref)


def test_a_hub_id_without_a_network():
    with pytest.raises(ModelError, match="hub cannot be reached") as caught:
        LM.load("nobody/nothing-of-this-name")
    assert "\n" not in str(caught.value)


def test_a_name_that_is_nearly_that_of_a_run(run):
    with pytest.raises(ModelError, match=r"no run `trail`.*did you mean `trial`"):
        LM.load("trail")


def broken(tmp_path, change):
    directory = saved_lm(tmp_path / "model")
    change(directory)
    return directory


def edit(file, **values):
    content = json.loads(file.read_text())
    content.update(values)
    file.write_text(json.dumps(content))


def pickled(directory):
    (directory / "model.safetensors").unlink()
    (directory / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'false'\ntR.")


def without_head(directory):
    weights = load_file(directory / "model.safetensors")
    weights.pop("lm_head.weight")
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})


def truncated(directory):
    file = directory / "model.safetensors"
    file.write_bytes(file.read_bytes()[:2000])


def missing_shard(directory):
    (directory / "model.safetensors").rename(directory / "model-00001-of-00002.safetensors")
    index = {"metadata": {}, "weight_map": {"lm_head.weight": "model-00002-of-00002.safetensors"}}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))


def adapter(directory):
    (directory / "config.json").rename(directory / "adapter_config.json")


MISTAKES = [
    (lambda d: (d / "config.json").unlink(), "no config.json"),
    (adapter, "the configuration of an adapter and no adapter_model.safetensors"),
    (lambda d: (d / "config.json").write_text("{"), "cannot be read as JSON"),
    (lambda d: (d / "config.json").write_text("[]"), "no model_type"),
    (lambda d: edit(d / "config.json", model_type="mine", auto_map={"AutoConfig": "c.C"}), "code of its own"),
    (lambda d: edit(d / "config.json", model_type="mine"), "is not known"),
    (lambda d: edit(d / "config.json", model_type="t5", architectures=["T5Model"]), "T5Model, which does not continue"),
    (lambda d: edit(d / "config.json", architectures=["LlamaForSequenceClassification"]), "RewardModel.load"),
    (lambda d: edit(d / "config.json", hidden_size=64), "cannot be loaded|lack"),
    (pickled, "pickle.*from_pretrained"),
    (lambda d: (d / "model.safetensors").unlink(), "no weights"),
    (truncated, "are broken"),
    (missing_shard, "cannot be loaded"),
    (without_head, r"lack 1 tensors of the model \(such as lm_head.weight\)"),
    (lambda d: (d / "tokenizer.json").write_text("{}"), "no usable tokenizer"),
    (lambda d: [file.unlink() for file in d.glob("tokenizer*")], "no usable tokenizer"),
]


@pytest.mark.parametrize(("change", "words"), MISTAKES)
def test_what_is_wrong_in_a_directory_is_one_sentence(tmp_path, change, words):
    with pytest.raises(ModelError, match=words) as caught:
        LM.load(broken(tmp_path, change))
    assert "\n" not in str(caught.value)
    assert str(tmp_path / "model") in str(caught.value)


def test_code_beside_a_known_architecture_is_never_run(tmp_path):
    directory = saved_lm(tmp_path / "model")
    (directory / "evil.py").write_text("raise SystemExit('code from the model was run')")
    edit(directory / "config.json", auto_map={"AutoModelForCausalLM": "evil.Evil", "AutoConfig": "evil.Config"})
    assert LM.load(directory).fingerprint


@pytest.mark.parametrize(("name", "words"), [("model.pt", "is a pickle"), ("model.txt", "is a file")])
def test_a_file_is_not_a_model(tmp_path, name, words):
    (tmp_path / name).write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    with pytest.raises(ModelError, match=words):
        LM.load(tmp_path / name)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"device": "cuda:99"}, "no device 'cuda:99'"),
        ({"device": "toaster"}, "no device 'toaster'"),
        ({"device": "meta"}, "no device 'meta'"),
        ({"dtype": "float8"}, "dtype 'float8'"),
        ({"dtype": "int8"}, "float32, bfloat16, float16"),
    ],
)
def test_unknown_devices_and_formats(tmp_path, options, words):
    with pytest.raises(ModelError, match=words):
        LM.load(saved_lm(tmp_path / "model"), **options)


@pytest.mark.parametrize(
    "ref", ["~nobody-of-this-name/x", "x" * 5000, "/" + "x/" * 3000, "a\0b", "\ud800", "x" * 200 + "@7"]
)
def test_a_name_that_no_file_can_have_is_one_short_sentence(ref: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PROBE_RUNS", str(tmp_path))
    with pytest.raises(ModelError) as caught:
        resolve(ref)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize("where", ["beside", "in a root", "elsewhere", "the hub"])
def test_a_run_leads_to_its_reward_model_only_where_runs_are(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A run may come from anybody, so what it names is neither fetched nor read from anywhere."""
    roots = {"beside": "mine", "in a root": "roots", "elsewhere": "elsewhere"}
    place = tmp_path / roots.get(where, "none") / "judge"
    monkeypatch.setenv("PROBE_RUNS", str(tmp_path / "roots"))
    rewards = random_reward_model()
    for save in (rewards.model.save_pretrained, rewards.tokenizer.save_pretrained):
        save(place)
    named = "someone/judge" if where == "the hub" else str(place)
    run = RunWriter.create(tmp_path / "mine" / "policy", method="rlhf", config={}, reward_model=named)
    with run.checkpoint(1) as directory:
        random_lm().save(directory)
    run.finish()
    judge, facts = reward_model_of(LM.load(run.path))
    assert (judge is not None) == (where in ("beside", "in a root"))
    assert ("none of the run directories" in facts.get("left_out_reward_model", "")) == (judge is None)
