"""Trainings on the page in a real browser: watched, paused, queued, named, deleted and back."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from backends.runtime.jobs import Jobs
from tests.backends import made_jobs
from tests.served import CHECKOUT, Served, serving

pytestmark = pytest.mark.browser
Open = Callable[..., Page]
Picture = Callable[[Page, str], None]
SOON = 15_000  # milliseconds


@pytest.fixture(scope="module")
def counting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server that knows a training without a model, and so do the jobs that it starts."""
    folder = tmp_path_factory.mktemp("counting")
    path = f"{made_jobs.planted(folder)}{os.pathsep}{CHECKOUT}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", path)
        with serving(folder / "home") as served:
            yield served


@pytest.fixture
def jobs(counting: Served) -> Iterator[Jobs]:
    """Of the same home, from another process. What a test leaves is ended."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("backends.runtime.jobs.understand", lambda spec, folder: None)
        here = Jobs(counting.home)
        yield here
        for state in here.listed():
            here.stop(state.id)
            made_jobs.until(lambda id=state.id: not here.state(id).live)
            here.delete(state.id)


def job(jobs: Jobs, name: str, steps: int = 40, seconds: float = 0.1, **params: Any) -> str:
    params = {"max_steps": steps, "step_seconds": seconds, "save_steps": 5, **params}
    return jobs.create(made_jobs.spec(name=name, params=params))


def tab(served: Served, open_page: Open, **options: object) -> Page:
    page = open_page(served, **options)
    page.get_by_role("tab", name="Fine-tune").click()
    expect(page.locator("#finetune-drop")).to_be_visible()
    return page


def points(page: Page) -> int:
    """How many steps the curve has."""
    drawn = page.locator("#finetune-jobs path.raw").get_attribute("d") or ""
    return drawn.count("L") + drawn.count("M")


def status(page: Page, word: str) -> None:
    expect(page.locator("#finetune-jobs .status")).to_have_text(word, timeout=SOON)


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_a_training_is_watched_and_a_reload_has_the_whole_curve(
    counting: Served, jobs: Jobs, open_page: Open, picture: Picture, width: int, scheme: str
) -> None:
    before = job(jobs, "the one before", steps=12, seconds=0.0)
    jobs.start(before)
    made_jobs.until(lambda: jobs.state(before).status == "finished")
    id = job(jobs, "wächst <b>", steps=60)
    jobs.start(id)
    page = tab(
        counting, open_page, dies=True, viewport={"width": width, "height": 900},
        color_scheme=scheme,
    )  # fmt: skip
    panel = page.locator("#finetune-jobs")
    expect(panel.locator("h3")).to_have_text("wächst <b>", timeout=SOON)
    made_jobs.until(lambda: jobs.state(id).step >= 12)
    page.reload()
    page.get_by_role("tab", name="Fine-tune").click()
    expect(panel.locator("path.own")).to_be_attached(timeout=SOON)
    # Step 4 has no finite loss; all others are there, from the first one on.
    assert points(page) >= 12 - 1
    expect(panel.locator(".answers")).to_contain_text("Who are you?")
    expect(panel.locator(".figures")).to_contain_text("of 60")
    panel.locator(".against").select_option(before)
    expect(panel.locator("path.other")).to_be_attached(timeout=SOON)
    picture(page, f"training-{width}-{scheme}")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    status(page, "finished")
    expect(panel.locator(".list")).to_contain_text("the one before")
    expect(panel.locator(".answers .after")).to_have_text("I am 1830.")  # 1 + 2 + … + 60
    page.get_by_role("slider", name="Snapshot").fill("0")
    expect(panel.locator(".where")).to_contain_text("Step 1, made room")


def test_a_training_is_paused_and_goes_on_where_it_was(
    counting: Served, jobs: Jobs, open_page: Open
) -> None:
    id = job(jobs, "long", steps=100)
    jobs.start(id)
    page = tab(counting, open_page)
    buttons = page.locator("#finetune-jobs .buttons")
    buttons.get_by_role("button", name="Pause").click()
    status(page, "paused")
    stood = jobs.state(id).step
    assert 0 < stood < 100
    buttons.get_by_role("button", name="Resume").click()
    status(page, "finished")
    lines, _ = jobs.metrics(id)
    assert [line["step"] for line in lines] == list(range(1, 101))
    expect(page.locator("#finetune-jobs .notices")).to_contain_text(
        f"Resumed after step {stood:g}."
    )


def test_trainings_wait_in_a_queue_that_can_be_reordered(
    counting: Served, jobs: Jobs, open_page: Open
) -> None:
    first = job(jobs, "first", steps=200)
    jobs.start(first)
    waiting = [job(jobs, name, steps=3, seconds=0.0) for name in ("second", "third")]
    for id in waiting:
        jobs.enqueue(id)
    page = tab(counting, open_page)
    rows = page.locator("#finetune-jobs .list")
    rows.get_by_text("third").click()
    status(page, "2. in the queue")
    page.get_by_role("button", name="↑ Sooner").click()
    status(page, "1. in the queue")
    assert jobs.queue() == [waiting[1], waiting[0]]
    rows.get_by_text("first").click()
    page.locator("#finetune-jobs .buttons").get_by_role("button", name="Stop").click()
    for name in ("second", "third"):
        expect(rows.locator(".job", has_text=name)).to_contain_text("finished", timeout=SOON)
    assert jobs.state(first).status == "stopped"


def test_a_training_is_renamed_kept_deleted_and_brought_back(
    counting: Served, jobs: Jobs, open_page: Open, tmp_path: Path
) -> None:
    id = job(jobs, "plain", steps=7, seconds=0.0)
    jobs.start(id)
    made_jobs.until(lambda: jobs.state(id).status == "finished")
    page = tab(counting, open_page)
    panel = page.locator("#finetune-jobs")
    status(page, "finished")
    page.on("dialog", lambda dialog: dialog.accept("Ümläut"))
    panel.get_by_role("button", name="Rename").click()
    expect(panel.locator("h3")).to_have_text("Ümläut", timeout=SOON)
    with page.expect_download() as download:
        panel.get_by_role("button", name="Run card").click()
    download.value.save_as(tmp_path / "card.md")
    assert "Ümläut" in (tmp_path / "card.md").read_text("utf-8")
    panel.get_by_role("button", name="Delete").click()
    expect(panel.locator(".gone")).to_contain_text("is deleted", timeout=SOON)
    expect(panel.locator(".job")).to_have_count(0, timeout=SOON)
    panel.get_by_role("button", name="Undo").click()
    expect(panel.locator("h3")).to_have_text("Ümläut", timeout=SOON)
    assert jobs.state(id).status == "finished"


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_a_deleted_training_can_be_put_back_after_a_reload(
    counting: Served, jobs: Jobs, open_page: Open, picture: Picture, width: int, scheme: str
) -> None:
    id, stays = job(jobs, f"gone {width}"), job(jobs, "stays")
    jobs.delete(id)
    page = tab(counting, open_page, viewport={"width": width, "height": 900}, color_scheme=scheme)
    panel = page.locator("#finetune-jobs")
    panel.locator(".trash summary").click(timeout=SOON)
    back = panel.get_by_role("button", name=f"Put back gone {width}")
    expect(back).to_be_visible()
    panel.locator(".trash").scroll_into_view_if_needed()
    picture(page, f"deleted-{width}-{scheme}")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    jobs.delete(stays)
    expect(panel.locator(".job")).to_have_count(0, timeout=SOON)
    back.click()  # also where no other is left
    expect(panel.locator("h3")).to_have_text(f"gone {width}", timeout=SOON)
    expect(back).to_have_count(0)
    assert jobs.state(id).status == "new"


def test_run_again_pressed_twice_makes_one_training(
    counting: Served, jobs: Jobs, open_page: Open
) -> None:
    id = job(jobs, "once", steps=3, seconds=0.0)
    jobs.start(id)
    made_jobs.until(lambda: jobs.state(id).status == "finished")
    page = tab(counting, open_page)
    status(page, "finished")
    page.evaluate(
        """() => { const it = document.querySelector('#finetune-jobs [data-act=again]');
        it.click(); it.disabled = false; it.click(); }"""
    )
    expect(page.locator("#finetune-jobs .job")).to_have_count(2, timeout=SOON)
    made_jobs.until(lambda: all(s.status == "finished" for s in jobs.listed()))
    assert len(jobs.listed()) == 2


def test_a_failed_training_says_why_in_two_sentences(
    counting: Served, jobs: Jobs, open_page: Open
) -> None:
    id = job(jobs, "bad", fault="diverge")
    jobs.start(id)
    page = tab(counting, open_page)
    status(page, "diverged")
    expect(page.locator("#finetune-jobs .words.bad")).to_have_text("No. Halve.")
    expect(page.get_by_role("button", name="Resume")).to_be_visible()


def test_a_press_counts_though_its_button_moves_away_under_it(
    counting: Served, jobs: Jobs, open_page: Open
) -> None:
    page = tab(counting, open_page)
    train = page.locator("#finetune-train")
    train.scroll_into_view_if_needed()
    box = train.bounding_box()
    assert box
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.evaluate("document.querySelector('#finetune-drop').style.marginTop = '200px'")
    page.mouse.up()
    expect(page.locator("#finetune-train-said")).to_contain_text("Choose a dataset", timeout=SOON)
