"""A network namespace with two links to this one: for clients, and for the engine.

Only the second is cut, so the clients of the server in it see nothing of that.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from contextlib import ExitStack

__all__ = ["Namespace"]


class Namespace:
    """Use `make`; it is removed by the stack.

    Attributes:
        command: in front of a command that runs in it.
        server_host: its address for clients.
        engine_host: our address for it, on the link that can be cut.
    """

    def __init__(self, number: int) -> None:
        self.name = f"chaos{number}"
        self._links = (f"chaos{number}c", f"chaos{number}e")  # 15 characters at most
        network = f"10.{200 + number // 250 % 50}.{number % 250}"
        self.server_host, self.engine_host = f"{network}.2", f"{network}.5"
        self.command = ["ip", "netns", "exec", self.name]
        self._addresses = (
            (f"{network}.1/30", f"{self.server_host}/30"),
            (f"{self.engine_host}/30", f"{network}.6/30"),
        )

    @classmethod
    def make(cls, stack: ExitStack) -> Namespace | None:
        """Make one; None where that is not possible."""
        if os.geteuid() or not shutil.which("ip"):
            return None
        made = cls(os.getpid() % 100_000)
        stack.callback(made._remove)
        try:
            made._set_up()
        except subprocess.CalledProcessError:
            return None
        return made

    def _set_up(self) -> None:
        _ip("netns", "add", self.name)
        _ip("-n", self.name, "link", "set", "lo", "up")
        for link, (ours, theirs) in zip(self._links, self._addresses, strict=True):
            inside = f"{link}i"
            _ip("link", "add", link, "type", "veth", "peer", "name", inside)
            _ip("link", "set", inside, "netns", self.name)
            _ip("address", "add", ours, "dev", link)
            _ip("-n", self.name, "address", "add", theirs, "dev", inside)
            _ip("link", "set", link, "up")
            _ip("-n", self.name, "link", "set", inside, "up")

    def cut(self) -> None:
        """Let no packet to the engine or from it through; nobody is told."""
        _ip("link", "set", self._links[1], "down")

    def join(self) -> None:
        """Let all through again."""
        _ip("link", "set", self._links[1], "up")

    def _remove(self) -> None:
        for link in self._links:
            subprocess.run(["ip", "link", "delete", link], capture_output=True)
        subprocess.run(["ip", "netns", "delete", self.name], capture_output=True)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)
