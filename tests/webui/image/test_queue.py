"""The queue of pictures, with a scripted model in place of a real one."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from backends.base import Refused
from backends.events import Artifact, Done, Failed, Notice, Progress
from backends.image.recipe import save_png
from tests.served import CHECKOUT
from webui.bench import Waiting
from webui.gate import Busy
from webui.image.entry import Entry
from webui.image.gallery import Gallery
from webui.image.grid import Grid, axis
from webui.image.queue import KEPT, PictureQueue
from webui.image.variations import variations

PARAMS: dict[str, Any] = {"prompt": "a red fox", "seed": 7, "width": 32, "height": 32, "steps": 3}
KNOWN = ("starter:a", "starter:b")


def find(name: str) -> Any:
    if name not in KNOWN:
        raise Refused(f"There is no model {name!r} on this machine.", "Pick one from the list.")
    return SimpleNamespace(ref=name, title=name.upper())


class Model:
    """Draws what it is asked, step by step; `hold` stops it within a batch, `script` in a word
    of the prompt makes it fail."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.visitors: list[str] = []
        self.hold, self.held = asyncio.Event(), asyncio.Event()
        self.hold.set()
        self.calls: list[Any] = []
        self.busy = 0

    async def __call__(
        self, listed: Any, params: dict[str, Any], visitor: str, *, options: Any = None,
        on_call: Callable[[Any], None] = lambda call: None,
    ) -> AsyncGenerator[Any, None]:  # fmt: skip
        if self.busy:
            self.busy -= 1
            raise Busy("Werkbank is busy: 60 requests wait already. Try again in about 1 s.", 0.01)
        self.asked.append((str(listed.ref), params))
        self.visitors.append(visitor)
        yield Waiting(2)
        yield Progress(0, 0, "Loading")
        if "crash" in params["prompt"]:
            yield Failed("The worker stopped (exit -9).", "Send it again.")
            return
        if "bug" in params["prompt"]:
            raise KeyError("bug")
        call = SimpleNamespace(cancelled=False)
        call.cancel = lambda: (setattr(call, "cancelled", True), self.hold.set())
        self.calls.append(call)
        on_call(call)
        yield Notice("VAE in tiles.")
        folder = Path(params["folder"])
        yield Artifact(str(folder / "preview.jpg"), "preview")
        self.held.set()
        await self.hold.wait()
        if call.cancelled:
            yield Done(cancelled=True, usage={"denoising_seconds": 0.1})
            return
        seed = params.get("seed", -1)
        for number in range(params.get("images", 1)):
            path = folder / f"{params['name']}-{number + 1}.png"
            picture = Image.new("RGB", (32, 32), (seed % 256, 0, 0))
            save_png(picture, path, {"prompt": params["prompt"], "seed": seed + number})
            yield Artifact(str(path), "image")
        yield Done(usage={"denoising_seconds": 0.5, "energy_wh": 0.25, "steps": 3})


def with_queue(
    gallery: Gallery, body: Callable[[PictureQueue, Model], Awaitable[None]], *allowed: Path
) -> None:
    async def run() -> None:
        async with asyncio.timeout(20):
            model = Model()
            queue = PictureQueue(gallery, find, model, allowed)
            await queue.start()
            try:
                await body(queue, model)
            finally:
                await queue.stop()

    asyncio.run(run())


async def idle(queue: PictureQueue) -> None:
    async with contextlib.aclosing(queue.watch(until_idle=True)) as seen:
        async for _ in seen:
            pass


async def held(model: Model) -> None:
    await model.held.wait()
    model.held.clear()


def states(queue: PictureQueue) -> list[str]:
    return [entry.state for entry in queue.entries]


# Drawing


def test_requests_are_drawn_one_after_another_into_the_gallery(gallery: Gallery) -> None:
    async def body(queue: PictureQueue, model: Model) -> None:
        first = await queue.add("starter:a", PARAMS, batches=2, page="p1")
        second = await queue.add("starter:b", {**PARAMS, "images": 3, "prompt": "a cat"})
        await idle(queue)
        assert states(queue) == ["done", "done"]
        assert [ref for ref, _ in model.asked] == ["starter:a", "starter:a", "starter:b"]
        assert [params["seed"] for _, params in model.asked] == [7, 8, 7]
        assert model.visitors == ["pictures p1", "pictures p1", "pictures"]
        assert [gallery.get(id).prompt for id in second.pictures] == ["a cat"] * 3
        assert [gallery.get(id).seed for id in first.pictures] == [7, 8]
        assert first.usage == {"denoising_seconds": 1.0, "energy_wh": 0.5}
        assert first.note == "VAE in tiles." and first.title == "STARTER:A"
        assert 0 < first.began <= first.ended and first.seconds > 0
        assert not list(gallery.files.making.iterdir())

    with_queue(gallery, body)


def test_batches_with_one_seed_each_follow_by_the_pictures_of_a_batch(gallery: Gallery) -> None:
    async def body(queue: PictureQueue, model: Model) -> None:
        await queue.add("starter:a", {**PARAMS, "images": 4, "seed": 2**32 - 4}, batches=2)
        await queue.add("starter:a", {**PARAMS, "seed": -1}, batches=2)
        await idle(queue)
        assert [params["seed"] for _, params in model.asked] == [2**32 - 4, 0, -1, -1]

    with_queue(gallery, body)


def test_a_watcher_sees_position_progress_and_preview(gallery: Gallery) -> None:
    async def body(queue: PictureQueue, model: Model) -> None:
        model.hold.clear()
        await queue.add("starter:a", PARAMS)
        seen = []
        async with contextlib.aclosing(queue.watch(until_idle=True)) as watched:
            async for now in watched:
                seen.append((now.entries[0].state, now.entries[0].preview[-11:]))
                if now.entries[0].preview:
                    model.hold.set()
        assert seen[-1] == ("done", "") and ("running", "preview.jpg") in seen

    with_queue(gallery, body)


def test_a_vanished_page_leaves_the_queue_running(gallery: Gallery) -> None:
    async def body(queue: PictureQueue, model: Model) -> None:
        model.hold.clear()
        await queue.add("starter:a", PARAMS)
        watching = asyncio.create_task(idle(queue))
        await held(model)
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        model.hold.set()
        await idle(queue)
        assert states(queue) == ["done"] and gallery.count() == 1

    with_queue(gallery, body)


def test_where_the_waiting_room_is_full_it_asks_again(gallery: Gallery) -> None:
    async def body(queue: PictureQueue, model: Model) -> None:
        model.busy = 3
        await queue.add("starter:a", PARAMS)
        await idle(queue)
        assert states(queue) == ["done"] and model.busy == 0

    with_queue(gallery, body)


# What goes wrong


@pytest.mark.parametrize(
    ("prompt", "note"),
    [("crash", "The worker stopped (exit -9). Send it again."),
     ("bug", "Something went wrong in Werkbank itself ('bug'). Try it again.")],
)  # fmt: skip
def test_one_that_fails_says_why_and_the_next_one_is_drawn(
    gallery: Gallery, prompt: str, note: str
) -> None:
    async def body(queue: PictureQueue, model: Model) -> None:
        failed = await queue.add("starter:a", {**PARAMS, "prompt": prompt}, batches=5)
        await queue.add("starter:a", PARAMS)
        await idle(queue)
        assert states(queue) == ["failed", "done"] and failed.note == note
        assert len(model.asked) == 2  # the batches behind the one that failed were left

    with_queue(gallery, body)


def test_what_cannot_be_drawn_is_not_queued(gallery: Gallery, tmp_path: Path) -> None:
    async def body(queue: PictureQueue, model: Model) -> None:
        for model_ref, params, batches, said in (
            ("starter:x", PARAMS, 1, "no model"),
            (
                "starter:a",
                {**PARAMS, "steps": 0},
                1,
                "Steps is 0. Choose a value between 1 and 150.",
            ),
            ("starter:a", {**PARAMS, "nonsense": 1}, 1, "no setting 'nonsense'"),
            ("starter:a", PARAMS, 0, "0 batches"),
            ("starter:a", {**PARAMS, "image": str(tmp_path / "no.png")}, 1, "not there any more"),
            ("starter:a", {**PARAMS, "image": "/etc/passwd"}, 1, "does not lie where"),
            ("starter:a", {**PARAMS, "image": mine, "mask": "/etc/hosts"}, 1, "does not lie where"),
        ):
            with pytest.raises(Refused, match=said):
                await queue.add(model_ref, params, batches=batches)
        assert queue.entries == [] and not list(queue.folders.folder.glob("*/"))

    mine = str(tmp_path / "mine.png")
    Image.new("RGB", (8, 8)).save(mine)
    with_queue(gallery, body, tmp_path)


def test_a_model_that_went_meanwhile_fails_its_entry_alone(gallery: Gallery) -> None:
    async def body(queue: PictureQueue, model: Model) -> None:
        queue.pause()
        await queue.add("starter:b", PARAMS)
        await queue.add("starter:a", PARAMS)
        plain, queue.find = queue.find, lambda n: plain("gone" if n == "starter:b" else n)
        queue.resume()
        await idle(queue)
        assert states(queue) == ["failed", "done"] and "no model" in queue.entries[0].note

    with_queue(gallery, body)


def test_a_full_disk_is_said_and_the_queue_goes_on(
    gallery: Gallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    async def body(queue: PictureQueue, model: Model) -> None:
        entry = await queue.add("starter:a", PARAMS)
        with monkeypatch.context() as patch:
            patch.setattr("webui.image.entry.write_json", full)
            await idle(queue)
            assert entry.state == "done" and "disk is full" in queue.notice
            with pytest.raises(Refused, match="disk is full"):
                await queue.add("starter:a", PARAMS)
        assert len(queue.entries) == 1
        queue.pause()
        assert queue.notice == ""

    with_queue(gallery, body)


# Reordering, pausing, cancelling


def test_what_waits_can_be_put_in_another_order(gallery: Gallery) -> None:
    async def body(queue: PictureQueue, model: Model) -> None:
        queue.pause()
        a, b, c = [await queue.add("starter:a", {**PARAMS, "prompt": p}) for p in "abc"]
        queue.move(c.id, before=a.id)
        queue.move(a.id)
        queue.resume()
        await idle(queue)
        assert [params["prompt"] for _, params in model.asked] == ["c", "b", "a"]
        queue.move(a.id, before=c.id)  # is over: stays
        assert queue.entries == [c, b, a]
        with pytest.raises(Refused, match="not in the queue"):
            queue.move("x")

    with_queue(gallery, body)


def test_a_pause_lets_the_batch_end_and_keeps_the_rest(gallery: Gallery) -> None:
    async def body(queue: PictureQueue, model: Model) -> None:
        model.hold.clear()
        entry = await queue.add("starter:a", PARAMS, batches=3)
        await held(model)
        queue.pause()
        model.hold.set()
        await idle(queue)
        assert (entry.state, entry.done_runs, len(entry.pictures)) == ("waiting", 1, 1)
        queue.resume()
        await idle(queue)
        assert (entry.state, len(entry.pictures)) == ("done", 3)
        assert [params["seed"] for _, params in model.asked] == [7, 8, 9]

    with_queue(gallery, body)


def test_cancelling_ends_the_batch_keeps_what_is_drawn_and_retry_draws_the_rest(
    gallery: Gallery,
) -> None:
    async def body(queue: PictureQueue, model: Model) -> None:
        entry = await queue.add("starter:a", PARAMS, batches=3)
        waiting = await queue.add("starter:a", PARAMS)
        await held(model)
        model.hold.clear()
        await held(model)  # of the second batch
        queue.cancel(entry.id)
        queue.cancel(entry.id)
        queue.cancel(waiting.id)
        await idle(queue)
        assert states(queue) == ["cancelled", "cancelled"] and len(entry.pictures) == 1
        assert model.calls[1].cancelled and len(model.asked) == 2
        again = await queue.retry(entry.id)
        await idle(queue)
        assert again is entry and (entry.state, len(entry.pictures)) == ("done", 3)
        assert [params["seed"] for _, params in model.asked] == [7, 8, 8, 9]

    with_queue(gallery, body)


def test_one_that_is_still_loading_is_cancelled_at_once(gallery: Gallery) -> None:
    async def body(queue: PictureQueue, model: Model) -> None:
        closed = asyncio.Event()

        async def loads_for_ever(*_: Any, **__: Any) -> AsyncGenerator[Any, None]:
            try:
                yield Progress(0, 0, "Loading")
                await asyncio.sleep(100)
            finally:
                closed.set()

        queue.generate = loads_for_ever
        entry = await queue.add("starter:a", PARAMS)
        while entry.status != "Loading":
            await asyncio.sleep(0.01)
        queue.cancel(entry.id)
        await idle(queue)
        assert entry.state == "cancelled" and closed.is_set()

    with_queue(gallery, body)


def test_what_was_done_is_drawn_again_as_a_new_request(gallery: Gallery) -> None:
    async def body(queue: PictureQueue, model: Model) -> None:
        entry = await queue.add("starter:a", PARAMS, batches=2)
        await idle(queue)
        again = await queue.retry(entry.id)
        await idle(queue)
        assert again is not entry and states(queue) == ["done", "done"]
        assert len(again.pictures) == 2 and gallery.count() == 4

    with_queue(gallery, body)


def test_deleting_takes_the_request_and_leaves_its_pictures(gallery: Gallery) -> None:
    async def body(queue: PictureQueue, model: Model) -> None:
        done = await queue.add("starter:a", PARAMS)
        await idle(queue)
        model.hold.clear()
        running = await queue.add("starter:a", PARAMS)
        model.held.clear()
        await held(model)
        queue.delete(running.id)
        await asyncio.sleep(0.05)
        assert model.calls[1].cancelled and queue.clear() == 1 and queue.entries == []
        assert not list(queue.folders.folder.glob("*/entry.json"))
        assert gallery.get(done.pictures[0])

    with_queue(gallery, body)


def test_old_ones_leave_by_themselves(gallery: Gallery) -> None:
    async def body(queue: PictureQueue, model: Model) -> None:
        queue.pause()
        for _ in range(KEPT + 5):
            queue.cancel((await queue.add("starter:a", PARAMS)).id)
        queue.resume()
        last = await queue.add("starter:a", PARAMS)
        await idle(queue)
        await asyncio.sleep(0.05)
        assert len(queue.entries) == KEPT and last in queue.entries

    with_queue(gallery, body)


# Restarts


def test_a_restart_interrupts_what_ran_and_starts_nothing_by_itself(gallery: Gallery) -> None:
    async def first(queue: PictureQueue, model: Model) -> None:
        done = await queue.add("starter:a", PARAMS)
        await idle(queue)
        model.held.clear()
        model.hold.clear()
        await queue.add("starter:a", PARAMS, batches=2)
        await queue.add("starter:a", {**PARAMS, "prompt": "later"})
        await held(model)
        assert states(queue) == ["done", "running", "waiting"] and done.pictures

    async def second(queue: PictureQueue, model: Model) -> None:
        await asyncio.sleep(0.1)
        assert states(queue) == ["done", "interrupted", "waiting"] and model.asked == []
        assert queue.paused and "nothing goes on by itself" in queue.why
        assert "Werkbank ended" in queue.entries[1].note and len(queue.entries[0].pictures) == 1
        queue.resume()
        await idle(queue)
        assert states(queue) == ["done", "interrupted", "done"]
        await queue.retry(queue.entries[1].id)
        await idle(queue)
        assert states(queue) == ["done", "done", "done"]

    with_queue(gallery, first)
    with_queue(gallery, second)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_a_killed_page_reads_as_interrupted_and_loses_no_finished_picture(home: Path) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path\n"
        "from tests.webui.image.test_queue import *\n"
        "async def body(queue, model):\n"
        "    await queue.add('starter:a', PARAMS, batches=3)\n"
        "    await held(model); model.hold.clear(); await held(model)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "with_queue(Gallery(Path(sys.argv[1]), Path(sys.argv[1]) / 'thumbs'), body)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(home)], cwd=CHECKOUT, timeout=60)
    assert done.returncode == -signal.SIGKILL
    again = Gallery(home, home / "thumbs")

    async def body(queue: PictureQueue, model: Model) -> None:
        [entry] = queue.entries
        assert (entry.state, entry.done_runs, again.count()) == ("interrupted", 1, 1)
        assert not queue.paused  # nothing waited behind it
        await queue.retry(entry.id)
        await idle(queue)
        assert (entry.state, again.count()) == ("done", 3)

    with_queue(again, body)
    again.close()


def test_a_home_without_pictures_stays_without(gallery: Gallery, home: Path) -> None:
    async def body(queue: PictureQueue, model: Model) -> None:
        await idle(queue)

    with_queue(gallery, body)
    assert not (home / "pictures").exists()


def test_what_only_waited_goes_on_after_a_restart(gallery: Gallery) -> None:
    async def first(queue: PictureQueue, model: Model) -> None:
        queue.pause()
        await queue.add("starter:a", PARAMS)

    async def second(queue: PictureQueue, model: Model) -> None:
        assert queue.paused and queue.why == ""
        queue.resume()
        await idle(queue)
        assert states(queue) == ["done"]

    with_queue(gallery, first)
    with_queue(gallery, second)


@pytest.mark.parametrize("damage", ["[1]", "{", '{"id": "x"}', '{"id": "0123456789abcdef"}', ""])
def test_an_entry_that_cannot_be_read_is_passed_over(gallery: Gallery, damage: str) -> None:
    async def first(queue: PictureQueue, model: Model) -> None:
        queue.pause()
        await queue.add("starter:a", PARAMS)

    async def second(queue: PictureQueue, model: Model) -> None:
        assert len(queue.entries) == 1

    with_queue(gallery, first)
    broken = gallery.files.folder / "queue" / "0123456789abcdef"
    broken.mkdir()
    (broken / "entry.json").write_text(damage)
    with_queue(gallery, second)


def test_pictures_to_begin_with_are_copied_and_stay(gallery: Gallery, tmp_path: Path) -> None:
    temp = tmp_path / "temp"
    temp.mkdir()
    for name in ("begin.png", "mask.png", "pose.PNG"):
        Image.new("RGB", (32, 32), "red").save(temp / name)

    async def body(queue: PictureQueue, model: Model) -> None:
        queue.pause()
        params = {
            **PARAMS, "image": str(temp / "begin.png"), "mask": str(temp / "mask.png"),
            "controls": [{"ref": "hub:a/b", "image": str(temp / "pose.PNG")}],
        }  # fmt: skip
        entry = await queue.add("starter:a", params)
        varied = await queue.add("starter:a", params, changes=variations(params, 2))
        for file in temp.iterdir():
            file.unlink()
        queue.resume()
        await idle(queue)
        assert [entry.state, varied.state] == ["done", "done"]
        for (_, asked), owner in zip(model.asked, (entry, varied, varied), strict=True):
            files = [asked["image"], asked["mask"], asked["controls"][0]["image"]]
            assert [Path(f).parent.name for f in files] == [owner.id] * 3
            assert all(Path(f).is_file() for f in files)
        again = await queue.retry(entry.id)
        queue.delete(entry.id)
        await idle(queue)
        assert again.state == "done" and Path(again.params["image"]).is_file()

    with_queue(gallery, body, temp)


# Grids


def test_a_grid_is_drawn_with_one_seed_and_ends_with_a_sheet(gallery: Gallery) -> None:
    async def body(queue: PictureQueue, model: Model) -> None:
        grid = Grid(axis("steps", "1-2"), axis("model", "starter:a, starter:b"))
        entry = await queue.add("starter:a", {**PARAMS, "seed": -1}, grid=grid)
        await idle(queue)
        assert entry.state == "done" and len(entry.pictures) == 4
        assert [ref for ref, _ in model.asked] == ["starter:a"] * 2 + ["starter:b"] * 2
        seeds = {params["seed"] for _, params in model.asked}
        assert len(seeds) == 1 and seeds.pop() >= 0
        said = gallery.recipe(entry.sheet)
        assert said["kind"] == "grid" and said["grid"] == json.loads(json.dumps(entry.grid))
        with Image.open(gallery.path(entry.sheet)) as sheet:
            assert sheet.width > 2 * 32 and sheet.height > 2 * 32

    with_queue(gallery, body)


def test_a_cell_that_fails_is_missing_and_the_others_are_drawn(gallery: Gallery) -> None:
    async def body(queue: PictureQueue, model: Model) -> None:
        grid = Grid(axis("prompt_replace", "red, crash, blue"))
        entry = await queue.add("starter:a", PARAMS, grid=grid)
        await idle(queue)
        assert entry.state == "done" and len(entry.pictures) == 2 and entry.sheet
        assert entry.note.startswith("1 of 3 could not be drawn. The worker stopped")
        again = await queue.retry(entry.id)
        assert again is entry
        await idle(queue)
        assert len(model.asked) == 4  # the cell that failed, once more

    with_queue(gallery, body)


def test_an_unknown_model_in_a_grid_is_refused_at_once(gallery: Gallery) -> None:
    async def body(queue: PictureQueue, model: Model) -> None:
        with pytest.raises(Refused, match="no model"):
            await queue.add(
                "starter:a", PARAMS, grid=Grid(axis("model", "starter:a, starter:gone"))
            )

    with_queue(gallery, body)


def test_an_entry_equals_itself_alone() -> None:
    assert Entry("a", "m") != Entry("a", "m")
