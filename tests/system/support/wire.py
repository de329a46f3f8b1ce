"""HTTP as bytes: what no client library would send, and what exactly comes back."""

import dataclasses
import json
import socket
import struct
import time

from support.wait import PATIENCE

QUIET_S = 10


@dataclasses.dataclass
class Answer:
    status: int
    headers: dict[str, str]  # names in lower case
    body: bytes

    def json(self):
        return json.loads(self.body)


class Wire:
    """One connection. receive_buffer: of the kernel, in bytes, for a client that takes answers slowly."""

    def __init__(self, port: int, receive_buffer: int | None = None):
        self.socket = socket.socket()
        if receive_buffer is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(QUIET_S * PATIENCE)
        self.socket.connect(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._read = b""
        self.closed = False  # by the server

    def __enter__(self) -> "Wire":
        return self

    def __exit__(self, *_) -> None:
        self.socket.close()

    def send(self, data: bytes, one_by_one: bool = False) -> None:
        """A server that has closed already is no error here."""
        try:
            for piece in ([data[i : i + 1] for i in range(len(data))] if one_by_one else [data]):
                self.socket.sendall(piece)
        except (BrokenPipeError, ConnectionResetError):
            pass

    def vanish(self) -> None:
        """Ends with a reset, as a killed client's machine would."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def answer(self, to_head: bool = False) -> Answer | None:
        """The next one; None when the server has closed before it."""
        while b"\r\n\r\n" not in self._read:
            if not self._more():
                assert self._read == b"", f"half an answer: {self._read[:200]!r}"
                return None
        head, self._read = self._read.split(b"\r\n\r\n", 1)
        first, *lines = head.decode("ascii").split("\r\n")
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        version, status, _ = first.split(" ", 2)
        assert version in ("HTTP/1.0", "HTTP/1.1"), first
        length = 0 if to_head or int(status) in (100, 204) else int(headers["content-length"])
        while len(self._read) < length:
            assert self._more(), f"half a body: {self._read[:200]!r}"
        body, self._read = self._read[:length], self._read[length:]
        return Answer(int(status), headers, body)

    def answers_until_closed(self) -> list[Answer]:
        found = []
        while (answer := self.answer()) is not None:
            found.append(answer)
        return found

    def _more(self) -> bool:
        try:
            data = self.socket.recv(65536)
        except ConnectionResetError:
            data = b""
        self.closed = data == b""
        self._read += data
        return not self.closed


def closes_within(wire: Wire, seconds: float) -> float:
    """How long it took; fails when something comes instead, or nothing."""
    began = time.monotonic()
    wire.socket.settimeout(seconds * PATIENCE)
    try:
        assert wire.socket.recv(1) == b""
    except ConnectionResetError:
        pass
    return time.monotonic() - began
