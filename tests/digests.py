"""Digests of what a test wrote, to compare two folders by."""

from __future__ import annotations

import hashlib
from pathlib import Path


def tree_digest(path: Path) -> str:
    """SHA-256 over the relative path and the bytes of every file below ``path``, sorted; of one file if it is one.

    Two finished runs of the same plan and features have the same digest, however often their making was interrupted.
    """
    sha = hashlib.sha256()
    for file in [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file()):
        sha.update(f"{file.relative_to(path).as_posix()}\0{hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode())
    return sha.hexdigest()
