"""A dataset of the hub becomes one of the user's, once, whoever is watching."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import shutil
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from backends.finetune.data import open_dataset
from backends.models import data_cache, library
from backends.runtime.downloads import Download
from tests.backends.models.fake_hub import FakeHub, reached_by
from webui.bench import Bench
from webui.finetune.datasets import Datasets
from webui.finetune.hub_panel import HubPanel, told, written

NAME = "some/questions"
ROWS = "".join(json.dumps({"instruction": f"{n}?", "output": f"{n}."}) + "\n" for n in range(9))
FILES = {"train.jsonl": ROWS.encode(), "test.jsonl": b'{"text": "t"}\n', "README.md": b"#"}


@pytest.fixture
def fake(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    with reached_by(monkeypatch, home, tmp_path) as server:
        server.add_dataset(NAME, FILES)
        yield server


def drive(home: Path, body: Callable[[HubPanel], Awaitable[None]]) -> None:
    async def run() -> None:
        bench = Bench(home, spare=False)
        panel = HubPanel(bench, Datasets(home))
        panel.choices = lambda id: id
        try:
            await asyncio.wait_for(body(panel), 60)
        finally:
            await bench.downloads.close()
            bench.store.close()

    asyncio.run(run())


async def brought(panel: HubPanel, text: str, part: str | None = None) -> list[list[Any]]:
    part = f"{text}:{part}" if part else None
    return [state async for state in panel.bring(text, part)]


def made(states: list[list[Any]]) -> str:
    """What the last of them made."""
    return str(states[-1][-1][1])


def test_it_is_one_of_the_datasets_and_is_chosen(home: Path, fake: FakeHub) -> None:
    async def body(panel: HubPanel) -> None:
        states = await brought(panel, f"https://huggingface.co/datasets/{NAME}/")
        [kept] = panel.datasets.all()
        assert made(states) == kept.id and "is one of your datasets now" in states[-1][2]
        assert kept.name == NAME and not kept.own
        [file] = Path(kept.path).iterdir()
        assert file.name == "train.jsonl" and file.read_bytes() == FILES["train.jsonl"]
        allowed = [Path(folder) for folder in panel.datasets.allowed_for(kept)["allowed"]]
        assert sum(1 for _ in open_dataset(Path(kept.path), allowed).rows()) == 9
        assert panel.bench.downloads.listed() == []
        # The same once more is the same one; another part is another.
        assert made(await brought(panel, NAME)) == kept.id
        last = made(await brought(panel, NAME, "test"))
        assert panel.datasets.get(last).name == f"{NAME} (test)"
        assert len(panel.datasets.all()) == 2

    drive(home, body)


def test_nobody_watched_and_it_is_adopted_once(home: Path, fake: FakeHub) -> None:
    async def body(panel: HubPanel) -> None:
        panel.bench.downloads.add(NAME, what="dataset")
        async for listed in panel.bench.downloads.follow():
            if not any(d.open for d in listed):
                break
        both = await asyncio.gather(panel.adopt(), panel.adopt())
        assert sorted(map(len, both)) == [0, 1] and len(panel.datasets.all()) == 1

    drive(home, body)


async def come(panel: HubPanel) -> None:
    """Nobody watches, and it is there."""
    panel.bench.downloads.add(NAME, what="dataset")
    async for listed in panel.bench.downloads.follow():
        if not any(d.open for d in listed):
            return


def test_what_no_dataset_could_be_made_of_is_said_and_stays(
    home: Path, fake: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    async def body(panel: HubPanel) -> None:
        await come(panel)
        with monkeypatch.context() as patch:
            patch.setattr(data_cache, "lay_out", full)
            assert "is full" in await panel.opened()
        assert len(panel.bench.downloads.listed()) == 1 and not panel.datasets.all()
        assert await panel.opened() == ""
        assert len(panel.datasets.all()) == 1 and not panel.bench.downloads.listed()
        panel.datasets.delete(panel.datasets.all()[0].id)
        await come(panel)
        shutil.rmtree(library.hub_cache())
        assert "not in the hub&#x27;s cache" in (said := await panel.opened()), said
        assert await panel.opened() == ""  # said once: there is nothing to wait for

    drive(home, body)


def test_where_another_page_adopts_first_this_one_says_so_too(home: Path, fake: FakeHub) -> None:
    fake.add_dataset("x/large", {"train.large.jsonl": ROWS.encode() * 20_000})
    fake.slow = 0.02

    async def body(panel: HubPanel) -> None:
        following = panel.bring("x/large", None)
        async for state in following:
            if "% of" in str(state[2]) and panel.bench.downloads.listed()[0].commit:
                break
        fake.slow = 0.0
        while not await panel.adopt():
            await asyncio.sleep(0.02)
        states = [state async for state in following]
        [kept] = panel.datasets.all()
        assert "is one of your datasets now" in states[-1][2] and made(states) == kept.id

    drive(home, body)


def test_the_buttons_act_on_the_download_that_is_shown(home: Path, fake: FakeHub) -> None:
    for name in ("x/one", "x/two"):
        fake.add_dataset(name, {"train.large.jsonl": ROWS.encode() * 20_000})
    fake.slow = 0.1

    async def body(panel: HubPanel) -> None:
        downloads = panel.bench.downloads
        first, second = (downloads.add(name, what="dataset") for name in ("x/one", "x/two"))
        while (now := panel.current()) is None or now.state != "running":
            await asyncio.sleep(0.02)
        assert now.id == first.id
        said = await panel.cancel(second.id)
        assert "Cancelled" in said[0] and said[3] == first.id
        assert [d.id for d in downloads.listed()] == [first.id]
        await panel.cancel(second.id)  # pressed twice
        assert [d.id for d in downloads.listed()] == [first.id]

    drive(home, body)


def test_what_came_is_chosen_unless_another_was_chosen_meanwhile(home: Path, fake: FakeHub) -> None:
    async def body(panel: HubPanel) -> None:
        last = [state async for state in panel.bring(NAME, None, "before")][-1]
        came = panel.datasets.all()[0].id
        assert last[-1] == ("before", came) and "value" not in last[1]._constructor_args[0]
        assert panel.settle("before", last[-1]) == came
        assert panel.settle("other", last[-1]) != came and panel.settle("before", None) != came

    drive(home, body)


def test_a_part_of_another_name_is_not_taken(home: Path, fake: FakeHub) -> None:
    fake.add_dataset("x/other", {"train.jsonl": ROWS.encode()})

    async def body(panel: HubPanel) -> None:
        states = [state async for state in panel.bring("x/other", f"{NAME}:test")]
        assert panel.datasets.get(made(states)).name == "x/other"
        last = (await brought(panel, NAME, "nothing"))[-1]
        assert "has no nothing" in last[2] and not last[0].visible and not last[0].choices

    drive(home, body)


def test_what_cannot_be_got_says_why_and_nothing_is_left(
    home: Path, fake: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.add_dataset("x/script", {"script.py": b"pass"})
    fake.add_dataset("x/gated", FILES, gated=True)

    async def body(panel: HubPanel) -> None:
        for text, said in (
            ("", "does not name a dataset"), ("../../etc/passwd", "does not name a dataset"),
            ("no/where", "has no dataset no/where"), ("x/script", "program of its own"),
        ):  # fmt: skip
            assert said in (await brought(panel, text))[-1][2]
            assert panel.bench.downloads.listed() == []
        last = (await brought(panel, "x/gated"))[-1]
        assert "is gated" in last[2] and f"{fake.url}" not in last[2] and last[3].visible
        assert "https://huggingface.co/datasets/x/gated" in last[2]
        assert "came back" in (await panel.cancel(last[5]))[0] or not panel.bench.downloads.listed()
        assert not panel.datasets.all()
        monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
        last = (await brought(panel, NAME))[-1]
        assert "offline" in last[2] and "on this machine work all the same" in last[2]

    drive(home, body)


def test_who_follows_one_that_is_cancelled_says_so_too(home: Path, fake: FakeHub) -> None:
    fake.add_dataset("x/large", {"train.large.jsonl": ROWS.encode() * 20_000})
    fake.slow = 0.1

    async def body(panel: HubPanel) -> None:
        following = [asyncio.create_task(brought(panel, "x/large")) for _ in range(2)]
        while not any(d.done for d in panel.bench.downloads.listed()):
            await asyncio.sleep(0.05)
        said = (await panel.cancel(panel.bench.downloads.listed()[0].id))[0]
        assert "came back" in said
        for states in await asyncio.gather(*following):
            assert states[-1][2] == said and not states[-1][4].visible
            assert not any("paused" in str(state[2]) for state in states)

    drive(home, body)


def test_offline_what_is_in_the_cache_is_taken(
    home: Path, fake: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body(panel: HubPanel) -> None:
        kept = panel.datasets.get(made(await brought(panel, NAME)))
        panel.datasets.delete(kept.id)
        monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
        again = panel.datasets.get(made(await brought(panel, NAME)))
        assert again.id != kept.id and again.hub == kept.hub

    drive(home, body)


def test_it_comes_back_from_the_trash_with_its_files(
    home: Path, fake: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no(*_: object, **__: object) -> None:
        raise OSError("another disk")

    monkeypatch.setattr(os, "link", no)

    async def body(panel: HubPanel) -> None:
        kept = panel.datasets.get(made(await brought(panel, NAME)))
        [file] = Path(kept.path).iterdir()
        assert file.is_symlink()
        panel.datasets.delete(kept.id)
        panel.datasets.restore(kept.id)
        assert file.read_bytes() == FILES["train.jsonl"]
        assert (library.hub_cache() / "datasets--some--questions").is_dir()

    drive(home, body)


def test_one_whose_files_went_with_the_cache_is_got_anew(
    home: Path, fake: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no(*_: object, **__: object) -> None:
        raise OSError("another disk")

    monkeypatch.setattr(os, "link", no)

    async def body(panel: HubPanel) -> None:
        kept = panel.datasets.get(made(await brought(panel, NAME)))
        shutil.rmtree(library.hub_cache() / "datasets--some--questions")
        assert panel.datasets.of_hub(kept.hub) is None
        again = panel.datasets.get(made(await brought(panel, NAME)))
        [file] = Path(again.path).iterdir()
        assert file.read_bytes() == FILES["train.jsonl"]

    drive(home, body)


def test_what_is_said_of_a_download() -> None:
    here = Download("0001-abcdef", "a/b<i>", "main", "train", "a/b", bytes=10**7, what="dataset")
    running = replace(here, state="running", done=5 * 10**6, speed=10**6)
    assert "a/b&lt;i&gt; (train): 50 % of 10 MB · 1.0 MB/s · 5 s left" in told(running).replace(
        "1 MB/s", "1.0 MB/s"
    )
    assert "waits" in told(here)
    assert "paused at 50 %" in told(replace(running, state="paused", message="Why.", hint="Do."))
    assert "Why. Do." in told(replace(running, state="failed", message="Why.", hint="Do."))


@pytest.mark.parametrize(
    ("typed", "meant"),
    [("a/b", "hub:a/b"), (" hub:a/b@v1 ", "hub:a/b@v1"),
     ("https://huggingface.co/datasets/a/b/", "hub:a/b"),
     ("https://huggingface.co/datasets/a/b/viewer/default/train?p=1", "hub:a/b"),
     ("huggingface.co/datasets/a/b?row=3#x", "hub:a/b"),
     ("https://huggingface.co/datasets/a/b/tree/v1/data", "hub:a/b@v1"),
     ("https://huggingface.co/datasets/a", "hub:a/"), ("hub:a/b:c/train", "hub:a/b:c/train")],
)  # fmt: skip
def test_a_name_is_taken_as_it_is_found(typed: str, meant: str) -> None:
    assert written(typed) == meant
