"""`probe dashboard` before the first page: options, ports, roots, and settings that no file can loosen."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from dashboard import command
from probe.errors import ConfigError, RunError


def probe(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "probe.cli", "dashboard", *arguments], capture_output=True, text=True)


def test_a_port_in_use_is_one_sentence_with_a_remedy():
    with socket.socket() as taken:
        taken.bind((command.HOST, 0))
        taken.listen()
        port = taken.getsockname()[1]
        result = probe("--port", str(port), "--no-browser")
    assert result.returncode == 2
    assert f"Port {port} cannot be used" in result.stderr
    assert "--port" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize("port", [-1, 65536])
def test_a_port_that_does_not_exist(port: int):
    with pytest.raises(ConfigError, match="does not exist"):
        command.free_port(port)


def test_port_0_finds_a_free_one():
    assert command.free_port(0) > 0


def test_a_missing_root_is_one_sentence(tmp_path: Path):
    result = probe("--runs", str(tmp_path / "gone"))
    assert result.returncode == 2
    assert "is not a folder" in result.stderr
    assert "Traceback" not in result.stderr
    with pytest.raises(RunError):
        command.checked_roots((str(tmp_path), str(tmp_path / "gone")))


def test_a_missing_plugin_is_one_sentence(tmp_path: Path):
    result = probe("--plugin", str(tmp_path / "gone.py"), "--no-browser")
    assert result.returncode == 2
    assert "is not a Python file" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_plugins_reach_the_server_by_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PROBE_PLUGINS", "/before.py")
    monkeypatch.setattr(command, "serve", lambda gate: 0)
    files = [tmp_path / "one.py", tmp_path / "two.py"]
    for file in files:
        file.write_text("1 / 0\n")
    words = [f"--plugin={files[0]}", "--port", "0", "--plugin", str(files[1]), "--no-browser"]
    assert command.dashboard(words) == 0
    assert os.environ["PROBE_PLUGINS"] == os.pathsep.join(["/before.py", *map(str, files)])


def test_there_is_no_option_to_listen_elsewhere():
    result = probe("--host", "0.0.0.0")
    assert result.returncode == 2
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("place", ["working directory", "home"])
def test_settings_hold_against_a_users_configuration(tmp_path: Path, place: str):
    """Streamlit's own parser, with a hostile configuration in a file and in variables."""
    here, home = tmp_path / "here", tmp_path / "home"
    for folder in (here, home):
        folder.mkdir()
    folder = {"working directory": here, "home": home}[place] / ".streamlit"
    folder.mkdir()
    (folder / "config.toml").write_text(
        "[server]\naddress='0.0.0.0'\nenableXsrfProtection=false\nallowedHosts=['*']\nenableAgentApi=true\n"
        "baseUrlPath='/evil'\ncorsAllowedOrigins=['http://evil.example']\n"
        "[browser]\ngatherUsageStats=true\n[client]\nshowErrorDetails='full'\n"
    )
    hostile = {
        "STREAMLIT_SERVER_ENABLE_AGENT_API": "true",
        "STREAMLIT_SERVER_ADDRESS": "0.0.0.0",
        "STREAMLIT_SERVER_ALLOWED_HOSTS": "*",
        "STREAMLIT_CLIENT_SHOW_ERROR_DETAILS": "full",
        "HOME": str(home),
    }
    script = (
        "import json\n"
        "from unittest import mock\n"
        "from streamlit import config\n"
        "from dashboard import access, command\n"
        "with mock.patch('streamlit.web.server.starlette.starlette_server.UvicornRunner.run') as run:\n"
        "    command.serve(access.Gate(8765))\n"
        "assert run.called\n"
        "keys = 'server.address server.port server.enableXsrfProtection server.allowedHosts server.enableAgentApi '\\\n"
        "       'server.baseUrlPath server.corsAllowedOrigins browser.gatherUsageStats client.showErrorDetails '\\\n"
        "       'server.fileWatcherType client.toolbarMode'\n"
        "values = {f'{part}.{key}': value for part in ('server', 'browser', 'client')\n"
        "          for key, value in config.get_options_for_section(part).items()}\n"
        "print(json.dumps({key: values[key] for key in keys.split()}))\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=here, env=os.environ | hostile
    )
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout) == {
        "server.address": "127.0.0.1",
        "server.port": 8765,
        "server.enableXsrfProtection": True,
        "server.allowedHosts": ["127.0.0.1", "localhost"],
        "server.enableAgentApi": False,
        "server.baseUrlPath": "",
        "server.corsAllowedOrigins": [],
        "browser.gatherUsageStats": False,
        "client.showErrorDetails": "none",
        "server.fileWatcherType": "none",
        "client.toolbarMode": "minimal",
    }


@pytest.mark.parametrize(("display", "expected"), [("", False), (":0", True)])
def test_a_browser_opens_only_where_it_can_be_seen(monkeypatch: pytest.MonkeyPatch, display: str, expected: bool):
    monkeypatch.setattr(command.sys, "platform", "linux")
    monkeypatch.setenv("DISPLAY", display)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    assert command.has_display() is expected
