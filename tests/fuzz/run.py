"""Coverage-guided fuzzing of everything that reads what peers send (atheris).

    make fuzz ARGS="--minutes 60"             all targets, one after the other
    python tests/fuzz/run.py --target server --minutes 5
    python tests/fuzz/run.py --target server --input .fuzz/server/crash-…
    python tests/fuzz/run.py --seeds          every seed once, without atheris

`targets.py` has the targets, each with its invariant. What libFuzzer finds interesting
is kept in `.fuzz/corpus/`, and the next run begins with it.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import multiprocessing
import os
import sys
import tempfile
from contextlib import nullcontext, redirect_stderr
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
WORK = ROOT / ".fuzz"
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(Path(__file__).parent)]

from backends import Copy, load  # noqa: E402
from targets import TARGETS  # noqa: E402

#: With the extension, and without.
Copies = tuple[Copy, Copy]

#: Bytes of an input: what makes a message longer than that makes it no other.
_MAX_INPUT = 4096
#: Seconds for one input; a target that takes longer has found something, too.
_TIMEOUT = 20


def run_seeds() -> int:
    """Give every target each of its seeds; how many there were."""
    count = 0
    copies = load(nullcontext)
    for kind in TARGETS.values():
        target = kind(*copies)
        for seed in target.seeds():
            target(seed)
            count += 1
    return count


def load_watched() -> Copies:
    """Both copies, with the code of ours that atheris sees the coverage of."""
    import atheris

    # Not the standard library: that alone takes longer than a short run.
    with redirect_stderr(io.StringIO()):  # a line for each module
        return load(lambda: atheris.instrument_imports(include=["simple_ws"]))


def fuzz(name: str, copies: Copies, seconds: int) -> None:
    """Fuzz one target; does not return."""
    import atheris

    target = TARGETS[name](*copies)
    corpus, seeds = WORK / "corpus" / name, WORK / "seeds" / name
    for folder in (corpus, seeds, WORK / name):
        folder.mkdir(parents=True, exist_ok=True)
    for seed in target.seeds():
        (seeds / hashlib.sha1(seed).hexdigest()).write_bytes(seed)
    atheris.Setup(
        [
            sys.argv[0],
            str(corpus),
            str(seeds),
            f"-max_total_time={seconds}",
            f"-max_len={_MAX_INPUT}",
            f"-timeout={_TIMEOUT}",
            f"-artifact_prefix={WORK / name}/",
            "-print_final_stats=1",
            "-verbosity=0",
        ],
        target,
    )
    atheris.Fuzz()


def fuzz_all(names: list[str], minutes: float) -> int:
    """Fuzz targets one after the other, each in a process; 1 where one has failed."""
    seconds = max(1, round(minutes * 60 / len(names)))
    copies = load_watched()  # which takes longer than a short run of one target
    failed = []
    for name in names:
        print(f"== {name}, {seconds} s: {TARGETS[name].__doc__}".partition("\n")[0])
        sys.stdout.flush()
        with tempfile.TemporaryFile() as log:
            child = multiprocessing.get_context("fork").Process(
                target=in_child, args=(log.fileno(), name, copies, seconds)
            )
            child.start()
            child.join()
            log.seek(0)
            text = log.read().decode(errors="replace")
        print("\n".join(shown(text, child.exitcode != 0)))
        if child.exitcode:
            failed.append(name)
    print(f"== fuzzed {len(names)} targets: {', '.join(failed) or 'nothing'} found")
    return 1 if failed else 0


def in_child(log: int, name: str, copies: Copies, seconds: int) -> None:
    """Fuzz one target, and write what libFuzzer says into `log`, a descriptor."""
    os.dup2(log, sys.stderr.fileno())
    fuzz(name, copies, seconds)


def shown(log: str, failed: bool) -> list[str]:
    """What of libFuzzer's words people want to read."""
    lines = log.splitlines()
    if failed:
        return lines[-60:]
    wanted = ("stat::number_of_executed_units", "stat::average_exec_per_sec")
    return [line for line in lines if line.startswith(wanted)]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--minutes", type=float, default=5.0, help="in total")
    parser.add_argument("--target", choices=TARGETS, help="only this one")
    parser.add_argument("--input", type=Path, help="this input once, for --target")
    parser.add_argument("--seeds", action="store_true", help="every seed once")
    options = parser.parse_args()
    if options.seeds:
        print(f"{run_seeds()} seeds: every invariant holds")
    elif options.input:
        TARGETS[options.target](*load(nullcontext))(options.input.read_bytes())
    else:
        names = [options.target] if options.target else list(TARGETS)
        return fuzz_all(names, options.minutes)
    return 0


if __name__ == "__main__":
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    sys.exit(main())
