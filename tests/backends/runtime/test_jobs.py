"""Jobs from the page's side: derived states, two clicks, pages that die, the queue, the trash."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from backends.base import Refused
from backends.runtime import checkpoints, job_spec, snapshots
from backends.runtime import jobs as module
from backends.runtime.disk import read_json, write_json
from backends.runtime.jobs import Jobs
from backends.runtime.process import CHECKOUT, is_locked, kill_tree
from tests.backends.made_jobs import BACKENDS, plant, planted, spec, until

LONG = {"max_steps": 2000, "step_seconds": 0.05, "save_steps": 3}


@pytest.fixture
def jobs(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Jobs]:
    """A home whose jobs know the backend of these tests; none of them outlives the test."""
    monkeypatch.setenv("PYTHONPATH", planted(tmp_path))
    before = dict(BACKENDS)
    plant()
    yield Jobs(home)
    for folder in (home / "jobs").glob("2*"):
        if is_locked(folder / "job.lock"):
            kill_tree(pid_of(folder))
    BACKENDS.clear()
    BACKENDS.update(before)


def pid_of(folder: Path) -> int:
    return int(read_json(folder / "state.json")["pid"])


def make(jobs: Jobs, key: str = "", **params: Any) -> str:
    return jobs.create(spec(params=params), key=key)


def steps(jobs: Jobs, id: str) -> list[int]:
    return [line["step"] for line in jobs.metrics(id)[0]]


def is_(jobs: Jobs, id: str, status: str) -> None:
    until(lambda: jobs.state(id).status == status, saw=lambda: jobs.state(id))


def test_a_job_is_a_folder_that_says_all_that_is_needed_to_run_it_again(jobs: Jobs) -> None:
    (jobs.home / "daten.json").write_text("[1]")
    id = jobs.create(spec(dataset="daten.json", name="Mein grüner Versuch!"), beside=jobs.home)
    assert id.endswith("-mein-gruner-versuch")
    written = read_json(jobs.path(id) / "spec.json")
    assert written["dataset"] == str((jobs.home / "daten.json").resolve())
    assert written["dataset_sha256"].startswith("080a9ed428559ef602668b4c00f114f1")
    assert jobs.state(id).status == "new" and jobs.state(id).name == "Mein grüner Versuch!"
    assert jobs.start(id).live
    is_(jobs, id, "finished")
    assert steps(jobs, id) == [1, 2, 3, 4, 5] and jobs.samples(id)[0][4]["text"] == "I am 15"
    assert jobs.disk_bytes(id) > 2000
    with pytest.raises(Refused, match="This job is finished."):
        jobs.resume(id)


@pytest.mark.parametrize("more", [{"dataset": "gone.json"}, {"method": "x"}, {"params": {"y": 1}}])
def test_what_makes_no_sense_is_refused_and_nothing_is_left(
    jobs: Jobs, more: dict[str, Any]
) -> None:
    with pytest.raises((Refused, ValueError), match=r"\. "):
        jobs.create(spec(**more))
    assert not jobs.folder.exists() or list(jobs.folder.iterdir()) == []


def test_two_clicks_make_one_job_and_start_it_once(jobs: Jobs) -> None:
    made: list[str] = []

    def click() -> None:
        id = make(jobs, key="click-1", **LONG)
        jobs.start(id)
        made.append(id)

    clicks = [threading.Thread(target=click) for _ in range(4)]
    for one in clicks:
        one.start()
    for one in clicks:
        one.join()
    assert len(set(made)) == 1 and len(jobs.listed()) == 1
    is_(jobs, made[0], "running")
    running = [p for p in psutil.process_iter(["cmdline"]) if str(jobs.path(made[0]).resolve())
               in (p.info["cmdline"] or [])]  # fmt: skip
    assert len(running) == 1 and "backends.train" in running[0].info["cmdline"]
    assert make(Jobs(jobs.home), key="click-1") == made[0], "a new page knows the click too"
    assert make(jobs, key="click-2") != made[0]


def test_a_dataset_that_takes_long_to_hash_keeps_no_other_click_waiting(
    jobs: Jobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other, hashing, go_on = make(jobs), threading.Event(), threading.Event()

    def slow(dataset: str) -> str:
        hashing.set()
        assert go_on.wait(20)
        return "0" * 64

    monkeypatch.setattr(job_spec, "digest", slow)
    made: list[str] = []
    clicks = [threading.Thread(target=lambda: made.append(make(jobs, key="big"))) for _ in range(2)]
    for click in clicks:
        click.start()
    assert hashing.wait(20)
    rest = threading.Thread(target=lambda: (jobs.enqueue(other), jobs.delete(other)))
    rest.start()
    rest.join(10)
    waited = rest.is_alive()
    go_on.set()
    for thread in (*clicks, rest):
        thread.join()
    assert not waited and len(set(made)) == 1 and len(jobs.listed()) == 1


def test_two_pages_that_start_it_at_once_have_one_run(jobs: Jobs) -> None:
    id, other = make(jobs, **LONG), Jobs(jobs.home)
    jobs.start(id)
    other.start(id)
    is_(jobs, id, "running")
    assert other.state(id).pid == jobs.state(id).pid and len(other._children) == 0


@pytest.mark.parametrize("moment", ["at once", "running", "stopping"])
def test_a_killed_job_is_interrupted_and_goes_on(jobs: Jobs, moment: str) -> None:
    id = make(jobs, max_steps=20, step_seconds=0.03, save_steps=3, deaf=True)
    jobs.start(id)
    if moment != "at once":
        until(lambda: jobs.state(id).step >= 4)
    if moment == "stopping":
        jobs.stop(id)
        is_(jobs, id, "stopping")
    os.kill(pid_of(jobs.path(id)), signal.SIGKILL)
    is_(jobs, id, "interrupted")
    assert jobs.state(id).resumable and Jobs(jobs.home).state(id).status == "interrupted"
    jobs.resume(id)
    is_(jobs, id, "finished")
    assert steps(jobs, id) == list(range(1, 21))
    assert (jobs.path(id) / "adapter").read_text() == "210"


def test_a_page_that_is_killed_hurts_no_job_and_the_next_one_has_the_whole_curve(
    jobs: Jobs,
) -> None:
    id = make(jobs, max_steps=40, step_seconds=0.04)
    code = (
        "import sys, time; from pathlib import Path; from backends.runtime.jobs import Jobs; "
        "Jobs(Path(sys.argv[1])).start(sys.argv[2]); print('started', flush=True); time.sleep(60)"
    )
    page = subprocess.Popen(
        [sys.executable, "-c", code, str(jobs.home), id], cwd=CHECKOUT, stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": f"{os.environ['PYTHONPATH']}:{CHECKOUT}"},
        start_new_session=True,
    )  # fmt: skip
    assert page.stdout and page.stdout.readline() == b"started\n"
    until(lambda: jobs.state(id).step >= 2)
    os.killpg(page.pid, signal.SIGKILL)
    page.communicate()
    next_page = Jobs(jobs.home)
    before = next_page.state(id).step
    assert next_page.state(id).status == "running"
    until(lambda: next_page.state(id).step > before)
    is_(next_page, id, "finished")
    assert steps(next_page, id) == list(range(1, 41))


def test_pause_frees_the_process_and_resume_goes_on(jobs: Jobs) -> None:
    id = make(jobs, max_steps=30, step_seconds=0.04, save_steps=1000)
    jobs.start(id)
    until(lambda: jobs.state(id).step >= 2)
    pid = jobs.state(id).pid
    jobs.pause(id)
    is_(jobs, id, "paused")
    until(lambda: jobs.state(id).status == "paused" and not is_locked(jobs.path(id) / "job.lock"))
    until(lambda: jobs.state(id) and not psutil.pid_exists(pid))
    assert jobs.state(id).hint == "Resume goes on where it was."
    jobs.resume(id)
    is_(jobs, id, "finished")
    assert steps(jobs, id) == list(range(1, 31))


def test_one_that_does_not_stop_is_asked_again_and_keeps_its_checkpoint(
    jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    id = make(jobs, max_steps=99, step_seconds=0.2, save_steps=100, save_seconds=3.0)
    jobs.start(id)
    until(lambda: jobs.state(id).step >= 1)
    jobs.stop(id)
    is_(jobs, id, "stopping")
    jobs.tick()
    assert jobs.state(id).live, "it has a minute"
    monkeypatch.setattr(module, "ASKED", 0.0)
    monkeypatch.setattr(module, "STEPS_WAITED", 0)
    until(lambda: jobs.tick() == [] and not jobs.state(id).live, saw=lambda: jobs.state(id))
    assert jobs.state(id).status == "stopped"
    assert jobs.snapshots(id)[-1].step == steps(jobs, id)[-1], "no step is lost"


def test_one_that_will_not_stop_at_all_is_ended(
    jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    id = make(jobs, deaf=True, **LONG)
    jobs.start(id)
    until(lambda: jobs.state(id).step >= 1)
    jobs.stop(id)
    is_(jobs, id, "stopping")
    monkeypatch.setattr(module, "ASKED", 0.0)
    monkeypatch.setattr(module, "STEPS_WAITED", 0)
    jobs.tick()
    time.sleep(0.3)
    assert jobs.state(id).live, "SIGTERM asks, and asks again for a checkpoint"
    monkeypatch.setattr(module, "TERMINATED", 0.0)
    jobs.tick()
    is_(jobs, id, "interrupted")


def test_a_process_that_got_the_same_id_is_left_alone(
    jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    id = make(jobs)
    folder = jobs.path(id)
    stranger = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    created = psutil.Process(stranger.pid).create_time() - 100
    said = {"status": "starting", "pid": stranger.pid, "create_time": created}
    write_json(folder / "state.json", said)
    write_json(folder / "control.json", {"stop": "checkpoint"})
    assert jobs.state(id).status == "interrupted"
    monkeypatch.setattr(module, "ASKED", 0.0)
    monkeypatch.setattr(module, "TERMINATED", 0.0)
    jobs._see_to_the_end(jobs.state(id))
    assert stranger.poll() is None
    write_json(folder / "state.json", {**said, "create_time": created + 100})
    assert jobs.state(id).status == "starting", "while its own process counts before the lock"
    stranger.kill()
    time.sleep(0.05)
    assert jobs.state(id).status == "interrupted", "and a zombie is dead"
    stranger.wait()


def test_the_queue_runs_one_after_another_in_the_order_that_was_chosen(jobs: Jobs) -> None:
    first, second, third = (make(jobs, max_steps=3, step_seconds=0.02) for _ in range(3))
    for id in (first, second, third, second):
        jobs.enqueue(id)
    assert jobs.queue() == [first, second, third]
    jobs.move(third, 1)
    again = Jobs(jobs.home)
    assert again.queue() == [third, first, second]
    assert [(s.status, s.position) for s in (again.state(third), again.state(second))] == [
        ("queued", 1), ("queued", 3),
    ]  # fmt: skip
    again.stop(first)
    assert again.queue() == [third, second] and again.state(first).status == "new"
    most = 0

    async def page() -> None:
        nonlocal most
        watching = asyncio.create_task(again.watch())
        async with asyncio.timeout(20):
            while again.state(second).status != "finished":
                most = max(most, sum(s.live for s in again.listed()))
                await asyncio.sleep(0.02)
        watching.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watching

    module_tick = module.TICK
    module.TICK = 0.05
    try:
        asyncio.run(page())
    finally:
        module.TICK = module_tick
    begun = [read_json(jobs.path(id) / "state.json")["started"] for id in (third, second)]
    assert most == 1 and begun == sorted(begun) and again.queue() == []


def test_the_curve_takes_the_later_line_of_a_step_and_waits_for_a_torn_one(jobs: Jobs) -> None:
    id = make(jobs)
    file = jobs.path(id) / "metrics.jsonl"
    assert jobs.metrics(id) == ([], 0)
    file.write_text('{"step": 1, "loss": 3}\n{"step": 2, "loss": 2}\nrubbish\n{"step": 2, "lo')
    found, then = jobs.metrics(id)
    assert [line["loss"] for line in found] == [3, 2]
    with file.open("a") as more:
        more.write('ss": 1}\n')
    assert jobs.metrics(id, then)[0] == [{"step": 2, "loss": 1}]
    assert [line["loss"] for line in jobs.metrics(id)[0]] == [3, 1]


def test_rename_delete_and_undo(jobs: Jobs) -> None:
    id = make(jobs, **LONG)
    jobs.rename(id, "  ein  neuer Name ")
    assert jobs.state(id).name == "ein neuer Name"
    with pytest.raises(Refused, match="needs a name"):
        jobs.rename(id, " ")
    jobs.start(id)
    with pytest.raises(Refused, match="Stop it first"):
        jobs.delete(id)
    until(lambda: steps(jobs, id))
    jobs.stop(id)
    is_(jobs, id, "stopped")
    until(lambda: not jobs.state(id).live)
    jobs.delete(id)
    with pytest.raises(Refused, match="There is no such job"):
        jobs.state(id)
    assert jobs.listed() == []
    jobs.empty_trash()
    jobs.undo_delete(id)
    assert jobs.state(id).status == "stopped" and len(jobs.metrics(id)[0]) > 0
    jobs.delete(id)
    jobs.empty_trash(older=-1)
    with pytest.raises(Refused, match="gone for good"):
        jobs.undo_delete(id)


def test_a_pinned_snapshot_stays_when_others_make_room(jobs: Jobs) -> None:
    id = make(jobs, max_steps=6, save_steps=2)
    assert jobs.snapshots(id) == []
    jobs.start(id)
    is_(jobs, id, "finished")
    assert [(s.step, s.sealed, s.pinned) for s in jobs.snapshots(id)] == [
        (2, True, False), (4, True, False), (6, True, False),
    ]  # fmt: skip
    one = jobs.snapshots(id)[0]
    assert one.bytes > 1000 and abs(one.created - time.time()) < 60
    jobs.keep_snapshot(id, 2)
    assert [s.step for s in Jobs(jobs.home).snapshots(id) if s.pinned] == [2], "another page's too"
    folder = jobs.path(id)
    checkpoints.rotate(folder / "checkpoints", 1, snapshots.pinned(folder))
    assert [s.step for s in jobs.snapshots(id)] == [2, 6]
    with pytest.raises(Refused, match="no snapshot of step 4"):
        jobs.keep_snapshot(id, 4)
    jobs.keep_snapshot(id, 2, keep=False)
    (folder / "checkpoints" / "step-000006" / checkpoints.MANIFEST).unlink()
    assert [(s.step, s.sealed, s.pinned) for s in jobs.snapshots(id)] == [
        (2, True, False), (6, False, False),
    ]  # fmt: skip
    with pytest.raises(Refused, match="no snapshot of step 6"):
        jobs.keep_snapshot(id, 6)
    assert snapshots.pinned(folder) == set()


@pytest.mark.parametrize("id", ["..", "../x", "", ".trash", "20260101-000000/../..", "queue.json"])
def test_a_path_is_not_the_name_of_a_job(jobs: Jobs, id: str) -> None:
    make(jobs)
    for ask in (jobs.path, jobs.delete, jobs.undo_delete, jobs.start, jobs.metrics):
        with pytest.raises(Refused):
            ask(id)


@pytest.mark.alone
def test_a_list_of_many_is_cheap(jobs: Jobs) -> None:
    for number in range(100):
        folder = jobs.folder / f"20260101-000000-n{number}"
        folder.mkdir(parents=True)
        (folder / "spec.json").write_text(json.dumps(spec()))
        (folder / "job.lock").touch()
        write_json(folder / "exit.json", {"status": "finished"})
    jobs.listed()
    started = time.perf_counter()
    assert {state.status for state in jobs.listed()} == {"finished"}
    assert time.perf_counter() - started < 0.25
