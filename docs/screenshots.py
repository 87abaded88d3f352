"""Pictures of the studio for the documentation: `python docs/screenshots.py RUNS`, a folder of runs on digits.

RUNS has a joint `tour-digits`, a mixture `mixture-digits` and a VAE `vae-digits`. Needs a Chromium.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

CHROMIUM, PORT = "/usr/bin/chromium", 7898
PLACE = Path(__file__).parent / "images"


def main(runs: str) -> None:
    """Open the studio on the runs, go through its tabs, keep a picture of each."""
    words = [sys.executable, "-m", "likely", "studio", runs, "--port", str(PORT)]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as server, sync_playwright() as playwright:
        assert server.stderr is not None
        while "the studio is at" not in server.stderr.readline():
            pass
        page = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"]).new_page(
            viewport={"width": 1180, "height": 900}
        )
        page.goto(f"http://127.0.0.1:{PORT}/")
        page.wait_for_selector("#ask-pad canvas")
        choose(page, "vae-digits")
        tab(page, "Make")
        page.click("#make-walk")
        page.wait_for_selector("#make-out h3:has-text('A walk between two pictures')")
        keep(page, "make")
        choose(page, "mixture-digits")
        tab(page, "Complete")
        page.click("button[data-set=fill-side][data-value=bottom]")
        page.wait_for_timeout(1500)
        page.click("#fill-go")
        page.wait_for_selector("#fill-out figure >> nth=4")
        keep(page, "complete")
        tab(page, "Compare")
        page.click("#other input")
        page.click("ul[role=listbox] li:has-text('tour-digits')")
        page.click("#compare-go")
        page.wait_for_selector("#compare-out .lk-two .lk-bars")
        keep(page, "compare")
        tab(page, "Runs")
        page.wait_for_selector("#runs-one polyline")
        keep(page, "runs")
        server.terminate()


def choose(page: Page, name: str) -> None:
    page.click("#model input")
    page.click(f"ul[role=listbox] li:has-text('{name}')")
    page.wait_for_timeout(2500)


def tab(page: Page, name: str) -> None:
    page.click(f"button[role=tab]:has-text('{name}'):visible")
    page.wait_for_timeout(1000)


def keep(page: Page, name: str) -> None:
    page.wait_for_timeout(1500)
    page.screenshot(path=PLACE / f"studio-{name}.png")


if __name__ == "__main__":
    main(sys.argv[1])
