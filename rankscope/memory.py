"""How much memory this process may still take, by every limit that it lives under."""

from __future__ import annotations

import os
import re
import resource
from collections.abc import Iterator
from pathlib import Path

_PROC, _CGROUPS = Path("/proc"), Path("/sys/fs/cgroup")


def free() -> float:
    """Bytes that this process can still take: what the machine has, what ``ulimit`` leaves, and what its cgroups leave.

    Batch systems and containers limit a process by cgroups, and the machine's own figures do not show it.
    """
    return min([_of_machine(), *_of_process(), *_of_cgroups()])


def _of_machine() -> float:
    found = _numbers(_PROC / "meminfo")
    if "MemAvailable" in found:
        return found["MemAvailable"]
    # Elsewhere than on Linux what is free cannot be asked for; half of what there is stands in for it
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2


def _of_process() -> Iterator[float]:
    """What the limits on addresses and on data leave beside what is taken."""
    taken = _numbers(_PROC / "self" / "status")
    for limit, name in ((resource.RLIMIT_AS, "VmSize"), (resource.RLIMIT_DATA, "VmData")):
        most, _ = resource.getrlimit(limit)
        if most != resource.RLIM_INFINITY and name in taken:
            yield max(0.0, most - taken[name])


def _of_cgroups() -> Iterator[float]:
    """What each cgroup that holds this process leaves, up to the root; pages of files are given back when memory is short."""
    try:
        lines = (_PROC / "self" / "cgroup").read_text().splitlines()
    except OSError:
        return
    for _, kinds, name in (line.split(":", 2) for line in lines):
        if kinds not in ("", "memory"):  # version 2 names no kind, version 1 has a tree for each
            continue
        root = _CGROUPS / kinds
        most, now = ("memory.limit_in_bytes", "memory.usage_in_bytes") if kinds else ("memory.max", "memory.current")
        place = root / name.lstrip("/")
        for group in (place, *(p for p in place.parents if p.is_relative_to(root))):
            limit, taken = _number(group / most), _number(group / now)
            if limit is not None and taken is not None:
                files = _numbers(group / "memory.stat")
                yield max(0.0, limit - taken + files.get("inactive_file", 0) + files.get("active_file", 0))


def _number(path: Path) -> float | None:
    """The number in a file; None where there is no such file, or no limit."""
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return float(text) if text.isdecimal() else None


def _numbers(path: Path) -> dict[str, float]:
    """The numbers in a file by name, in bytes; empty where there is no such file."""
    try:
        lines = re.findall(r"^(\w+):?\s+(\d+)( kB)?$", path.read_text(), re.MULTILINE)
    except OSError:
        return {}
    return {name: float(number) * (1024 if unit else 1) for name, number, unit in lines}
