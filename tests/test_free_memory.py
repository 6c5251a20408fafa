"""How much memory is left, by every limit."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pytest

from rankscope import memory

MEMINFO = "MemTotal:       16384 kB\nMemFree:            10 kB\nMemAvailable:    8192 kB\nHugePages_Total:       0\n"


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with 8 MiB left, whose files of limits are made by the tests."""
    for name in ("proc/self/cgroup", "proc/self/status", "proc/meminfo"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    (tmp_path / "proc/meminfo").write_text(MEMINFO)
    monkeypatch.setattr(memory, "_PROC", tmp_path / "proc")
    monkeypatch.setattr(memory, "_CGROUPS", tmp_path / "cgroup")
    return tmp_path


def test_without_limits_it_is_what_the_machine_has(machine: Path) -> None:
    assert memory.free() == 8192 * 1024


@pytest.mark.parametrize(
    ("line", "folder", "most", "now"),
    [
        ("0::/job/step", "job", "memory.max", "memory.current"),
        ("4:memory:/job/step", "memory/job", "memory.limit_in_bytes", "memory.usage_in_bytes"),
    ],
)
def test_a_cgroup_above_limits_it_and_pages_of_files_are_free(
    machine: Path, line: str, folder: str, most: str, now: str
) -> None:
    (machine / "proc/self/cgroup").write_text(f"9:name=systemd:/\n{line}\n")
    place = machine / "cgroup" / folder
    (place / "step").mkdir(parents=True)
    for where, limit in ((place, "5000"), (place / "step", "max")):
        (where / most).write_text(f"{limit}\n")
        (where / now).write_text("4500\n")
    (place / "memory.stat").write_text("anon 3000\ninactive_file 1000\nactive_file 200\n")
    assert memory.free() == 5000 - 4500 + 1200
    (place / now).write_text("9000\n")
    assert memory.free() == 0


def test_a_limit_on_addresses_counts_what_is_taken(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limits = {resource.RLIMIT_AS: 3 << 20, resource.RLIMIT_DATA: resource.RLIM_INFINITY}
    monkeypatch.setattr(resource, "getrlimit", lambda which: (limits[which], resource.RLIM_INFINITY))
    (machine / "proc/self/status").write_text("Name:\tpython\nVmSize:\t    1024 kB\nVmData:\t     512 kB\n")
    assert memory.free() == 2 << 20
    limits[resource.RLIMIT_DATA] = 1 << 20
    assert memory.free() == 1 << 19


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says what a process has taken")
def test_a_true_limit_is_seen() -> None:
    code = (
        "import resource; from rankscope import memory; resource.setrlimit(resource.RLIMIT_AS, (1 << 30,) * 2);"
        "print(memory.free())"
    )
    left = float(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)
    assert 0.5 * (1 << 30) < left < 1 << 30
