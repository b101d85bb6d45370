"""``report.html`` in a real browser: on a desktop, on a phone, in the dark."""

import base64
import fcntl
import itertools
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.image import imread

pytestmark = pytest.mark.browser

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
Command = Callable[..., "subprocess.CompletedProcess[str]"]


class Browser:
    """Chromium without a window, told what to do through a pipe (Chrome DevTools Protocol)."""

    def __init__(self, profile: Path) -> None:
        assert CHROMIUM
        (read, self._out), (self._in, write) = os.pipe(), os.pipe()
        ends = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (read, write)]  # not 3 or 4 now

        def hand_over() -> None:  # Chromium reads from 3 and writes to 4
            os.dup2(ends[0], 3)
            os.dup2(ends[1], 4)

        options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        options += ["--remote-debugging-pipe", f"--user-data-dir={profile}", "about:blank"]
        self.process = subprocess.Popen(
            [CHROMIUM, *options],
            preexec_fn=hand_over,
            pass_fds=(3, 4),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for end in (read, write, *ends):
            os.close(end)
        self._numbers, self._unread = itertools.count(), b""
        self._session: dict[str, str] = {}
        self.complaints: list[dict[str, Any]] = []
        self._loaded = False
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = {"sessionId": attached["sessionId"]}
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: object) -> dict[str, Any]:
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters, **self._session}
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while (answer := self._read()).get("id") != number:
            self._note(answer)
        assert "error" not in answer, answer
        result: dict[str, Any] = answer["result"]
        return result

    def show(self, page: Path, *, width: int, dark: bool = False) -> None:
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self._loaded = False
        self.call("Page.navigate", url=page.as_uri())
        while not self._loaded:
            self._note(self._read())

    def ask(self, script: str) -> Any:
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True)
        return answer["result"].get("value")

    def picture(self, path: Path) -> "np.ndarray[Any, Any]":
        data = self.call("Page.captureScreenshot")["data"]
        path.write_bytes(base64.b64decode(data))
        return imread(path)

    def close(self) -> None:
        os.close(self._out)  # Chromium ends when the pipe does
        self.process.wait(20)
        os.close(self._in)

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._unread:
            part = os.read(self._in, 1 << 20)
            assert part, "Chromium has ended"
            self._unread += part
        message, self._unread = self._unread.split(b"\0", 1)
        return json.loads(message)  # type: ignore[no-any-return]

    def _note(self, event: dict[str, Any]) -> None:
        method = event.get("method")
        self._loaded |= method == "Page.loadEventFired"
        if method in ("Log.entryAdded", "Runtime.exceptionThrown", "Runtime.consoleAPICalled"):
            self.complaints.append(event)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("no chromium on PATH; Debian's package of that name has it")
    browser = Browser(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


@pytest.fixture
def page(msa: Command, tmp_path: Path) -> Path:
    """A report on six runs of the demo corpus."""
    chosen = ["modalities=text,audio,text_audio", "seed=0,1", "trainer.max_epochs=2"]
    for command, *arguments in (
        ("train", "-m", "data=demo", *chosen),
        ("evaluate", "run=runs/demo/*"),
        ("report", "runs=runs/demo", "out=report", "resamples=100"),
    ):
        done = msa(command, *arguments)
        assert done.returncode == 0, done.stderr
    return tmp_path / "report" / "report.html"


def test_the_page_in_a_browser(browser: Browser, page: Path, tmp_path: Path) -> None:
    browser.show(page, width=1280)
    light = browser.picture(tmp_path / "desktop.png")
    sorts(browser)
    filters(browser)

    browser.show(page, width=390)
    browser.picture(tmp_path / "phone.png")
    assert browser.ask("document.documentElement.scrollWidth") == 390
    scrolling = "[...document.querySelectorAll('.scroll')].some(e => e.scrollWidth > e.clientWidth)"
    assert browser.ask(scrolling)

    browser.show(page, width=1280, dark=True)
    dark = browser.picture(tmp_path / "dark.png")
    assert light[0, 0, :3].min() > 0.9
    assert dark[0, 0, :3].max() < 0.2
    ink = "getComputedStyle(document.querySelector('svg text')).fill"
    assert min(map(int, browser.ask(ink).strip("rgb()").split(","))) > 200
    assert browser.complaints == []


@pytest.mark.slow
def test_the_page_of_500_runs(browser: Browser, msa: Command, tmp_path: Path) -> None:
    """A hundred learning rates and five seeds; but for the rate, copies of five runs."""
    seeds = ["data=demo", "modalities=text", "seed=0,1,2,3,4", "trainer.max_epochs=2"]
    for command, *arguments in (("train", "-m", *seeds), ("evaluate", "run=runs/demo/*")):
        done = msa(command, *arguments)
        assert done.returncode == 0, done.stderr
    for run in list((tmp_path / "runs" / "demo").iterdir()):
        for k in range(1, 100):
            copy = tmp_path / "runs" / "demo" / f"lr-{k}-{run.name}"
            shutil.copytree(run, copy, ignore=shutil.ignore_patterns("checkpoints"))
            config = (copy / "config.yaml").read_text()
            assert "  lr: 0.0008\n" in config
            (copy / "config.yaml").write_text(config.replace("  lr: 0.0008\n", f"  lr: {k}e-6\n"))
    done = msa("report", "runs=runs/demo", "out=report", "resamples=100")
    assert done.returncode == 0, done.stderr

    page = tmp_path / "report" / "report.html"
    assert page.stat().st_size < 10e6
    browser.show(page, width=1280)
    browser.picture(tmp_path / "many.png")
    groups = browser.ask(texts("tbody td:nth-child(1)"))
    assert len(groups) == 101  # with the mean predictor
    browser.ask("document.querySelector('#results + .scroll th button').click()")
    assert sorted(browser.ask(texts("tbody td:nth-child(1)"))) == sorted(groups)
    assert browser.complaints == []


def sorts(browser: Browser) -> None:
    """By numbers in both directions; what is undefined stays last."""
    column = [c.strip() for c in browser.ask(texts("thead th"))].index("test/mae")
    shown = "test/mae"
    head = f"document.querySelectorAll('#results + .scroll th')[{column}]"
    cells = f"tbody td:nth-child({column + 1})"
    for direction, reverse in (("ascending", False), ("descending", True)):
        browser.ask(f"{head}.querySelector('button').click()")
        assert browser.ask(f"{head}.getAttribute('aria-sort')") == direction, shown
        means = [float(text.split()[0]) for text in browser.ask(texts(cells))]
        assert len(means) == 4
        assert means == sorted(means, reverse=reverse)
    column = browser.ask(texts("thead th")).index("test/corr")
    head = f"document.querySelectorAll('#results + .scroll th')[{column}]"
    for _ in range(2):
        browser.ask(f"{head}.querySelector('button').click()")
        assert browser.ask(texts(f"tbody td:nth-child({column + 1})"))[-1] == "undefined"


def texts(selector: str) -> str:
    selected = f"document.querySelectorAll('#results + .scroll {selector}')"
    return f"[...{selected}].map(e => e.textContent)"


def filters(browser: Browser) -> None:
    wanted = browser.ask("document.querySelector('#clips-1 tbody td').textContent")
    visible = "[...document.querySelectorAll('#clips-1 tbody tr')].filter(r => r.offsetHeight)"
    assert browser.ask(f"{visible}.length") > 1
    browser.ask(
        "{const s = document.querySelector('input[type=search]');"
        f"s.value = {json.dumps(wanted.upper())}; s.dispatchEvent(new Event('input'))}}"
    )
    assert browser.ask(f"{visible}.map(r => r.cells[0].textContent)")[0] == wanted
    assert browser.ask(f"{visible}.length") < 20
