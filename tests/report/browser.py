"""A headless Chromium, told what to do in the protocol of WebDriver: a few requests of JSON to chromedriver on this machine."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import Request, urlopen

CHROMIUM, DRIVER = (shutil.which("chromium") or shutil.which("google-chrome")), shutil.which("chromedriver")
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--window-size=1320,1400",
    "--force-device-scale-factor=1", "--hide-scrollbars", "--disable-background-networking", "--no-first-run",
)  # fmt: skip


class Browser:
    """One window."""

    def __init__(self, port: int) -> None:
        self._at = f"http://127.0.0.1:{port}"
        options = {"binary": CHROMIUM, "args": list(FLAGS)}
        wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"}}
        self._session = f"/session/{self._ask('/session', {'capabilities': {'alwaysMatch': wanted}})['sessionId']}"

    def _ask(self, path: str, told: Any = None, method: str = "POST") -> Any:
        body = None if method != "POST" else json.dumps(told or {}).encode()
        request = Request(f"{self._at}{path}", body, {"Content-Type": "application/json"}, method=method)
        with urlopen(request, timeout=60) as answer:
            return json.loads(answer.read())["value"]

    def open(self, page: Path, *, dark: bool = False) -> None:
        """Open a file, and wait until it is drawn."""
        theme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        emulated = {"cmd": "Emulation.setEmulatedMedia", "params": {"features": theme}}
        self._ask(f"{self._session}/goog/cdp/execute", emulated)
        self._ask(f"{self._session}/url", {"url": page.as_uri()})
        self.until("return document.documentElement.dataset.drawn")

    def run(self, script: str, *arguments: Any) -> Any:
        """What a piece of JavaScript returns."""
        return self._ask(f"{self._session}/execute/sync", {"script": script, "args": list(arguments)})

    def until(self, script: str, *arguments: Any) -> Any:
        """What a piece of JavaScript returns once that is true."""
        end = time.monotonic() + 20
        while time.monotonic() < end:
            if found := self.run(script, *arguments):
                return found
            time.sleep(0.05)
        raise AssertionError(f"never true: {script}; the console has {self.console()}")

    def point(self, x: float, y: float, *, click: bool = False) -> None:
        """Move the mouse to a place in the window, and click there."""
        moves: list[dict[str, Any]] = [{"type": "pointerMove", "duration": 0, "x": round(x), "y": round(y)}]
        moves += [{"type": kind, "button": 0} for kind in ("pointerDown", "pointerUp") if click]
        mouse = {"type": "pointer", "id": "mouse", "parameters": {"pointerType": "mouse"}, "actions": moves}
        self._ask(f"{self._session}/actions", {"actions": [mouse]})

    def press(self, key: str) -> None:
        """Press a key, by its code in the protocol."""
        keys = [{"type": kind, "value": key} for kind in ("keyDown", "keyUp")]
        self._ask(f"{self._session}/actions", {"actions": [{"type": "key", "id": "keys", "actions": keys}]})

    def console(self) -> list[str]:
        """Errors and warnings so far."""
        return [line["message"] for line in self._ask(f"{self._session}/se/log", {"type": "browser"})]

    def requests(self) -> list[str]:
        """The addresses that were asked for since the last call."""
        events = [
            json.loads(e["message"])["message"] for e in self._ask(f"{self._session}/se/log", {"type": "performance"})
        ]
        return [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]

    def close(self) -> None:
        """End the browser."""
        self._ask(self._session, method="DELETE")


@contextmanager
def browser() -> Iterator[Browser]:
    """A browser for some tests."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
    driver = subprocess.Popen([str(DRIVER), f"--port={port}"], stdout=subprocess.DEVNULL, env=environment)
    try:
        for _ in range(200):
            try:
                urlopen(f"http://127.0.0.1:{port}/status", timeout=5).close()
                break
            except URLError:
                time.sleep(0.05)
        window = Browser(port)
        try:
            yield window
        finally:
            window.close()
    finally:
        driver.terminate()
        driver.wait()
