"""A certificate authority of a test, certificates of every kind, and nginx in front of the receiver."""

import datetime as dt
import os
import pathlib
import shutil
import socket
import subprocess

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from support.stack import free_ports
from support.wait import await_condition

DAY = dt.timedelta(days=1)


def _now() -> dt.datetime:
    return dt.datetime.now(dt.timezone.utc).replace(tzinfo=None)


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


class Authority:
    """certificate() writes NAME.crt and NAME.key into the folder; file is what a client trusts."""

    def __init__(self, folder: pathlib.Path, name: str = "test CA"):
        self.folder = pathlib.Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name(name)
        certificate = (self._builder(self._name, self._name, self._key, _now() - DAY, _now() + DAY)
                       .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True).sign(self._key, hashes.SHA256()))
        self.file = self.folder / "ca.crt"
        self.file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))

    @staticmethod
    def _builder(subject, issuer, key, begin, end) -> x509.CertificateBuilder:
        return (x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key.public_key())
                .serial_number(x509.random_serial_number()).not_valid_before(begin).not_valid_after(end))

    def certificate(self, name: str, *hosts: str, expired: bool = False, self_signed: bool = False) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        begin, end = (_now() - 10 * DAY, _now() - DAY) if expired else (_now() - DAY, _now() + DAY)
        subject = _name(hosts[0])
        builder = self._builder(subject, subject if self_signed else self._name, key, begin, end)
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(host) for host in hosts]), critical=False)
        certificate = builder.sign(key if self_signed else self._key, hashes.SHA256())
        (self.folder / f"{name}.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        (self.folder / f"{name}.key").write_bytes(key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()))


class Nginx:
    """One TLS server per entry of servers: name -> further directives; the certificate is NAME.crt of the folder. port[name] is where."""

    def __init__(self, folder: pathlib.Path, target: str, servers: dict[str, str]):
        self.folder = pathlib.Path(folder)
        self.port = dict(zip(servers, free_ports(len(servers))))
        blocks = []
        for name, more in servers.items():
            blocks.append(f"server {{ listen 127.0.0.1:{self.port[name]} ssl; ssl_certificate {name}.crt; ssl_certificate_key {name}.key; "
                          f"{more} location / {{ proxy_pass http://receiver; }} }}")
        user = "user root;" if os.geteuid() == 0 else ""
        (self.folder / "nginx.conf").write_text(f"""daemon off; master_process off; pid nginx.pid; error_log error.log info; {user}
events {{ worker_connections 1024; }}
http {{
  access_log off; keepalive_timeout 60s; client_body_temp_path tmp; proxy_temp_path tmp; fastcgi_temp_path tmp; uwsgi_temp_path tmp;
  scgi_temp_path tmp; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Host $host;
  upstream receiver {{ server {target}; keepalive 16; }}
  {chr(10).join(blocks)}
}}
""")
        program = shutil.which("nginx") or "/usr/sbin/nginx"
        with open(self.folder / "nginx.out", "wb") as output:
            self._process = subprocess.Popen(["setpriv", "--pdeathsig", "KILL", program, "-p", f"{self.folder}/", "-c", "nginx.conf"],
                                             stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)
        await_condition(self._listens, 10, lambda: f"nginx listens\n{(self.folder / 'nginx.out').read_text()[-2000:]}")

    def _listens(self) -> bool:
        assert self._process.poll() is None, (self.folder / "nginx.out").read_text()[-2000:]
        try:
            for port in self.port.values():
                socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            return False
        return True

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(10)
