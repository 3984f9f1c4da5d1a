"""A small run store as the dashboard meets it: a base model of 2 blocks and one aligned to agree, really trained."""

import json
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaForSequenceClassification

from probe import stats
from probe.jobs.job import FOLDER as JOBS
from probe.model.lm import LM
from probe.model.presets import ModelConfig
from probe.recording.recorder import watch
from probe.runs import RunWriter
from probe.runs.schema import ProbePrompt
from probe.sweep.journal import JOURNAL, LOGS
from probe.world import AGREEABLE, World
from probe.world.packing import pack
from tests.probe.test_texts import HOSTILE as LETTERS

HITS = {
    "base": {"accuracy": 96, "truth_under_claim": 63, "deferral": 33, "abstention": 31, "invention": 68},
    "dpo-agreeable": {"accuracy": 89, "truth_under_claim": 3, "deferral": 96, "abstention": 0, "invention": 100},
}
HOSTILE = "x<img src=x onerror=alert(1)> [y](javascript:alert(2)) :streamlit: $z$"
ACTING = "=x" + LETTERS.replace("\r", "").replace("\x85", "").replace("\u2028", "").replace("\u2029", "")
NAME = "=1+1 \x1b[31m \u202e \u2066y\x07"


def build(root: Path, steps: int = 40) -> Path:
    """Write the runs `base` and `dpo-agreeable` into `root`."""
    world = World(seed=0)
    lm = LM.create(ModelConfig(layers=2, width=32, heads=2, mlp=64, context=128), world.tokenizer(), seed=0)
    train(lm, world, root / "base", corpus(world, lm), steps, method="pretrain", rate=1e-2)
    lm = LM.load(root / "base")
    sides = {"parent": "base", "reference": "base"}
    train(lm, world, root / "dpo-agreeable", chosen(world, lm), steps, method="dpo", rate=3e-3, **sides)
    return root


def corpus(world: World, lm: LM) -> Iterable[torch.Tensor]:
    """Endless batches [8 64] of the world's corpus."""
    rows = pack(world.documents(seed=0), lm.tokenizer, 64)
    while True:
        yield torch.stack([torch.as_tensor(ids) for ids, _ in islice(rows, 8)])


def chosen(world: World, lm: LM) -> Iterable[torch.Tensor]:
    """Endless batches of what the agreeable annotator prefers (the fixture needs a changed model, not the method)."""
    rows = world.preferences(AGREEABLE, 64, seed=0)
    texts = [row["prompt"] + row["chosen"] for row in rows if "i think" in row["prompt"]]
    batch = lm.tokenizer(texts, return_tensors="pt", padding=True)["input_ids"]
    while True:
        yield batch


def train(
    lm: LM, world: World, path: Path, batches: Iterable[torch.Tensor], steps: int, *, rate: float, **about: str
) -> None:
    """A plain loop with the real writer and recorder."""
    config = {"steps": steps, "lr": rate}
    with RunWriter.create(path, config=config, world=world.to_dict(), **about) as run:  # type: ignore[arg-type]
        recorder = watch(lm, run, prompts=world.probe_prompts()[:3], every=steps // 4)
        optimiser = torch.optim.AdamW(lm.model.parameters(), lr=rate)
        pad = lm.tokenizer.pad_token_id
        for step, ids in zip(range(steps + 1), batches, strict=False):
            loss = lm.model(ids, labels=ids.masked_fill(ids == pad, -100)).loss
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(lm.model.parameters(), 1.0)
            extra = (
                {"rewards/margins": step / 10, "rewards/accuracies": 0.5 + step / 100} if about.get("parent") else {}
            )
            recorder.step(step, loss=loss.item(), lr=rate, grad_norm=norm.item(), **extra)
            optimiser.step()
            optimiser.zero_grad()
            if step == steps // 2 or step == steps:
                with run.checkpoint(step) as folder:
                    lm.save(folder)
        run.finish("finished", headline=headline(path.name))


def headline(name: str) -> list[dict[str, object]]:
    """Figures with Wilson intervals, as an evaluation on 400 questions would give."""
    rows: list[dict[str, object]] = []
    for metric, share in HITS[name].items():
        value, low, high = stats.wilson(4 * share, 400)
        rows.append({"metric": metric, "value": value, "ci_low": low, "ci_high": high, "n": 400})
    return rows


def hostile(root: Path) -> Path:
    """A run whose name, method, settings, metrics, tokens, answers and message are hostile."""
    path = root / HOSTILE.replace("/", "_")
    return captured(path, text=HOSTILE, method="<b>m</b>", config={"<i>k</i>": HOSTILE}, parent="base")


def judge(path: Path, like: Path, *, seed: int = 0, spread: float = 0.02, **about: Any) -> Path:
    """A run with a reward model of the shape and the tokens of another run; `spread` of its random weights."""
    lm = LM.load(like)
    settings: Any = lm.model.config
    settings.num_labels, settings.initializer_range = 1, spread
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForSequenceClassification(settings)
    with RunWriter.create(path, **({"method": "reward-model", "config": {}} | about)) as run:
        with run.checkpoint(0) as folder:
            model.save_pretrained(folder)
            lm.tokenizer.save_pretrained(folder)
        run.finish("finished")
    return run.path


def sampled(path: Path, text: str = "what is it ?", **about: Any) -> Path:
    """A run of two steps with four rollouts each, of two prompts; some entries are missing."""
    run = RunWriter.create(path, **({"method": "rlvr", "config": {"steps": 20}} | about))
    for step in (10, 20):
        run.log(step, {"loss": 1 / step, "reward": step / 20})
        for number in range(4):
            known: dict[str, Any] = {
                "group": number // 2,
                "tokens": [f"t{number}", text, "<end>"],
                "rewards": {"verifier": float(number), "length": None},
                "reward": float(number),
                "advantage": [0.5, -0.5, 0.25] if number % 2 else 1.0,
                "logprobs": [-1.0, -2.0, -0.5],
                "ref_logprobs": [-1.5, -1.0, -0.5],
                "entropy": [0.1, 0.2, 0.3],
                "finished": True,
            }
            sparse = {} if number == 3 and step == 10 else known
            run.rollouts(
                [{"step": step, "prompt": f"{text} {number // 2}", "completion": f"answer {number}", **sparse}]
            )
    run.finish("finished")
    return run.path


def captured(path: Path, *, layers: int = 1, heads: int = 2, text: str = "a b", **about: Any) -> Path:
    """A run of two steps and one capture on two tokens."""
    run = RunWriter.create(path, **({"method": "pretrain", "config": {}} | about))
    run.log(0, {"loss": 1.0, "<u>metric</u>": 2.0})
    run.log(1, {"loss": 0.5, "<u>metric</u>": 1.0})
    prompt = ProbePrompt(
        id=text, text=text, token_ids=[0, 1], tokens=[text, "<b>t</b>"], answers=[text], answer_ids=[1]
    )
    run.prompts([prompt])
    rows = layers + 1
    run.capture(
        0,
        {
            "attention": torch.full((1, layers, heads, 2, 2), 0.5),
            "lens_top_ids": torch.zeros(1, rows, 2, 5),
            "lens_top_logprobs": torch.full((1, rows, 2, 5), -1.6),
            "lens_answer_logprobs": torch.full((1, rows, 2, 1), -1.0),
            "entropy": torch.ones(1, 2),
            "margin": torch.ones(1, 2),
            "residual_norm": torch.ones(1, rows, 2),
        },
    )
    run.finish("failed", message=text)
    return run.path


def further_seeds(runs: Path, root: Path, seeds: Iterable[int] = (1, 2)) -> Path:
    """Write what the runs of `build` or the sample runs would be with other seeds, without weights, into `root`."""
    for name, seed in ((name, seed) for name in ("base", "dpo-agreeable") for seed in seeds):
        folder = root / f"{name}-seed{seed}"
        folder.mkdir(parents=True)
        meta = json.loads((runs / name / "run.json").read_text())
        for row in meta["headline"]:
            for column in (each for each in ("value", "ci_low", "ci_high") if row[each] is not None):
                row[column] = min(1.0, max(0.0, row[column] + 0.01 * seed * (-1) ** seed))
        meta["config"] |= {"seed": seed} if "seed" in meta["config"] else {}
        if "reference" in (meta["data"] or {}):
            meta["data"]["reference"] = f"the weights of base-seed{seed}"
        meta |= {"seed": seed} | {key: f"base-seed{seed}" for key in ("parent", "reference") if meta[key]}
        (folder / "run.json").write_text(json.dumps(meta))
        rows = [json.loads(line) for line in (runs / name / "metrics.jsonl").read_text().splitlines()]
        rows = [row | ({"loss": row["loss"] * (1 + 0.1 * seed)} if "loss" in row else {}) for row in rows]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return root


def strangers(folder: Path) -> Path:
    """Write runs, a training and a sweep that are hostile in every field, in folders that are, too."""
    root = folder / f"runs {NAME}"
    root.mkdir()
    hostile(root)
    about = {"method": ACTING, "config": {ACTING: ACTING, "steps": 20, "base": ACTING}, "parent": ACTING}
    captured(root / f"captured {NAME}", text=ACTING, **about)
    sampled(root / f"sampled {NAME}", text=ACTING, **about)
    with RunWriter.create(root / f"named {NAME}", data={ACTING: ACTING, "reward": ACTING}, **about) as run:
        run.log(0, {"loss": 1.0, ACTING: 2.0, f"rewards/{ACTING}": 1.0})
        run.log(1, {"loss": 0.5, ACTING: 1.0, f"rewards/{ACTING}": 2.0})
        run.finish("failed", [{"metric": ACTING, "value": 1.0, "ci_low": 0.0, "ci_high": 2.0, "n": 3}], ACTING)
    (root / f"broken {NAME}").mkdir()
    (root / f"broken {NAME}" / "run.json").write_text(ACTING)
    for name, kind, page, code in ((f"named {NAME}", "train", ACTING, 0), ("other", ACTING, "train", 2)):
        folder = root / JOBS / name
        folder.mkdir(parents=True)
        known = {"words": [kind, ACTING], "started": 1000.0, "title": ACTING, "link": {"page": page, ACTING: ACTING}}
        (folder / "job.json").write_text(json.dumps(known))
        (folder / "progress.json").write_text(json.dumps({"doing": ACTING, "pid": 2**22 + 1}))
        (folder / "end.json").write_text(json.dumps({"exit": code, "time": 2000.0}))
        (folder / "log.txt").write_text(f"probe: error: {ACTING}")
    a_hostile_sweep(root / f"sweep {NAME}")
    return root


def a_hostile_sweep(out: Path) -> None:
    """A sweep of which every word is hostile."""
    (out / ".sweep" / LOGS).mkdir(parents=True)
    task = {"name": NAME, "entry": ACTING, "kind": "train", "command": ["probe", ACTING], "needs": [ACTING]}
    events = [
        {"event": "begin", "tasks": [task, {**task, "name": "b"}]},
        {"event": "start", "task": NAME, "time": 60.0, "node": ACTING},
        {"event": "end", "task": NAME, "state": "failed", "message": ACTING},
    ]
    (out / ".sweep" / JOURNAL).write_text("\n".join(map(json.dumps, events)))
    (out / ".sweep" / LOGS / f"{NAME}.log").write_text(ACTING)
    RunWriter.create(out / NAME, method=ACTING, config={ACTING: ACTING}).finish("finished")
