"""A run that came from anywhere names a host in its files: nothing is asked of it unless the command line says so."""

import http.server
import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from probe import open_run
from probe.errors import ConfigError, ModelError, ProbeError
from probe.jobs.trainings import line_to_type
from probe.runs.directories import host_options
from probe.runs.store import mirror
from tests.trainers.quick import train as train_config
from trainers import commands


class Host:
    """A server on this machine that counts what it is asked, and knows nothing."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        host = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                host.asked.append(self.path)
                self.send_error(404)

            do_HEAD = do_GET  # noqa: N815

            def log_message(self, *_: Any) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/runs/base"


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    """A host that is listening; looks for a run in a store count as well, whether its packages are installed or not."""
    host = Host()
    thread = Thread(target=host.server.serve_forever, daemon=True)
    thread.start()
    before = mirror.find_run
    monkeypatch.setattr(mirror, "find_run", lambda ref: (host.asked.append(ref), before(ref))[1])
    yield host
    host.server.shutdown()
    host.server.server_close()
    thread.join()


@pytest.fixture
def stranger(configs: Callable[..., Any]) -> Callable[..., Path]:
    """Make a run of one step, and change the options in its run.json."""

    def make(method: str, changes: dict[str, Any], **options: Any) -> Path:
        config = configs(method)(steps=1, **options)
        train_config(config)
        file = config.out / "run.json"
        about = json.loads(file.read_text())
        about["config"] |= changes
        file.write_text(json.dumps(about | {"status": "interrupted"}))
        return config.out

    return make


@pytest.mark.parametrize(
    ("method", "name"),
    [("dpo", "base"), ("sft", "base"), ("pretrain", "base"), ("rlvr", "reward"), ("rlhf", "reward")],
)
def test_a_resume_asks_no_host_that_only_the_run_names(method, name, host: Host, stranger) -> None:
    out = stranger(method, {name: [host.url] if name == "reward" else host.url})
    with pytest.raises(ConfigError) as refused:
        commands.train([method, "--out", str(out), "--resume", "--steps", "2"])
    command = f"probe train {method} --out {out} --resume --{name} {host.url}"
    assert f"type `{command}`" in str(refused.value)
    assert host.asked == []
    assert line_to_type(open_run(out)).endswith(f"--resume --{name} {host.url}")
    with suppress(ProbeError):
        commands.train([*command.split()[2:], "--steps", "2"])  # whoever types it has said so
    assert host.asked or method == "pretrain"  # which goes on from its checkpoint


def test_a_resume_asks_no_host_that_only_the_adapter_names(host: Host, stranger, world_run: Path) -> None:
    out = stranger("dpo", {}, lora=2)
    (checkpoint,) = (out / "checkpoints").iterdir()
    file = checkpoint / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"base_model_name_or_path": host.url}))
    (checkpoint / "SHA256SUMS").unlink(missing_ok=True)
    with pytest.raises(ModelError, match="what a file names is not fetched from a store"):
        commands.train(["dpo", "--out", str(out), "--resume", "--steps", "2"])
    assert host.asked == []


def test_a_resume_sends_nothing_to_a_tracker_that_only_the_run_names(stranger) -> None:
    out = stranger("sft", {"track": "wandb"})
    with pytest.raises(ConfigError, match=r"names a host with --track.*--resume --track wandb"):
        commands.train(["sft", "--out", str(out), "--resume", "--steps", "2"])


def test_which_options_reach_a_host() -> None:
    config = {
        "base": "s3://bucket/base",
        "reward": ["verifier", "http://h/r"],
        "data": "world",
        "lr": 1e-3,
        "x y": "a://b",
        "track": "wandb",
    }
    found = {"base": ["s3://bucket/base"], "reward": ["verifier", "http://h/r"], "track": ["wandb"]}
    assert host_options(config) == found
    harmless = {
        "track": "tensorboard",
        "base": "owner/model",
        "data": "C:\\runs\\a.jsonl",
        "reward": ["judge.py:score"],
        "out": None,
    }
    assert host_options(harmless) == {}
