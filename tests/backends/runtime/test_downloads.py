"""The queue of downloads, with real processes and a hub on loopback."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from backends.base import ModelRef, Refused
from backends.models import hub_token, library
from backends.runtime.downloads import Download, Downloads
from backends.runtime.process import CHECKOUT
from tests.backends.models import crafted
from tests.backends.models.fake_hub import TOKEN, FakeHub, status, times
from webui.models.entries import coming_now

SHAPE = {"weight": ([500, 1000], [0, 2_000_000])}
WEIGHTS = crafted.safetensors(SHAPE)
FILES = {"config.json": json.dumps(crafted.CONFIG).encode(), "model.safetensors": WEIGHTS}
CONFIG_BYTES = len(FILES["config.json"])


@pytest.fixture
def fake(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("WERKBANK_HOME", str(home))
    monkeypatch.setenv("WERKBANK_TEST_FETCH_PACE", "5,0.01,0.05,3")
    for name in ("HF_HUB_CACHE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    with FakeHub() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        for name in ("a/one", "a/two"):
            server.add(name, FILES)
        yield server


def drive(home: Path, body: Callable[[Downloads], Awaitable[None]]) -> None:
    async def run() -> None:
        downloads = Downloads(home)
        try:
            await asyncio.wait_for(body(downloads), 60)
        finally:
            await downloads.close()

    asyncio.run(run())


async def until(downloads: Downloads, id: str, when: Callable[[Download], object]) -> Download:
    async for listed in downloads.follow():
        found = next(d for d in listed if d.id == id)
        if when(found):
            return found
    raise AssertionError


def fetching() -> list[psutil.Process]:
    mine = psutil.Process().children(recursive=True)
    return [p for p in mine if "backends.models.fetch" in " ".join(p.cmdline())]


def test_a_dataset_comes_by_the_same_queue_and_is_no_model(home: Path, fake: FakeHub) -> None:
    files = {"train.jsonl": b'{"text": "a"}\n' * 9, "test.jsonl": b'{"text": "b"}\n'}
    fake.add_dataset("a/one", files)  # called as a model is

    async def body(downloads: Downloads) -> None:
        model, data = downloads.add("a/one"), downloads.add("a/one", what="dataset")
        assert model.id != data.id
        assert downloads.add("a/one", what="dataset").id == data.id
        assert set(coming_now(downloads.listed())) == {"a/one"}
        assert coming_now(downloads.listed())["a/one"].what == "model"
        done = await until(downloads, data.id, lambda d: d.state == "done")
        assert (done.choice, done.done, done.what) == (
            "train",
            len(files["train.jsonl"]),
            "dataset",
        )
        downloads.forget_done()
        assert [d.what for d in downloads.listed()] == ["dataset"]

        with pytest.raises(Refused, match="does not name a dataset"):
            downloads.add("nonsense", what="dataset")

    drive(home, body)
    [again] = Downloads(home).listed()  # by the next page
    assert (again.what, again.state) == ("dataset", "done")


def test_a_dataset_that_is_given_up_leaves_nothing(home: Path, fake: FakeHub) -> None:
    fake.add_dataset("a/data", {"train.large.jsonl": b'{"text": "a"}\n' * 200_000})
    fake.slow = 0.05

    async def body(downloads: Downloads) -> None:
        data = downloads.add("a/data", what="dataset")
        await until(downloads, data.id, lambda d: d.done > 0)
        paused = await downloads.pause(data.id)
        assert paused.state == "paused" and paused.done > 0
        assert await downloads.cancel(data.id) >= paused.done

    drive(home, body)
    assert not (library.hub_cache() / "datasets--a--data").exists()


def test_one_at_a_time_in_order_and_then_they_are_there(home: Path, fake: FakeHub) -> None:
    async def body(downloads: Downloads) -> None:
        one = downloads.add("a/one", size=5)
        two = downloads.add("a/two")
        assert downloads.add("a/two").id == two.id  # it is in the list already
        async for listed in downloads.follow():
            states = [d.state for d in listed]
            assert states.count("running") <= 1 and len(listed) == 2
            if states == ["done", "done"]:
                break
        done = downloads.get(one.id)
        assert done.bytes == done.done == len(WEIGHTS) + CONFIG_BYTES
        assert done.commit == fake.models["a/one"].refs["main"]
        library.check(ModelRef.parse(done.ref))
        assert [m.id for m in library.list_models("chat") if m.ref.kind == "hub"] == [
            "hub:a/one",
            "hub:a/two",
        ]
        assert not fetching()
        downloads.forget_done()
        assert downloads.listed() == [] and list(downloads.folder.iterdir()) == []

    drive(home, body)


def test_pause_keeps_what_came_and_resume_goes_on_there(home: Path, fake: FakeHub) -> None:
    fake.slow = 0.05

    async def body(downloads: Downloads) -> None:
        id = downloads.add("a/one").id
        moving = await until(downloads, id, lambda d: d.done > 300_000 and d.speed)
        assert moving.seconds_left and moving.file == "model.safetensors"
        started = time.monotonic()
        paused = await downloads.pause(id)
        assert time.monotonic() - started < 3
        assert paused.state == "paused" and paused.message == "" and not fetching()
        fake.slow = 0
        fake.seen.clear()
        downloads.resume(id)
        done = await until(downloads, id, lambda d: d.state in ("done", "failed"))
        assert done.state == "done"
        assert int(fake.of("cdn")[0].range[6:-1]) >= 300_000

    drive(home, body)


def test_cancel_removes_what_came_only_where_asked(home: Path, fake: FakeHub) -> None:
    fake.slow = 0.05

    async def body(downloads: Downloads) -> None:
        folder = library.hub_cache() / "models--a--one"
        id = downloads.add("a/one").id
        await until(downloads, id, lambda d: d.done > 300_000)
        assert await downloads.cancel(id, remove=False) == 0
        assert list(folder.glob("blobs/*.incomplete")) and downloads.listed() == []
        id = downloads.add("a/one").id
        await until(downloads, id, lambda d: d.done > 500_000)
        freed = await downloads.cancel(id)
        assert freed > 500_000 and not folder.exists()
        with pytest.raises(Refused, match="not in the list"):
            downloads.get(id)

    drive(home, body)


def test_cancel_takes_nothing_that_is_whole_or_another_programs(home: Path, fake: FakeHub) -> None:
    async def body(downloads: Downloads) -> None:
        id = downloads.add("a/one").id
        old = await until(downloads, id, lambda d: d.state == "done")
        folder = library.hub_cache() / "models--a--one"
        foreign = folder / "blobs" / f"{'0' * 64}.1234abcd.incomplete"
        foreign.write_bytes(b"another program's")
        fake.slow = 0.05
        new = {"config.json": FILES["config.json"], "model.safetensors": WEIGHTS[:-1] + b"x"}
        commit = fake.commit("a/one", new)
        downloads.forget_done()
        id = downloads.add("a/one").id
        await until(downloads, id, lambda d: d.done > 300_000)
        await downloads.cancel(id)
        assert not (folder / "snapshots" / commit).exists()
        assert [f.name for f in folder.glob("blobs/*.incomplete")] == [foreign.name]
        path = library.locate(ModelRef.parse(old.ref))
        assert (path / "model.safetensors").read_bytes() == WEIGHTS
        assert (path / "config.json").exists()
        # One more try for the version that is whole, cancelled before anything happens.
        fake.models["a/one"].refs["main"] = old.commit
        id = downloads.add("a/one").id
        downloads._all[id] = replace(await downloads.pause(id), commit=old.commit)
        await downloads.cancel(id)
        assert (path / "model.safetensors").read_bytes() == WEIGHTS

    drive(home, body)


def test_cancel_leaves_another_form_that_no_branch_leads_to(home: Path, fake: FakeHub) -> None:
    gguf = crafted.gguf(data=900_000)
    commit = fake.commit("a/one", FILES | {"model-Q8_0.gguf": gguf})
    folder = library.hub_cache() / "models--a--one"
    theirs = folder / "snapshots" / commit / "model.safetensors"
    theirs.parent.mkdir(parents=True)
    (folder / "blobs").mkdir()
    (folder / "blobs" / "theirs").write_bytes(WEIGHTS)
    theirs.symlink_to("../../blobs/theirs")  # as from_pretrained(revision=commit) leaves it
    fake.slow = 0.05

    async def body(downloads: Downloads) -> None:
        id = downloads.add("a/one", "model-Q8_0.gguf").id
        await until(downloads, id, lambda d: d.done > 300_000)
        assert await downloads.cancel(id) > 300_000
        assert theirs.read_bytes() == WEIGHTS

    drive(home, body)


def test_a_waiting_one_is_paused_without_a_process(home: Path, fake: FakeHub) -> None:
    fake.slow = 0.05

    async def body(downloads: Downloads) -> None:
        one, two = downloads.add("a/one"), downloads.add("a/two")
        assert (await downloads.pause(two.id)).state == "paused"
        fake.slow = 0
        await until(downloads, one.id, lambda d: d.state == "done")
        assert downloads.get(two.id).state == "paused"
        assert await downloads.cancel(two.id) == 0

    drive(home, body)


def test_a_fault_is_two_sentences_and_the_queue_goes_on(home: Path, fake: FakeHub) -> None:
    fake.models["a/one"].gated = True

    async def body(downloads: Downloads) -> None:
        one, two = downloads.add("a/one"), downloads.add("a/two")
        failed = await until(downloads, one.id, lambda d: d.state == "failed")
        assert failed.kind == "gated" and "licence" in failed.message and failed.hint
        await until(downloads, two.id, lambda d: d.state == "done")
        fake.models["a/one"].gated = False
        downloads.resume(one.id)
        assert (await until(downloads, one.id, lambda d: d.state == "done")).message == ""

    drive(home, body)


def test_a_version_that_went_away_is_replaced_by_todays(home: Path, fake: FakeHub) -> None:
    async def body(downloads: Downloads) -> None:
        fake.faults.append(times(3, status(503, "cdn")))
        id = downloads.add("a/one").id
        first = await until(downloads, id, lambda d: d.state == "failed")
        assert first.kind == "server" and first.commit
        new = fake.commit("a/one", FILES | {"config.json": FILES["config.json"] + b"\n"})
        del fake.models["a/one"].commits[first.commit]
        downloads.resume(id)
        gone = await until(downloads, id, lambda d: d.state == "failed")
        assert gone.kind == "revision"
        downloads.resume(id)
        assert (await until(downloads, id, lambda d: d.state == "done")).commit == new

    drive(home, body)


def test_the_token_reaches_the_process_by_environment_alone(
    home: Path, fake: FakeHub, caplog: pytest.LogCaptureFixture
) -> None:
    hub_token.save(TOKEN)
    fake.slow = 0.05

    async def body(downloads: Downloads) -> None:
        id = downloads.add("a/one").id
        await until(downloads, id, lambda d: d.done > 100_000)
        [process] = fetching()
        assert process.environ()["HF_TOKEN"] == TOKEN
        assert TOKEN not in " ".join(process.cmdline())
        fake.slow = 0
        await until(downloads, id, lambda d: d.state == "done")
        assert {a.token for a in fake.of("hub")} == {TOKEN}
        assert {a.token for a in fake.of("cdn")} == {""}

    drive(home, body)
    kept = [f for f in home.rglob("*") if f.is_file() and f.name != "hub-token"]
    assert not any(TOKEN.encode() in f.read_bytes() for f in kept) and TOKEN not in caplog.text


def test_a_killed_process_is_told_and_can_go_on(home: Path, fake: FakeHub) -> None:
    fake.slow = 0.05

    async def body(downloads: Downloads) -> None:
        id = downloads.add("a/one").id
        await until(downloads, id, lambda d: d.done > 100_000)
        os.kill(fetching()[0].pid, signal.SIGKILL)
        failed = await until(downloads, id, lambda d: d.state == "failed")
        assert "ended unexpectedly" in failed.message and failed.hint
        fake.slow = 0
        downloads.resume(id)
        await until(downloads, id, lambda d: d.state == "done")

    drive(home, body)


PAGE = """
import asyncio, sys
from pathlib import Path
from backends.runtime.downloads import Downloads
async def main():
    downloads = Downloads(Path(sys.argv[1]))
    downloads.add("a/one")
    downloads.add("a/two")
    async for listed in downloads.follow(0.1):
        if listed[0].done > 1_200_000:
            print("moving", flush=True)
asyncio.run(main())
"""


def test_a_page_that_is_killed_finds_them_again(home: Path, fake: FakeHub) -> None:
    fake.slow = 0.1
    page = subprocess.Popen(
        [sys.executable, "-c", PAGE, str(home)], cwd=CHECKOUT, stdout=subprocess.PIPE, text=True
    )
    assert page.stdout and page.stdout.readline() == "moving\n"
    [process] = fetching()
    page.kill()
    page.wait()
    page.stdout.close()
    started = time.monotonic()
    while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() - started < 10
        time.sleep(0.02)
    fake.slow = 0
    fake.seen.clear()

    async def body(downloads: Downloads) -> None:
        one, two = downloads.listed()
        assert one.state == two.state == "paused" and "was closed" in one.message and one.hint
        assert one.commit and one.done > 0
        downloads.resume(one.id)
        await until(downloads, one.id, lambda d: d.state == "done")
        assert int(fake.of("cdn")[0].range[6:-1]) > 0  # from where the killed page was

    drive(home, body)


def test_a_page_that_ends_leaves_them_paused(home: Path, fake: FakeHub) -> None:
    fake.slow = 0.05

    async def body(downloads: Downloads) -> None:
        id = downloads.add("a/one").id
        await until(downloads, id, lambda d: d.done > 100_000)

    drive(home, body)
    assert not fetching()
    [kept] = [json.loads(f.read_text()) for f in (home / "downloads").glob("*.json")]
    assert kept["state"] == "paused" and "closed" in kept["message"]


def test_no_room_pauses_it_until_there_is(
    home: Path, fake: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body(downloads: Downloads) -> None:
        monkeypatch.setenv("WERKBANK_TEST_FETCH_SPARE", str(10**18))
        id = downloads.add("a/one").id
        paused = await until(downloads, id, lambda d: d.state == "paused")
        assert paused.kind == "full" and "2 MB" in paused.message and paused.hint
        monkeypatch.delenv("WERKBANK_TEST_FETCH_SPARE")
        downloads.resume(id)
        await until(downloads, id, lambda d: d.state == "done")

    drive(home, body)


def test_what_is_no_download_is_passed_over(home: Path) -> None:
    folder = home / "downloads"
    folder.mkdir()
    good = Download("0001-aaaaaa", "a/b", "main", "", "a/b", state="paused")
    for id, text in {
        "0001-aaaaaa": json.dumps(good.__dict__),
        "0002-aaaaaa": "{",
        "0003-aaaaaa": "[]",
        "0004-aaaaaa": json.dumps({**good.__dict__, "name": "../../x", "id": "0004-aaaaaa"}),
        "0005-aaaaaa": json.dumps({**good.__dict__, "state": "odd", "id": "0005-aaaaaa"}),
        "..-aaaaaa": json.dumps({**good.__dict__, "id": "..-aaaaaa"}),
    }.items():
        (folder / f"{id}.json").write_text(text)

    async def body(downloads: Downloads) -> None:
        assert [d.id for d in downloads.listed()] == ["0001-aaaaaa"]
        with pytest.raises(Refused, match="owner/name"):
            downloads.add("../etc/passwd")

    drive(home, body)
