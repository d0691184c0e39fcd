# SPDX-License-Identifier: Apache-2.0
"""A headless Chromium, driven over its DevTools protocol on two pipes: what a page does, says and
asks for, and how it looks. Only what these tests use of the protocol.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import selectors
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

#: For one answer, and for one condition: generous, a loaded machine starts it slowly.
LIMIT_S = 60.0
#: Of its pipes, inside it.
_READS, _WRITES = 3, 4
_OPTIONS = (
    "--headless=new",
    "--no-sandbox",  # tests are root
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--force-color-profile=srgb",
    "--remote-debugging-pipe",
)


class Browser:
    """One tab. `said` is what its console and its security policy say, `asked` the addresses that
    were asked for. Close it.
    """

    def __init__(self, program: str, profile: Path) -> None:
        to_it, ours = map(_high, os.pipe())
        from_it, its = map(_high, os.pipe())
        # A shell puts the pipes where Chromium looks: the numbers may be taken here.
        script = f'exec "$@" {_READS}<&{to_it} {_WRITES}>&{its} {to_it}<&- {its}>&-'
        self._process = subprocess.Popen(
            [
                *("bash", "-c", script, "sh", program, *_OPTIONS),
                f"--user-data-dir={profile}",
                "about:blank",
            ],
            pass_fds=(to_it, its),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        os.close(to_it)
        os.close(its)
        self._to, self._from = ours, from_it
        self._buffer, self._number, self._session = b"", 0, ""
        self.said: list[str] = []
        self.asked: list[str] = []
        target = next(
            one for one in self.call("Target.getTargets")["targetInfos"] if one["type"] == "page"
        )
        attached = self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network", "DOM", "Accessibility"):
            self.call(f"{domain}.enable")

    def close(self) -> None:
        """Ends it with all its children."""
        os.close(self._to)
        os.close(self._from)
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self._process.wait(LIMIT_S)

    def call(self, method: str, **parameters: object) -> Any:
        """One command; what it answers."""
        self._number += 1
        message: dict[str, object] = {
            "id": self._number,
            "method": method,
            "params": parameters,
        }
        if self._session:
            message["sessionId"] = self._session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._to, data) :]
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                assert "error" not in answer, (method, answer)
                return answer["result"]
            self._note(answer)

    def _next(self) -> dict[str, Any]:
        deadline = time.monotonic() + LIMIT_S
        with selectors.DefaultSelector() as selector:
            selector.register(self._from, selectors.EVENT_READ)
            while b"\0" not in self._buffer:
                assert selector.select(deadline - time.monotonic()), "the browser does not answer"
                data = os.read(self._from, 1 << 20)
                assert data, "the browser has ended"
                self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\0")
        found: dict[str, Any] = json.loads(line)
        return found

    def _note(self, event: dict[str, Any]) -> None:
        values = event.get("params", {})
        match event.get("method"):
            case "Runtime.consoleAPICalled" | "Runtime.exceptionThrown":
                self.said.append(json.dumps(values)[:500])
            case "Log.entryAdded":
                self.said.append(values["entry"]["text"])
            case "Network.requestWillBeSent":
                self.asked.append(values["request"]["url"])

    def open(
        self,
        url: str,
        *,
        width: int = 1280,
        height: int = 900,
        dark: bool = False,
        script: bool = True,
    ) -> None:
        """Load it and wait until it stands. Forgets what was before."""
        # First away from a page that asks for itself: what it says then is not of the next one.
        self.call("Page.navigate", url="about:blank")
        self.until("location.href === 'about:blank' && document.readyState === 'complete'")
        self.said.clear()
        self.asked.clear()
        scheme = {
            "name": "prefers-color-scheme",
            "value": "dark" if dark else "light",
        }
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call("Emulation.setScriptExecutionDisabled", value=not script)
        self.resize(width, height)
        found = self.call("Page.navigate", url=url)
        assert "errorText" not in found, found
        self.until("location.href !== 'about:blank' && document.readyState === 'complete'")

    def resize(self, width: int, height: int) -> None:
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )

    def value(self, expression: str) -> Any:
        """Of JavaScript, in the page; also where the page may not run any."""
        found = self.call(
            "Runtime.evaluate",
            expression=expression,
            returnByValue=True,
            awaitPromise=True,
        )
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def until(self, expression: str, limit_s: float = LIMIT_S) -> None:
        """Wait for it to be true."""
        deadline = time.monotonic() + limit_s
        while not self.value(expression):
            assert time.monotonic() < deadline, (
                expression,
                self.value("document.body.innerText"),
            )
            time.sleep(0.1)

    def press(self, key: str, code: int) -> None:
        for kind in ("keyDown", "keyUp"):
            self.call(
                "Input.dispatchKeyEvent",
                type=kind,
                key=key,
                code=key,
                windowsVirtualKeyCode=code,
                **({"text": "\r"} if key == "Enter" and kind == "keyDown" else {}),
            )

    def screenshot(self, path: Path) -> None:
        data = self.call("Page.captureScreenshot", format="png")["data"]
        path.write_bytes(base64.b64decode(data))


def _high(descriptor: int) -> int:
    """The same with a number that is none of `_READS` and `_WRITES`."""
    other = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 10)
    os.close(descriptor)
    return other
