"""The dashboard against strangers: other pages, other ports, visitors without the token; and its reader with it."""

import socket
import threading
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import BrowserContext, Page, expect

from dashboard.access import READ_ONLY
from tests.browser.pages import eventually, open_page, settle

pytestmark = [pytest.mark.browser, pytest.mark.timeout(900)]


def port(server: Any) -> int:
    return int(server.url.rpartition(":")[2])


def ask(server: Any, *lines: str) -> str:
    """The head of the answer to a raw request."""
    with socket.create_connection(("127.0.0.1", port(server)), timeout=60) as connection:
        connection.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
        return connection.recv(4096).decode("latin-1").partition("\r\n\r\n")[0].lower()


class Stranger(BaseHTTPRequestHandler):
    """A page of another port of this machine: same site, other origin."""

    def __init__(self, target: str, seen: list[str], *given: Any) -> None:
        self.target, self.seen = target, seen
        super().__init__(*given)

    def do_GET(self) -> None:
        self.seen.append(self.headers.get("Referer", ""))
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(f"<iframe src='{self.target}/train' width=1200 height=700></iframe>".encode())

    def log_message(self, *given: Any) -> None:
        pass


@pytest.fixture
def stranger(server: Any) -> Iterator[str]:
    seen: list[str] = []
    site = ThreadingHTTPServer(("127.0.0.1", 0), partial(Stranger, server.url, seen))
    threading.Thread(target=site.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{site.server_port}"
    site.shutdown()
    site.server_close()


def test_no_other_page_frames_the_dashboard_or_reads_from_it(page: Page, server: Any, stranger: str):
    page.goto(stranger)
    eventually(page, lambda: page.frames[1].url.startswith("chrome-error://"))
    opened = page.evaluate(
        """address => new Promise(done => {
          const socket = new WebSocket(address)
          socket.onopen = () => done("open")
          socket.onerror = () => done("refused")
        })""",
        server.url.replace("http", "ws") + "/_stcore/stream",
    )
    assert opened == "refused"
    read = page.evaluate(
        "address => fetch(address).then(() => 'read', () => 'refused')", f"{server.url}/_stcore/health"
    )
    assert read == "refused"


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/train",
        "/_stcore/health",
        "/_stcore/host-config",
        "/_stcore/metrics",
        "/_stcore/agent/openapi.json",
        "/_stcore/upload_file/a/b",
        "/_stcore/bidi-components/none/none.js",
        "/component/none/index.html",
        "/media/none.png",
        "/media/../../etc/passwd",
        "//etc/passwd",
        "/..%2f..%2fetc%2fpasswd",
        "/nothing.js",
    ],
)
@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "DELETE"])
def test_every_answer_forbids_frames(server: Any, path: str, method: str):
    head = ask(server, f"{method} {path} HTTP/1.1", f"Host: 127.0.0.1:{port(server)}", "Connection: close")
    assert "content-security-policy: frame-ancestors 'none'" in head
    assert "x-frame-options: deny" in head
    assert head.count("x-frame-options") == 1


@pytest.mark.parametrize("path", ["interact", "mcp", "openapi.json"])
def test_the_interface_for_agents_is_off(server: Any, path: str):
    cookie = f"Cookie: probe-{port(server)}={server.address.rpartition('=')[2]}"
    host = f"Host: 127.0.0.1:{port(server)}"
    head = ask(server, f"POST /_stcore/agent/{path} HTTP/1.1", host, cookie, "Content-Length: 0", "Connection: close")
    assert head.split()[1] in ("400", "403", "404", "405"), head


def test_a_shared_link_only_reads(page: Page, server: Any, visitors: BrowserContext):
    open_page(page, server, "train")
    assert "token" not in page.url
    expect(page.get_by_role("button", name="Start training")).to_be_enabled()
    visitor = visitors.new_page()
    visitor.goto(page.url)
    expect(visitor.get_by_role("button", name="Start training")).to_be_disabled()
    expect(visitor.get_by_test_id("stSidebar").get_by_text(READ_ONLY.replace("`", ""))).to_be_visible()
    for path in ("sycophancy", "findings"):
        open_page(visitor, server, path)
        eventually(visitor, lambda: visitor.get_by_role("button", name="Measure").count() > 0)
        settle(visitor)
        for button in visitor.get_by_role("button", name="Measure").all():
            expect(button).to_be_disabled()
    visitors.add_cookies([{"name": f"probe-{port(server)}", "value": "wrong", "url": server.url}])
    open_page(visitor, server, "train")
    expect(visitor.get_by_role("button", name="Start training")).to_be_disabled()


def test_the_printed_address_opens_the_pages_and_leaves_no_token_in_the_url(visitors: BrowserContext, server: Any):
    visitor = visitors.new_page()
    visitor.goto(server.address)
    expect(visitor.locator("h3").first).to_be_visible()
    assert "token" not in visitor.url
    seen = visitor.evaluate("document.referrer + performance.getEntries().map(entry => entry.name).join()")
    assert server.address.rpartition("=")[2] not in seen
    (cookie,) = [each for each in visitors.cookies() if each["name"] == f"probe-{port(server)}"]
    assert cookie["httpOnly"]
    assert cookie["sameSite"] == "Strict"
    assert cookie["value"] not in visitor.evaluate("document.cookie")
    open_page(visitor, server, "train")
    expect(visitor.get_by_role("button", name="Start training")).to_be_enabled()


def test_the_token_of_one_server_opens_no_other(server: Any, start: Any, tmp_path: Path, visitors: BrowserContext):
    other = start(tmp_path)
    visitors.clear_cookies()  # `start` admits every profile
    server.admit(visitors)
    visitor = visitors.new_page()
    open_page(visitor, other, "train?token=" + server.address.rpartition("=")[2])
    expect(visitor.get_by_role("button", name="Start training")).to_be_disabled()
