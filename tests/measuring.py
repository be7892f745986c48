"""What processes have, by /proc, for programs that run for minutes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

__all__ = ["MIB", "descriptors", "growth", "is_running", "memory", "too_much"]

MIB = 2**20


def memory(pid: int) -> int:
    """Bytes (PSS): what it has alone, and its share of what others have, too."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    pss = next(line for line in rollup.splitlines() if line.startswith("Pss:"))
    return int(pss.split()[1]) * 1024


def descriptors(pid: int) -> int:
    """How many are open."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def is_running(pid: int) -> bool:
    """Whether a process exists, and is not only waited for."""
    with suppress(FileNotFoundError, ProcessLookupError):
        status = Path(f"/proc/{pid}/stat").read_text()
        return status.rpartition(")")[2].split()[0] not in "ZX"
    return False


def growth(times: Sequence[float], sizes: Sequence[float]) -> float:
    """How much a straight line through the sizes rises from first to last."""
    middle, mean = sum(times) / len(times), sum(sizes) / len(sizes)
    spread = sum((at - middle) ** 2 for at in times)
    slope = sum(
        (at - middle) * (size - mean) for at, size in zip(times, sizes, strict=True)
    )
    return slope / spread * (times[-1] - times[0])


def too_much(grown: float, sizes: Sequence[float]) -> bool:
    """Whether memory does not stop growing: by more than a tenth, and 16 MiB."""
    return grown > max(16 * MIB, sum(sizes) / len(sizes) / 10)
