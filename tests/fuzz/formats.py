"""Every format that is read: a sound example, how it is damaged, and all that is read of it."""

import gzip
import io
import json
import os
import shutil
import warnings
from collections.abc import Callable
from contextlib import chdir, redirect_stdout
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import datasets
import numpy as np
import pandas as pd
import plotly.graph_objects as go
from peft import LoraConfig, get_peft_model
from rich.console import Console
from streamlit.dataframe_util import convert_pandas_df_to_arrow_bytes
from transformers import AutoModelForCausalLM

import probe
from dashboard import access, data
from probe.audit.change import CORPUS, read_audit, stored_audits
from probe.audit.change import FILE as AUDIT
from probe.audit.figures import audit_html, difference_points, difference_table, inside
from probe.audit.inspection import KINDS, read_kept
from probe.audit.plan import ON_SETS
from probe.audit.seen import past_of
from probe.chain_of_thought.files import read_problems
from probe.commands import jobs as jobs_command
from probe.commands import runs as commands
from probe.continual.training import saved_texts
from probe.diagnosis import diagnose
from probe.experiments.definition import Experiment
from probe.experiments.metrics import Mean
from probe.experiments.result import ITEMS_FILE, LINES_FILE, RESULT_FILE, Result, sendable_result
from probe.experiments.slices import DIFFER, Slice, keep_slice, read_slices
from probe.experiments.store import compare_stored, results
from probe.findings.bench import Bench
from probe.findings.claims import choose_claims, finding
from probe.findings.ledger import read_record, record
from probe.hallucination.files import read_questions
from probe.in_context.few_shot import read_classification
from probe.jobs.job import FOLDER as JOBS
from probe.jobs.trainings import list_jobs
from probe.logs import compare_logs, read_log
from probe.model import loading as weights
from probe.model.adapters import quiet
from probe.model.calls import Calls
from probe.model.lm import LM
from probe.model.rewards import RewardModel, analysable
from probe.model.text import chat_text, encode
from probe.questions.sets import asked_texts, set_rows
from probe.report.run_report import report
from probe.retrieval.files import read_folder
from probe.rows import Row, Rows, Selection, read_demonstrations, read_documents
from probe.runs import RunWarning, RunWriter, list_runs, open_run
from probe.runs.alarm_rows import Alarm
from probe.runs.captured import (
    answers_table,
    attention,
    attention_table,
    favourites,
    lens_table,
    most_moved,
    rollout_table,
    token_measures,
)
from probe.runs.encoded_rows import ENCODED_ROWS, EncodedRow, EncodedRows, TemplateMarks
from probe.runs.run_filter import RunFilter
from probe.runs.run_marks import MARKS, Marks, write_marks
from probe.runs.schema import ProbePrompt, dumps
from probe.runs.store.objects import Folder
from probe.runs.store.remote import read_version, upload
from probe.runs.thinning import thin
from probe.runs.trained_on import TRAINED_ON
from probe.runs.world_file import WORLD_FILE, write_world
from probe.sweep import read_spec, read_sweep
from probe.sweep.journal import JOURNAL, LOGS
from probe.sycophancy.beliefs import read_questions as read_templates
from probe.sycophancy.choices import read_choices
from probe.sycophancy.feedback import read_texts
from probe.sycophancy.files import read_file
from probe.untrusted import read_json
from probe.world import World, WorldConfig, of
from tests.dashboard.pages import Everyone
from tests.fuzz.mutator import (
    Mutate,
    mutate_bytes,
    mutate_csv,
    mutate_json,
    mutate_lines,
    mutate_safetensors,
    mutate_toml,
    packed,
)
from tests.logs.made_logs import HEAD, harness_lines, log, sample, write_lines
from tests.models import random_lm, random_reward_model, saved_lm
from tests.places import DATA, SAMPLES
from trainers.config import PreferenceConfig
from trainers.preferences import file_preferences, read_preferences
from trainers.prompts import file_prompts, read_prompts
from trainers.sft import file_demonstrations

TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}> {{ m.content }} {% endfor %}{% if add_generation_prompt %}<bot>{% endif %}"
)
TEXT = "mira lives in oslo"


@dataclass(frozen=True)
class Format:
    """A file that is read."""

    name: str
    make: Callable[[Path], Path]
    """Writes a sound example into a folder and returns what is handed to `read`."""
    file: str
    """The file to damage, below what `make` returned ("" for itself)."""
    mutate: Mutate
    read: Callable[[Path], object]
    """Reads all that a user reads of it."""
    warns: str = ""
    """Warnings that are right: a pattern of how they begin."""


def model(folder: Path) -> Path:
    """A small Llama with a chat template."""
    lm = random_lm()
    lm.tokenizer.chat_template = TEMPLATE
    path = lm.save(folder / "model")
    (path / "generation_config.json").write_text(json.dumps({"eos_token_id": 3, "temperature": 0.7, "do_sample": True}))
    return path


def read_tokenizer(path: Path) -> None:
    """The tokenizer, a text there and back, and a conversation."""
    tokenizer = weights.read_tokenizer(path)
    tokenizer.decode(encode(tokenizer, TEXT))
    if tokenizer.chat_template is not None:
        chat_text(tokenizer, [{"role": "user", "content": TEXT}], answer=True)


def gpt2(folder: Path) -> Path:
    """A model whose configuration has other names."""
    return saved_lm(folder / "model", "gpt2")


def read_model(path: Path) -> None:
    """All that a loaded model is asked first."""
    lm = LM.load(path)
    lm.logits(TEXT)
    if lm.tokenizer.chat_template is not None:
        lm.prompt_text([{"role": "user", "content": TEXT}])
    lm.tokenizer.decode([4, 5, 6])
    assert len(lm.fingerprint) == 64


def with_world(folder: Path) -> Path:
    """A model's folder that says to which world it belongs."""
    (folder / "model").mkdir()
    write_world(folder / "model", World().to_dict())
    return folder / "model"


def read_stated_world(path: Path) -> None:
    """The world of a copy of a checkpoint, and a question of it."""
    world = of(SimpleNamespace(directory=path))
    if world is not None:
        world.questions("fact", 2, 0)


def reward(folder: Path) -> Path:
    """A reward model."""
    judge = random_reward_model()
    judge.model.save_pretrained(folder / "model")
    judge.tokenizer.save_pretrained(folder / "model")
    return folder / "model"


def read_reward(path: Path) -> None:
    """Load it both ways."""
    RewardModel.load(path).score([TEXT], ["oslo"])
    analysable(path).logits(TEXT)


def adapter(folder: Path) -> Path:
    """A LoRA adapter beside its base."""
    base = saved_lm(folder / "base")
    settings = LoraConfig(r=2, lora_alpha=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    with quiet():
        get_peft_model(AutoModelForCausalLM.from_pretrained(base), settings).save_pretrained(folder / "adapter")
    return folder / "adapter"


def write_run(path: Path, **about: object) -> RunWriter:
    """A run of two steps with figures."""
    settings = {"method": "dpo", "config": {"lr": 1e-3, "nested": {"a": [1, 2]}}, "parent": "other", "seed": 1} | about
    run = RunWriter.create(path, **settings)  # type: ignore[arg-type]
    for step in (0, 1, 2):
        run.log(step, {"loss": 1.0 / (step + 1), "rewards/margins": 0.5, "lr": 1e-3})
    return run


HEADLINE = [
    {"metric": "deferral", "value": 0.5, "ci_low": 0.4, "ci_high": 0.6, "n": 400},
    {"metric": "gold_reward", "value": 0.1, "ci_low": None, "ci_high": None, "n": 40},
]


def run(folder: Path) -> Path:
    """Two runs: the one that is damaged, and a sound one that must stay in every list."""
    world = World(WorldConfig(known=8, rare=5, strangers=4, heldout=4, phases=2, phase_people=3), seed=3)
    write_run(folder / "other", world=world.to_dict()).finish()
    write_run(folder / "run", world=world.to_dict(), data={"kinds": ["fact"]}).finish(headline=HEADLINE)
    return folder / "run"


def marked(folder: Path) -> Path:
    """The same, with what readers say about the one that is damaged."""
    path = run(folder)
    write_marks(path, Marks(pinned=True, archived=True, tags=("paper", "second try"), note="the best\none"))
    return path


def slices_of_user(folder: Path) -> Path:
    """A working directory with slices of an experiment."""
    with chdir(folder):
        keep_slice("echo", Slice("cities", ("city", "town"), "oslo", DIFFER, "accuracy"))
        keep_slice("echo", Slice("wrong", show="answered wrong", model="base"))
    return folder


def read_kept_slices(path: Path) -> None:
    with chdir(path):
        for each in read_slices("echo"):
            assert each.describe()


def read_run(path: Path) -> None:
    """The run, every list that it stands in, its report, and its world."""
    try:
        found = open_run(path)
        repr(found), found._repr_html_(), found.status, found.seed, found.checkpoints(), found.results()
        probe.world.of(found)
        print_run(path)
        report([found], methods={}).encode()
    finally:
        read_lists(path)


def print_run(path: Path) -> None:
    """As the command line prints it to a file in UTF-8."""
    out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    with redirect_stdout(out):
        commands.show_run(str(path), as_json=False)
        commands.show_run(str(path), as_json=True)
        out.flush()


def read_lists(path: Path) -> None:
    """Every list of runs shows the sound run."""
    out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    with redirect_stdout(out), warnings.catch_warnings():
        warnings.simplefilter("ignore", RunWarning)
        assert "other" in [each.name for each in list_runs(path.parent)]
        commands.list_(str(path.parent), True, RunFilter(), archived=True)
        commands.list_(str(path.parent), False, RunFilter(text="lr"), archived=True)
        out.flush()
        assert b"other" in out.buffer.getvalue()  # type: ignore[attr-defined]
        probe.runs.lineage(list_runs(path.parent))
    store = data.read_store()
    assert "other" in store.runs
    assert len(store.runs) + len(store.archived) + len(store.problems) == 2
    list_jobs([path.parent])
    sent(data.lineage_table(store), data.headlines(store))


def sent(*shown: go.Figure | pd.DataFrame) -> None:
    """Figures and tables as a page sends them to a browser."""
    for each in shown:
        if isinstance(each, go.Figure):
            json.loads(each.to_json())
        else:
            convert_pandas_df_to_arrow_bytes(each)


def read_metrics(path: Path) -> None:
    """The table, and its curves."""
    found = open_run(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RunWarning)
        sent(found.metrics())


def rollouts(folder: Path) -> Path:
    """A run with completions."""
    writer = write_run(folder / "run")
    for step in (1, 2):
        writer.rollouts(
            [
                {
                    "step": step,
                    "prompt": "what is it ?",
                    "completion": "an answer",
                    "tokens": ["an", "answer", "<end>"],
                    "rewards": {"verifier": 1.0, "length": None},
                    "reward": 1.0,
                    "advantage": [0.5, -0.5, 0.25] if step == 1 else 1.0,
                    "logprobs": [-1.0, -2.0, -0.5],
                    "ref_logprobs": [-1.5, -1.0, -0.5],
                    "entropy": [0.1, 0.2, 0.3],
                    "finished": True,
                }
            ]
        )
    writer.finish()
    return writer.path


def read_rollouts(path: Path) -> None:
    """The table of one line each, and every completion token by token."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RunWarning)
        frame = open_run(path).rollouts()
    table = rollout_table(frame)
    sent(table)
    for row in frame.to_dict("records"):
        token_measures(row)


def alarmed(folder: Path) -> Path:
    """A run with an alarm that was resumed after it."""
    writer = write_run(folder / "run")
    alarm = Alarm("no_signal", "No signal", 1, 2, 0.5, "reward", "All are paid alike.", "Choose other prompts.")
    writer.alarm(alarm)
    writer.alarm(replace(alarm, fault="numbers_die", severity=1.0))
    writer.finish("interrupted")
    RunWriter.resume(folder / "run", 2).finish()
    return folder / "run"


def read_alarms(path: Path) -> None:
    """All alarms, as a page or a terminal would show them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RunWarning)
        alarms = open_run(path).alarms()
    sent(pd.DataFrame([each.row() for each in alarms]))
    assert all("\x1b" not in each.sentence() for each in alarms)


def data_record(folder: Path) -> Path:
    """A run with the sentences of its data, whose parent lies beside it."""
    write_run(folder / "other").finish()
    writer = write_run(folder / "run", config={"data": "sums.jsonl"})
    writer.trained_on([*asked_texts("sums").values(), TEXT])
    writer.finish()
    return writer.path


def read_data_record(path: Path) -> None:
    """What an audit of the run says of a question set, beside a sound run."""
    pair = (SimpleNamespace(run_dir=path.parent / "other"), SimpleNamespace(run_dir=path))
    past = past_of(*pair, ON_SETS)  # type: ignore[arg-type]
    sent(pd.DataFrame(past.facts(ON_SETS)))
    assert open_run(path).status == "finished"


def encoded(folder: Path) -> Path:
    """A run with rows as the model sees them, two tokens of beginning in each."""
    writer = write_run(folder / "run", method="sft")
    marks = TemplateMarks("<|im_start|>user ", "<|im_start|>assistant ")
    rows = [EncodedRow([1, 1, 5], f"<|im_start|>user {TEXT}", "yes"), EncodedRow([1, 1], TEXT)]
    writer.encoded_rows(EncodedRows(rows, 1, marks, marks))
    writer.finish()
    return writer.path


def read_encoded(path: Path) -> None:
    """What a diagnosis says of the rows."""
    sent(pd.DataFrame(diagnose(open_run(path)).to_dict()["findings"]))


def captures(folder: Path) -> Path:
    """A run with captures of one layer on two prompts."""
    writer = write_run(folder / "run")
    prompts = [
        ProbePrompt(
            id=f"p{i}", text="a b", token_ids=[0, 1], tokens=["a", "b"], answers=["c"], answer_ids=[1], kind="k"
        )
        for i in range(2)
    ]
    writer.prompts(prompts)
    for step in (0, 2):
        writer.capture(
            step,
            {
                "attention": np.full((2, 1, 2, 2, 2), 0.5),
                "lens_top_ids": np.zeros((2, 2, 2, 5)),
                "lens_top_logprobs": np.full((2, 2, 2, 5), -1.6),
                "lens_answer_logprobs": np.full((2, 2, 2, 1), -1.0),
                "entropy": np.ones((2, 2)),
                "margin": np.ones((2, 2)),
                "residual_norm": np.ones((2, 2, 2)),
            },
        )
    writer.finish()
    return writer.path


def thinned(folder: Path) -> Path:
    """The same with packed attention."""
    path = captures(folder)
    thin(path)
    return path


def read_captures(path: Path) -> None:
    """Prompts, every step, and all that is drawn of them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RunWarning)
        found = open_run(path).captures()
        repr(found)
        for step in found.steps:
            tensors = found.load(step)
            for index, prompt in enumerate(found.prompts):
                attention_table(attention(tensors, index, prompt), prompt.tokens)
                lens_table(favourites(open_run(path), tensors, index, prompt), prompt.tokens)
                answers = tensors["lens_answer_logprobs"][index, -1, prompt.length - 1, : len(prompt.answers)]
                answers_table([step], answers, prompt.answers)
        if found.prompts and found.steps:
            most_moved(found.load(found.steps[0]), found.load(found.steps[-1]), found.prompts)


def job(folder: Path) -> Path:
    """A job's folder, as its process leaves it."""
    place = folder / JOBS / "run"
    place.mkdir(parents=True)
    about = {"words": ["train", "dpo", "--out", "run"], "started": 1.7e9, "title": "Train run", "link": {"page": "a"}}
    (place / "job.json").write_text(json.dumps(about | {"directory": "/", "signature": "0" * 64}))
    (place / "progress.json").write_text(json.dumps({"doing": "steps", "share": 0.5, "left": 1.0, "pid": 2**22 + 1}))
    (place / "queue.json").write_text(json.dumps({"order": 1.0}))
    (place / "end.json").write_text(json.dumps({"exit": 2, "time": 1.7e9}))
    (place / "log.txt").write_text("probe: error: refused\n")
    return folder


def read_job(path: Path) -> None:
    """The list of jobs, as the command and the page read it."""
    for found in list_jobs([path]):
        json.dumps(jobs_command.row(found))
        str((found.order, found.ended, found.is_ours, found.error))


def sweep(folder: Path) -> Path:
    """A sweep of a training and an experiment on it."""
    (folder / ".sweep" / LOGS).mkdir(parents=True)
    about = {"recipe": {"steps": 3}, "command": ["probe", "train"], "entry": "a"}
    tasks = [{"name": "run", "kind": "train"} | about, {"name": "ask", "kind": "experiment", "needs": ["run"]} | about]
    events: list[object] = [{"event": "begin", "tasks": tasks}, {"event": "submit", "task": "run", "attempt": 1}]
    events += [{"event": "start", "task": "run", "time": 1.0, "node": "a"}]
    events += [{"event": "end", "task": task["name"], "state": "finished", "time": 3.0} for task in tasks]
    (folder / ".sweep" / JOURNAL).write_text("\n".join(map(dumps, events)))
    answer = {"summary": [{"metric": "deferral", "value": 0.5, "n": 4}]}
    (folder / ".sweep" / LOGS / "ask.json").write_text(dumps(answer))
    write_run(folder / "run").finish()
    return folder


def sweep_spec(folder: Path) -> Path:
    """A spec with every key."""
    train = 'name = "a"\nmethod = "dpo"\nseeds = [0, 1]\noptions = {base = "m/m", world = {people = 3}}\n'
    train += "grid = {beta = [0.1, 0.2]}\neach = [{steps = 3}]\ncpus = 1\ngpus = 0.5\nretries = 1\n"
    ask = 'name = "sycophancy"\nof = ["a"]\noptions = {n = 3}\n'
    (folder / "spec.toml").write_text(f'out = "x"\n[[train]]\n{train}[[experiment]]\n{ask}')
    return folder


def read_whole_sweep(path: Path) -> None:
    """How each task stands, and the numbers."""
    found = read_sweep(path)
    for name, task in found.tasks.items():
        silent(f"{found.sentence} {task.seconds} {found.progress(name)} {found.log(name)} {task.command}")
    found.results()


def result(folder: Path) -> Path:
    """A stored result with a table and a figure."""
    items = pd.DataFrame({"item": ["a", "b"], "model": "m", "x": [0.5, 1.5], "said": ["yes", "no"]})
    summary = pd.DataFrame([{"metric": "x", "value": 1.0, "ci_low": 0.5, "ci_high": 1.5, "n": 2}])
    tables = {"curve": pd.DataFrame({"model": "m", "step": [1, 2], "y": [0.1, 0.2]})}
    figures = {"main": go.Figure(go.Scatter(x=[1, 2], y=[0.1, 0.2]))}
    meta = {"title": "T", "finding": "F.", "models": [{"label": "m", "ref": "m", "method": "dpo"}], "n": 2, "seed": 0}
    Result("count", summary, items, tables, figures, meta | {"created": "2026-01-01"}).save(folder / "count-1")
    return folder / "count-1"


def read_result(path: Path) -> None:
    """The result as a notebook and a page show it, and the list that it stands in."""
    list(results(path.parent))
    found = Result.load(path)
    repr(found), found._repr_html_(), found.title, found.finding, found.models, found.styles
    dumps(found.meta)
    for chart in found.figures.values():
        sent(chart)
    shown = sendable_result(found)
    shown.title.encode(), shown.finding.encode()
    sent(shown.summary, shown.items, *shown.tables.values())


def result_of_lines(folder: Path) -> Path:
    """A stored result of the first format, whose items are lines."""
    path = result(folder)
    index = json.loads((path / RESULT_FILE).read_text())
    (path / RESULT_FILE).write_text(json.dumps(index | {"format": 1}))
    columns = json.loads(gzip.decompress((path / ITEMS_FILE).read_bytes()))
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    (path / LINES_FILE).write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode(), mtime=0))
    return path


def saved_items(folder: Path) -> Path:
    """A run of continual learning with the items of its tasks."""
    path = write_run(folder / "run").path
    (path / "results" / "continual").mkdir(parents=True)
    rows = [{"kind": "a", "prompt": "mira", "expected": "oslo"}, {"kind": "b", "prompt": "tom", "expected": "rome"}]
    lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
    (path / "results" / "continual" / "items.jsonl.gz").write_bytes(gzip.compress(lines, mtime=0))
    return path


def read_saved_items(path: Path) -> None:
    """The prompts and answers of the tasks."""
    for pairs in saved_texts(open_run(path), ["a", "b"]) or []:
        for prompt, answer in pairs:
            prompt.upper(), answer.upper()


def audit(folder: Path) -> Path:
    """An audit of the sample runs, with few rows, and a sound one that must stay in the list."""
    values = json.loads(read_audit(SAMPLES / "audits" / "base-dpo-agreeable").to_json())  # with every column of today
    values["meta"] |= {"margin": 0.05, "by_chance": {"expected": 0.5, "low": 0, "high": 2}}
    for name in ("damaged", "other"):
        (folder / name).mkdir()
        short = values | {part: values[part][:3] for part in ("rows", "corpus", "blocks")}
        (folder / name / AUDIT).write_text(json.dumps(short))
    return folder / "damaged"


def read_whole_audit(path: Path) -> None:
    """The audit as the page and its file show it, and the list that it stands in."""
    assert path.parent / "other" in stored_audits(sorted(path.parent.glob(f"*/{AUDIT}")))
    found = read_audit(path)
    found.sentence.encode(), found.to_json().encode()
    sent(difference_points(found), difference_table(found), inside(found))
    audit_html(found).encode()


def read_compared(path: Path) -> None:
    """Stored differences; what cannot be read is made again."""
    found = Result.load(path)
    table = compare_stored(COUNT, found, found, path)
    assert list(table["metric"]) == ["x"]


COUNT = Experiment("count", "T", lambda lm: None, lambda lm: None, (Mean("x"),))  # type: ignore[arg-type, return-value]


def differences(folder: Path) -> Path:
    """A result with stored differences."""
    path = result(folder)
    access.install(Everyone(8501))
    read_compared(path)
    access.uninstall()
    file = next((path / "compared").glob("*.csv"))
    (path / "compared" / "file").write_text(file.name)
    return path


CLAIM = "reward_agreement"


def findings(folder: Path) -> Path:
    """Findings on record beside the runs."""
    claims = choose_claims((CLAIM,))
    for name in {"base", *claims[0].runs}:
        shutil.copytree(SAMPLES / name, folder / name, ignore=shutil.ignore_patterns("results", "captures"))
    record(Bench(folder), claims, [finding(Bench(folder), claims[0])])
    return folder


def read_findings(path: Path) -> None:
    """What is on record, as the page and the command show it."""
    from probe.commands.findings import draw_table
    from probe.findings.claim import table

    found = list(read_record(Bench(path), choose_claims((CLAIM,))).values())
    dumps(table(found).astype(object).to_dict("records"))
    console = Console(file=io.StringIO())
    console.print(draw_table(found))


def world(folder: Path) -> Path:
    """A world as a file."""
    made = World(WorldConfig(known=8, rare=5, strangers=4, heldout=4, phases=2, phase_people=3), seed=3)
    (folder / "world.json").write_text(json.dumps(made.to_dict()))
    return folder


def read_world(path: Path) -> None:
    """The world, a question of it and a document."""
    try:
        told = read_json(path / "world.json")  # as it is read from run.json
    except (OSError, ValueError):
        return
    if isinstance(told, dict):
        made = World.from_dict(told)
        made.questions("fact", 2)
        next(made.documents())


def lines(name: str, *rows: object) -> Callable[[Path], Path]:
    """A folder with a file of JSON lines."""

    def make(folder: Path) -> Path:
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
        return folder

    return make


def cells(name: str, *rows: dict[str, str]) -> Callable[[Path], Path]:
    """A folder with a TSV file."""

    def make(folder: Path) -> Path:
        (folder / name).write_text("".join("\t".join(each) + "\n" for each in (rows[0], *map(dict.values, rows))))
        return folder

    return make


def texts(folder: Path) -> Path:
    """Documents that are text files, with questions."""
    (documents(folder) / "documents.jsonl").unlink()
    (folder / "a.txt").write_text("mira lives in oslo .")
    (folder / "b.md").write_text("tom lives in rome .")
    return folder


def answers(folder: Path) -> Path:
    """Kept answers of a model."""
    rows = [{"call": "a", "answer": {"values": ["float32", [0.5]]}}, {"call": "b", "answer": {"ids": ["int64", [1]]}}]
    (folder / "calls.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def copied(name: str) -> Callable[[Path], Path]:
    """A folder with a file of the tests' data, cut short."""

    def make(folder: Path) -> Path:
        shutil.copy(DATA / name, folder / name)
        return folder

    return make


def documents(folder: Path) -> Path:
    """Documents with questions."""
    rows = [{"id": "a", "title": "A", "text": "mira lives in oslo ."}, {"id": "b", "text": "tom lives in rome ."}]
    asked = [{"question": "where does mira live ?", "answers": ["oslo"], "document": "a", "substitute": "rome"}]
    (folder / "documents.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in asked))
    return folder


@cache
def trained() -> LM:
    """The model whose tokenizer reads data files."""
    lm = random_lm()
    lm.tokenizer.chat_template = TEMPLATE
    return lm


def silent(text: str) -> None:
    """Takes what a reader of data has to say."""


def pairs(file: Path) -> Rows[Row]:
    """The rows of a file of preference pairs."""
    found = read_preferences(PreferenceConfig(out=file.parent / "out", base="base", data=str(file)))
    assert found is not None
    return found


PAIRS = (
    {"prompt": "mira lives in", "chosen": " oslo", "rejected": " rome"},
    {"prompt": "tom", "chosen": "is", "rejected": "one"},
)
LETTERED = (
    {"base": {"question": "1 + 1?", "answers": "\n(A) 1\n(B) 2", "letters": "AB", "correct_letter": "B"}},
    {"question": "2 + 1?", "answers": ["2", "3"], "correct_letter": "B", "incorrect_letter": "A"},
    {"question": "2 + 2?", "answers": {"A": "4", "B": "5"}, "correct_letter": "A", "incorrect_answer": "5"},
)
CHOICES = {"choices": ["Brine.", "Cream", ""], "labels": [1, 0, 0]}
ANSWERS = {"question": "What is the sea?", "best_answer": "Brine", "correct_answers": ["Brine"]}
ANSWERS |= {"incorrect_answers": ["Cream"], "best_incorrect_answer": "Cream"}
TARGETED = (
    ANSWERS | {"mc1_targets": CHOICES, "mc2_targets": {"Brine": 1, "Cream": 0}},
    ANSWERS | {"mc1_targets": json.dumps(CHOICES), "mc2_targets": json.dumps(CHOICES), "mc0_targets": CHOICES},
    ANSWERS | {"mc1_targets": None, "mc2_targets": ""},
)
ARROW = "data-00000-of-00001.arrow"


def tables(folder: Path) -> Path:
    """Pairs as a Parquet file and as a folder of the library datasets."""
    rows = datasets.Dataset.from_list(list(PAIRS))
    rows.to_parquet(folder / "rows.parquet")
    rows.save_to_disk(folder / "rows")
    return folder


MESSAGES = [{"role": "user", "content": "mira"}, {"role": "assistant", "content": "lives in oslo"}]

PEFT = (
    r"Unexpected keyword arguments|`\w+_config` specified|fan_in_fan_out is set|You have requested"
    r"|The following|You have passed exclude_modules=|target_parameters="
)
"""What peft ignores in the settings of an adapter is told to the user."""


def stored(folder: Path) -> Path:
    """A run in a store."""
    upload(run(folder), f"file://{folder}/store")
    return folder / "store"


def read_stored(path: Path) -> None:
    """The version that the manifest describes; no name leads out."""
    version = read_version(Folder(f"file://{path}"), 1)
    for entry in version.files.values():
        assert os.path.realpath(path / entry.name).startswith(f"{os.path.realpath(path)}{os.sep}")


def inspect_log(folder: Path) -> Path:
    """One log of Inspect as an archive and as JSON."""
    samples = [sample(at) for at in range(3)]
    log(folder / "log.eval", *samples)
    (folder / "log.json").write_text(json.dumps(HEAD | {"samples": samples}))
    return folder


def compare_with_itself(path: Path) -> None:
    """Read a log, compare it with itself, and read the differences and transcripts."""
    read = read_log(path / "log.eval" if path.is_dir() else path)
    found = compare_logs(read, read)
    assert found.result.finding
    assert found.differing == []


FORMATS = (
    Format("config.json", model, "config.json", mutate_json, read_model),
    Format("config.json of gpt2", gpt2, "config.json", mutate_json, read_model),
    Format("config.json of a reward model", reward, "config.json", mutate_json, read_reward),
    Format("tokenizer.json", model, "tokenizer.json", mutate_json, read_tokenizer),
    Format("tokenizer_config.json", model, "tokenizer_config.json", mutate_json, read_tokenizer),
    Format("generation_config.json", model, "generation_config.json", mutate_json, read_model),
    Format("probe_world.json", with_world, WORLD_FILE, mutate_json, read_stated_world),
    Format("chat_template.jinja", model, "chat_template.jinja", mutate_bytes, read_tokenizer),
    Format("model.safetensors", model, "model.safetensors", mutate_safetensors, read_model),
    Format("adapter_config.json", adapter, "adapter_config.json", mutate_json, read_model, PEFT),
    Format("adapter_model.safetensors", adapter, "adapter_model.safetensors", mutate_safetensors, LM.load),
    Format("run.json", run, "run.json", mutate_json, read_run),
    Format("marks.json", marked, MARKS, mutate_json, read_run),
    Format("slices", slices_of_user, "results/slices/echo.json", mutate_json, read_kept_slices),
    Format("manifest in a store", stored, "attempts/00000001.json", mutate_json, read_stored),
    Format("metrics.jsonl", run, "metrics.jsonl", mutate_lines, read_metrics),
    Format("rollouts.jsonl", rollouts, "rollouts.jsonl", mutate_lines, read_rollouts),
    Format("alarms.jsonl", alarmed, "alarms.jsonl", mutate_lines, read_alarms),
    Format("trained_on.json", data_record, TRAINED_ON, mutate_json, read_data_record),
    Format("encoded_rows.json", encoded, ENCODED_ROWS, mutate_json, read_encoded),
    Format("captures/index.jsonl", captures, "captures/index.jsonl", mutate_lines, read_captures),
    Format("captures/prompts.json", captures, "captures/prompts.json", mutate_json, read_captures),
    Format("captures/STEP.safetensors", captures, "captures/00000002.safetensors", mutate_safetensors, read_captures),
    Format("packed captures", thinned, "captures/00000002.safetensors", mutate_safetensors, read_captures),
    Format("prompts of packed captures", thinned, "captures/prompts.json", mutate_json, read_captures),
    *(
        Format(f".jobs/NAME/{name}", job, f"{JOBS}/run/{name}", mutate_json, read_job)
        for name in ("job.json", "progress.json", "queue.json", "end.json")
    ),
    Format(".jobs/NAME/log.txt", job, f"{JOBS}/run/log.txt", mutate_bytes, read_job),
    Format(".sweep/journal.jsonl", sweep, f".sweep/{JOURNAL}", mutate_lines, read_whole_sweep),
    Format(".sweep/logs/NAME.json", sweep, f".sweep/{LOGS}/ask.json", mutate_json, read_whole_sweep),
    Format("spec of a sweep", sweep_spec, "spec.toml", mutate_toml, lambda path: read_spec(path / "spec.toml")),
    Format("result.json", result, "result.json", mutate_json, read_result),
    Format("summary.csv", result, "summary.csv", mutate_csv, read_result),
    Format("items.jsonl.gz", result_of_lines, "items.jsonl.gz", packed(mutate_lines), read_result),
    Format(
        "items of continual learning",
        saved_items,
        "results/continual/items.jsonl.gz",
        packed(mutate_lines),
        read_saved_items,
    ),
    Format("audit.json", audit, "audit.json", mutate_json, read_whole_audit),
    Format("items.json.gz", result, "items.json.gz", packed(mutate_json), read_result),
    Format("tables/NAME.jsonl", result, "tables/curve.jsonl", mutate_lines, read_result),
    Format("figures/NAME.json", result, "figures/main.json", mutate_json, read_result),
    Format("compared/KEY.csv", differences, "compared", mutate_csv, read_compared),
    Format("findings.json", findings, "findings.json", mutate_json, read_findings),
    Format("world", world, "world.json", mutate_json, read_world),
    Format(
        "pairs",
        lines("pairs.jsonl", *PAIRS),
        "pairs.jsonl",
        mutate_lines,
        lambda path: file_preferences(trained(), pairs(path / "pairs.jsonl"), silent),
    ),
    Format(
        "pairs in a TSV file",
        cells("pairs.tsv", *PAIRS),
        "pairs.tsv",
        mutate_csv,
        lambda path: file_preferences(trained(), pairs(path / "pairs.tsv"), silent),
    ),
    Format(
        "messages",
        lines("chat.jsonl", {"messages": MESSAGES}, {"messages": MESSAGES}),
        "chat.jsonl",
        mutate_lines,
        lambda path: file_demonstrations(trained(), read_demonstrations(path / "chat.jsonl"), False, 0, silent),
    ),
    Format(
        "prompts",
        lines("prompts.jsonl", {"prompt": "mira", "answer": "oslo"}),
        "prompts.jsonl",
        mutate_lines,
        lambda path: file_prompts(trained(), read_prompts(path / "prompts.jsonl"), 4, silent),
    ),
    Format(
        "documents to train on",
        lines("texts.jsonl", {"text": TEXT}, {"text": TEXT}),
        "texts.jsonl",
        mutate_lines,
        lambda path: read_documents(path / "texts.jsonl"),
    ),
    Format(
        "TruthfulQA.csv",
        copied("hallucination_questions.csv"),
        "hallucination_questions.csv",
        mutate_csv,
        lambda path: read_questions(path / "hallucination_questions.csv"),
    ),
    Format(
        "mc_task.json",
        copied("hallucination_choices.json"),
        "hallucination_choices.json",
        mutate_json,
        lambda path: read_questions(path / "hallucination_choices.json"),
    ),
    Format(
        "targets beside answer columns",
        lines("targets.jsonl", *TARGETED),
        "targets.jsonl",
        mutate_lines,
        lambda path: read_questions(path / "targets.jsonl"),
    ),
    Format(
        "table of an audit",
        lines("corpus.json", [{"kind": "all"} | dict.fromkeys(CORPUS, 1.5)]),
        "corpus.json",
        mutate_json,
        lambda path: read_kept(path / "corpus.json", KINDS),
    ),
    Format(
        "choices of Perez",
        copied("sycophancy_choices.jsonl"),
        "sycophancy_choices.jsonl",
        mutate_lines,
        lambda path: read_choices(path / "sycophancy_choices.jsonl", 99),
    ),
    Format(
        "choices as one list",
        copied("sycophancy_ab.json"),
        "sycophancy_ab.json",
        mutate_json,
        lambda path: read_choices(path / "sycophancy_ab.json", 99),
    ),
    Format(
        "questions with beliefs",
        copied("sycophancy_questions.jsonl"),
        "sycophancy_questions.jsonl",
        mutate_lines,
        lambda path: read_templates(path / "sycophancy_questions.jsonl", 99),
    ),
    Format(
        "questions with lettered choices",
        lines("are_you_sure.jsonl", *LETTERED),
        "are_you_sure.jsonl",
        mutate_lines,
        lambda path: read_file(path / "are_you_sure.jsonl", selection=Selection(2)),
    ),
    Format(
        "questions with premises",
        lines("premises.jsonl", *set_rows("false-premises")[:3]),
        "premises.jsonl",
        mutate_lines,
        lambda path: read_file(path / "premises.jsonl"),
    ),
    Format(
        "conflicts of two people",
        lines("conflicts.jsonl", *set_rows("two-sides")[:3]),
        "conflicts.jsonl",
        mutate_lines,
        lambda path: read_file(path / "conflicts.jsonl"),
    ),
    Format(
        "texts to comment on",
        copied("sycophancy_texts.jsonl"),
        "sycophancy_texts.jsonl",
        mutate_lines,
        lambda path: read_texts(path / "sycophancy_texts.jsonl", 99),
    ),
    Format(
        "classification",
        copied("in_context_reviews.jsonl"),
        "in_context_reviews.jsonl",
        mutate_lines,
        lambda path: read_classification(path / "in_context_reviews.jsonl"),
    ),
    Format(
        "problems",
        copied("chain_problems.jsonl"),
        "chain_problems.jsonl",
        mutate_lines,
        lambda path: read_problems(path / "chain_problems.jsonl"),
    ),
    Format("log of Inspect", inspect_log, "log.eval", mutate_bytes, compare_with_itself),
    Format("JSON log of Inspect", inspect_log, "log.json", mutate_json, lambda path: read_log(path / "log.json")),
    Format(
        "samples of lm-evaluation-harness",
        lambda folder: write_lines(folder / "samples_task.jsonl", harness_lines([0, 1, 1])),
        "",
        mutate_lines,
        compare_with_itself,
    ),
    Format(
        "rows with a score",
        lines("scores.jsonl", *({"id": at, "score": at % 2, "prompt": TEXT} for at in range(3))),
        "scores.jsonl",
        mutate_lines,
        lambda path: compare_with_itself(path / "scores.jsonl"),
    ),
    Format("Parquet", tables, "rows.parquet", mutate_bytes, lambda path: pairs(path / "rows.parquet")),
    Format("state.json of datasets", tables, "rows/state.json", mutate_json, lambda path: pairs(path / "rows")),
    Format("Arrow of datasets", tables, f"rows/{ARROW}", mutate_bytes, lambda path: pairs(path / "rows")),
    Format("documents", documents, "documents.jsonl", mutate_lines, read_folder),
    Format("text of a document", texts, "a.txt", mutate_bytes, read_folder),
    Format("kept answers", answers, "calls.jsonl", mutate_lines, lambda path: Calls(trained(), path / "calls.jsonl")),
    Format("questions on documents", documents, "questions.jsonl", mutate_lines, read_folder),
)


def target(made: Path, fmt: Format) -> Path:
    """The file that is damaged."""
    file = made / fmt.file
    return file / (file / "file").read_text() if file.is_dir() else file
