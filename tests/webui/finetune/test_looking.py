"""A look at a dataset by a real worker: kept, ended when nobody watches, told when it fails."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from backends.base import Refused
from backends.runtime.job_spec import digest
from webui.bench import Bench
from webui.finetune.datasets import Datasets
from webui.finetune.looking import Look, look
from webui.finetune.saving_panel import SavingPanel
from webui.finetune.validation_panel import ValidationPanel


def drive(home: Path, body: Callable[[Bench, Datasets], Awaitable[None]]) -> None:
    async def run() -> None:
        bench = Bench(home, spare=False)
        await bench.start()
        try:
            await body(bench, Datasets(home, lambda: [home / "mine"]))
            assert bench.supervisor.residents == {}
        finally:
            await bench.stop()

    asyncio.run(run())


def fill(home: Path, rows: int) -> Path:
    (home / "mine").mkdir(exist_ok=True)
    path = home / "mine" / "a.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for i in range(rows):
            file.write(json.dumps({"prompt": f"what is {i}", "completion": f"it is {i}"}) + "\n")
    return path


def test_what_was_said_is_kept_and_not_asked_again(home: Path) -> None:
    async def body(bench: Bench, datasets: Datasets) -> None:
        kept = datasets.point(str(fill(home, 40)))
        seen = [look_.said.keys() for look_ in [s async for s in look(bench, datasets, kept)]]
        assert seen[-1] >= {"dataset", "report", "lengths"}
        again = datasets.get(kept.id)
        assert again.said["report"]["rows"] == 40
        assert len([s async for s in look(bench, datasets, again)]) == 1
        changed = datasets.change(kept.id, steps=({"do": "take", "count": 7},))
        last = [s async for s in look(bench, datasets, changed)][-1]
        assert last.said["report"]["kept"] == 7
        assert not bench.measured.path.exists()  # it is no model whose memory is learned from

    drive(home, body)


def test_a_look_that_nobody_watches_ends_its_worker(home: Path) -> None:
    async def body(bench: Bench, datasets: Datasets) -> None:
        kept = datasets.point(str(fill(home, 200_000)))
        watching = look(bench, datasets, kept)
        async for found in watching:
            if found.progress:
                break
        await watching.aclose()
        assert datasets.get(kept.id).said == {}

    drive(home, body)


def test_a_file_that_is_gone_or_forbidden_by_now_is_told(home: Path) -> None:
    async def body(bench: Bench, datasets: Datasets) -> None:
        path = fill(home, 3)
        kept = datasets.point(str(path))
        forbidden = Datasets(home, lambda: [home / "other"])
        (home / "other").mkdir()
        assert (await last(bench, forbidden, kept.id)).problem
        path.unlink()
        found = await last(bench, datasets, kept.id)
        assert "a.jsonl" in found.problem and found.problem.count(".") >= 2

    async def last(bench: Bench, datasets: Datasets, id: str) -> Look:
        return [s async for s in look(bench, datasets, datasets.get(id))][-1]

    drive(home, body)


def test_rows_of_the_validation_set_are_found_and_looked_for_again_when_it_changes(
    home: Path,
) -> None:
    async def body(bench: Bench, datasets: Datasets) -> None:
        path = fill(home, 40)
        other = home / "mine" / "b.jsonl"
        other.write_text("".join(path.read_text("utf-8").splitlines(True)[:9]), "utf-8")
        beside = datasets.point(str(other))
        kept = datasets.change(datasets.point(str(path)).id, validation=beside.id)
        assert await leaks(bench, datasets, kept.id) == 9
        assert await leaks(bench, datasets, kept.id) == 9  # as it is kept
        datasets.change(beside.id, steps=({"do": "take", "count": 4},))
        assert await leaks(bench, datasets, kept.id) == 4
        datasets.delete(beside.id)
        found = [s async for s in look(bench, datasets, datasets.get(kept.id))][-1]
        assert "a.jsonl is validated with is not there any more. Choose" in found.problem
        with pytest.raises(Refused, match="not there any more"):
            datasets.validation(datasets.get(kept.id))
        datasets.change(kept.id, validation="")
        assert await leaks(bench, datasets, kept.id) == 0

    async def leaks(bench: Bench, datasets: Datasets, id: str) -> int:
        found = [s async for s in look(bench, datasets, datasets.get(id))][-1]
        assert not found.problem
        kinds = {f["kind"]: f["count"] for f in found.said["report"]["findings"]}
        return int(kinds.get("leak", 0))

    drive(home, body)


def test_the_repaired_set_becomes_a_file_of_its_own(home: Path) -> None:
    async def body(bench: Bench, datasets: Datasets) -> None:
        kept = datasets.point(str(fill(home, 40)))
        kept = datasets.change(kept.id, steps=({"do": "take", "count": 7},))
        panel = SavingPanel(bench, datasets)
        said, made = [found async for found in panel.save(kept.id)][-1]
        assert made and made.own and made.name == "a.clean.jsonl"
        written = Path(made.path)
        assert len(written.read_text("utf-8").splitlines()) == 7
        assert digest(made.path)[:16] in said and "7 rows, 33 left out" in said
        assert written.with_name(written.name + ".manifest.json").exists()
        assert (home / "mine" / "a.jsonl").stat().st_size > written.stat().st_size  # as it was
        (home / "mine" / "a.jsonl").unlink()
        said, made = [found async for found in panel.save(kept.id)][-1]
        assert made is None and "a.jsonl" in said
        assert not list(datasets.folder.glob(".adding-*"))

    drive(home, body)


def test_what_validates_is_known_and_learnable_and_stays_while_it_is_needed(home: Path) -> None:
    async def body(bench: Bench, datasets: Datasets) -> None:
        panel = ValidationPanel(datasets)
        kept = datasets.point(str(fill(home, 4)))
        pairs = home / "mine" / "pairs.jsonl"
        row = {"prompt": "who", "chosen": "me", "rejected": "you"}
        pairs.write_text(json.dumps(row) + "\n", "utf-8")
        other = datasets.point(str(pairs))
        with pytest.raises(Refused, match="not known yet what pairs.jsonl is"):
            panel.choose(kept, other.id)
        assert [s async for s in look(bench, datasets, other)][-1].said["dataset"]
        with pytest.raises(Refused, match="better and worse answers"):
            panel.choose(kept, other.id)
        with pytest.raises(Refused, match="with itself"):
            panel.choose(kept, kept.id)
        (home / "mine" / "b.jsonl").write_bytes(Path(kept.path).read_bytes())
        twin = datasets.point(str(home / "mine" / "b.jsonl"))
        assert [s async for s in look(bench, datasets, twin)]
        panel.choose(kept, twin.id)
        with pytest.raises(Refused, match=r"a\.jsonl is validated with this set"):
            panel.check_free(twin.id)
        panel.check_free(kept.id)
        Path(twin.path).write_text("", "utf-8")
        found = [s async for s in look(bench, datasets, datasets.get(kept.id))][-1]
        assert "The set to validate with, b.jsonl: " in found.problem

    drive(home, body)
