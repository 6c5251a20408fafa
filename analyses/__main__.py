"""The whole study: every script in turn, each of which goes on where it was stopped. ``python analyses [--quick]``."""

from __future__ import annotations

import runpy
import subprocess
import sys
import time
import traceback
from pathlib import Path

STUDIES: tuple[str, ...] = (
    "claim",
    "order",
    "prefix_length",
    "scst",
    "transfer",
    "generalisation",
    "weights_and_features",
    "what_a_prefix_is",
    "what_changed",
    "between_modalities",
    "third_modality",
    "real_weights",
)
"""The scripts, in an order in which later ones find what earlier ones trained."""


def main(options: list[str]) -> int:
    """Run all, say how long each took, and return 1 if one failed."""
    failed = []
    for name in STUDIES:
        begun, script = time.monotonic(), Path(__file__).with_name(f"{name}.py")
        right = in_this_process(script, options) if "--quick" in options else in_its_own(script, options)
        print(f"{name}: {'done' if right else 'failed'} after {(time.monotonic() - begun) / 60:.1f} min", flush=True)
        failed += [name] * (not right)
    return int(bool(failed))


def in_its_own(script: Path, options: list[str]) -> bool:
    """Run a script in a process of its own, and return whether all went well."""
    return not subprocess.run([sys.executable, script, *options]).returncode


def in_this_process(script: Path, options: list[str]) -> bool:
    """The same here: a quick run takes less time than what it imports."""
    sys.argv = [str(script), *options]
    try:
        runpy.run_path(str(script), run_name="__main__")
    except (Exception, SystemExit):
        traceback.print_exc()
        return False
    return True


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
