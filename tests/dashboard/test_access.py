"""Who is answered and who may do more than read: hosts, origins, methods, the token in a URL and in a cookie."""

import asyncio
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from dashboard import access
from dashboard.access import HEADERS, READ_ONLY, Gate, Guard
from dashboard.pages import page_file
from probe.errors import ConfigError
from tests.dashboard.pages import unescape

GATE = Gate(8765, "the-token")
OWN = "127.0.0.1:8765"
COOKIE = f"{GATE.cookie}={GATE.token}"


def ask(
    kind: str = "http", method: str = "GET", path: str = "/", query: str = "", fails: bool = False, **headers: str
) -> dict[str, Any]:
    """What `Guard` sends for one request; `passed` says whether the server behind it was asked."""
    sent: list[dict[str, Any]] = []
    found: dict[str, Any] = {"passed": False}

    async def behind(scope: Any, receive: Any, send: Any) -> None:
        found["passed"] = True
        if fails:
            raise RuntimeError("a fault of the server")
        if kind == "http":
            await send({"type": "http.response.start", "status": 200, "headers": [(b"x-frame-options", b"ALLOWALL")]})
            await send({"type": "http.response.body", "body": b"behind"})

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    given = {"host": OWN, **headers}
    scope = {
        "type": kind,
        "path": path,
        "root_path": "",
        "scheme": "http" if kind == "http" else "ws",
        "server": ("127.0.0.1", 8765),
        "query_string": query.encode(),
        "headers": [(name.encode(), value.encode("latin-1")) for name, value in given.items() if value],
        **({"method": method} if kind == "http" else {}),
    }
    with ThreadPoolExecutor(1) as thread:  # the browser tests keep an event loop running in this one
        failed = thread.submit(asyncio.run, Guard(behind, GATE)(scope, receive, send)).exception()
    assert (failed is not None) == fails
    if kind == "http":
        pairs = [(name.decode().lower(), value.decode()) for name, value in sent[0]["headers"]]
        assert len(dict(pairs)) == len(pairs)  # a second header of a name could loosen the first
        found |= {"status": sent[0]["status"], "body": b"".join(part.get("body", b"") for part in sent[1:]).decode()}
        found |= {"headers": dict(pairs)}
    return found | {"closed": [message for message in sent if message["type"] == "websocket.close"]}


@pytest.mark.parametrize(
    ("host", "origin", "answered"),
    [
        (OWN, f"http://{OWN}", True),
        ("localhost:8765", "http://localhost:8765", True),
        (OWN, "", False),  # a browser always says where a WebSocket comes from
        (OWN, "null", False),
        (OWN, "http://127.0.0.1:8766", False),
        (OWN, "http://127.0.0.1", False),
        (OWN, "http://localhost:8765", False),
        (OWN, f"https://{OWN}", False),
        (OWN, f"http://{OWN}@evil.example", False),
        (OWN, f"http://{OWN}.evil.example", False),
        ("127.0.0.1:8766", "http://127.0.0.1:8766", False),
        ("evil.example:8765", "http://evil.example:8765", False),
        ("evil.example", f"http://{OWN}", False),
        ("", f"http://{OWN}", False),
    ],
)
def test_a_websocket_is_answered_to_the_dashboards_own_pages_alone(host: str, origin: str, answered: bool):
    found = ask("websocket", path="/_stcore/stream", host=host, origin=origin, cookie=COOKIE)
    assert found["passed"] is answered
    assert bool(found["closed"]) is not answered


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"origin": f"http://{OWN}"}, 200),
        ({"origin": "http://127.0.0.1:8766"}, 403),
        ({"origin": "null"}, 403),
        ({"host": "evil.example:8765"}, 403),
        ({"host": ""}, 403),
    ],
)
@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
def test_every_response_forbids_frames(method: str, headers: dict[str, str], status: int):
    found = ask(method=method, path="/train", **headers)
    assert found["status"] == status
    assert found["headers"].items() >= {name.lower(): value for name, value in HEADERS.items()}.items()
    assert found["headers"]["content-security-policy"] == "frame-ancestors 'none'"
    assert found["headers"]["x-frame-options"] == "DENY"


@pytest.mark.parametrize(
    ("cookie", "status"),
    [
        (COOKIE, 200),
        ("", 403),
        (f"{GATE.cookie}=", 403),
        (f"{GATE.cookie}={GATE.token[:-1]}", 403),
        (f"{GATE.cookie}={GATE.token}x", 403),
        (f"{GATE.cookie}=\xff\xfe", 403),
        (f"probe-8766={GATE.token}", 403),
    ],
)
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
def test_what_changes_something_needs_the_cookie(method: str, cookie: str, status: int):
    found = ask(method=method, path="/_stcore/upload_file/a/b", cookie=cookie)
    assert (found["status"], found["passed"]) == (status, status == 200)


def test_the_token_is_exchanged_for_a_cookie_and_leaves_the_url():
    found = ask(path="/train", query=f"method=dpo&token={GATE.token}&prompt=a+%26+b")
    assert found["status"] == 303
    assert not found["passed"]
    assert found["headers"]["location"] == "/train?method=dpo&prompt=a+%26+b"
    cookie = found["headers"]["set-cookie"]
    assert cookie.startswith(COOKIE + ";")
    for part in ("HttpOnly", "SameSite=strict", "Path=/"):
        assert part in cookie
    assert "Domain" not in cookie
    assert found["headers"]["cache-control"] == "no-store"


@pytest.mark.parametrize("token", ["", "wrong", GATE.token + "x", GATE.token[:-1], "\u00fc"])
def test_a_wrong_token_gives_no_cookie_and_leaves_the_url_all_the_same(token: str):
    found = ask(query=f"token={token}")
    assert (found["status"], found["headers"]["location"]) == (303, "/")
    assert "set-cookie" not in found["headers"]


@pytest.mark.parametrize("path", ["//evil.example/", "/\\evil.example", "///evil.example", "/a\r\nSet-Cookie: b=c"])
def test_the_redirect_stays_on_this_server(path: str):
    target = ask(path=path, query="token=wrong")["headers"]["location"]
    assert target[0] == "/"
    assert target[1:2] not in ("/", "\\")
    assert "\n" not in target


def test_nothing_is_allowed_without_a_gate_or_its_cookie():
    access.uninstall()
    assert not access.may_write()
    access.install(GATE)  # AppTest and plain Python bring no cookie
    assert not access.may_write()
    assert access.button("help") == {"disabled": True, "help": READ_ONLY}
    with pytest.raises(ConfigError, match="only reads"):
        access.check()


def test_the_token_is_new_with_each_start_and_hidden_where_a_gate_is_shown():
    assert len({Gate(1).token for _ in range(10)}) == 10
    assert len(Gate(8765).token) >= 43
    assert GATE.token not in repr(GATE)


def test_pages_that_are_served_by_something_else_only_read(tmp_path: Path):
    """Neither a variable nor a file opens them: only `probe dashboard` makes a gate."""
    code = "from dashboard import access; print(access.may_write(), access._gates)"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False []"


def stored(root: Path) -> set[Path]:
    """All files of a folder of runs."""
    return {file for file in root.rglob("*") if file.is_file()}


@pytest.mark.parametrize("page", ["sycophancy", "findings"])
def test_nothing_is_measured_without_the_token(show: Callable[..., AppTest], runs: Path, page: str):
    access.uninstall()
    before = stored(runs)
    app = show(runs, page=page_file(page))
    assert not app.exception
    offered = [button for button in app.button if button.label.startswith("Measure")]
    assert offered
    assert all(button.disabled for button in offered)
    assert {button.help for button in offered} == {READ_ONLY}
    button = offered[-1]
    button.proto.disabled = False  # what a browser sends is not to be trusted
    assert [unescape(note.value) for note in app.info] == [READ_ONLY]
    button.click().run()
    assert not app.exception
    assert stored(runs) == before


def test_an_experiment_is_not_run_without_the_token_whatever_asks_for_it(runs: Path):
    access.uninstall()
    from dashboard.pages.experiments.asking import Request, Subject, measure
    from probe.experiments.registry import find_experiment

    before = stored(runs)
    with pytest.raises(ConfigError, match="only reads"):
        measure(Request(find_experiment("sycophancy")), Subject("base", "base", str(runs / "base")), "sycophancy")
    assert stored(runs) == before


def test_nothing_is_fetched_without_the_token(show: Callable[..., AppTest], runs: Path):
    access.uninstall()
    app = show(runs, page="compare/page.py", base="nobody/no-such-model")
    (button,) = [button for button in app.button if button.label.startswith("Fetch")]
    assert (button.disabled, button.help) == (True, READ_ONLY)


def test_a_server_that_fails_has_its_headers_too():
    found = ask(fails=True)
    assert found["status"] == 500
    assert "fault" not in found["body"]
    assert found["headers"]["x-frame-options"] == "DENY"
    assert found["headers"]["content-security-policy"] == "frame-ancestors 'none'"
