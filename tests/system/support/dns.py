"""A small DNS server of a test on loopback (UDP and TCP, one port): answers as told, notes what was asked."""

import collections
import socket
import socketserver
import threading

from dnslib import AAAA, CNAME, QTYPE, RCODE, RR, A, DNSRecord
from support.stack import free_ports

HANG = "hang"  # no answer at all
SERVFAIL = "servfail"


class DnsServer:
    """answers[name] is HANG, SERVFAIL, a list of texts ("127.0.0.1", "::1" or "cname other.example"), or a function () -> such a value,
    called once for each pair of an A and an AAAA query. Names that are not there do not exist; default=HANG makes the server mute.
    where: address and port; a free one of 127.0.0.1 unless told."""

    def __init__(self, answers: dict | None = None, default=None, ttl: int = 0, where: tuple[str, int] | None = None):
        self.answers = answers or {}
        self.default = default
        self.ttl = ttl
        self.asked: collections.Counter = collections.Counter()  # (name, "A") -> how often
        self._chosen: dict = {}
        self._lock = threading.Lock()
        # The same number must be free for both: where the kernel takes connections' own ports from, it often is not.
        where = where or ("127.0.0.1", *free_ports(1))
        socketserver.ThreadingTCPServer.allow_reuse_address = True
        self._tcp = socketserver.ThreadingTCPServer(where, self._handler(tcp=True))
        self._udp = socketserver.ThreadingUDPServer(where, self._handler(tcp=False))
        self.address = "%s:%d" % where
        for server in (self._udp, self._tcp):
            server.daemon_threads = True
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def close(self) -> None:
        for server in (self._udp, self._tcp):
            server.shutdown()
            server.server_close()

    def _handler(self, tcp: bool):
        dns = self

        class Udp(socketserver.BaseRequestHandler):
            def handle(self):
                data, sock = self.request
                reply = dns.reply(data, size_max=512)
                if reply is not None:
                    sock.sendto(reply, self.client_address)

        class Tcp(socketserver.BaseRequestHandler):
            def handle(self):
                self.request.settimeout(5)
                try:
                    while head := self.request.recv(2, socket.MSG_WAITALL):
                        data = self.request.recv(int.from_bytes(head, "big"), socket.MSG_WAITALL)
                        reply = dns.reply(data, size_max=65535)
                        if reply is not None:
                            self.request.sendall(len(reply).to_bytes(2, "big") + reply)
                except OSError:
                    pass  # the client has gone

        return Tcp if tcp else Udp

    def reply(self, data: bytes, size_max: int) -> bytes | None:
        question = DNSRecord.parse(data)
        name = str(question.q.qname).rstrip(".").lower()
        kind = QTYPE[question.q.qtype]
        with self._lock:
            self.asked[(name, kind)] += 1
            value = self._value(name, kind)
        if value == HANG:
            return None
        reply = question.reply()
        if value == SERVFAIL:
            reply.header.rcode = RCODE.SERVFAIL
        elif value is None:
            reply.header.rcode = RCODE.NXDOMAIN
        else:
            for item in value:
                self._add(reply, question.q.qname, item, kind)
        packed = reply.pack()
        if len(packed) <= size_max:
            return packed
        cut = question.reply()
        cut.header.tc = 1  # ask again by TCP
        return cut.pack()

    def _value(self, name: str, kind: str):
        value = self.answers.get(name, self.default)
        if not callable(value):
            return value
        # A worker asks for A and AAAA at once: both must see the same answer, and the next pair the next one.
        other = self._chosen.pop((name, kind), None)
        if other is None:
            other = [value()]
            self._chosen[(name, "AAAA" if kind == "A" else "A")] = other
        return other[0]

    def _add(self, reply: DNSRecord, qname, item: str, kind: str) -> None:
        if item.startswith("cname "):
            target = item.split()[1]
            reply.add_answer(RR(qname, QTYPE.CNAME, rdata=CNAME(target), ttl=self.ttl))
            for address in self.answers.get(target, []):
                self._add(reply, target, address, kind)
        elif ":" in item and kind == "AAAA":
            reply.add_answer(RR(qname, QTYPE.AAAA, rdata=AAAA(item), ttl=self.ttl))
        elif ":" not in item and kind == "A":
            reply.add_answer(RR(qname, QTYPE.A, rdata=A(item), ttl=self.ttl))
