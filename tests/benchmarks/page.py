"""The page of a report in Chromium: how long it takes to open, what it weighs, and pictures of it.

    python tests/benchmarks/page.py PAGE [--shots FOLDER] [--case CASE] [--rounds N] [--json FILE]

`seconds` is the browser's own time from the beginning of the navigation to the end of the load event, `thread` the
processor time of the page's thread until then; the least of the rounds counts, since whatever else the machine does
only adds to both. `--shots` writes page-{laptop,phone}-{light,dark}[-top].jpg, 1366x900 and 390x844 px, with the named
case (or the first) in view and its videos near their end.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, sync_playwright

SCREENS = {"laptop": (1366, 900), "phone": (390, 844)}


def opened(browser: Browser, url: str) -> dict[str, Any]:
    """Open the page once, in a context of its own."""
    context = browser.new_context(viewport={"width": 1366, "height": 900})
    page = context.new_page()
    session = context.new_cdp_session(page)
    session.send("Performance.enable", {"timeDomain": "threadTicks"})
    page.goto(url)
    spent = {one["name"]: one["value"] for one in session.send("Performance.getMetrics")["metrics"]}
    end = page.evaluate("performance.getEntriesByType('navigation')[0].loadEventEnd")
    found = {"seconds": end / 1000, "thread": spent["ThreadTime"], "shown": page.inner_text("#count")}
    context.close()
    return found


def shoot(browser: Browser, url: str, folder: Path, case: str) -> None:
    """Pictures of the page at a laptop's and a phone's width, light and dark."""
    folder.mkdir(parents=True, exist_ok=True)
    for screen, (width, height) in SCREENS.items():
        for theme in ("light", "dark"):
            context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=theme)
            page = context.new_page()
            page.goto(url)
            page.screenshot(path=folder / f"page-{screen}-{theme}-top.jpg", type="jpeg", quality=85)
            name = case or page.locator("#cases > .case .link").first.text_content()
            page.evaluate(f"location.hash = {json.dumps('#case=' + str(name))}")
            page.wait_for_timeout(1500)
            page.keyboard.press("j")
            page.keyboard.press("k")
            for _ in range(8):
                page.keyboard.press("ArrowRight")
            page.wait_for_timeout(1500)
            page.screenshot(path=folder / f"page-{screen}-{theme}.jpg", type="jpeg", quality=85)
            context.close()


def main() -> None:
    """Measure, and take pictures where a folder for them is given."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", type=Path)
    parser.add_argument("--shots", type=Path)
    parser.add_argument("--case", default="")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        url = options.page.resolve().as_uri()
        rounds = [opened(browser, url) for _ in range(options.rounds)]
        found = {
            "shown": rounds[0]["shown"],
            "megabytes": options.page.stat().st_size / 1e6,
            "seconds": min(one["seconds"] for one in rounds),
            "thread": min(one["thread"] for one in rounds),
            "rounds": rounds,
            "chromium": browser.version,
        }
        print(json.dumps(found, indent=1))
        if options.json:
            options.json.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
        if options.shots:
            shoot(browser, url, options.shots, options.case)
        browser.close()


if __name__ == "__main__":
    main()
