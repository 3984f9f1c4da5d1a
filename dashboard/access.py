"""Who may do more than read: whoever opened the address that `probe dashboard` printed.

A page of any site can send a browser to this server, frame its pages, or open a connection to it from another port of
this machine. So three things hold:

- `Guard` answers only requests that name this server, and of pages only its own; no other page may frame it.
- The printed address carries a fresh token. `Guard` takes it out of the URL and puts it into a cookie that scripts
  cannot read and other sites cannot send.
- What starts, stops or writes anything asks `may_write`. Without the token's cookie the pages only read.

A cookie knows its host and no port: whatever else this machine serves to the same browser is sent it too.
"""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, quote, urlencode

from starlette.datastructures import MutableHeaders
from starlette.requests import HTTPConnection
from starlette.responses import PlainTextResponse, RedirectResponse, Response

from probe.errors import ConfigError

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

PARAMETER = "token"
"""Of the printed address."""
HOSTS = ("127.0.0.1", "localhost")
"""Names of this machine that the server answers to."""
SAFE = ("GET", "HEAD", "OPTIONS")
"""Methods that change nothing."""
HEADERS = {
    "Content-Security-Policy": "frame-ancestors 'none'",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}
"""Of every response: no other page frames this one, holds its window, embeds its files, or learns its address."""
READ_ONLY = (
    "This page only reads: to train, measure, stop or store anything, open the address with a token that"
    " `probe dashboard` printed, in this browser."
)


@dataclass(frozen=True)
class Gate:
    """The token of one server."""

    port: int
    """Port of the server; cookies of several servers on one machine are told apart by it."""
    token: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)
    """256 random bits."""

    @property
    def cookie(self) -> str:
        """Name of the cookie."""
        return f"probe-{self.port}"

    @property
    def hosts(self) -> tuple[str, ...]:
        """The server's addresses, as a Host header gives them."""
        return tuple(f"{host}:{self.port}" for host in HOSTS) + (HOSTS if self.port == 80 else ())

    def address(self, url: str) -> str:
        """Return the address that carries the token."""
        return f"{url}/?{PARAMETER}={self.token}"

    def is_token(self, given: str) -> bool:
        """Return whether a text is the token, in a time that tells nothing about the token."""
        return secrets.compare_digest(given.encode(), self.token.encode())

    def admits(self, cookies: Mapping[str, str]) -> bool:
        """Return whether one of the cookies holds the token."""
        return self.is_token(cookies.get(self.cookie, ""))


_gates: list[Gate] = []
"""Of the server of this process; empty where none was started by `probe dashboard`."""


def install(gate: Gate) -> None:
    """Let whoever holds the token do more than read."""
    _gates[:] = [gate]


def uninstall() -> None:
    """Let nobody do more than read."""
    _gates.clear()


def may_write() -> bool:
    """Return whether the reader may start, stop or write anything; never, unless `probe dashboard` serves the page."""
    import streamlit as st

    return any(gate.admits(st.context.cookies) for gate in _gates)


def check() -> None:
    """Refuse to go on where the reader may only read.

    To be called by whatever starts, stops or writes: a button that is disabled can be pressed all the same.

    Raises:
        ConfigError: the reader may only read.
    """
    if not may_write():
        raise ConfigError(READ_ONLY)


def button(help: str | None = None, *, disabled: bool = False) -> dict[str, Any]:
    """Return the settings of a button that starts, stops or writes: disabled, with the reason, for read-only readers.

    Args:
        help: what it does.
        disabled: for another reason.
    """
    may = may_write()
    return {"disabled": disabled or not may, "help": help if may else READ_ONLY}


class Guard:
    """ASGI middleware around all that the server answers."""

    def __init__(self, app: "ASGIApp", gate: Gate) -> None:
        self.app, self.gate = app, gate

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        """Answer a request here, or hand it on."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        request = HTTPConnection(scope)
        reason = refusal(self.gate, request)
        if scope["type"] == "websocket":
            if reason:
                await send({"type": "websocket.close", "code": 1008})
            else:
                await self.app(scope, receive, send)
            return

        has_begun = False

        async def send_guarded(message: "Message") -> None:
            nonlocal has_begun
            if message["type"] == "http.response.start":
                has_begun = True
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        answer = PlainTextResponse(reason, 403) if reason else exchange(self.gate, request)
        try:
            await (answer or self.app)(scope, receive, send_guarded)
        except Exception:  # whoever answers in the place of the server has no headers of ours
            if not has_begun:
                await PlainTextResponse("The server failed; its terminal says why.", 500)(scope, receive, send_guarded)
            raise


def refusal(gate: Gate, request: HTTPConnection) -> str:
    """Say in one sentence why a request is not answered; empty if it is.

    A name that was bent to this machine (DNS rebinding) is no host of the server. A browser sends `Origin` with every
    WebSocket and with whatever a page of another origin does beyond following a link.
    """
    host, origin = request.headers.get("host", ""), request.headers.get("origin")
    method = request.scope.get("method")  # a WebSocket has none
    if host not in gate.hosts:
        return f"This server answers only at http://{gate.hosts[0]}."
    if origin != f"http://{host}" and not (origin is None and method):
        return f"This server answers no other pages than its own: open http://{gate.hosts[0]}."
    if method and method not in SAFE and not gate.admits(request.cookies):
        return READ_ONLY
    return ""


def exchange(gate: Gate, request: HTTPConnection) -> Response | None:
    """Redirect a request to its URL without the token, and set the cookie if the token is right.

    None where there is no token.
    """
    words = parse_qsl(request.url.query, keep_blank_values=True)
    tokens = [value for name, value in words if name == PARAMETER]
    if not tokens or request.scope["method"] not in ("GET", "HEAD"):
        return None
    rest = urlencode([(name, value) for name, value in words if name != PARAMETER])
    path = "/" + quote(request.scope["path"].lstrip("/\\"))  # two slashes would lead to another host
    answer = RedirectResponse(path + (f"?{rest}" if rest else ""), 303, {"Cache-Control": "no-store"})
    if gate.is_token(tokens[-1]):
        answer.set_cookie(gate.cookie, gate.token, httponly=True, samesite="strict", path="/")
    return answer
