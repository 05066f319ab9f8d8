"""Real processes, killed for real, each with a bound on the time it may take."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from backends.base import Refused
from backends.events import Done, Event, Failed, Notice, Progress, Text
from backends.runtime.child import Child
from backends.runtime.frames import RECYCLED
from backends.runtime.process import CHECKOUT
from backends.runtime.resident import RESTARTS, Resident
from backends.runtime.supervisor import Supervisor


def say(text: str = "one two three", **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], **more}


def text_of(events: list[Event]) -> str:
    return "".join(e.delta for e in events if isinstance(e, Text))


async def collect(events: AsyncIterator[Event]) -> list[Event]:
    return [event async for event in events]


@contextlib.asynccontextmanager
async def supervised(home: Path, **options: Any) -> AsyncIterator[Supervisor]:
    supervisor = Supervisor(home, **{"spare": False, **options})
    await supervisor.start()
    try:
        yield supervisor
    finally:
        await supervisor.stop()


async def echo(supervisor: Supervisor, **options: Any) -> Resident:
    resident = supervisor.admit("echo", "none:", options, "Echo")
    await collect(supervisor.load(resident))
    return resident


def drive(home: Path, body: Callable[[Supervisor], Awaitable[None]], **options: Any) -> None:
    async def run() -> None:
        async with supervised(home, **options) as supervisor:
            await body(supervisor)

    asyncio.run(run())


def test_a_worker_loads_answers_and_unloads(home: Path) -> None:
    async def body(supervisor: Supervisor) -> None:
        resident = supervisor.admit("echo", "none:", {"load_seconds": 0.1}, "Echo")
        loading = await collect(supervisor.load(resident))
        assert any(isinstance(e, Progress) for e in loading)
        assert isinstance(loading[-1], Done) and loading[-1].usage["seconds"] >= 0.1
        answer = await collect(supervisor.run(resident, say()))
        assert text_of(answer) == "one two three"
        assert isinstance(answer[-1], Done) and answer[-1].usage["completion_tokens"] == 3
        pid = resident.child.pid  # type: ignore[union-attr]
        await supervisor.unload(resident)
        assert not psutil.pid_exists(pid) and not supervisor.residents

    drive(home, body)


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        ("kill", "killed from outside"),
        ("segfault", "crashed in native code"),
        ("junk", "internal protocol error"),
        ("huge", "internal protocol error"),
        ("cuda", "GPU reported an error"),
    ],
)
def test_a_death_is_told_within_a_second_and_the_next_call_works(
    home: Path, fault: str, sentence: str
) -> None:
    async def body(supervisor: Supervisor) -> None:
        resident = await echo(supervisor)
        started = time.monotonic()
        events = await collect(supervisor.run(resident, say("a b c d e f", fault=fault)))
        assert time.monotonic() - started < 1.5
        assert text_of(events) == "a b c "
        assert isinstance(events[-1], Failed) and sentence in events[-1].message
        assert events[-1].hint
        again = await collect(supervisor.run(resident, say("still here")))
        assert text_of(again) == "still here" and isinstance(again[-1], Done)

    drive(home, body)


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [("raise", "KeyError"), ("refuse", "asked to refuse"), ("oom", "not enough memory")],
)
def test_an_exception_is_told_and_the_process_stays(home: Path, fault: str, sentence: str) -> None:
    async def body(supervisor: Supervisor) -> None:
        resident = await echo(supervisor)
        pid = resident.child.pid  # type: ignore[union-attr]
        events = await collect(supervisor.run(resident, say(fault=fault)))
        assert isinstance(events[-1], Failed) and sentence in events[-1].message
        assert events[-1].hint
        await collect(supervisor.run(resident, say()))
        assert resident.child.pid == pid  # type: ignore[union-attr]

    drive(home, body)


def test_stop_ends_a_running_answer_and_keeps_its_text(home: Path) -> None:
    async def body(supervisor: Supervisor) -> None:
        resident = await echo(supervisor)
        pid = resident.child.pid  # type: ignore[union-attr]
        call = resident.child.call("run", params=say(words=10_000, words_per_second=50))  # type: ignore[union-attr]
        seen: list[Event] = []
        async for event in call.events():
            seen.append(event)
            if len(seen) == 10:
                call.cancel()
        assert isinstance(seen[-1], Done) and seen[-1].cancelled
        assert 10 <= len(seen) < 30 and seen[-1].usage["completion_tokens"] == len(seen) - 1
        assert resident.child.pid == pid  # type: ignore[union-attr]

    drive(home, body)


@pytest.mark.alone
def test_a_listener_that_leaves_frees_the_worker(home: Path) -> None:
    async def body(supervisor: Supervisor) -> None:
        resident = await echo(supervisor)
        async with contextlib.aclosing(
            supervisor.run(resident, say(words=10_000, words_per_second=50))
        ) as events:
            async for _ in events:
                break
        assert resident.state == "ready"
        started = time.monotonic()
        assert text_of(await collect(supervisor.run(resident, say("next")))) == "next"
        assert time.monotonic() - started < 1.0

    drive(home, body)


def test_stop_kills_a_worker_that_holds_the_gil_and_says_so(home: Path) -> None:
    async def body(supervisor: Supervisor) -> None:
        resident = await echo(supervisor)
        resident.child.grace = 0.5  # type: ignore[union-attr]
        seen: list[Event] = []
        started = time.monotonic()
        call = resident.child.call("run", params=say(fault="hang", fault_at=1))  # type: ignore[union-attr]
        async for event in call.events():
            seen.append(event)
            await asyncio.sleep(0.2)  # until it hangs
            call.cancel()
        assert time.monotonic() - started < 3
        assert any(isinstance(e, Notice) and "restarting" in e.message for e in seen)
        assert isinstance(seen[-1], Done) and seen[-1].cancelled
        again = await collect(supervisor.run(resident, say("back")))
        assert text_of(again) == "back"
        assert not resident.restarts  # our own kill is not a crash

    drive(home, body)


def test_silence_is_shown_as_stuck(home: Path) -> None:
    async def body(supervisor: Supervisor) -> None:
        resident = await echo(supervisor)
        resident.child.grace = 0.3  # type: ignore[union-attr]
        async with contextlib.aclosing(
            supervisor.run(resident, say(fault="hang", fault_at=1))
        ) as events:
            await anext(events)
            for _ in range(60):
                if resident.state == "stuck":
                    break
                await asyncio.sleep(0.1)
            assert resident.state == "stuck"

    drive(home, body, silent=1.0)


def test_a_crash_loop_ends_with_a_report(home: Path) -> None:
    async def body(supervisor: Supervisor) -> None:
        resident = await echo(supervisor)
        for _ in range(RESTARTS + 1):
            events = await collect(supervisor.run(resident, say(fault="kill")))
            assert isinstance(events[-1], Failed) and "killed" in events[-1].message
        events = await collect(supervisor.run(resident, say()))
        assert isinstance(events[-1], Failed) and "keeps crashing" in events[-1].message
        assert "worker-" in events[-1].hint

    drive(home, body)


def test_a_load_of_one_that_is_stuck_replaces_its_process(home: Path) -> None:
    async def body(supervisor: Supervisor) -> None:
        resident = await echo(supervisor)
        stuck = resident.child
        assert stuck
        run = asyncio.create_task(collect(supervisor.run(resident, say(fault="hang", fault_at=1))))
        async with asyncio.timeout(6):
            while resident.state != "stuck":
                await asyncio.sleep(0.05)
        loading = await collect(supervisor.load(resident))
        assert isinstance(loading[-1], Done)
        assert not psutil.pid_exists(stuck.pid) and resident.child is not stuck
        assert isinstance((await asyncio.wait_for(run, 5))[-1], Failed)
        assert resident.state == "ready" and not resident.restarts  # its end was our doing
        assert text_of(await collect(supervisor.run(resident, say("next")))) == "next"

    drive(home, body, silent=1.0)


# A torch of which the test says how much GPU memory it holds, imported when Python starts.
TORCH = """
import os
from pathlib import Path
class cuda:
    is_initialized = staticmethod(lambda: True)
    memory_reserved = staticmethod(lambda: int(Path(os.environ["WERKBANK_TEST_HELD"]).read_text()))
    empty_cache = staticmethod(lambda: None)
"""


def test_an_end_for_the_sake_of_memory_is_no_crash(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = tmp_path / "held"
    (tmp_path / "torch.py").write_text(TORCH)
    (tmp_path / "sitecustomize.py").write_text("import torch")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("WERKBANK_TEST_HELD", str(held))

    async def body(supervisor: Supervisor) -> None:
        held.write_text("0")
        resident = await echo(supervisor)
        for _ in range(RESTARTS + 2):  # as often as it takes to find what fits
            await collect(supervisor.load(resident))
            held.write_text("1000000000")
            events = await collect(supervisor.run(resident, say(fault="oom")))
            assert isinstance(events[-1], Failed) and "not enough memory" in events[-1].message
            assert resident.child
            await asyncio.wait_for(resident.child.gone.wait(), 5)
            assert (resident.child.exit_code, resident.state) == (RECYCLED, "stopped")
            held.write_text("0")
        assert text_of(await collect(supervisor.run(resident, say("small")))) == "small"
        assert not resident.restarts

    drive(home, body)


# Sends one frame as soon as it is imported, which is before the first call.
ODD_FRAME = """
import os
os.write(int(os.environ["WERKBANK_FRAMES_FD"]), os.environ["WERKBANK_TEST_FRAME"].encode() + b"\\n")
"""


@pytest.mark.parametrize(
    "frame",
    [
        "[]", "17", "{}", '{"id":"1"}', '{"id":1}', '{"id":1,"event":"Nope"}',
        '{"id":1,"event":"Text"}', '{"id":1,"event":"Text","delta":"x","more":1}',
        '{"id":0,"say":"hello"}', '{"id":0,"say":"beat"}',
        '{"id":0,"say":"beat","memory":{"rss_bytes":"much"}}', '{"id":0,"say":"beat","memory":7}',
    ],
)  # fmt: skip
def test_a_broken_frame_ends_the_worker_and_is_told(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, frame: str
) -> None:
    (tmp_path / "odd_frame.py").write_text(ODD_FRAME)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("WERKBANK_TEST_FRAME", frame)

    async def run() -> None:
        child = await Child.start(home, "odd", ["odd_frame"])
        call = child.call("load", backend="echo", model="none:")
        events = await asyncio.wait_for(collect(call.events()), 5)
        assert isinstance(events[-1], Failed) and "internal protocol error" in events[-1].message
        assert "protocol error: " in events[-1].detail
        await asyncio.wait_for(child.gone.wait(), 2)

    asyncio.run(run())


def test_a_load_that_fails_says_why_and_leaves_no_process(home: Path) -> None:
    async def body(supervisor: Supervisor) -> None:
        resident = supervisor.admit("echo", "none:", {"fault": "refuse"})
        events = await collect(supervisor.load(resident))
        assert isinstance(events[-1], Failed) and events[-1].message == "Echo was asked to refuse."
        await asyncio.wait_for(resident.child.gone.wait(), 2)  # type: ignore[union-attr]
        assert resident.state == "failed"

    drive(home, body)


def test_a_load_can_be_left_in_the_middle(home: Path) -> None:
    async def body(supervisor: Supervisor) -> None:
        resident = supervisor.admit("echo", "none:", {"load_seconds": 60})
        async with contextlib.aclosing(supervisor.load(resident)) as events:
            await anext(events)
        await asyncio.wait_for(resident.child.gone.wait(), 2)  # type: ignore[union-attr]
        assert resident.state == "unloaded"

    drive(home, body)


def test_wrong_options_and_params_are_sentences(home: Path) -> None:
    async def body(supervisor: Supervisor) -> None:
        resident = supervisor.admit("echo", "none:", {"load_seconds": -1})
        events = await collect(supervisor.load(resident))
        assert str(events[-1]) == "Load time is -1.0. Choose a value between 0 and 600."
        resident = await echo(supervisor)
        events = await collect(supervisor.run(resident, say("  \n ")))
        assert str(events[-1]) == "The message is empty. Write something to send."
        events = await collect(supervisor.run(resident, say(temprature=1)))
        assert "There is no setting 'temprature'." in str(events[-1])

    drive(home, body)


@pytest.mark.parametrize("text", ["Grüße, süß", "مرحبا بالعالم", "👩🏽‍🚀 🇩🇪", "a\u0000b"])
def test_any_text_crosses_unharmed(home: Path, text: str) -> None:
    async def body(supervisor: Supervisor) -> None:
        resident = await echo(supervisor)
        events = await collect(supervisor.run(resident, say(text)))
        assert text_of(events) == text.replace("\0", "\ufffd")

    drive(home, body)


def test_an_unknown_backend_is_refused(home: Path) -> None:
    with pytest.raises(Refused, match="no backend 'nope'"):
        Supervisor(home).admit("nope", "none:", {})


def test_the_worker_environment_is_an_allow_list(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")

    async def body(supervisor: Supervisor) -> None:
        resident = await echo(supervisor)
        environment = psutil.Process(resident.child.pid).environ()  # type: ignore[union-attr]
        assert not {"HF_TOKEN", "AWS_SECRET_ACCESS_KEY"} & set(environment)
        assert environment["HF_HUB_OFFLINE"] == "1"
        assert Path(environment["TMPDIR"]).is_relative_to(home)

    drive(home, body)


PAGE = """
import asyncio, sys
from pathlib import Path
from backends.runtime.supervisor import Supervisor
async def main():
    supervisor = Supervisor(Path(sys.argv[1]), spare=False)
    resident = supervisor.admit("echo", "none:", {})
    async for _ in supervisor.load(resident): pass
    print(resident.child.pid, flush=True)
    async for event in supervisor.run(resident, {"messages": [{"role": "user", "content": "x"}],
                                                 "words": 100000, "words_per_second": 50}): pass
asyncio.run(main())
"""


def test_workers_are_gone_a_second_after_the_page_was_killed(home: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PAGE, str(home)], stdout=subprocess.PIPE, cwd=CHECKOUT
    ) as page:
        assert page.stdout
        worker = psutil.Process(int(page.stdout.readline()))
        os.kill(page.pid, signal.SIGKILL)
        page.wait()
    deadline = time.monotonic() + 1.0
    while _is_alive(worker) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not _is_alive(worker)


def _is_alive(process: psutil.Process) -> bool:
    try:  # an orphan stays a zombie until init takes it
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
