"""Start of every HTML page: a script that tells the browser the address of the server.

Without that Streamlit's script looks for the server below the address of the page, at `/NAME/_stcore/...`, gets two 404
responses, and then tries the root.
"""

from typing import TYPE_CHECKING

from starlette.datastructures import Headers, MutableHeaders

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

HTML, HEAD = "text/html", b"<head>"
SCRIPT = b"<script>window.__streamlit = { BACKEND_BASE_URL: window.location.origin }</script>"
"""Script that precedes Streamlit's, which reads its value."""


class Opening:
    """ASGI middleware that inserts `SCRIPT` at the beginning of the head of every HTML page."""

    def __init__(self, app: "ASGIApp") -> None:
        self.app = app

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        """Forward a request and its response; HTML is changed once it is complete."""
        if scope["type"] != "http" or HTML not in Headers(scope=scope).get("accept", ""):
            await self.app(scope, receive, send)
            return
        plain = [pair for pair in scope["headers"] if pair[0] != b"accept-encoding"]  # a compressed page shows no head
        start: Message | None = None
        body = b""

        async def send_page(message: "Message") -> None:
            nonlocal start, body
            content = Headers(scope=message).get("content-type", "") if message["type"] == "http.response.start" else ""
            if content.startswith(HTML):
                start = message
                return
            if start is None:
                await send(message)
                return
            body += message.get("body", b"")
            if message.get("more_body"):
                return
            if body:  # a HEAD response has none
                body = body.replace(HEAD, HEAD + SCRIPT, 1)
                MutableHeaders(scope=start)["content-length"] = str(len(body))
            await send(start)
            await send({"type": "http.response.body", "body": body})

        await self.app({**scope, "headers": plain}, receive, send_page)
