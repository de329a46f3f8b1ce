"""Raw TCP listeners of a test: a canary that nobody may ever reach, and an endpoint that answers without end and counts."""

import socket
import threading

from support.wait import await_condition

BACKLOG = 128


def own_addresses() -> list[str]:
    """Non-loopback addresses of this machine, found without sending anything: connect() of a datagram socket only picks a route."""
    found = []
    for family, probe in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")):
        with socket.socket(family, socket.SOCK_DGRAM) as s:
            try:
                s.connect((probe, 9))
                address = s.getsockname()[0]
            except OSError:
                continue
        if not address.startswith("127.") and address != "::1":
            found.append(address)
    return found


class Canary:
    """Listens on one port of every given address (those that this machine has) and notes who connects."""

    def __init__(self, *addresses: str, port: int = 0):
        self.hits: list[str] = []
        self._sockets: list[socket.socket] = []
        self.addresses: list[str] = []
        self.port = port
        for address in addresses:
            s = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
            try:
                s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                s.bind((address, self.port))
            except OSError:
                s.close()  # no IPv6 here, or taken
                continue
            self.port = s.getsockname()[1]
            s.listen(BACKLOG)
            self._sockets.append(s)
            self.addresses.append(address)
            threading.Thread(target=self._watch, args=(s, address), daemon=True).start()

    def _watch(self, s: socket.socket, address: str) -> None:
        while True:
            try:
                connection, peer = s.accept()
            except OSError:
                return
            self.hits.append(f"{address} from {peer[0]}:{peer[1]}")
            connection.close()

    def touch(self) -> None:
        """Shows that it sees what it must see; forgets it again."""
        for n, address in enumerate(self.addresses, 1):
            socket.create_connection((address, self.port), 5).close()
            await_condition(lambda n=n: len(self.hits) == n, 5, f"the canary sees a connection to {address}")
        self.hits.clear()

    def close(self) -> None:
        for s in self._sockets:
            s.shutdown(socket.SHUT_RDWR)
            s.close()


class Flood:
    """Answers each request with a 200 and a body without end; sent: how many bytes each client took before it went."""

    def __init__(self, address: str = "127.0.0.1"):
        self.sent: list[int] = []
        self._socket = socket.socket()
        self._socket.bind((address, 0))
        self._socket.listen(BACKLOG)
        self.url = f"http://{address}:{self._socket.getsockname()[1]}/flood"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        sent = 0
        with connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            connection.settimeout(30)
            try:
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\n")
                while True:
                    sent += connection.send(b"x" * 4096)
            except OSError:
                self.sent.append(sent)

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
