"""Injured trainings of a real model, tried on a small random one: the healthy ones until the injury, and then not."""

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from probe import Run
from tests.injuries import by_trl, smollm2
from tests.injuries.__main__ import ABSENT, run
from tests.injuries.injury import Injury
from tests.injuries.shortened import injure, keep_healthy, shortened
from tests.models import byte_tokenizer, random_lm

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),  # TRL's own use of transformers
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing"),
]
CLOCK = ("time", "step_time", "tokens_per_second")
FIRST, STEPS = 3, 4
"""First injured step of those that begin in the middle, and number of steps."""
TEMPLATE = (
    "{% for message in messages %}<|start|>{{ message['role'][0] }}:{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|start|>a:{% endif %}"
)
PLAIN: dict[str, Any] = {"dtype": "float32", "weights_dtype": "float32", "batch_size": 4, "steps": STEPS, "warmup": 1}
OF_TRL: dict[str, Any] = {"max_steps": STEPS, "bf16": False, "model_init_kwargs": {}, "warmup_steps": 1}
Trained = Callable[[str], Run]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model whose bytes make a chat."""
    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens({"bos_token": "<|start|>"})
    tokenizer.chat_template = TEMPLATE
    return random_lm("llama", tokenizer, max_position_embeddings=512).save(tmp_path_factory.mktemp("model"))


def config(recipe: str, model: Path, out: Path) -> Any:
    changes = {name: value for name, value in PLAIN.items() if name != "dtype" or recipe != "real-rlvr"}
    return shortened(recipe, out.parent, out, 0, base=str(model), **changes)


@pytest.fixture(scope="module")
def sound(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Healthy runs, each trained once."""
    folder = tmp_path_factory.mktemp("sound")

    @cache
    def of(recipe: str) -> Run:
        if recipe in by_trl.RECIPES:
            return by_trl.train(recipe, None, folder / recipe, 0, base=model, **OF_TRL)
        return keep_healthy(recipe, config(recipe, model, folder / recipe))

    return of


def moved(injury: Injury) -> Injury:
    """The injury, from step 3 on if it begins in the middle."""
    return injury.at(min(injury.step, FIRST))


def compare(injury: Injury, sick: Run, sound: Run) -> pd.DataFrame:
    """Return the rows of the injured run from the injury on; those before are the healthy one's, these are not."""
    mine, other = (each.metrics().drop(columns=list(CLOCK), errors="ignore") for each in (sick, sound))
    before, after = mine["step"] < injury.step, mine["step"] >= injury.step
    pd.testing.assert_frame_equal(mine[before], other[other["step"] < injury.step], check_like=True, rtol=1e-4)
    assert not mine[after].equals(other[other["step"] >= injury.step][mine.columns])
    return mine[after]


@pytest.mark.parametrize("injury", smollm2.INJURIES, ids=lambda injury: injury.name)
def test_a_training_of_a_chat_model_is_the_healthy_one_until_its_injury(
    injury: Injury, model: Path, sound: Trained, tmp_path: Path
) -> None:
    injury = moved(injury)
    compare(injury, injure(injury, config(injury.recipe, model, tmp_path / "sick")), sound(injury.recipe))
    told = json.loads((tmp_path / "sick.json").read_text())
    assert (told["name"], told["kind"], told["step"]) == (injury.name, "SmolLM2", injury.step)


@pytest.mark.parametrize("injury", by_trl.INJURIES, ids=lambda injury: injury.name)
def test_a_training_by_trl_is_the_healthy_one_until_its_injury(
    injury: Injury, trl: Any, model: Path, sound: Trained, tmp_path: Path
) -> None:
    injury = moved(injury)
    sick = by_trl.train(injury.recipe, injury, tmp_path / "sick", 0, base=model, **OF_TRL)
    rows = compare(injury, sick, sound(injury.recipe))
    if injury.fault == "rate_too_high":
        usual = sound(injury.recipe).metrics().set_index("step")["lr"]
        assert rows.set_index("step")["lr"].dropna().to_dict() == pytest.approx((300 * usual.loc[FIRST:]).to_dict())
    assert json.loads((tmp_path / "sick.json").read_text())["kind"] == "TRL"


@pytest.mark.parametrize("recipe", by_trl.RECIPES)
def test_recipes_of_trl_write_a_run(recipe: str, trl: Any, sound: Trained) -> None:
    run = sound(recipe)
    assert (run.status, run.metrics()["step"].max()) == ("finished", STEPS)


@pytest.mark.parametrize("injury", [*smollm2.INJURIES, *by_trl.INJURIES], ids=lambda injury: injury.name)
def test_injuries_begin_in_the_first_half_of_their_recipe(injury: Injury, tmp_path: Path) -> None:
    of_trl = by_trl.RECIPES.get(injury.recipe)
    steps = of_trl[2]["max_steps"] if of_trl else shortened(injury.recipe, tmp_path, tmp_path / "run", 0).steps
    assert 1 <= injury.step <= steps // 2 + 1
    assert injury.shows


def test_injuries_of_a_real_model_need_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(smollm2, "SMOLLM2", tmp_path / "none")
    with pytest.raises(SystemExit):
        run(["trl-fast-sft", "--out", str(tmp_path)])
    assert ABSENT in capsys.readouterr().err
