"""Chromium without a window, led through the DevTools protocol: what a page logs, asks for and shows."""

import json
import shutil
import subprocess
import tempfile
import time
import urllib.request
from pathlib import Path

import websocket

BINARY = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
PATIENCE = 60  # seconds for one answer
PHONE, LAPTOP, DESK = 390, 1280, 1440  # widths of windows, in pixels


class Browser:
    def __init__(self) -> None:
        self.folder = tempfile.mkdtemp()
        self.process = subprocess.Popen(
            [
                BINARY, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
                "--disable-background-networking", "--host-resolver-rules=MAP * ~NOTFOUND", "--remote-debugging-port=0",
                f"--user-data-dir={self.folder}", "about:blank",
            ],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        self.last, self.events = 0, []
        self.socket = websocket.create_connection(self._page(), timeout=PATIENCE, suppress_origin=True)
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.call(f"{domain}.enable")
        self.call("Page.setLifecycleEventsEnabled", enabled=True)
        self.resize(PHONE)

    def _page(self) -> str:
        """The address at which the one page takes commands. Chromium writes its port into its folder."""
        end = time.monotonic() + PATIENCE
        while True:
            try:
                port = (Path(self.folder) / "DevToolsActivePort").read_text(encoding="utf-8").split()[0]
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list") as answer:
                    return next(tab["webSocketDebuggerUrl"] for tab in json.load(answer) if tab["type"] == "page")
            except (OSError, IndexError, StopIteration):
                if time.monotonic() > end:
                    raise
                time.sleep(0.1)

    def call(self, method: str, **parameters) -> dict:
        self.last += 1
        self.socket.send(json.dumps({"id": self.last, "method": method, "params": parameters}))
        while (message := json.loads(self.socket.recv())).get("id") != self.last:
            self.events.append(message)
        if "error" in message:
            raise RuntimeError(f"{method}: {message['error']}")
        return message["result"]

    def resize(self, width: int) -> None:
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=False)

    def visit(self, address: str) -> list[dict]:
        """Open a page and wait until it is loaded. What happened on the way, as events of the protocol."""
        self._go("about:blank")
        self.events = []
        self._go(address)
        return self.events

    def _go(self, address: str) -> None:
        """Events carry the loader's id, so that the end of an earlier load is not taken for this one's."""
        loader = self.call("Page.navigate", url=address)["loaderId"]
        while not any(
            event["method"] == "Page.lifecycleEvent"
            and (event["params"]["name"], event["params"]["loaderId"]) == ("load", loader)
            for event in self.events
        ):
            self.events.append(json.loads(self.socket.recv()))

    def evaluate(self, script: str):
        """The value of an expression on the page, which may be a promise."""
        answer = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def close(self) -> None:
        self.socket.close()
        self.process.terminate()
        self.process.wait(PATIENCE)
        shutil.rmtree(self.folder, ignore_errors=True)
