"""The whole study: every script in turn, each of which goes on where it was stopped. ``python analyses [--quick]``."""

from __future__ import annotations

import subprocess
import sys
import time
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
        begun = time.monotonic()
        status = subprocess.run([sys.executable, Path(__file__).with_name(f"{name}.py"), *options]).returncode
        print(f"{name}: {'failed' if status else 'done'} after {(time.monotonic() - begun) / 60:.1f} min", flush=True)
        failed += [name] * bool(status)
    return int(bool(failed))


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
