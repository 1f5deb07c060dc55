"""A studio in a process of its own, as ``tunesmith studio`` starts it, and Debian's Chromium to look at it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from playwright.sync_api import Browser, Page, sync_playwright

from tests.eventually import eventually
from tests.runs import child_environment

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--no-first-run", "--disable-dev-shm-usage"),
]
START_SECONDS = 60.0
PATIENCE_MS = 30_000


class ServedStudio:
    """The studio over ``root``, listening; close it."""

    def __init__(self, root: Path, *, within: Path | None = None, **environment: str) -> None:
        self.root = root
        self._within = within  # the folder that it is started in
        self._environment = environment
        self._start("")

    def _start(self, port: str) -> None:
        chosen = [f"--port={port}"] if port else []
        self._process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "backend.commands.cli",
                "studio",
                f"--root={self.root}",
                "--no-browser",
                *chosen,
            ],
            env=child_environment(**self._environment),
            cwd=self._within,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self._process.stdout is not None
        found = re.search(r"http://127\.0\.0\.1:(\d+)", self._process.stdout.readline())
        assert found, "the studio named no address"
        self.port = found[1]
        eventually(self._answers, timeout_seconds=START_SECONDS)

    @property
    def url(self) -> str:
        """Where a browser finds it."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """Its process."""
        return self._process.pid

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/_stcore/health", timeout=2) as answer:  # noqa: S310
                return bool(answer.status == 200)
        except OSError:
            return False

    def kill(self) -> None:
        """SIGKILL: it has no chance to say anything."""
        os.kill(self.pid, signal.SIGKILL)
        self._ended()

    def start_again(self) -> None:
        """The same address, another process."""
        self._start(self.port)

    def interrupt(self) -> int:
        """Ctrl-C; its exit code."""
        os.kill(self.pid, signal.SIGINT)
        return self._ended()

    def _ended(self) -> int:
        self._process.communicate(timeout=START_SECONDS)
        return self._process.returncode

    def close(self) -> None:
        """End it, if it has not ended."""
        if self._process.poll() is None:
            self.kill()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@contextmanager
def chromium() -> Iterator[Browser]:
    """Debian's Chromium, without a window and without any network but loopback."""
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS)
        yield browser
        browser.close()


def settled(page: Page) -> Page:
    """The page, once its script has run and its charts are drawn; looked at with every frame."""
    page.wait_for_function(
        "document.querySelector('[data-testid=stApp][data-test-script-state=notRunning]')",
        timeout=PATIENCE_MS,
    )
    page.wait_for_function(
        "document.querySelectorAll('[data-testid=stSkeleton]').length === 0", timeout=PATIENCE_MS
    )
    return page
