"""What is looked at meanwhile: memory, descriptors, the counts of servers, the logs."""

from __future__ import annotations

import json
import time
import urllib.request
from contextlib import suppress
from typing import Any

import measuring
from measuring import MIB
from places import Served, Site, wait_until

__all__ = ["Watch"]

#: Of these counts the sums never decrease.
COUNTS = ("published", "received", "lost", "unsure", "missing", "gaps", "repeats")
#: Looks, a second apart, that make a trend.
_TREND = 60


class Watch:
    """Looks at the servers of a site.

    Args:
        site: with servers.
        problems: what is not right is added.

    Attributes:
        memory: the sizes of all processes together, with times.
        growth: a line through the last two thirds of them; None: too short for one.
        descriptors: of all processes, at first and in the end.
    """

    def __init__(self, site: Site, problems: list[str]) -> None:
        self.memory: list[tuple[float, int]] = []
        self.growth: float | None = None
        self.descriptors = 0, 0
        self._site, self._problems = site, problems
        self._counts: dict[int, tuple[int, dict[str, int]]] = {}

    def look(self) -> None:
        """Measure memory, and see whether counts went back."""
        with suppress(OSError, StopIteration):  # a process has just ended
            sizes = map(measuring.memory, self._site.processes())
            self.memory.append((time.monotonic(), sum(sizes)))
        for server in self._site.servers:
            with suppress(OSError):
                self._look_at_counts(server)

    def _look_at_counts(self, server: Served) -> None:
        host, port = server.address
        url = f"http://{host}:{port}/stats"
        with urllib.request.urlopen(url, timeout=5) as answer:
            counts: dict[str, Any] = json.load(answer)["engine"]
        pid, before = self._counts.get(server.number, (0, {}))
        if pid == server.pid:
            back = [name for name in COUNTS if counts[name] < before.get(name, 0)]
            if back:
                self._problems.append(f"server {server.number}: {back} went back")
        self._counts[server.number] = server.pid, counts

    def begin(self) -> None:
        """All clients are there."""
        self.descriptors = self._descriptors(), 0

    def end(self) -> None:
        """As many clients are there as at first, and so should descriptors be."""
        first, _ = self.descriptors
        came_back = wait_until(lambda: self._descriptors() <= first, 5)
        self.descriptors = first, self._descriptors()
        if not came_back:
            self._problems.append("descriptors: {}, then {}".format(*self.descriptors))

    def _descriptors(self) -> int:
        return sum(map(measuring.descriptors, self._site.processes()))

    def judge_memory(self) -> None:
        """It stops growing once everything has been in use."""
        later = self.memory[len(self.memory) // 3 :]
        if len(later) < _TREND:
            return
        times, sizes = zip(*later, strict=True)
        self.growth = measuring.growth(times, sizes)
        if measuring.too_much(self.growth, sizes):
            self._problems.append(f"memory grows: {self.growth / MIB:.1f} MiB")

    def read_logs(self) -> None:
        """No log has a traceback."""
        for server in self._site.servers:
            text = server.log.read_text()
            if "Traceback" in text:
                lines = text[text.index("Traceback") :].splitlines()[:30]
                self._problems.append("\n".join(["a traceback in a log:", *lines]))
