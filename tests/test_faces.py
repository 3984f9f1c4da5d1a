"""What `import probe` gives: subjects with a few names each, loaded on first use."""

import pydoc
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import probe
from tests.models import random_lm

FACES = [name for name in dir(probe) if isinstance(getattr(probe, name), ModuleType)]


def test_every_folder_has_a_face():
    folders = {file.parent.name for file in Path(probe.__file__).parent.glob("*/__init__.py")}
    assert set(FACES) == folders - {"commands"}


@pytest.mark.parametrize("name", FACES)
def test_a_face_says_what_it_is_and_gives_what_it_names(name: str):
    face = getattr(probe, name)
    assert face.__doc__
    assert 0 < len(dir(face)) <= 13
    for each in dir(face):
        assert getattr(face, each) is not None
        assert f"`{each}`" in face.__doc__
    modules = {file.stem for file in Path(face.__file__).parent.glob("*.py")}
    assert not modules & set(dir(face))  # a module of the name would take its place once it is imported


@pytest.mark.parametrize("face", [probe, *(getattr(probe, name) for name in FACES)], ids=lambda face: face.__name__)
def test_help_is_short_and_names_all(face: ModuleType):
    """At most two screens, also once every name has been loaded."""
    shown = pydoc.render_doc(face, renderer=pydoc.plaintext)
    assert shown.count("\n") <= 80
    for each in dir(face):
        assert f"`{each}`" in shown


def test_a_face_is_light():
    code = f"import sys, probe; [dir(getattr(probe, name)) for name in {FACES}]; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_one_line_from_the_package_to_a_result():
    lm = random_lm()
    text = "mira lives in rome"
    assert probe.logits.logit_lens(lm, text).next_logprobs.shape[0] == len(lm.bridge.blocks) + 1
    assert len(probe.attention.score_heads(lm, text).scores.values["induction"])
    pair = probe.interventions.pair_of(lm, text, "mira lives in oslo")
    target = probe.logits.target_of(lm, pair.corrupted)
    assert len(probe.interventions.patch(lm, pair, target, "resid").table())
