"""One number for all the bytes of a folder."""

from __future__ import annotations

import hashlib
from pathlib import Path

from rankscope.store.files import digest_of_file


def tree_digest(path: str | Path) -> str:
    """SHA-256 over the relative path and the SHA-256 of every file below ``path``, sorted; of one file if it is one.

    Two finished runs of the same plan and features have the same digest, however often their making was interrupted.
    """
    root = Path(path)
    found = sorted(p for p in root.rglob("*") if p.is_file()) if root.is_dir() else [root]
    sha = hashlib.sha256()
    for file in found:
        sha.update(f"{file.relative_to(root).as_posix()}\0{digest_of_file(file)[1]}\n".encode())
    return sha.hexdigest()
