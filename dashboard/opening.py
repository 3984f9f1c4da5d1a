"""The HTML that opens every page: it tells the browser where the server is.

Without that Streamlit's script looks for the server below the address of the page, at `/NAME/_stcore/...`, gets two
answers 404, and then looks at the root.
"""

from typing import TYPE_CHECKING

from starlette.datastructures import Headers, MutableHeaders

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

HTML, HEAD = "text/html", b"<head>"
SCRIPT = b"<script>window.__streamlit = { BACKEND_BASE_URL: window.location.origin }</script>"
"""Read by Streamlit's script when it is loaded, which is behind this one."""


class Opening:
    """ASGI middleware that puts `SCRIPT` first into the head of every HTML page."""

    def __init__(self, app: "ASGIApp") -> None:
        self.app = app

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        """Hand a request on, and the answer back; of HTML once it is whole."""
        if scope["type"] != "http" or HTML not in Headers(scope=scope).get("accept", ""):
            await self.app(scope, receive, send)
            return
        plain = [pair for pair in scope["headers"] if pair[0] != b"accept-encoding"]  # a packed page has no head
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
            if body:  # a HEAD has none
                body = body.replace(HEAD, HEAD + SCRIPT, 1)
                MutableHeaders(scope=start)["content-length"] = str(len(body))
            await send(start)
            await send({"type": "http.response.body", "body": body})

        await self.app({**scope, "headers": plain}, receive, send_page)
