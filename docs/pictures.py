"""The pictures that README and documents show: pages of the dashboard on the sample runs, taken in Chromium.

`make pictures` takes all of them, `python -m docs.pictures compare train` some. They are 1280 pixels wide, of a light
page. It needs Chromium and the development tools.
"""

import io
import shutil
import sys
from collections.abc import Callable, Sequence
from contextlib import chdir
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image
from playwright.sync_api import BrowserContext, FloatRect, Page, Playwright, sync_playwright

import probe
from probe.jobs.job import LIVE
from probe.jobs.trainings import list_jobs, status_of
from probe.plotting.export import find_browser, render
from probe.plotting.paper import Paper
from probe.texts import say
from tests.browser.conftest import FLAGS, Server
from tests.browser.pages import agree, box, figure, open_page
from tests.injuries import __main__ as injuries

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "docs" / "images"
WIDTH, HEIGHT, MENU = 1280, 800, 282
MOST_BYTES = 200_000
PAIR = "base=base&aligned=dpo-agreeable"


def as_opened(page: Page) -> None:
    """The page as it is opened, with all its figures."""
    agree(page)


def as_trained(page: Page) -> None:
    """A training that was started from the form, half-way."""
    page.get_by_label("Name of the run", exact=True).fill("dpo-mild")
    page.get_by_role("button", name="Start training").click()
    page.locator("h3").first.filter(has_text="is at step 7").wait_for()
    figure(page, "progress")


@dataclass(frozen=True)
class Picture:
    """One page in one state."""

    address: str
    prepare: Callable[[Page], None] = as_opened
    first_row: bool = False
    """Whether only the first figure and what is beside it are taken."""


PICTURES = {
    "attention": Picture(f"attention?{PAIR}"),
    "compare": Picture(f"compare?{PAIR}"),
    "features": Picture(f"features?{PAIR}"),
    "findings": Picture("findings"),
    "interventions": Picture(f"interventions?{PAIR}"),
    "start": Picture("", first_row=True),
    "rewards": Picture(f"rewards?{PAIR}"),
    "scorecard": Picture("scorecard"),
    "train": Picture("train?method=dpo", as_trained),
    "training": Picture("training?runs=base&runs=dpo-agreeable"),
}
"""By the name of their file in docs/images."""
FLIP = "flip"
"""The one picture that is no page: both figures that the tutorial exports."""
JOBS = "jobs"
"""The film strip of jobs: eight looks at pages, in the order in which they were taken."""
DIAGNOSES = "diagnosis"
"""What the page Diagnosis says of three trainings with a fault, and of a healthy one."""
INJURED = ("hot-sampler", "agreement-pays", "flipped-reward")
NAMES = {*PICTURES, FLIP, JOBS, DIAGNOSES}


def take(context: BrowserContext, server: Server, picture: Picture) -> Image.Image:
    """A page as a reader sees it at 1280 x 800."""
    page = context.new_page()
    page.set_viewport_size({"width": WIDTH + MENU * picture.first_row, "height": HEIGHT})
    open_page(page, server, picture.address)
    picture.prepare(page)
    page.locator("[data-testid=stSkeleton]:visible").first.wait_for(state="detached")
    page.mouse.move(WIDTH - 1, HEIGHT - 1)
    page.wait_for_timeout(1500)  # a chart that has just got its width is drawn again
    shot = page.screenshot(clip=first_row(page) if picture.first_row else None)
    page.close()
    return Image.open(io.BytesIO(shot))


def first_row(page: Page) -> FloatRect:
    """The first figure of a page and what is beside it, without the menu."""
    left, chart = box(page.get_by_test_id("stMain"))["x"], box(page.locator(".js-plotly-plot").first)
    top = box(page.locator("[class*=st-key-figure-]").first)["y"] - 56
    return {"x": left, "y": top, "width": WIDTH, "height": chart["y"] + chart["height"] - top}


def flip() -> Image.Image:
    """The tutorial's figures one above the other."""
    base, aligned = (probe.LM.load(ROOT / "sample_runs" / name) for name in ("base", "dpo-agreeable"))
    result = probe.run_experiment("sycophancy", aligned, baseline=base, n=40)
    paper = Paper(width=WIDTH / 150, dpi=150, theme="light", font_size=9)
    drawn = [render(result.figures[name], None, "png", paper=paper) for name in ("layers", "heads")]
    images = [Image.open(io.BytesIO(each)) for each in drawn]
    whole = Image.new("RGB", (WIDTH, sum(image.height for image in images)), "white")
    top = 0
    for image in images:
        whole.paste(image, (0, top))
        top += image.height
    return whole


def film(playwright: Playwright, runs: Path) -> Image.Image:
    """Jobs that are started, left, found again after a restart of the server, stopped and opened: eight looks."""
    server = Server(runs)
    browser = playwright.chromium.launch(executable_path=find_browser(), args=FLAGS)
    context = browser.new_context(viewport={"width": WIDTH, "height": HEIGHT}, color_scheme="light")
    context.set_default_timeout(600_000)
    server.admit(context)
    page, looks = context.new_page(), list[Image.Image]()

    def look(address: str, press: str = "", heading: str = "") -> None:
        if address:
            open_page(page, server, address)
        if press:
            page.locator(press).first.click()
        if heading:
            page.locator("h3").first.filter(has_text=heading).wait_for()
        page.wait_for_timeout(4000)
        looks.append(Image.open(io.BytesIO(page.screenshot())))

    open_page(page, server, "train?method=dpo")
    page.get_by_label("Name of the run", exact=True).fill("dpo-mild")
    look("", "button:has-text('Start training')")
    look("audit?base=base&aligned=rsft", ".st-key-audit-run button")
    look("chain_of_thought?base=base&aligned=rsft&chain_of_thought.n=40", ".st-key-chain_of_thought-run button")
    page.goto("about:blank")
    look("overview")
    server.stop()
    server = Server(runs)
    server.admit(context)
    look("overview")
    look("", "[class*=st-key-stop-] button")
    for job in list_jobs([runs]):
        while status_of(job) in LIVE:
            page.wait_for_timeout(500)
    look("audit?base=base&aligned=rsft", "", "rsft")
    look("overview", ".st-key-jobs-ended button")
    browser.close()
    server.stop()
    return strip(looks)


def strip(looks: Sequence[Image.Image]) -> Image.Image:
    """Pictures of one size in two columns."""
    width, gap = 610, 20
    height = round(width * looks[0].height / looks[0].width)
    whole = Image.new("RGB", (WIDTH, gap + (height + gap) * len(looks) // 2), "#D0D5DD")
    for index, image in enumerate(looks):
        place = gap + index % 2 * (width + gap), gap + index // 2 * (height + gap)
        whole.paste(image.convert("RGB").resize((width, height), Image.Resampling.LANCZOS), place)
    return whole.quantize(256, Image.Quantize.FASTOCTREE)


def diagnoses(playwright: Playwright, folder: Path) -> Image.Image:
    """Trainings with a fault that was put into them, and what the page says of each and of a healthy one."""
    with chdir(ROOT):
        injuries.run([*INJURED, "--seeds", "3", "--out", str(folder)])
    server = Server(folder)
    browser = playwright.chromium.launch(executable_path=find_browser(), args=FLAGS)
    context = browser.new_context(viewport={"width": WIDTH, "height": 1000}, color_scheme="light")
    looks = []
    for name in (*INJURED, "healthy-rlvr"):
        page = context.new_page()
        open_page(page, server, f"diagnosis?diagnosed={name}-seed3")
        page.get_by_text("How often it is right").wait_for()
        page.wait_for_timeout(3000)
        left, top = box(page.get_by_test_id("stMain"))["x"], box(page.get_by_test_id("stSelectbox").first)["y"] - 16
        shot = page.screenshot(clip={"x": left, "y": top, "width": WIDTH - left, "height": 640})
        looks.append(Image.open(io.BytesIO(shot)))
        page.close()
    browser.close()
    server.stop()
    return strip(looks)


def save(name: str, image: Image.Image) -> None:
    """Write a picture, as small as PNG makes it.

    Raises:
        ValueError: it is too large for a page that is read over a network.
    """
    path = FOLDER / f"{name}.png"
    (image if image.mode == "P" else image.convert("RGB")).save(path, optimize=True)
    size = path.stat().st_size
    say(f"{path.relative_to(ROOT)}: {image.width} x {image.height}, {size / 1e3:.0f} kB", error=True)
    if size > MOST_BYTES:
        raise ValueError(f"{path.name} has {size / 1e3:.0f} kB: a picture may have {MOST_BYTES / 1e3:.0f} kB.")


def main(names: list[str]) -> None:
    """Take the pictures `names`, or all."""
    unknown = set(names) - NAMES
    if unknown:
        sys.exit(f"There is no picture {', '.join(sorted(unknown))}; choose from {', '.join(sorted(NAMES))}.")
    wanted = names or sorted(NAMES)
    if FLIP in wanted:
        save(FLIP, flip())
    with TemporaryDirectory() as folder, chdir(folder), sync_playwright() as playwright:
        server = Server(Path(shutil.copytree(ROOT / "sample_runs", "runs")))  # pages name no other folder
        browser = playwright.chromium.launch(executable_path=find_browser(), args=FLAGS)
        context = browser.new_context(viewport={"width": WIDTH, "height": HEIGHT}, color_scheme="light")
        context.set_default_timeout(600_000)
        server.admit(context)
        for name in wanted:
            if name in PICTURES:
                save(name, take(context, server, PICTURES[name]))
        browser.close()
        server.stop()
        if JOBS in wanted:
            save(JOBS, film(playwright, Path("runs").absolute()))
        if DIAGNOSES in wanted:
            save(DIAGNOSES, diagnoses(playwright, Path("injured").absolute()))


if __name__ == "__main__":
    main(sys.argv[1:])
