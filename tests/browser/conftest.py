"""A headless Chromium, spoken to over its DevTools protocol on loopback; no driver besides is needed.

AGENTMESH_CHROMIUM=1 makes the tests fail where there is no Chromium; unset, they are skipped, and say so.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-dev-shm-usage", "--remote-debugging-port=0",
)  # fmt: skip


class Page:
    """One page, and all that it said: what it asked for, what it complained of."""

    def __init__(self, socket: Any) -> None:
        self._numbers = itertools.count(1)
        self._socket = socket
        self.requests: list[str] = []
        self.complaints: list[str] = []
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        number = next(self._numbers)
        self._socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            said = json.loads(self._socket.recv(timeout=120))
            if said.get("id") == number:
                assert "error" not in said, said
                result: dict[str, Any] = said["result"]
                return result
            self._note(said)

    def _note(self, said: dict[str, Any]) -> None:
        kind, values = said["method"], said["params"]
        if kind == "Network.requestWillBeSent":
            self.requests.append(values["request"]["url"])
        elif kind in ("Runtime.exceptionThrown", "Log.entryAdded", "Page.javascriptDialogOpening"):
            self.complaints.append(json.dumps(values))

    def open(self, path: Path) -> None:
        """Load a file, and wait until its script has run to its end."""
        self.call("Page.navigate", url=path.as_uri())
        self.ask(
            "new Promise(done => { const look = () => document.body && document.body.dataset.ready ? done() : "
            "requestAnimationFrame(look); look(); })"
        )

    def ask(self, expression: str) -> Any:
        """Return what an expression is in the page; of a promise, what it comes to."""
        said = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in said, said
        return said["result"].get("value")

    def key(self, name: str, code: int) -> None:
        """Press a key."""
        for kind in ("rawKeyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=name, code=name, windowsVirtualKeyCode=code)


@pytest.fixture(scope="module")
def browser() -> Iterator[str]:
    """The address of a page in a Chromium of these tests' own."""
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        text = "there is no Chromium here: apt-get install chromium"
        if os.environ.get("AGENTMESH_CHROMIUM") == "1":
            pytest.fail(text)
        pytest.skip(text)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        process = subprocess.Popen(
            [program, *FLAGS, f"--user-data-dir={folder}", "about:blank"],
            stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        assert process.stderr is not None
        rest = None
        try:
            line = next((line for line in process.stderr if "DevTools listening on" in line), None)
            assert line is not None, "Chromium ended before it listened"
            # A pipe that nobody reads fills, and then it would wait for us.
            rest = threading.Thread(target=process.stderr.read)
            rest.start()
            yield line.split("ws://")[1].split("/")[0]
        finally:
            process.terminate()
            process.wait(60)
            if rest is not None:
                rest.join(60)
            process.stderr.close()


@pytest.fixture
def page(browser: str) -> Iterator[Page]:
    """An empty page."""
    import urllib.request

    from websockets.sync.client import connect

    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    asked = urllib.request.Request(f"http://{browser}/json/new?about:blank", method="PUT")
    with opener.open(asked, timeout=60) as answer:
        address = json.load(answer)["webSocketDebuggerUrl"]
    with connect(address, max_size=None, proxy=None) as socket:
        yield Page(socket)
