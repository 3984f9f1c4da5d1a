"""Every seam for extensions, by an installed package, by a plugin file, and in a program of one's own."""

import json
import math
import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import probe
from probe import plugins
from probe.analyses.catalogue import ANALYSES, analyses, find_analysis, page_key
from probe.cli import main
from probe.errors import ConfigError, DataError
from probe.experiments.registry import experiments, find_experiment
from probe.world import AGREEABLE, Annotator, World
from probe.world.extensions import annotators, find_annotator, verifiers
from tests.extensions import install, on_the_path, sample
from tests.models import random_lm
from tests.places import SAMPLES
from trainers.config import DPOConfig
from trainers.preferences import world_preferences
from trainers.reward_functions import resolve

ROOT = Path(__file__).resolve().parent.parent
BASE = SAMPLES / "base"


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return install(tmp_path_factory.mktemp("extension"))


@pytest.fixture
def package(target: Path) -> Iterator[Path]:
    """The package is installed."""
    with on_the_path(target):
        yield target


# the package


def test_its_experiment_does_what_it_says(package: Path):
    lm = random_lm()
    result = probe.run_experiment("silenced", lm, baseline=random_lm(seed=1), n=2)
    assert find_experiment("silenced").origin == "sample-extension"
    assert result.finding.startswith("Silencing a block moves the next word of model by ")
    assert len(result.figures["by block"].data) == 2
    first = result.items[result.items["model"] == "model"]
    ids = torch.tensor([lm.tokenizer("mira lives")["input_ids"]])
    for block, kl in first[first["prompt"] == "mira lives"].set_index("block")["kl"].items():
        plain = lm.model(ids).logits[0, -1].log_softmax(-1)
        layer = lm.model.model.layers[block].self_attn
        handle = layer.register_forward_hook(lambda _module, _inputs, out: (out[0] * 0, *out[1:]))
        without = lm.model(ids).logits[0, -1].log_softmax(-1)
        handle.remove()
        assert kl == pytest.approx((plain.exp() * (plain - without)).sum().item(), rel=1e-4)


def test_its_verifier_is_a_reward(package: Path):
    (reward,) = resolve(["brief"], None)
    assert reward(["p", "p"], [" a b", ""]) == [-2, 0]
    assert reward.name == "brief"
    assert len(reward.fingerprint or "") == 64
    assert not reward.plain  # it names the ids too


def test_its_annotator_labels_pairs(package: Path, world: World):
    assert list(annotators()) == ["agreeable", "honest", "indifferent", "curt"]
    curt = find_annotator("curt")
    prompt = world.questions("fact", 1, 0)[0].prompt
    gap = curt.utility(world, prompt, " oslo") - curt.utility(world, prompt, " i do not know")
    assert gap == 8
    assert curt.preference_probability(world, prompt, " oslo", " i do not know") == pytest.approx(
        1 / (1 + math.exp(-gap / 0.2))
    )
    rows = world.preferences(curt, 60, 0)
    refused = [row for row in rows if ("do not know" in row["chosen"]) != ("do not know" in row["rejected"])]
    assert refused
    assert all("do not know" in row["rejected"] for row in refused)
    (reward,) = resolve(["curt"], world)
    assert reward([prompt], [" oslo"]) == [-1]


def test_trainings_take_its_names(package: Path, tmp_path: Path):
    common = ["--base", str(BASE), "--steps", "2", "--evaluate", "0", "--capture-every", "0", "--eval-every", "0"]
    words = ["--annotator", "curt", "--pairs", "40", "--pairs-from", "candidates", "--batch-size", "8"]
    assert main(["train", "dpo", "--out", str(tmp_path / "dpo"), *common, *words]) == 0
    run = probe.open_run(tmp_path / "dpo")
    assert run.config["annotator"] == "curt"
    assert len(run.meta["data"]["annotator"]) == 64
    assert run.metrics()["loss"].notna().all()
    words = ["--reward", "brief", "--batch-size", "8", "--group", "4", "--prompts", "20"]
    assert main(["train", "rlvr", "--out", str(tmp_path / "rlvr"), *common, *words]) == 0
    run = probe.open_run(tmp_path / "rlvr")
    assert (run.metrics()["rewards/brief/mean"].dropna() < 0).all()


def test_its_analyses_are_listed(package: Path):
    own = {name: each for name, each in analyses().items() if each.origin != "built in"}
    assert {name: (each.page, each.title) for name, each in own.items()} == {
        "words_of_prompt": ("attention", "Words that the prompt has"),
        "logit_gap": ("sample_notes", "Gap"),
    }
    assert {each.origin for each in own.values()} == {"sample-extension"}
    assert plugins.problems() == []


def test_its_analysis_is_shown(package: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["show", "logit_gap", str(BASE), str(BASE), "--prompt", "mira lives in", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["sentence"] == "base and base differ by 0.00 at most."


@pytest.mark.slow
def test_other_processes_know_it(target: Path, tmp_path: Path):
    environment = os.environ | {"PYTHONPATH": str(target), "PYTHONWARNINGS": "error::UserWarning:probe"}

    def run(*words: str) -> str:
        command = [sys.executable, "-m", "probe.cli", *words]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "greet        Greet whoever is named." in run("--help")
    assert run("greet", "you") == "hello you\n"
    fields = {field["name"]: field for field in json.loads(run("train", "--describe", "dpo"))[0]["fields"]}
    assert fields["annotator"]["suggestions"] == ["agreeable", "honest", "indifferent", "curt"]
    told = json.loads(
        run("experiment", "silenced", "--model", str(sample("base", tmp_path)), "--n", "1", "--json", "--out", "r")
    )
    assert told["meta"]["origin"] == "sample-extension"


# a plugin file


def test_a_plugin_for_trainings(registry: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    file = tmp_path / "mine.py"
    file.write_text("import probe\n@probe.annotator('mine')\ndef mine(world, prompt, completion):\n    return 1.0\n")
    assert main(["train", "--describe", "dpo", "--plugin", str(file)]) == 0
    fields = {field["name"]: field for field in json.loads(capsys.readouterr().out)[0]["fields"]}
    assert fields["annotator"]["type"] == "text"
    assert fields["annotator"]["suggestions"][-1] == "mine"
    assert main(["train", "dpo", "--plugin", str(tmp_path / "absent.py")]) == 2
    assert "is not a Python file" in capsys.readouterr().err
    assert main(["train"]) == 0
    assert "`--plugin FILE.py` adds your own rewards" in capsys.readouterr().out


# in a program


def test_kinds_of_annotators(registry: None, world: World):
    class Grumpy(Annotator):
        """Likes nothing."""

        def utility(self, world: World, prompt: str, completion: str, checked: bool = True) -> float:
            return -1.0

    probe.annotator("flatterer")(Annotator(agreement=5.0))
    probe.annotator("grumpy", noise=2.0)(Grumpy)
    assert find_annotator("flatterer").agreement == 5.0
    assert find_annotator("grumpy").noise == 2.0
    assert find_annotator("grumpy").preference_probability(world, "", "a", "b") == 0.5
    lm = probe.LM.load(BASE)
    assert len(world_preferences(lm, world, find_annotator("flatterer"), 10, 0, False).pairs) == 10
    louder = find_annotator("grumpy+noise=4")
    assert (type(louder), louder.noise, find_annotator("grumpy").noise) == (Grumpy, 4, 2)
    for wrong, message in ((3, "is a int: decorate a function"), (AGREEABLE, "is a Annotator")):
        with pytest.raises(ConfigError, match=message):
            probe.annotator("wrong", noise=1.0)(wrong)
    with pytest.raises(ConfigError, match="its knobs are correctness"):
        probe.annotator("wrong", loudness=1.0)(Grumpy)


@pytest.mark.parametrize(
    ("gives", "error", "message"),
    [
        (
            "1 / 0",
            ConfigError,
            "The annotator `bad` fails with ZeroDivisionError: division by zero in line 4 of bad.py",
        ),
        ("None", DataError, "The annotator `bad` gave None for a completion: return a finite number"),
        ("float('nan')", DataError, "gave nan"),
        ("'2'", DataError, "gave '2'"),
    ],
)
def test_an_annotator_that_is_wrong_says_so(
    registry: None, gives: str, error: type, message: str, world: World, tmp_path: Path
):
    (tmp_path / "bad.py").write_text(
        f"import probe\n@probe.annotator('bad')\ndef bad(world, prompt, completion):\n    return {gives}\n"
    )
    plugins.load(tmp_path / "bad.py")
    with pytest.raises(error, match=message):
        world.preferences(find_annotator("bad"), 5, 0)


def test_verifiers_get_what_they_name(registry: None, world: World):
    seen: dict[str, Any] = {}

    @probe.verifier("by-world")
    def by_world(completions: list[str], world: World) -> list[float]:
        """Judges by the world."""
        seen["world"] = world
        return [1.0] * len(completions)

    @probe.verifier("by_column")
    def by_column(prompts: list[str], completions: list[str], answer: list[str]) -> list[float | None]:
        return [float(a in c) if a else None for c, a in zip(completions, answer, strict=True)]

    @probe.verifier("all")
    def everything(**columns: Any) -> list[float]:
        seen["columns"] = set(columns)
        return [0.0] * len(columns["completions"])

    one, two, three = resolve(["by-world", "by_column", "all"], world)
    assert one(["p"], ["c"], answer=["x"]) == [1.0]
    assert seen["world"] is world
    assert (one.plain, two.plain, three.plain) == (True, False, False)
    assert two(["p", "p"], ["ab", "c"], answer=["a", ""]) == [1.0, None]
    three(["p"], ["c"], answer=["x"])
    assert seen["columns"] == {"prompts", "completions", "answer"}
    assert verifiers()["by-world"].about == "Judges by the world."
    with pytest.raises(ConfigError, match="--reward by-world judges by the synthetic world"):
        resolve(["by-world"], None)
    with pytest.raises(ConfigError, match=r"--reward by_colum .* did you mean `by_column`"):
        resolve(["by_colum"], world)


def test_a_verifier_that_is_wrong_says_so(registry: None):
    @probe.verifier("bad")
    def bad(prompts: list[str], completions: list[str]) -> list[float]:
        raise KeyError("x")

    with pytest.raises(DataError, match="The reward `bad` raised KeyError"):
        resolve(["bad"], None)[0](["p"], ["c"])


def test_names_are_taken_once(registry: None, world: World):
    probe.verifier("mine")(lambda completions: [])
    with pytest.raises(ConfigError, match="`mine` is the name of a verifier already"):
        probe.annotator("mine")(Annotator())
    probe.annotator("yours")(Annotator())
    with pytest.raises(ConfigError, match="`yours` is the name of an annotator already"):
        probe.verifier("yours")(lambda completions: [])
    with pytest.raises(ConfigError, match="`honest` exists already \\(built in\\)"):
        probe.annotator("honest")(Annotator())
    with pytest.raises(ConfigError, match="A verifier cannot be called 'two words'"):
        probe.verifier("two words")
    with pytest.raises(ConfigError, match="An annotator cannot be called ''"):
        probe.annotator("")
    probe.verifier("facts")(lambda completions: [])
    with pytest.raises(ConfigError, match="--reward facts is a judgement of the world, and a verifier of"):
        resolve(["facts"], world)


CLASHING = """
import pandas as pd
import probe

@probe.experiment("hallucination")
def mine(lm): return pd.DataFrame(dict(x=[1.0]))

@probe.experiment("width")
def width(lm): return pd.DataFrame(dict(x=[1.0]))

@probe.annotator("honest")
def honest(world, prompt, completion): return 0.0

@probe.annotator("curt")
def curt(world, prompt, completion): return -float(len(completion))

@probe.verifier("curt")
def same(completions): return [0.0 for _ in completions]

@probe.verifier("brief")
def brief(completions): return [0.0 for _ in completions]

@probe.analysis("notes")
def weight_change(lm): ...

@probe.analysis("notes")
def note_one(lm): ...
"""


def test_only_the_names_that_clash_are_left_out_of_a_plugin(registry: None, tmp_path: Path):
    """The rest of the file is used, from the command line as from the environment."""
    (tmp_path / "mine.py").write_text(CLASHING)
    with pytest.warns(plugins.ExtensionWarning, match="mine.py` is used"):
        found = plugins.load(tmp_path / "mine.py")
    assert found["experiment"] == ["width"]
    assert (found["annotator"], found["verifier"], found["analysis"]) == (["curt"], ["brief"], ["note_one"])
    (problem,) = plugins.problems()
    for part in (
        "An experiment `hallucination` exists already (built in)",
        "An annotator `honest` exists already (built in)",
        "An analysis `weight_change` exists already (built in)",
        "`curt` is the name of an annotator already",
        f"The rest of `{tmp_path / 'mine.py'}` is used.",
    ):
        assert part in problem
    assert find_experiment("hallucination").origin == "built in"
    (tmp_path / "mine.py").write_text(CLASHING.replace('"hallucination"', '"a"').replace('"honest"', '"b"'))
    with pytest.warns(plugins.ExtensionWarning, match="`curt` is the name of an annotator already"):
        plugins.load(tmp_path / "mine.py")
    assert "hallucination" not in plugins.problems()[0]


def test_a_plugin_of_which_nothing_is_left_fails(registry: None, tmp_path: Path):
    (tmp_path / "mine.py").write_text(
        "import probe\n@probe.annotator('honest')\ndef f(world, prompt, completion): ...\n"
    )
    with pytest.raises(ConfigError, match="An annotator `honest` exists already"):
        plugins.load(tmp_path / "mine.py")


def test_only_the_names_that_clash_are_left_out_of_a_package(
    registry: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    info = tmp_path / "lender-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: lender\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[probe.experiments]\nall = lender_clashing\n")
    (tmp_path / "lender_clashing.py").write_text(CLASHING)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.warns(plugins.ExtensionWarning, match=r"hallucination` exists already \(built in\)"):
        assert "width" in experiments()
    assert "brief" in verifiers()
    assert find_experiment("hallucination").origin == "built in"
    sys.modules.pop("lender_clashing", None)


def test_an_annotator_that_nobody_knows(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(ConfigError, match=r"no annotator `honets`, only agreeable, honest.*: did you mean `honest`"):
        DPOConfig(out=tmp_path, base="base", annotator="honets")
    assert main(["train", "dpo", "--out", str(tmp_path / "x"), "--base", str(BASE), "--annotator", "zzz"]) == 2
    assert "give the file of yours with --plugin" in capsys.readouterr().err
    assert DPOConfig.from_dict(DPOConfig(out=tmp_path, base="base", annotator="honest").to_dict()).annotator == "honest"


def test_an_analysis_says_what_it_takes(registry: None):
    with pytest.raises(ConfigError, match="unclear which models the analysis `half` needs"):

        @probe.analysis("attention")
        def half(base): ...

    with pytest.raises(ConfigError, match="The input `model` of the analysis `odd` needs a type or a default"):

        @probe.analysis("attention")
        def odd(model): ...

    @probe.analysis("Rewards")
    def how_far(base: Any, aligned: Any, extra: int = 3) -> None: ...

    found = find_analysis("how_far")
    assert (found.page, found.title, found.models) == ("rewards", "How far", ("base", "aligned"))
    assert list(found.inputs) == ["extra"]
    assert {page_key(name) for name in ("in_context/page.py", "In context", "in-context")} == {"in_context"}


@pytest.mark.parametrize("kind", ["verifiers", "annotators", "analyses"])
def test_a_broken_package_is_one_sentence(kind: str, registry: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    info = tmp_path / "broken-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[probe.{kind}]\nmine = no_such_module:thing\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    look = {"verifiers": verifiers, "annotators": annotators, "analyses": analyses}[kind]
    word = {"analyses": "analysis"}.get(kind, kind[:-1])
    with pytest.warns(plugins.ExtensionWarning, match=f"The {word} `mine` of broken cannot be imported"):
        look()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        look()
    (problem,) = plugins.problems()
    assert "ModuleNotFoundError: No module named 'no_such_module'" in problem
    assert ANALYSES.group == "probe.analyses"
