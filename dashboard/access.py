"""Access control: only readers who open the address printed by `probe dashboard` may do more than read.

A page of any site can send a browser to this server, frame its pages, or connect to it from another port of this
machine. There are three protections:

- `Guard` answers only requests addressed to this server and, from pages, only its own; no other page may frame it.
- The printed address contains a new token. `Guard` moves it from the URL into a cookie that scripts cannot read and
  other sites cannot send.
- Actions that start, stop or write anything check `may_write`. Without the token's cookie the pages are read-only.

Cookies are per host, not per port: other servers on this machine receive it from the same browser too.
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
"""Name of the URL parameter with the token."""
HOSTS = ("127.0.0.1", "localhost")
"""Host names of this machine that the server accepts."""
SAFE = ("GET", "HEAD", "OPTIONS")
"""HTTP methods that change nothing."""
HEADERS = {
    "Content-Security-Policy": "frame-ancestors 'none'",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}
"""Headers of every response: other pages cannot frame this one, hold its window, embed its files or learn its
address."""
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
        """The name of the cookie."""
        return f"probe-{self.port}"

    @property
    def hosts(self) -> tuple[str, ...]:
        """The server's addresses in the form of a Host header."""
        return tuple(f"{host}:{self.port}" for host in HOSTS) + (HOSTS if self.port == 80 else ())

    def address(self, url: str) -> str:
        """Return the address with the token."""
        return f"{url}/?{PARAMETER}={self.token}"

    def is_token(self, given: str) -> bool:
        """Return whether a text is the token, in constant time."""
        return secrets.compare_digest(given.encode(), self.token.encode())

    def admits(self, cookies: Mapping[str, str]) -> bool:
        """Return whether one of the cookies contains the token."""
        return self.is_token(cookies.get(self.cookie, ""))


_gates: list[Gate] = []
"""The gate of this process's server; empty if the server was not started by `probe dashboard`."""


def install(gate: Gate) -> None:
    """Allow writing to readers with the token."""
    _gates[:] = [gate]


def uninstall() -> None:
    """Make the pages read-only for everybody."""
    _gates.clear()


def may_write() -> bool:
    """Return whether the reader may start, stop or write anything; False unless `probe dashboard` serves the page."""
    import streamlit as st

    return any(gate.admits(st.context.cookies) for gate in _gates)


def check() -> None:
    """Refuse to continue if the reader may only read.

    Every action that starts, stops or writes calls it: a disabled button can still be pressed.

    Raises:
        ConfigError: the reader may only read.
    """
    if not may_write():
        raise ConfigError(READ_ONLY)


def button(help: str | None = None, *, disabled: bool = False) -> dict[str, Any]:
    """Return the settings of a button that starts, stops or writes: disabled, with the reason, for read-only readers.

    Args:
        help: description of the action.
        disabled: whether the button is disabled for another reason.
    """
    may = may_write()
    return {"disabled": disabled or not may, "help": help if may else READ_ONLY}


class Guard:
    """ASGI middleware around all responses of the server."""

    def __init__(self, app: "ASGIApp", gate: Gate) -> None:
        self.app, self.gate = app, gate

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        """Answer a request, or forward it."""
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
        except Exception:  # an error response of the framework lacks our headers
            if not has_begun:
                await PlainTextResponse("The server failed; its terminal says why.", 500)(scope, receive, send_guarded)
            raise


def refusal(gate: Gate, request: HTTPConnection) -> str:
    """State in one sentence why a request is refused; empty if it is allowed.

    A name that resolves to this machine by DNS rebinding is not a host of the server. A browser sends `Origin` with
    every WebSocket and with every request of a page of another origin, except when a link is followed.
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
    """Redirect a request with a token to its URL without it, and set the cookie if it is right; else return None."""
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
