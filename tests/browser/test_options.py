"""Options that are folded away in Chromium: they begin with their defaults, or with what the URL or the reader said."""

import re
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.browser.pages import choose, eventually, open_page, settle

pytestmark = [pytest.mark.browser, pytest.mark.timeout(900)]
LEAST = {"n": "", "interventions": "60", "turns": "5", "layer": ""}
"""Options of sycophancy beside its seed, as they are by default; an empty `n` is 400, of a file all rows."""


def unfold(page: Page, name: str) -> Locator:
    """Open a popover."""
    page.get_by_test_id("stPopover").get_by_role("button", name=name).click()
    opened = page.get_by_test_id("stPopoverBody")
    expect(opened).to_be_visible()
    return opened


@pytest.mark.slow
def test_another_seed_leaves_the_other_options_as_they_were(page: Page, samples: Any):
    sentence = open_page(page, samples, "sycophancy?base=base&aligned=dpo-agreeable")
    page.get_by_role("tab", name="Figures").click()
    expect(page).to_have_url(re.compile("sycophancy~tab=Figures"))
    settle(page)
    options = unfold(page, "Options")
    for label, value in LEAST.items():
        expect(options.get_by_label(label, exact=True)).to_have_value(value)
    seed = options.get_by_label("seed", exact=True)
    seed.fill("1")
    seed.press("Enter")
    expect(page.get_by_text("This is what is stored with")).to_be_visible()
    expect(sentence).to_contain_text("dpo-agreeable repeats a false claim")
    expect(page).to_have_url(re.compile(r"sycophancy\.seed=1&sycophancy~tab=Figures$"))  # the others are the defaults
    for label, value in LEAST.items():
        expect(options.get_by_label(label, exact=True)).to_have_value(value)
    expect(page.get_by_test_id("stAlert")).to_have_count(0)


@pytest.mark.slow
def test_options_of_a_link_last(page: Page, samples: Any):
    open_page(page, samples, "sycophancy?base=base&aligned=dpo-agreeable&sycophancy.n=30")
    page.get_by_role("button", name="Measure base and dpo-agreeable").wait_for()
    choose(page, "Aligned model", "rlvr")
    page.get_by_role("button", name="Measure base and rlvr").wait_for()
    settle(page)
    options = unfold(page, "Options")
    expect(options.get_by_label("n", exact=True)).to_have_value("30")
    assert "sycophancy.n=30" in page.url


@pytest.mark.slow
def test_axes_of_a_link_last(page: Page, samples: Any):
    open_page(page, samples, "training?runs=base&smoothing=0.5&logy=true&x=time")
    choose(page, "Metrics", "optimiser")
    expect(page).to_have_url(re.compile("section=optimiser"))
    settle(page)
    expect(page.get_by_role("slider", name="Smoothing")).to_have_value("0.5")
    expect(page.get_by_role("switch", name="Log y")).to_be_checked()
    expect(page.get_by_role("radio", name="time")).to_be_checked()
    eventually(page, lambda: all(part in page.url for part in ("smoothing=0.5", "logy=true", "x=time")))


@pytest.mark.slow
def test_folded_options_of_a_training_keep_what_was_typed(page: Page, samples: Any):
    open_page(page, samples, "train?method=sft")
    page.get_by_text("Options of every method").click()
    seed = page.get_by_label("seed", exact=True)
    seed.fill("7")
    seed.press("Enter")
    expect(page.get_by_text("--seed 7")).to_be_visible()
    choose(page, "Method", "pretrain")
    expect(page.get_by_text("probe train pretrain")).to_be_visible()
    choose(page, "Method", "sft")
    expect(page.get_by_text("probe train sft")).to_be_visible()
    settle(page)
    expect(page.get_by_text("--seed 7")).to_be_visible()
    steps = page.get_by_label("steps", exact=True)
    expect(steps).to_have_count(1)  # those of pretrain are gone
    steps.fill("9")
    steps.press("Enter")
    expect(page.get_by_text("--steps 9")).to_be_visible()
    settle(page)
    expect(page.get_by_text("--seed 7")).to_be_visible()
