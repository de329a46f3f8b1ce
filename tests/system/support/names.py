"""What a machine knows of host names: a DNS server at port 53 and the files of /etc, seen by nobody but the programs of one test."""

import pathlib
import random
import shlex
import subprocess

from support.dns import DnsServer


class Unavailable(Exception):
    """This machine grants no mount namespace, or not the port."""


class Names:
    """around: the command in front of a program. dns: the server that its resolv.conf names. Both files may be written at any time."""

    def __init__(self, folder: pathlib.Path):
        folder.mkdir(parents=True)
        self._resolv_conf, self._hosts = folder / "resolv.conf", folder / "hosts"
        # The port cannot be said in a resolv.conf; the address can, so that no two tests meet.
        address = f"127.{random.randint(1, 254)}.{random.randint(1, 254)}.53"
        mounts = " && ".join(f"mount --bind {shlex.quote(str(file))} /etc/{file.name}" for file in (self._resolv_conf, self._hosts))
        self.around = ["unshare", "--mount", "sh", "-c", mounts + ' && exec "$@"', "sh"]
        self.resolv_conf(f"nameserver {address}")
        self.hosts("127.0.0.1 localhost")
        if subprocess.run([*self.around, "true"], stderr=subprocess.DEVNULL, timeout=30, check=False).returncode != 0:
            raise Unavailable("no mount namespace")
        try:
            self.dns = DnsServer(where=(address, 53))
        except PermissionError as error:
            raise Unavailable("port 53 is not for this user") from error
        self.server = f"nameserver {address}"

    def resolv_conf(self, *lines: str) -> None:
        self._resolv_conf.write_text("".join(line + "\n" for line in lines))

    def hosts(self, *lines: str) -> None:
        self._hosts.write_text("".join(line + "\n" for line in lines))

    def close(self) -> None:
        self.dns.close()
