"""A relay in front of a server of a test (PostgreSQL), which loses or changes what goes through it."""

import select
import socket
import threading

from support.wait import await_condition

BACKLOG = 32
READY = b"Z\x00\x00\x00\x05"  # PostgreSQL's ReadyForQuery: the unit before it is committed, or undone


class Relay:
    """with Relay(port) as relay: … relay.port …"""

    def __init__(self, port: int):
        self._server_port = port
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=BACKLOG)
        self.port = self._listener.getsockname()[1]
        self._lost: bytes | None = None
        self._changed: tuple[bytes, bytes] | None = None

    def __enter__(self) -> "Relay":
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def lose_answer(self, to: bytes) -> None:
        """Once: what holds these bytes is carried out by the server, and the connection ends instead of the answer."""
        self._lost = to

    def change(self, before: bytes, after: bytes) -> None:
        """Once, of what goes to the server."""
        assert len(before) == len(after)
        self._changed = before, after

    def await_done(self) -> None:
        await_condition(lambda: self._lost is None and self._changed is None, 10, "what was to be lost or changed came by")

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, socket.create_connection(("127.0.0.1", self._server_port)) as server:
            try:
                self._relay(client, server)
            except OSError:
                pass  # a side went without a word

    def _relay(self, client: socket.socket, server: socket.socket) -> None:
        loses = False
        while True:
            for ready in select.select([client, server], [], [])[0]:
                data = ready.recv(1 << 16)
                if not data:
                    return
                if ready is client:
                    if self._changed and self._changed[0] in data:
                        data, self._changed = data.replace(*self._changed, 1), None
                    if self._lost and self._lost in data:
                        loses = True
                    server.sendall(data)
                elif not loses:
                    client.sendall(data)
                elif READY in data:
                    self._lost = None
                    return
