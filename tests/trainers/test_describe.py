"""`probe train --describe`: what a form for any method needs."""

import json

import pytest

from probe.cli import main
from trainers.commands import METHODS


def test_every_method_is_described(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--describe"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [each["method"] for each in found] == list(METHODS)
    for each in found:
        assert each["summary"] == METHODS[each["method"]][2]
        fields = {field["name"]: field for field in each["fields"]}
        assert {"out", "data", "steps", "lr", "batch_size", "resume", "seed"} <= set(fields)
        assert all(field["help"] for field in fields.values()), [name for name in fields if not fields[name]["help"]]
        assert fields["steps"]["common"]
        assert fields["schedule"]["choices"] == ["cosine", "linear", "constant"]


def test_one_method_is_described(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--describe", "dpo"]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    fields = {field["name"]: field for field in found["fields"]}
    assert fields["base"]["required"]
    assert fields["beta"] == fields["beta"] | {"type": "float", "default": 0.1, "common": False, "flag": "--beta"}


def test_an_unknown_method_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--describe", "ppo"]) == 2
    assert "`probe train` has no `ppo`, only pretrain, " in capsys.readouterr().err
