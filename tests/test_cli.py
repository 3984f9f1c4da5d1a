"""The command line as a user meets it: help, unknown commands, mistakes without tracebacks."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from probe import cli
from probe.errors import ConfigError, ProbeError


def probe(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "probe.cli", *arguments], capture_output=True, text=True)


def test_help_lists_every_command_with_a_summary():
    result = probe("--help")
    assert result.returncode == 0
    for name in cli.commands():
        line = next(line for line in result.stdout.splitlines() if line.strip().startswith(f"{name} "))
        assert len(line.split()) > 3, line


def test_no_help_waits_for_torch():
    """A benchmark (`python -m benchmarks help`) measures the seconds; here it is that nothing slow is imported."""
    code = """if True:
        import sys
        from probe.cli import commands, main
        from probe.experiments.registry import BUILT_IN
        from trainers.commands import METHODS

        words = [[name] for name in commands()]
        words += [["train", name] for name in METHODS] + [["experiment", name] for name in BUILT_IN]
        for each in words:
            try:
                assert main([*each, "--help"]) == 0
            except SystemExit as end:
                assert not end.code
            slow = {"accelerate", "streamlit", "torch", "transformers"} & set(sys.modules)
            assert not slow, (each, slow)
        """
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


def test_no_arguments_print_the_help():
    assert probe().stdout == probe("--help").stdout


def test_version():
    assert probe("--version").stdout.startswith("probe 0.")


def test_unknown_command_names_the_near_one():
    result = probe("trian")
    assert result.returncode == 2
    assert "did you mean `train`?" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_users_mistake_is_one_sentence(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    def fail(_argv: object) -> int:
        raise ProbeError("This was given, that was expected: do this.")

    monkeypatch.setattr(cli, "dispatch", fail)
    assert cli.main([]) == 2
    assert capsys.readouterr().err == "probe: error: This was given, that was expected: do this.\n"


def test_unknown_command_raises_for_python_callers():
    with pytest.raises(ConfigError, match="no command `nothing`"):
        cli.dispatch(["nothing"])


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("runs list --rot x", "did you mean `--root`?"),
        ("runs lst", "did you mean `list`?"),
        ("runs show", "see `probe runs show --help`"),
        ("world --outt x", "did you mean `--out`?"),
        ("world", "`probe world` needs --out"),
        ("export base --fromat png", "did you mean `--format`?"),
        ("export --out x", "see `probe export --help`"),
        ("doctor --jsn", "did you mean `--json`?"),
        ("dashboard --prt 3", "did you mean `--port`?"),
        ("dashboard --port three", "see `probe dashboard --help`"),
        ("train dppo", "did you mean `dpo`?"),
        ("train DPO", "did you mean `dpo`?"),
        ("train --describe dop", "did you mean `dpo`?"),
        (
            "train sft --base b --out x --schedule cosin",
            "takes cosine, linear, constant for --schedule, and not `cosin`",
        ),
        ("train sft --base b --out x --schedule cosin", "did you mean `cosine`?"),
        ("samples --only bse", "did you mean `base`?"),
        ("experiment in-contxt --model x", "did you mean `in_context`?"),
        ("experiment sycophancy --model base --wording publised", "did you mean `published`?"),
        ("findings --onyl x", "see `probe findings --help`."),
        ("runs show bse", "did you mean `base`?"),
        ("runs show dpo-agreable", "did you mean `dpo-agreeable`"),
        ("train pretrain --out x --stesp 3", "did you mean `--steps`?"),
        ("samples --forse", "did you mean `--force`?"),
        ("findings --n 0", "--n is 0; expected 1 or more"),
        ("findings gessing", "did you mean `guessing`?"),
        ("runs list --root=", "is not a folder"),
        ("report --out x.html", "was called without a run"),
        ("report base --experimnt x", "did you mean `--experiment`?"),
    ],
)
def test_a_mistyped_option_is_one_sentence(command: str, expected: str, capsys: pytest.CaptureFixture[str]):
    assert cli.main(command.split()) == 2
    said = capsys.readouterr().err
    assert said.startswith("probe: error: ")
    assert said.count("\n") == 1
    assert expected in said


def test_a_reader_who_has_seen_enough_is_no_error():
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "probe.cli", "--help"], stdout=write, stderr=subprocess.PIPE, text=True, check=False
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    "command",
    [
        "train pretrain --out file/run",
        "train pretrain --out file",
        "train dpo --base base --out file/deep/run",
        "samples --out file --only base --steps-scale 0.001",
        "world --out file",
        "world --out file/deep",
        "dashboard --runs file",
        "findings --runs file",
        "runs list --root file",
        "runs show file",
        "export file --out x --format csv",
        "export nothing --out x --format csv",
        "export base --out file --format csv",
        "export base --out file/deep --format csv",
        "findings guessing --out file/table.csv",
        "findings guessing --out empty",
        "experiment sycophancy --model base --out file",
        "experiment sycophancy --model base --out file/deep",
        "report nothing --out x.html",
        "report base --out file/x.html",
        "report base --out empty",
        "experiment sycophancy --model file",
        "experiment sycophancy --model empty",
        "runs show empty",
    ],
)
def test_a_file_where_a_folder_is_expected_is_one_sentence(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    assert cli.main(command.split()) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("probe: error: ")
    assert "free some space" not in said
    for word in ("file", "empty", "nothing"):
        assert word not in command.split() or f"`{word}" in said or f" {word} " in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "file"]
