"""Drives a headless Chromium with the WebDriver protocol, through Debian's packages chromium and chromium-driver."""

import base64
import json
import re
import shutil
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

PROGRAMS = ("chromium", "chromedriver")
ARGUMENTS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--mute-audio",
)
SCRIPT_LIMIT = 90_000
"""Longest time of a script in milliseconds."""

SHORT = "const $ = (at) => document.querySelector(at), $$ = (at) => [...document.querySelectorAll(at)];"
"""Names that scripts may use: ``$`` returns the first element for a selector, and ``$$`` returns all."""

STEP = "new Promise((done) => setTimeout(done, 50))"


def why_missing() -> str:
    """Return why no browser can be started, or an empty text."""
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    return f"{' and '.join(missing)} not found; apt-get install chromium chromium-driver" if missing else ""


class Browser:
    """A window of a browser."""

    def __init__(self, driver: str) -> None:
        """Open a window. ``driver`` is the URL of chromedriver."""
        self._driver = driver
        options = {"args": [*ARGUMENTS]}
        wanted = {
            "goog:chromeOptions": options,
            "goog:loggingPrefs": {"browser": "ALL"},
            "timeouts": {"script": SCRIPT_LIMIT},
        }
        self._session = ""
        self._session = self._post("session", {"capabilities": {"alwaysMatch": wanted}})["sessionId"]
        self.resize(1280, 900)

    def close(self) -> None:
        """Close the window."""
        self._ask("DELETE", f"session/{self._session}", None)

    def open(self, url: str) -> None:
        """Load a page."""
        self._command("url", url=url)

    def resize(self, width: int, height: int, *, dark: bool = False, scale: float = 1) -> None:
        """Set the size of the page, its colour scheme and the pixels per unit of length."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": width < 600}
        self.devtools("Emulation.setDeviceMetricsOverride", **metrics)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.devtools("Emulation.setEmulatedMedia", features=[scheme])

    def devtools(self, command: str, **parameters: Any) -> Any:
        """Send a command of the DevTools protocol."""
        return self._command("goog/cdp/execute", cmd=command, params=parameters)

    def run(self, script: str, *arguments: Any) -> Any:
        """Execute the body of an asynchronous function in the page, and return its result."""
        body = f"{SHORT} return (async (...args) => {{ {script} }})(...arguments)"
        return self._command("execute/sync", script=body, args=list(arguments))

    def value(self, expression: str) -> Any:
        """Return the value of an expression in the page."""
        return self.run(f"return ({expression})")

    def text(self, selector: str) -> str:
        """Return the text of an element."""
        found: str = self.run("return $(args[0]).innerText", selector)
        return found

    def wait_for(self, expression: str) -> Any:
        """Wait until an expression in the page is true, and return its value."""
        return self.run(f"for (;;) {{ const found = ({expression}); if (found) return found; await {STEP}; }}")

    def press(self, key: str) -> None:
        """Press a key in the focused element."""
        special = {"Tab": "\ue004", "Enter": "\ue007", "Escape": "\ue00c"}
        value = special.get(key, key)
        actions = [{"type": kind, "value": value} for kind in ("keyDown", "keyUp")]
        self._command("actions", actions=[{"type": "key", "id": "keys", "actions": actions}])

    def click(self, selector: str) -> None:
        """Click an element."""
        self.run("$(args[0]).click()", selector)

    def screenshot(self, *, whole: bool = False) -> bytes:
        """Return a PNG of the visible part of the page, or of the whole page."""
        found = self.devtools("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        return base64.b64decode(found["data"])

    def log(self) -> list[str]:
        """Return the messages of the console since the last call: errors, and violations of policies."""
        return [f"{entry['level']}: {entry['message']}" for entry in self._command("se/log", type="browser")]

    def _command(self, path: str, **body: Any) -> Any:
        return self._post(f"session/{self._session}/{path}", body)

    def _post(self, path: str, body: Any) -> Any:
        return self._ask("POST", path, body)

    def _ask(self, method: str, path: str, body: Any) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self._driver}/{path}", data, method=method)
        try:
            with urllib.request.urlopen(request, timeout=120) as reply:
                return json.load(reply)["value"]
        except urllib.error.HTTPError as error:
            with error:
                raise AssertionError(json.load(error)["value"]["message"]) from None


@contextmanager
def driving() -> Iterator[Callable[[], Browser]]:
    """Start chromedriver. Yield a function that opens a window. All windows are closed when the context ends."""
    process = subprocess.Popen(
        ["chromedriver", "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    windows: list[Browser] = []
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if found := re.search(r"started successfully on port (\d+)", line):
                break
        else:
            raise AssertionError("chromedriver did not start")
        url = f"http://127.0.0.1:{found[1]}"

        def window() -> Browser:
            windows.append(Browser(url))
            return windows[-1]

        yield window
    finally:
        for each in windows:
            each.close()
        process.terminate()
        process.wait(30)
        if process.stdout is not None:
            process.stdout.close()


def frames(browser: Browser, seconds: float) -> list[float]:
    """Return the times between the frames of the page in milliseconds."""
    script = """
    const times = [];
    await new Promise((done) => {
      const end = performance.now() + args[0] * 1000;
      let last = performance.now();
      const next = (now) => {
        times.push(now - last);
        last = now;
        if (now < end) requestAnimationFrame(next); else done();
      };
      requestAnimationFrame(next);
    });
    return times.slice(1);
    """
    found: list[float] = browser.run(script, seconds)
    return found
