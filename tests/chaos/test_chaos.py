"""The chaos program: its account finds what is not right, and a short run passes."""

from __future__ import annotations

import importlib
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

PROGRAM = Path(__file__).with_name("run.py")

pytestmark = [
    pytest.mark.one_backend,
    pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="no /proc"),
]

#: The node of the client, and another one that began after the client had heard others.
HERE, THERE = "999999991-50", "999999992-200"
#: Fates of five messages of the other node, which all reached the engine; and of the
#: same when it was killed with the last two in its hands.
SURE = [*(f"t {number} 0 {number - 1}" for number in range(1, 6)), "a 5"]
KILLED = [*SURE[:-1], "a 3"]
COUNTS = '"lost": 0, "unsure": 0, "refused": 0, "invalid": 0, "noise": 0'
END = [f'c {{"published": 5, {COUNTS}}}']


@pytest.fixture
def ledger(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(PROGRAM.parent))
    return importlib.import_module("ledger")


def problems(
    ledger: ModuleType, folder: Path, there: list[str], heard: list[int | str]
) -> list[str]:
    """Check one client, which heard messages of the other node, and gaps."""
    folder.joinpath(HERE).write_text(f'c {{"published": 0, {COUNTS}}}\n')
    folder.joinpath(THERE).write_text("".join(f"{line}\n" for line in there))
    made = ledger.Ledger(folder)
    publisher, listener = made.session(), made.session()
    publisher.node, publisher.sent = THERE, 5
    listener.node, listener.heard = HERE, 100
    publisher.open = False
    for what in heard:
        if isinstance(what, int):
            listener.note_message(made.index(THERE), what)
        else:
            listener.note_gap(what)
    made.check({999999992})
    return list(made.summary())


@pytest.mark.parametrize(
    ("there", "heard"),
    [
        ([*SURE, *END], [1, 2, 3, 4, 5]),
        ([*SURE, *END], [1, "None", 4, 5]),
        ([*SURE, *END], ["None", 2, 3, 4, 5]),
        ([*SURE, *END], [1, "None"]),
        ([*SURE, "u 2", "u 3"], [1, 2, 3, 4, 5]),
        ([*SURE, "l 2", "u 3"], [1, "2", 4, 5]),
        ([*SURE, "l 1", "r 2"], [3, 4, 5]),
        ([*SURE, "l 4", "l 5"], [1, 2, 3]),
        (KILLED, [1, 2, 3]),
        (KILLED, [1, 2, 3, 5]),
    ],
)
def test_what_was_counted_or_told_is_accounted_for(
    ledger: ModuleType, tmp_path: Path, there: list[str], heard: list[int | str]
) -> None:
    assert problems(ledger, tmp_path, there, heard) == []


@pytest.mark.parametrize(
    ("there", "heard", "problem"),
    [
        ([*SURE, *END], [1, 2, 4, 5], "3 is missing, neither counted nor told"),
        ([*SURE, *END], [2, 3, 4, 5], "1 is missing, neither counted nor told"),
        ([*SURE, *END], [1, 2, 3, 4], "5 is missing, neither counted nor told"),
        ([*SURE, *END], ["None", 1, 3, 4, 5], "2 is missing, neither counted nor told"),
        ([*SURE, *END], [1, 2, 2, 3, 4, 5], "2 after 2"),
        ([*SURE, *END], [1, 3, 2, 4, 5], "2 after 3"),
        ([*SURE, *END], [1, "1", 3, 4, 5], "2 is missing, and not counted"),
        ([*SURE, *END], [1, 2, 3, "1", 4, 5], "told 1 missing, not 0"),
        ([*SURE, *END], [1, 2, 3, 4, 5, "1"], "told of a gap, and nothing came"),
        ([*SURE, "l 2"], [1, 2, 3, 4, 5], "2 came, and was counted as lost"),
        ([*SURE, "l 2"], [1, "2", 3, 4, 5], "told 2 missing, not 1"),
        ([*SURE, "l 2", *END], [1, "1", 3, 4, 5], "a count of a node is wrong: lost"),
        (KILLED, [1, 2], "3 is missing, neither counted nor told"),
    ],
)
def test_what_is_not_right_is_found(
    ledger: ModuleType,
    tmp_path: Path,
    there: list[str],
    heard: list[int | str],
    problem: str,
) -> None:
    assert problem in "\n".join(problems(ledger, tmp_path, there, heard))


def test_a_worker_that_ends_by_itself_is_found(
    ledger: ModuleType, tmp_path: Path
) -> None:
    tmp_path.joinpath("999999993-1").touch()
    made = ledger.Ledger(tmp_path)
    made.check(())
    assert made.summary() == ["a worker has ended by itself: 999999993-1"]


def test_clients_that_hear_in_another_order_are_found(
    ledger: ModuleType, tmp_path: Path
) -> None:
    made = ledger.Ledger(tmp_path)
    for name in (HERE, THERE):
        tmp_path.joinpath(name).write_text("t 1 0 0\n")
    for order in ((HERE, THERE), (THERE, HERE)):
        session = made.session()
        session.open = False
        for name in order:
            session.note_message(made.index(name), 1)
    made.check((999999991, 999999992))
    assert any("another order" in problem for problem in made.summary())


#: A reader comes, gets two messages, and goes.
FIRST = ["since 20", "m 1", "join a:7:ffff 1 0", "m 2", "since a:8"]


@pytest.mark.parametrize(
    ("whole", "steps", "problem"),
    [
        (True, ["m 3", "join a:9:ffff 1 0", "m 4", "m 5"], None),
        (True, ["since a:8", "m 3", "join a:9:ffff 1 0", "m 4", "since a:10"], None),
        (True, ["wipe", "m 3", "join b:1:ffff 1 None", "m 4", "since b:2"], None),
        (True, ["join a:8:ffff 0 0", "wipe", "gap None", "m 4", "since 20"], None),
        (False, ["m 5", "join a:11:ffff 1 2", "gap 3", "m 9", "since a:15"], None),
        (True, ["join a:9:ffff 0 0"], "it is at a:9 after a join, not at a:8"),
        (True, ["m 3", "join a:8:ffff 1 0"], "it is at a:8 after a join, not at a:9"),
        (True, ["join b:8:ffff 0 0"], "it is at b:8 after a join, not at a:8"),
        (True, ["m 3", "join a:8:ffff 0 0"], "0 recovered, but 1 came"),
        (True, ["m 5", "join a:11:ffff 1 2"], "a gap of 2, and the engine has all"),
        (
            False,
            ["m 5", "join a:11:ffff 1 1"],
            "it is at a:11 after a join, not at a:10",
        ),
        (True, ["join a:8:ffff 0 None"], "a gap of None, and the engine has all"),
        (True, ["wipe", "join b:0:0000 0 None", "gap None"], "a gap of None, and the"),
    ],
)
def test_reader_knows_where_it_is(
    ledger: ModuleType, tmp_path: Path, whole: bool, steps: list[str], problem: str
) -> None:
    made = ledger.Ledger(tmp_path, history=True)
    reader = importlib.import_module("readers").Reader(made, whole)
    for word, *rest in map(str.split, FIRST + steps):
        if word == "since":
            assert reader.since() == rest[0]
        elif word == "m":
            reader.on_message(0, int(rest[0]))
        elif word == "wipe":
            made.wipes += 1
        else:
            getattr(reader, f"on_{word}")(*rest)
    text = "\n".join(made.summary())
    assert problem in text if problem else not text


FAULTS = {
    "local": "worker-kill,roll,broker-kill,worker-stop",
    "redis": "redis-kill,supervisor-kill,proxy-cut,proxy-late",
}


@pytest.mark.slow
@pytest.mark.parametrize(("engine", "history"), [("redis", 0), ("local", 20_000)])
def test_a_short_run_passes_and_leaves_no_process(
    engine: str, history: int, tmp_path: Path
) -> None:
    if engine == "redis" and shutil.which("redis-server") is None:
        pytest.skip("no redis-server on this system")
    where = tmp_path / "chaos"
    command = [sys.executable, str(PROGRAM), "--engine", engine, "--keep", str(where)]
    command += ["--count", "4", "--every", "1.5", "--faults", FAULTS[engine]]
    command += ["--servers", "2", "--clients", "2", "--history", str(history)]
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=55
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("\npassed\n")
    assert all(f"1 {name}" in done.stdout for name in FAULTS[engine].split(","))
    assert not any(str(where).encode() in line for line in command_lines())


def command_lines() -> list[bytes]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(path.read_bytes())
        except OSError:  # it has just ended
            continue
    return found
