"""Headless Chromium, driven through its pipe (the DevTools protocol): real pointer, keys, screens and colours."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import time
from base64 import b64decode
from select import select

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
KEYS = {"ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40, "Tab": 9}


class Browser:
    """A browser with its own profile; ``with Browser(folder) as browser: tab = browser.open(url)``."""

    def __init__(self, folder):
        self.folder = folder
        self._count, self._rest, self._events = 0, b"", []

    def __enter__(self):
        (read_there, self._write), (self._read, write_there) = _pipe(), _pipe()
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
        options += [f"--user-data-dir={self.folder / 'profile'}", "--remote-debugging-pipe", "--hide-scrollbars"]
        silent = os.open(os.devnull, os.O_RDWR)
        moves = [(os.POSIX_SPAWN_DUP2, fd, there) for fd, there in ((silent, 1), (silent, 2))]
        moves += [(os.POSIX_SPAWN_DUP2, fd, there) for fd, there in ((read_there, 3), (write_there, 4))]
        self._process = os.posix_spawn(CHROMIUM, [CHROMIUM, *options], os.environ, file_actions=moves, setpgroup=0)
        for fd in (read_there, write_there, silent):
            os.close(fd)
        return self

    def __exit__(self, *_):
        os.killpg(self._process, signal.SIGKILL)
        os.waitpid(self._process, 0)
        os.close(self._read)
        os.close(self._write)

    def open(self, url, **options):
        return Tab(self, url, **options)

    def call(self, method, session=None, *, within=60, **values):
        """Send a command and return its result; events that arrive meanwhile are kept."""
        self._count += 1
        message = {"id": self._count, "method": method, "params": values}
        if session:
            message["sessionId"] = session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._write, data) :]
        ends = time.monotonic() + within
        while True:
            answer = self._next(ends, method)
            if answer.get("id") == self._count:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']['message']}")
                return answer["result"]
            self._events.append(answer)

    def wait_for(self, event, session, within=60):
        """Wait until an event has arrived."""
        ends = time.monotonic() + within
        while not any(one.get("method") == event and one.get("sessionId") == session for one in self._events):
            self._events.append(self._next(ends, event))

    def events(self, session):
        return [one for one in self._events if one.get("sessionId") == session]

    def _next(self, ends, what):
        while b"\0" not in self._rest:
            if not select([self._read], [], [], max(ends - time.monotonic(), 0))[0]:
                raise TimeoutError(f"the browser did not answer: {what}")
            read = os.read(self._read, 2**20)
            if not read:
                raise ConnectionError(f"the browser has ended: {what}")
            self._rest += read
        message, _, self._rest = self._rest.partition(b"\0")
        return json.loads(message)


class Tab:
    """A page that has loaded."""

    def __init__(self, browser, url, *, width=1280, height=900, dark=False, scripts=True):
        self.browser = browser
        target = browser.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = browser.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")
        self.call("Performance.enable", timeDomain="threadTicks")
        phone = width < 600
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call("Emulation.setScriptExecutionDisabled", value=not scripts)
        start = time.monotonic()
        self.call("Page.navigate", url=url)
        browser.wait_for("Page.loadEventFired", self.session)
        self.seconds = time.monotonic() - start
        if scripts:
            self.frames()

    def call(self, method, **values):
        return self.browser.call(method, self.session, **values)

    def run(self, body):
        """Run the body of an async function in the page; return what it returns."""
        expression = f"(async () => {{ {body} }})()"
        found = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in found:
            raise RuntimeError(found["exceptionDetails"].get("exception", {}).get("description", "failed"))
        return found["result"].get("value")

    def processor_seconds(self):
        """Return the processor time of the page's main thread so far; other programs on the machine don't add to it."""
        metrics = self.call("Performance.getMetrics")["metrics"]
        return next(one["value"] for one in metrics if one["name"] == "TaskDuration")

    def frames(self, count=3):
        """Wait until the page has been drawn."""
        self.run(f"for (let i = 0; i < {count}; i++) await new Promise((done) => requestAnimationFrame(done));")

    def text(self, selector):
        return self.run(f"return document.querySelector({json.dumps(selector)})?.textContent")

    def click(self, selector):
        self.run(f"document.querySelector({json.dumps(selector)}).click()")
        self.frames(1)

    def point(self, selector, x, y):
        """Move the pointer to a place on an element, given as shares of its size."""
        element = f"document.querySelector({json.dumps(selector)})"
        for _ in range(2):  # what comes into view may grow
            self.run(f"{element}.scrollIntoView({{ block: 'center', behavior: 'instant' }})")
            self.frames()
        left, top, width, height = self.run(
            f"const box = {element}.getBoundingClientRect(); return [box.left, box.top, box.width, box.height]"
        )
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=left + x * width, y=top + y * height)
        self.frames(1)

    def press(self, key, shift=False):
        for kind in ("keyDown", "keyUp"):
            self.call(
                "Input.dispatchKeyEvent",
                type=kind, key=key, code=key, windowsVirtualKeyCode=KEYS[key], modifiers=8 if shift else 0,
            )  # fmt: skip
        self.frames(1)

    @property
    def errors(self):
        """Return errors thrown by the page's scripts, refusals by its policy, and errors on its console."""
        found = []
        for event in self.browser.events(self.session):
            said = event["params"]
            if event["method"] == "Runtime.exceptionThrown":
                found.append(said["exceptionDetails"].get("exception", {}).get("description", "exception"))
            elif event["method"] == "Runtime.consoleAPICalled" and said["type"] in ("error", "warning", "assert"):
                found.append(str(said["args"]))
            elif event["method"] == "Log.entryAdded" and said["entry"]["level"] in ("error", "warning"):
                found.append(said["entry"]["text"])
        return found

    def screenshot(self, path, whole=False):
        picture = self.call("Page.captureScreenshot", captureBeyondViewport=whole)
        path.write_bytes(b64decode(picture["data"]))


def _pipe():
    """Return a pipe whose ends have numbers above those that the browser uses."""
    ends = os.pipe()
    moved = tuple(fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in ends)
    for end in ends:
        os.close(end)
    return moved
