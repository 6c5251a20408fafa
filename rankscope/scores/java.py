"""Running the Java programs that define some caption scores: one process, a time limit, no shell, no network.

The jars come from the package ``pycocoevalcap`` (``pip install 'rankscope[caption]'``), which is used only as data: its
own wrappers wait for ever on a program that hangs, and leave a lock behind that stops the interpreter at exit.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from rankscope.errors import MissingTool, UsageError
from rankscope.scores.tokenize import PUNCTUATION, one_line

_SHOWN = 300  # characters of a program's complaint that go into an error


@dataclass(frozen=True)
class Java:
    """How Java programs are run."""

    program: str = "java"
    """The launcher: a name on the search path, or a file."""
    memory: str | None = None
    """The largest heap, as after ``-Xmx``; each program's own default if None (2G for METEOR, 8G for SPICE)."""
    timeout: float = 1800.0
    """Seconds after which a program is killed."""

    def __post_init__(self) -> None:
        if self.memory is not None and not re.fullmatch("[1-9][0-9]*[kKmMgGtT]?", self.memory):
            raise UsageError(f"Java's memory is a number of bytes, or of K, M, G or T, e.g. 4G; got {self.memory!r}")

    def find(self) -> str:
        """The path of the launcher.

        Raises:
            MissingTool: if it is not on the search path.
        """
        found = shutil.which(self.program)
        if found is None:
            raise MissingTool(
                f"there is no {self.program!r} on the search path; install a Java runtime (8 or newer), or ask for "
                "scores that need none: BLEU-1 to BLEU-4, ROUGE-L, CIDEr"
            )
        return found

    def jar(self, *parts: str) -> Path:
        """A file of the package ``pycocoevalcap``, found without importing it.

        Raises:
            MissingTool: if there is no Java to run it, or the package or the file is not installed.
        """
        self.find()
        package = find_spec("pycocoevalcap")
        places = package.submodule_search_locations or () if package else ()
        found = next((path for place in places if (path := Path(place, *parts)).is_file()), None)
        if found is not None:
            return found
        raise MissingTool(
            f"{'/'.join(parts)} of the package pycocoevalcap is not installed; "
            "pip install pycocoevalcap, or: pip install 'rankscope[caption]'"
        )

    def run(self, what: str, arguments: Sequence[str], *, stdin: str = "", folder: Path, memory: str = "") -> str:
        """Run a program and wait for it to end.

        Args:
            what: its name in errors.
            arguments: the arguments after the launcher and the memory option.
            stdin: its input.
            folder: its working directory.
            memory: its own default for the largest heap, used where :attr:`memory` is None; empty for Java's default.

        Returns:
            Its output.

        Raises:
            MissingTool: if there is no Java, the time is up, or the exit status is not 0; with the program's own words.
        """
        heap = self.memory or memory
        command = [self.find(), *([f"-Xmx{heap}"] if heap else []), *arguments]
        status, out, err = self._communicate(what, command, stdin.encode("utf-8", "ignore"), folder)
        if status != 0:
            raise MissingTool(f"{what} ended with status {status}: {_complaint(err)}{_remedy(err)}")
        return out.decode("utf-8", "replace")

    def release(self) -> int:
        """The Java release: 8, 11, 17, ….

        Raises:
            MissingTool: if there is no Java, or the launcher does not print a version as Java does.
        """
        _, out, err = self._communicate("Java", [self.find(), "-version"], b"", Path.cwd())
        said = re.search(rb'version "(?:1\.)?(\d+)', err + out)
        if said is None:
            raise MissingTool(f"{self.find()} -version said {_complaint(err + out)!r} and no version; is it Java?")
        return int(said[1])

    def _communicate(self, what: str, command: list[str], stdin: bytes, folder: Path) -> tuple[int, bytes, bytes]:
        environment = {**os.environ, "LC_ALL": "C.UTF-8"}
        pipe = subprocess.PIPE
        try:
            process = subprocess.Popen(
                command, cwd=folder, env=environment, stdin=pipe, stdout=pipe, stderr=pipe, start_new_session=True
            )
        except OSError as error:
            raise MissingTool(f"{command[0]} could not be started: {error.strerror}; is it Java?") from error
        with process:
            try:
                out, err = process.communicate(stdin, timeout=self.timeout)
            except subprocess.TimeoutExpired:
                raise MissingTool(
                    f"{what} did not finish in {self.timeout:g} s and was ended; give it longer (Java(timeout=…)) or "
                    "fewer captions"
                ) from None
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)  # the whole session, since a launcher may have children
        return process.returncode, out, err


def _complaint(stderr: bytes) -> str:
    text = " ".join(stderr.decode("utf-8", errors="replace").split())
    return text[:_SHOWN] + ("…" if len(text) > _SHOWN else "") if text else "it gave no reason"


def _remedy(stderr: bytes) -> str:
    if b"OutOfMemoryError" in stderr or b"object heap" in stderr:
        return "; give it another heap (--java-memory 4G, Java(memory='4G'))"
    if b"UnsupportedClassVersionError" in stderr or b"Unrecognized option" in stderr:
        return "; the program needs another version of Java: 8 or newer"
    return ""


def ptb_tokenized(captions: Sequence[str], java: Java | None = None) -> list[str]:
    """Every caption as its tokens joined by single spaces, by Stanford's program itself.

    Args:
        captions: raw captions, read as the lines of one file.
        java: how Java is run.

    Returns:
        ``(n,)`` texts, as :func:`rankscope.scores.tokenize.tokenized` returns them.

    Raises:
        MissingTool: if Java or the jar is not installed, or the program failed.
    """
    java = java or Java()
    archive = java.jar("tokenizer", "stanford-corenlp-3.4.1.jar")
    program = ["-cp", str(archive), "edu.stanford.nlp.process.PTBTokenizer", "-preserveLines", "-lowerCase"]
    text = "\n".join(one_line(caption) for caption in captions)
    printed = java.run("the PTB tokenizer", program, stdin=text, folder=archive.parent)
    lines = printed.split("\n")
    lines += [""] * (len(captions) - len(lines))  # it prints nothing for empty captions at the end
    if any(lines[len(captions) :]):
        raise MissingTool(
            f"the PTB tokenizer answered {len(captions)} captions with {len(lines)} lines, so they cannot be matched; "
            "use tokenizer='builtin'"
        )
    words = [line.rstrip().split(" ") for line in lines[: len(captions)]]
    return [" ".join(token for token in tokens if token not in PUNCTUATION) for tokens in words]
