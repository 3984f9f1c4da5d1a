"""The HTML that opens a page says where the server is; whatever else is answered stays as it is."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import pytest
from starlette.responses import HTMLResponse, PlainTextResponse, Response, StreamingResponse

from dashboard.opening import SCRIPT, Opening

PAGE = b"<!DOCTYPE html><html><head><title>a</title></head><body><head></body></html>"


def ask(app: Response, accept: str, method: str = "GET") -> tuple[dict[bytes, bytes], bytes, list[bytes]]:
    """Headers and body of an answer, and the names of the headers that the server was sent."""
    sent: list[dict] = []
    seen: list[bytes] = []

    async def server(scope, receive, send):
        seen.extend(name for name, _ in scope["headers"])
        await app(scope, receive, send)

    async def receive():
        return {"type": "http.disconnect"}

    async def send(message):
        sent.append(message)

    headers = [(b"accept", accept.encode()), (b"accept-encoding", b"gzip")]
    scope = {"type": "http", "method": method, "path": "/overview", "headers": headers, "asgi": {"spec_version": "2.4"}}
    with ThreadPoolExecutor(1) as pool:  # Playwright may have a loop of its own in this thread
        pool.submit(lambda: asyncio.run(Opening(server)(scope, receive, send))).result()
    assert [message["type"] for message in sent[:1]] == ["http.response.start"]
    return dict(sent[0]["headers"]), b"".join(message.get("body", b"") for message in sent[1:]), seen


@pytest.mark.parametrize("parts", [1, 7])
def test_a_page_is_told_where_the_server_is_before_anything_else(parts: int):
    size = -(-len(PAGE) // parts)
    pieces = [PAGE[at : at + size] for at in range(0, len(PAGE), size)]
    app = HTMLResponse(PAGE) if parts == 1 else StreamingResponse(iter(pieces), media_type="text/html; charset=utf-8")
    headers, body, seen = ask(app, "text/html,*/*")
    assert body == PAGE.replace(b"<head>", b"<head>" + SCRIPT, 1)
    assert int(headers[b"content-length"]) == len(body)
    assert seen == [b"accept"], "a packed page has no head to be found"


@pytest.mark.parametrize(
    ("app", "accept"), [(PlainTextResponse("<head>"), "text/html"), (HTMLResponse(PAGE), "application/json")]
)
def test_what_is_no_page_stays_as_it_is(app: Response, accept: str):
    headers, body, _ = ask(app, accept)
    assert body == app.body
    assert int(headers[b"content-length"]) == len(body)
