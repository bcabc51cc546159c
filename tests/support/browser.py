"""A page in a real browser without a window: what a script finds in it, and what the browser complains about."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")


def browser() -> str:
    """Path of a browser; the test is skipped where there is none."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip(f"no browser ({', '.join(NAMES)}); Debian's is called chromium")
    return found


def in_browser(page: Path, script: str, width: int = 1200, options: tuple[str, ...] = ()) -> tuple[Any, list[str]]:
    """Opens a page, runs a script in it, and returns what the script returns and what the browser's console says.

    Args:
        page: path of the HTML file, which stays as it is.
        script: body of an async function; what it returns is passed on as JSON.
        width: of the window in pixels.
        options: further options of the browser.
    """
    program = browser()
    asked = (
        f"<script>(async () => {{ let found; try {{ found = await (async () => {{ {script} }})(); }} "
        "catch (error) { found = 'error: ' + error; } "
        "const made = document.createElement('pre'); made.id = 'found'; "
        "made.textContent = JSON.stringify(found === undefined ? null : found); "
        "document.body.append(made); })();</script>"
    )
    copy = page.with_name("asked.html")
    copy.write_text(page.read_text(encoding="utf-8").replace("</body>", asked + "</body>"), encoding="utf-8")
    done = subprocess.run(
        [
            *(program, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"),
            *("--enable-logging=stderr", "--virtual-time-budget=10000", f"--window-size={width},900", "--dump-dom"),
            *(f"--user-data-dir={page.parent / 'profile'}", *options, copy.as_uri()),
        ],
        capture_output=True,
        text=True,
        timeout=300,
    )
    found = re.search(r'<pre id="found">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found, f"the page did not answer; {done.stderr[-2000:]}"
    said = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    text = found[1].replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
    return json.loads(text), said
