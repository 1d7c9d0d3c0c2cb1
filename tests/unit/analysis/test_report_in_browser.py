"""The report in a real browser: no console message, every picture drawn. Tried on broken pages as well."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from synthetic import write_run

from analysis.__main__ import main

pytestmark = pytest.mark.slow

#: What the page itself cannot say: a picture that does not decode is silent.
PROBE = """<script>addEventListener("load", () => {
  for (const picture of document.images) if (!picture.naturalWidth) console.error("picture not drawn: " + picture.alt);
  document.body.dataset.pictures = document.images.length;
})</script>"""
MESSAGE = re.compile(r"CONSOLE[:(]\d+\)?\] (.*)$")


@pytest.fixture(scope="module")
def browser() -> str:
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        reason = "no Chromium; as root: bash requirements/test-packages.sh"
        # As root (CI is) the package can be installed, so that a missing one is a mistake.
        if os.geteuid() == 0:
            pytest.fail(reason)
        pytest.skip(reason)
    return found


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("report")
    for method in ("ctpo", "grpo"):
        write_run(folder / "runs", method=method)
    assert main(["--runs", str(folder / "runs"), "--out", str(folder)]) == 0
    return (folder / "report.html").read_text(encoding="utf-8")


def opened(browser: str, page: str, folder: Path) -> tuple[list[str], str]:
    """Console messages of a page, and its document once it has loaded."""
    path = folder / "page.html"
    path.write_text(page.replace("</body>", f"{PROBE}</body>"), encoding="utf-8")
    options = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--enable-logging=stderr")
    command = [browser, *options, "--v=0", f"--user-data-dir={folder}/profile", "--dump-dom", path.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=True)
    messages = [match[1] for line in done.stderr.splitlines() if (match := MESSAGE.search(line))]
    return messages, done.stdout


def test_the_report_opens_without_a_console_message_and_draws_every_picture(
    browser: str, report: str, tmp_path: Path
) -> None:
    messages, document = opened(browser, report, tmp_path)
    assert messages == []
    assert f'data-pictures="{report.count("<img ")}"' in document
    assert report.count("<img ") >= 4


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ("<script>nosuch.call()</script>", "nosuch is not defined"),
        ('<img alt="torn" src="data:image/png;base64,iVBORw0KGgo=">', "picture not drawn: torn"),
    ],
)
def test_a_broken_page_is_noticed(browser: str, report: str, tmp_path: Path, broken: str, message: str) -> None:
    messages, _ = opened(browser, report.replace("<h1>", f"{broken}<h1>", 1), tmp_path)
    assert any(message in found for found in messages)
