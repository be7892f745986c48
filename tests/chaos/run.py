"""Chaos: several nodes under traffic, and every 20 s something fails.

    make chaos ARGS="--minutes 15 --engine redis"   or --engine local

With Redis: three servers of two workers, one behind a proxy, and one in a network
namespace of its own where this user may make one; and two scripts with a `Publisher`.
With `local`: one server of four workers and its broker. Clients of each server publish
and count. The program stops by itself, prints a line for each fault and the account,
and exits with 0 if

- each message is accounted for, see `ledger`: every client got it once and in order, or
  it was counted at its publisher, or the client was told of a gap there;
- after each fault all nodes and clients came back in 30 s;
- a roll (SIGHUP) refused and reset no connection, faults of the engine ended none;
- the counts of a server never went back, and those of each node are what it did;
- memory (PSS) stops growing, and descriptors are as many as at the start;
- no log has a traceback, and no process is left.

`--seed` chooses the same faults again. It needs Linux (/proc).

With `--history 20000` the topic keeps its messages: clients come back with their
position, and get all that they have missed; there is a gap only where the engine has
lost its data, and nothing comes twice. With `--history 100` there are gaps, and their
sizes must be right.

    make chaos ARGS="--faults redis-kill --count 20 --every 4 --rate 1000"

kills Redis 20 times at 1,000 messages a second.

    make chaos ARGS="--live --history 20000"

has SDKs as clients (`centrifuge-python`, unmodified; see `sdk_crowd`), most of those of
the first server behind a proxy. Each gets all that it was not told to have missed, what
was acknowledged to a publisher was stored, and offsets have no hole.
"""

from __future__ import annotations

import argparse
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[2]))

import measuring
from crowd import Crowd, Member
from faults import Faults
from places import LocalSite, RedisSite, Served, Site, wait_until
from readers import Reader
from report import print_report
from script import Script
from watch import Watch

if TYPE_CHECKING:
    from sdk_crowd import SdkCrowd

#: Seconds in which everything must have come back after a fault, and at the start.
RECOVERY = 30.0
#: How a fault may end connections of clients; the others end none.
ENDS = {
    "roll": {"closed with 1001"},
    "worker-kill": {"cut", "reset", "reset before it was open"},
    "lag": {"cut", "reset", "reset before it was open"},
    "supervisor-kill": {
        *("cut", "reset", "reset before it was open", "refused", "closed with 1001"),
    },
}
#: The same of SDKs: code and reason. One that stands still is given up by its clients,
#: but never by the server for what it has not read itself.
CUT, NO_PING = "1 transport closed", "2 no ping"
SHUTDOWN = "3001 shutdown"
SDK_ENDS = {
    "roll": {SHUTDOWN},
    "restart": {SHUTDOWN, CUT},
    "worker-kill": {CUT},
    "lag": {CUT},
    "supervisor-kill": {CUT, SHUTDOWN},
    "worker-stop": {NO_PING, CUT},
    "worker-cut": {NO_PING, CUT},
    "freeze": {NO_PING, CUT},
    "clients-cut": {CUT},
    "clients-stall": {NO_PING, CUT, "3012 no pong"},
}


class Chaos:
    """One run.

    Args:
        options: of the command line.
        stack: ends all that was started.
        directory: for logs and journals.
    """

    def __init__(
        self, options: argparse.Namespace, stack: ExitStack, directory: Path
    ) -> None:
        self.options = options
        self.rng = random.Random(options.seed)
        self.problems: list[str] = []
        self.began = time.monotonic()
        self.faults_done: Counter[str] = Counter()
        self.slowest = 0.0  # to come back
        self._stack = stack
        (directory / "journals").mkdir()
        self.site = self._make_site(directory)
        self.ledger = self.site.ledger
        if options.live:
            self.site.serve_sdks(stack)
        self.site.start(stack)
        self.crowd: Any = self._make_crowd()
        self.scripts = self._scripts(directory / "journals")
        self.watch = Watch(self.site, self.problems)
        self.faults = Faults(self.site, self.crowd, random.Random(options.seed))
        self.faults.frozen = options.freeze

    def _make_site(self, directory: Path) -> Site:
        options = self.options
        if options.engine == "local":
            return LocalSite(directory, options.workers or 4, options.history)
        sizes = options.servers, options.workers or 2, options.history
        return RedisSite(self._stack, directory, *sizes)

    def _make_crowd(self) -> Crowd | SdkCrowd:
        """Of each server so many clients for each worker, of which half publish."""
        servers, each = self.site.servers, self.options.clients
        places = [s for s in servers for _ in range(each * s.workers)]
        publishers = (len(places) + 1) // 2
        rate = self.options.rate / publishers
        rates = [0.0 if at % 2 else rate for at in range(len(places))]
        if self.options.live:
            return self._sdks(places, rates)
        members = [
            Member(server.number, server.address, rate, self._reader())
            for server, rate in zip(places, rates, strict=True)
        ]
        return Crowd(self.ledger, members, random.Random())

    def _sdks(self, places: list[Served], rates: list[float]) -> SdkCrowd:
        """All clients of the first server, but for two, come by the proxy."""
        from sdk_crowd import SdkCrowd, SdkMember  # needs centrifuge-python

        assert self.site.clients is not None
        behind = ("127.0.0.1", int(self.site.clients.url.rpartition(":")[2]))
        members = []
        for at, (server, rate) in enumerate(zip(places, rates, strict=True)):
            address = behind if server.number == 0 and at > 1 else server.address
            members.append(SdkMember(self.ledger, server.number, address, rate))
            members[-1].whole = self._is_whole
        return SdkCrowd(self.ledger, members, random.Random())

    @property
    def _is_whole(self) -> bool:
        """The history is so large that nothing that stops for a minute leaves it."""
        return bool(self.options.history > 60 * self.options.rate)

    def _scripts(self, journals: Path) -> list[Script]:
        """One that publishes by Redis itself, and one by the proxy."""
        if not isinstance(self.site, RedisSite):
            return []
        urls = self.site.redis.url, self.site.proxy.url
        return [Script(url, self.ledger, journals) for url in urls]

    def _reader(self) -> Reader | None:
        """Who can go without a gap through all that stops for a minute."""
        return Reader(self.ledger, self._is_whole) if self.options.history else None

    # The run

    def run(self) -> None:
        if not wait_until(self.site.ready, RECOVERY):
            sys.exit("the servers do not start")
        self.crowd.start()
        self._stack.callback(self.crowd.stop)
        for script in self.scripts:
            script.start()
            self._stack.callback(script.stop)
        self._recover("the start")
        wait_until(lambda: False, min(2.0, self.options.every / 2))
        self.watch.begin()
        names = self._names()
        while not self.problems and not self._over():
            self._one_fault(next(names))
        self._end_traffic()
        self.watch.end()
        self._end_servers()
        self.ledger.check(self.site.excused())
        self.problems += self.ledger.summary()
        self.watch.judge_memory()
        self.watch.read_logs()

    def _names(self) -> Iterator[str]:
        """The faults that happen: first each once, then any."""
        known = self.faults.named
        names = self.options.faults.split(",") if self.options.faults else list(known)
        if unknown := set(names) - set(known):
            sys.exit(f"no such fault here: {unknown}; there are {', '.join(known)}")
        self.rng.shuffle(names)
        yield from names
        while True:
            yield self.rng.choice(names)

    def _over(self) -> bool:
        if self.options.count:
            return self.faults_done.total() >= self.options.count
        seconds = self.options.minutes * 60
        return time.monotonic() - self.began > seconds - self.options.every / 2

    def _one_fault(self, name: str) -> None:
        begun = time.monotonic()
        ends = self._ends()
        for member in self.crowd.members:
            member.silent = 0.0
        try:
            what = self.faults.named[name]()
        except AssertionError as error:
            self.problems.append(f"{name}: {error}")
            return
        over = time.monotonic()
        self._recover(what)
        took = time.monotonic() - over
        self.slowest = max(self.slowest, took)
        self.faults_done[name] += 1
        silent = max(member.silent for member in self.crowd.members)
        print(
            f"{begun - self.began:6.1f} s  {name}: {what}; "
            f"all is well {took:.2f} s later, longest silence {silent:.2f} s",
            flush=True,
        )
        allowed = (SDK_ENDS if self.options.live else ENDS).get(name, set())
        if wrong := set(self._ends() - ends) - allowed:
            self.problems.append(f"{name} has ended connections: {wrong}")
        self._rest(begun + self.options.every)

    def _rest(self, until: float) -> None:
        """Wait for the next fault, and look at everything."""
        while time.monotonic() < until and not self.problems:
            self.ledger.read()
            self.watch.look()
            for part in (self.crowd, *self.scripts):
                if part.error is not None:
                    self.problems.append(f"a client failed: {part.error!r}")
            time.sleep(min(1.0, max(0.0, until - time.monotonic())))

    def _recover(self, after: str) -> None:
        """Wait until everybody is there again."""
        came = wait_until(self._all_is_well, RECOVERY, 0.02)
        if not came or self.crowd.error is not None:
            waiting = [m.server for m in self.crowd.members if not m.ready]
            self.problems.append(
                f"after {after}: not all came back; clients of servers {waiting} "
                f"wait, error {self.crowd.error!r}"
            )

    def _all_is_well(self) -> bool:
        if any(map(measuring.is_running, self.site.killed())) or not self.site.ready():
            return False
        nodes = self.ledger.nodes
        return self.crowd.ready() and all(
            member.session and nodes[member.session.node].alive()
            for member in self.crowd.members
        )

    def _end_traffic(self) -> None:
        """Publish no more, and let everything that is on its way come."""
        self.crowd.publishing = False
        for script in self.scripts:
            script.publishing = False

        def settled() -> bool:
            self.ledger.read()
            return self.crowd.settled() and self.ledger.everything_came()

        wait_until(settled, RECOVERY)

    def _end_servers(self) -> None:
        for part in (*self.scripts, self.crowd):
            part.stop()
        for server in self.site.servers:
            code = server.end()
            if code != 0:
                self.problems.append(f"server {server.number} ended with {code}")

    def _ends(self) -> Counter[str]:
        """How connections have ended so far."""
        return sum((member.ends for member in self.crowd.members), Counter())


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").split("\n", 1)[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--engine", choices=["local", "redis"], default="redis")
    parser.add_argument("--minutes", type=float, default=15.0)
    parser.add_argument("--count", type=int, help="of faults, instead of minutes")
    parser.add_argument("--every", type=float, default=20.0, help="seconds")
    parser.add_argument("--faults", help="only these, such as roll,worker-kill")
    parser.add_argument("--servers", type=int, default=3, help="with Redis")
    parser.add_argument("--workers", type=int, help="of a server (2; local: 4)")
    parser.add_argument("--clients", type=int, default=3, help="of a worker")
    parser.add_argument("--rate", type=float, default=300.0, help="messages a second")
    parser.add_argument("--live", action="store_true", help="the clients are SDKs")
    parser.add_argument(
        "--freeze", type=float, default=60.0, help="seconds of the fault, with --live"
    )
    parser.add_argument(
        "--history", type=int, default=0, help="messages that the topic keeps"
    )
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--keep", help="a new directory for logs and journals")
    options = parser.parse_args()
    if options.engine == "redis" and not shutil.which("redis-server"):
        sys.exit("redis-server is not installed")
    if options.live and not options.history:
        sys.exit("--live needs --history: SDKs recover from it")
    return options


def main() -> int:
    options = parse()
    print(f"chaos: engine {options.engine}, seed {options.seed}", flush=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("told to stop"))
    with ExitStack() as stack:
        if options.keep:
            directory = Path(options.keep)
            directory.mkdir()
        else:
            made = tempfile.TemporaryDirectory(prefix="chaos-")
            directory = Path(stack.enter_context(made))
        chaos = Chaos(options, stack, directory)
        chaos.run()
        print_report(chaos)
    for problem in chaos.problems:
        print(f"FAILED: {problem}", file=sys.stderr)
    if not chaos.problems:
        print("passed")
    return bool(chaos.problems)


if __name__ == "__main__":
    sys.exit(main())
