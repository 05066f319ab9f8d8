"""A dataset of the hub becomes one of the user's, once, whoever is watching."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from backends.finetune.data import open_dataset
from backends.models import library
from backends.runtime.downloads import Download
from tests.backends.models.fake_hub import FakeHub
from webui.bench import Bench
from webui.finetune.datasets import Datasets
from webui.finetune.hub_panel import HubPanel, told, written

NAME = "some/questions"
ROWS = "".join(json.dumps({"instruction": f"{n}?", "output": f"{n}."}) + "\n" for n in range(9))
FILES = {"train.jsonl": ROWS.encode(), "test.jsonl": b'{"text": "t"}\n', "README.md": b"#"}


@pytest.fixture
def fake(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("WERKBANK_HOME", str(home))
    monkeypatch.setenv("WERKBANK_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("WERKBANK_TEST_FETCH_PACE", "5,0.01,0.05,3")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    with FakeHub() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
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
    return [state async for state in panel.bring(text, part)]


def test_it_is_one_of_the_datasets_and_is_chosen(home: Path, fake: FakeHub) -> None:
    async def body(panel: HubPanel) -> None:
        states = await brought(panel, f"https://huggingface.co/datasets/{NAME}/")
        [kept] = panel.datasets.all()
        assert states[-1][1] == kept.id and "is one of your datasets now" in states[-1][2]
        assert kept.name == NAME and not kept.own
        [file] = Path(kept.path).iterdir()
        assert file.name == "train.jsonl" and file.read_bytes() == FILES["train.jsonl"]
        allowed = [Path(folder) for folder in panel.datasets.allowed_for(kept)["allowed"]]
        assert sum(1 for _ in open_dataset(Path(kept.path), allowed).rows()) == 9
        assert panel.bench.downloads.listed() == []
        # The same once more is the same one; another part is another.
        assert (await brought(panel, NAME))[-1][1] == kept.id
        last = (await brought(panel, NAME, "test"))[-1]
        assert panel.datasets.get(last[1]).name == f"{NAME} (test)"
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
        assert "came back" in (await panel.cancel())[0] or not panel.bench.downloads.listed()
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
        said = (await panel.cancel())[0]
        assert "came back" in said
        for states in await asyncio.gather(*following):
            assert states[-1][2] == said and not states[-1][4].visible
            assert not any("paused" in str(state[2]) for state in states)

    drive(home, body)


def test_offline_what_is_in_the_cache_is_taken(
    home: Path, fake: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body(panel: HubPanel) -> None:
        kept = panel.datasets.get((await brought(panel, NAME))[-1][1])
        panel.datasets.delete(kept.id)
        monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
        again = panel.datasets.get((await brought(panel, NAME))[-1][1])
        assert again.id != kept.id and again.hub == kept.hub

    drive(home, body)


def test_it_comes_back_from_the_trash_with_its_files(
    home: Path, fake: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no(*_: object, **__: object) -> None:
        raise OSError("another disk")

    monkeypatch.setattr(os, "link", no)

    async def body(panel: HubPanel) -> None:
        kept = panel.datasets.get((await brought(panel, NAME))[-1][1])
        [file] = Path(kept.path).iterdir()
        assert file.is_symlink()
        panel.datasets.delete(kept.id)
        panel.datasets.restore(kept.id)
        assert file.read_bytes() == FILES["train.jsonl"]
        assert (library.hub_cache() / "datasets--some--questions").is_dir()

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
     ("https://huggingface.co/datasets/a/b/", "hub:a/b")],
)  # fmt: skip
def test_a_name_is_taken_as_it_is_found(typed: str, meant: str) -> None:
    assert written(typed) == meant
