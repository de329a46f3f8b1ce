"""Raw TCP listeners of a test: a canary that nobody may ever reach, and an endpoint that answers without end and counts."""

import contextlib
import ipaddress
import os
import random
import socket
import subprocess
import threading

from support.wait import await_condition

BACKLOG = 128
PRIVATE = [ipaddress.ip_network(network) for network in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16")]


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


@contextlib.contextmanager
def private_address():
    """A private IPv4 address of this machine: its own, else one that the loopback interface has meanwhile. LookupError says why there is none."""
    own = [address for address in own_addresses() if ":" not in address and any(ipaddress.ip_address(address) in network for network in PRIVATE)]
    if own:
        yield own[0]
        return
    address = f"10.255.{random.randrange(256)}.{random.randrange(1, 255)}"
    if os.geteuid() != 0:
        raise LookupError("this machine has no private address, and only root may give it one")
    try:
        subprocess.run(["ip", "address", "add", f"{address}/32", "dev", "lo"], check=True, timeout=10, stderr=subprocess.PIPE, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise LookupError(f"this machine has no private address and takes none: {getattr(error, 'stderr', None) or error}") from error
    try:
        yield address
    finally:
        subprocess.run(["ip", "address", "del", f"{address}/32", "dev", "lo"], check=True, timeout=10)


class Canary:
    """Listens on one port of every given address (those that this machine has) and notes who connects."""

    def __init__(self, *addresses: str, port: int = 0):
        self.hits: list[str] = []
        self._sockets: list[socket.socket] = []
        self.addresses: list[str] = []
        self.port = port
        for address in addresses:
            self.listen(address)

    def listen(self, address: str) -> None:
        """Also there, unless it does already."""
        s = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
        try:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            s.bind((address, self.port))
        except OSError:
            s.close()  # no IPv6 here, or taken
            return
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
