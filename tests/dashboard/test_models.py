"""Computations of the pages: once for each choice, cancelled by a change of mind, nothing kept of what failed."""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from streamlit.testing.v1 import AppTest

from dashboard import models
from dashboard.models import Results, nbytes
from probe.model.lm import LM
from tests.model.test_adapters import adapter
from tests.models import random_reward_model, saved_lm
from tests.places import ROOT, SAMPLES


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], None]], AppTest]:
    """Run a small page; the model's directory, in a folder of runs, is in $MODEL, what it computed in a file."""
    monkeypatch.setenv("PROBE_RUNS", str(tmp_path))
    monkeypatch.setenv("MODEL", str(saved_lm(tmp_path / "model")))
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    return lambda page: AppTest.from_function(page, default_timeout=60).run()


OPEN_AT_ONCE = ("overview", "training", "train", "sweep", "findings")
"""Pages that show what is stored, and wait for no model."""


def test_the_first_answer_waits_for_no_more_than_it_needs():
    """In a fresh process: slow packages that an experiment's page can do without, and the collector is on again."""
    code = (
        "import gc, sys; from dashboard.models import Warmth; Warmth().wait()\n"
        "from probe.experiments.registry import find_experiment; find_experiment('sycophancy')\n"
        "print(gc.isenabled(), 'torch' in sys.modules, [n for n in ('transformer_lens', 'scipy.stats')"
        " if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True True []"


def test_pages_that_open_without_torch_do_without_what_looks_into_it():
    """scipy.stats asks a half imported torch for its tensors and fails: torch is imported while these pages open."""
    code = f"""
import sys
from streamlit.testing.v1 import AppTest
from dashboard import access, models
from tests.dashboard.pages import Everyone, turn_to

access.install(Everyone(8501))
models.Warmth._run = lambda self: None
for page in {OPEN_AT_ONCE}:
    app = AppTest.from_file({str(ROOT / "dashboard/pages/app.py")!r}, default_timeout=60)
    turn_to(app, page + "/page.py").run()
    assert not app.exception and len(app.main) > 2, page
print([name for name in ("torch", "scipy.stats") if name in sys.modules])
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        cwd=ROOT,
        env=os.environ | {"PROBE_RUNS": str(SAMPLES)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == "[]"


def calls() -> list[str]:
    """What was computed, one entry a call."""
    file = Path(os.environ["CALLS"])
    return file.read_text().split() if file.exists() else []


def counted() -> None:
    import os

    import streamlit as st

    from dashboard.models import compute_once, load, ready

    def size(lm, scale, kind):
        with open(os.environ["CALLS"], "a") as file:
            file.write(f"{kind} ")
        return scale * lm.n_parameters

    lm = load(os.environ["MODEL"])
    st.text(ready(size, lm, scale=2, kind="a"))
    st.text(compute_once(size, lm, say="Counting", scale=2, kind="a") / lm.n_parameters)
    st.text(compute_once(size, lm, say="Counting", scale=3, kind="b") / lm.n_parameters)


def test_each_choice_is_computed_once(script: Callable[..., AppTest]):
    first = script(counted)
    assert not first.exception
    assert [part.value for part in first.text][1:] == ["2.0", "3.0"]
    assert first.text[0].value == "None"
    again = first.run()
    assert again.text[0].value.isdigit()
    assert calls() == ["a", "b"]


def test_another_model_in_the_same_place_is_computed_anew(script: Callable[..., AppTest]):
    page = script(counted)
    LM.load(os.environ["MODEL"]).save(os.environ["MODEL"])
    page.run()
    assert calls() == ["a", "b", "a", "b"]


def loaded() -> None:
    import os

    import streamlit as st

    from dashboard.models import compute_once, load

    def size(lm, scale, kind):
        with open(os.environ["CALLS"], "a") as file:
            file.write(f"{kind} ")
        return scale

    lm = st.session_state.setdefault("lm", load(os.environ["MODEL"]))
    compute_once(size, lm, say="Counting", scale=2, kind="a")


def test_what_a_loaded_model_gave_stays_its_own_when_its_files_are_written_again(script: Callable[..., AppTest]):
    page = script(loaded)
    assert not page.exception
    LM.load(os.environ["MODEL"]).save(os.environ["MODEL"])
    page.run()
    assert calls() == ["a"]


def stepping() -> None:
    import os

    import streamlit as st

    from dashboard.models import compute_once, load, ready
    from probe.errors import DataError

    def work(lm, tick, fail):
        tick(0.5)
        tick(7.0)
        if fail:
            raise DataError("There is nothing here: give something.")
        return 1

    lm = load(os.environ["MODEL"])
    st.text(compute_once(work, lm, say="Working", steps=True, fail=False))
    try:
        compute_once(work, lm, say="Working", steps=True, fail=True)
    except DataError as error:
        st.text(error)
    st.text(ready(work, lm, fail=True))


def test_a_long_computation_ticks_and_a_failed_one_keeps_nothing(script: Callable[..., AppTest]):
    page = script(stepping)
    assert not page.exception
    assert [part.value for part in page.text] == ["1", "There is nothing here: give something.", "None"]


def test_a_reward_model_is_loaded_as_a_scalar_model(
    script: Callable[..., AppTest], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    rewards = random_reward_model()
    rewards.model.save_pretrained(tmp_path / "reward")
    rewards.tokenizer.save_pretrained(tmp_path / "reward")
    monkeypatch.setenv("MODEL", str(tmp_path / "reward"))

    def page() -> None:
        import os

        import streamlit as st

        from dashboard.models import load

        st.text(load(os.environ["MODEL"]).readout)

    assert script(page).text[0].value == "reward"


@pytest.mark.parametrize("first", ["base", "adapter"])
def test_adapters_share_their_base(
    script: Callable[..., AppTest], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: str
):
    places = {"base": str(tmp_path / "model")}
    for number, name in enumerate(("adapter", "other"), 2):
        places[name] = str(adapter(tmp_path / "model", tmp_path / name, r=number))
    monkeypatch.setenv("PLACES", "\n".join([places[first], *places.values()]))

    def page() -> None:
        import os

        import streamlit as st

        from dashboard.models import load

        lms = [load(ref) for ref in os.environ["PLACES"].splitlines()]
        stored = {each.data_ptr(): each.numel() for lm in lms for each in lm.model.parameters()}
        st.text(sum(stored.values()))
        st.text(sum(each.numel() for each in lms[1].model.parameters()))
        st.text(sum(1 for lm in lms if lm.base is lms[1]))

    shown = script(page)
    assert not shown.exception
    total, base, adapters = (int(text.value) for text in shown.text)
    assert base < total < 1.5 * base
    assert adapters == 2 + (first == "adapter")


def test_results_of_an_adapter(script: Callable[..., AppTest], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MODEL", str(adapter(tmp_path / "model", tmp_path / "adapter")))
    page = script(counted)
    assert not page.exception
    assert calls() == ["a", "b"]


def test_the_oldest_results_go():
    kept = Results(most=2)
    for key in "ab":
        kept.put(key, key)
    assert kept.get("a") == "a"
    kept.put("c", "c")
    assert (kept.get("a"), kept.get("b"), kept.get("c")) == ("a", None, "c")


def test_large_results_go_by_the_room_they_take():
    kept = Results(room=1000)
    kept.put("a", np.zeros(100))
    kept.put("b", {"deep": (np.zeros(20), ["text"])})
    assert kept.get("a") is not None
    kept.put("c", np.zeros(20))
    assert (kept.get("b"), kept.get("a") is None, kept.get("c") is None) == (None, False, False)
    kept.put("d", np.zeros(500))
    assert kept.get("d") is not None
    assert kept.get("a") is None


def test_the_bytes_of_a_result_are_those_of_its_arrays():
    @dataclass
    class Found:
        weights: np.ndarray
        rows: list[torch.Tensor]
        table: pd.DataFrame

    table = pd.DataFrame({"a": np.zeros(10)})
    found = Found(np.zeros((3, 4), dtype=np.float32), [torch.zeros(5, dtype=torch.float64)], table)
    assert nbytes(found) == 48 + 40 + int(table.memory_usage(index=True).sum())


def test_what_two_threads_import_at_once_is_imported_again(monkeypatch: pytest.MonkeyPatch):
    asked = list[str]()

    def import_module(name: str) -> None:
        asked.append(name)
        if asked == ["first"]:
            raise ImportError("cannot import name 'x' from partially initialized module 'first'")

    monkeypatch.setattr(models, "NEEDED", ("first", "second"))
    monkeypatch.setattr(models, "import_module", import_module)
    monkeypatch.setattr(models, "HEAD_START_S", 600)
    monkeypatch.setattr(models, "settle", lambda: None)
    warmth = models.Warmth()
    warmth.wait()
    assert asked == ["first", "first", "second"]
