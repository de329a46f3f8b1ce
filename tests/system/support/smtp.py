"""A mail server of a test on 127.0.0.1 (aiosmtpd): keeps what it gets; can refuse, and can be away."""

import dataclasses
import email
import email.policy
import re
import socket
import threading

from aiosmtpd.controller import Controller
from support.stack import free_ports
from support.wait import await_condition

CONSOLE_URL = "https://console.example.com"
MAIL_FROM = "NetRecon <no-reply@netrecon.example>"
# What differs between two runs, in the order in which it is replaced.
VARIABLE = (
    (re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"), "<ID>"),
    (re.compile(r"\d{1,2} [A-Z][a-z]+ \d{4}, \d\d:\d\d UTC"), "<TIME>"),
    (re.compile(r"127\.0\.0\.1:\d+"), "<HOST>"),
)


@dataclasses.dataclass
class Mail:
    sender: str
    recipients: list
    message: email.message.EmailMessage

    @property
    def text(self) -> str:
        return self.message.get_body(("plain",)).get_content().replace("\r\n", "\n")

    @property
    def html(self) -> str:
        return self.message.get_body(("html",)).get_content()

    @property
    def steady_text(self) -> str:
        """The text without what differs between two runs."""
        text = self.text
        for pattern, word in VARIABLE:
            text = pattern.sub(word, text)
        return text


class Mailbox:
    """settings: what a worker needs to use it. refuse: an answer such as "451 4.3.0 later" for every mail until it is None again.
    go_away() closes its port, come_back() opens the same one. on_taken: called with each mail that is kept, before the client hears of it."""

    def __init__(self):
        self.mails: list[Mail] = []
        self.tries = 0
        self.refuse: str | None = None
        self.on_taken = None
        self._lock = threading.Lock()
        self._port, = free_ports(1)
        self.settings = {"smtp_url": f"smtp://127.0.0.1:{self._port}", "mail_from": MAIL_FROM, "console_url": CONSOLE_URL}
        self._controller: Controller | None = None
        self.come_back()

    def come_back(self) -> None:
        self._controller = Controller(self, hostname="127.0.0.1", port=self._port)
        self._controller.start()
        await_condition(self.listens, 10, "the mail server listens")

    def go_away(self) -> None:
        """Connections that are open end with it."""
        self._controller.stop()
        self._controller = None
        await_condition(lambda: not self.listens(), 10, "nobody listens at the mail server's port")

    async def handle_DATA(self, _server, _session, envelope):  # noqa: N802 (aiosmtpd's name)
        with self._lock:
            self.tries += 1
            if self.refuse is not None:
                return self.refuse
            mail = Mail(envelope.mail_from, list(envelope.rcpt_tos), email.message_from_bytes(envelope.content, policy=email.policy.default))
            self.mails.append(mail)
        if self.on_taken is not None:
            self.on_taken(mail)
        return "250 2.0.0 taken"

    def to(self, address: str) -> list[Mail]:
        with self._lock:
            return [mail for mail in self.mails if mail.recipients == [address]]

    def wait(self, address: str, n: int = 1, timeout: float = 20) -> list[Mail]:
        await_condition(lambda: len(self.to(address)) >= n, timeout, f"{n} mails to {address}")
        return self.to(address)

    def listens(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self._port), 1).close()
        except OSError:
            return False
        return True

    def close(self) -> None:
        if self._controller is not None:
            self._controller.stop()
