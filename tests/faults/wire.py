"""A connection to a server on this machine that can be cut."""

import socket
import threading
from contextlib import closing, suppress
from math import inf


class Wire:
    """A connection to a server on this machine that breaks after a number of bytes, until it is whole again."""

    def __init__(self, host: str, port: int) -> None:
        self._server, self._left, self.bytes = (host, port), inf, 0
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Take no more connections."""
        self._listener.close()

    def cut(self, after: float) -> None:
        """Let so many bytes through, and nothing more."""
        with self._lock:
            self._left, self.bytes = after, 0

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self._left <= 0:
                client.close()
                continue
            server = socket.create_connection(self._server)
            for one, other in ((client, server), (server, client)):
                threading.Thread(target=self._pass_on, args=(one, other), daemon=True).start()

    def _pass_on(self, one: socket.socket, other: socket.socket) -> None:
        with closing(one), closing(other):
            try:
                while data := one.recv(4096):
                    with self._lock:
                        self._left -= len(data)
                        self.bytes += len(data)
                    if self._left < 0:
                        return
                    other.sendall(data)
            except OSError:
                return
            finally:
                for end in (one, other):
                    with suppress(OSError):
                        end.shutdown(socket.SHUT_RDWR)
