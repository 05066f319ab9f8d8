"""Downloads against a hub that fails in every way that is known, each told in two sentences."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from backends.base import ModelRef, Refused
from backends.models import fetch, library, usage
from backends.models.fetch import Fetch, Meter, Pace
from backends.models.hub_http import HubError
from tests.backends.models import crafted
from tests.backends.models.fake_hub import TOKEN, FakeHub, Handler, cut, etag_of, status, times

NAME = "some/Llama-small"
CONFIG = b'{"architectures": ["LlamaForCausalLM"]}'
SHAPE = {"weight": ([300, 1000], [0, 1_200_000])}
WEIGHTS = crafted.safetensors(SHAPE)[:-1_200_000] + random.Random(4).randbytes(1_200_000)
QUICK = Pace(stall=5, first=0.01, longest=0.04, tries=3)


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf ü"))
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    with FakeHub() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        server.add(NAME, {"config.json": CONFIG, "model.safetensors": WEIGHTS, "README.md": b"#"})
        yield server


class Said(list[dict[str, Any]]):
    def __call__(self, say: str, **fields: Any) -> None:
        self.append({"say": say, **fields})

    def notes(self) -> str:
        return " ".join(str(f.get("note", "")) for f in self)


def run(token: str = "", commit: str = "", name: str = NAME, choice: str = "", **more: Any) -> Said:
    said = Said()
    one = Fetch(library.hub_cache(), token, said, **{"pace": QUICK, "spare": 0, **more})
    one.run(name, "main", commit, choice)
    return said


def refusal(kind: str, **more: Any) -> HubError:
    with pytest.raises(HubError) as caught:
        run(**more)
    assert caught.value.kind == kind
    assert caught.value.message.endswith(".") and caught.value.hint.endswith(".")
    return caught.value


def blobs(name: str = NAME) -> dict[str, int]:
    folder = library.hub_cache() / f"models--{name.replace('/', '--')}" / "blobs"
    return {f.name: f.stat().st_size for f in folder.iterdir()} if folder.is_dir() else {}


PARTIAL = f"{etag_of('.gguf', WEIGHTS)}.incomplete"


# What works


def test_a_download_lies_where_everybody_finds_it(fake: FakeHub) -> None:
    said = run()
    ref = ModelRef.parse(f"hub:{NAME}")
    folder = library.locate(ref)
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    assert not (folder / "README.md").exists()  # nobody needs it
    library.check(ref)
    assert said[0]["say"] == "plan" and said[0]["ref"] == str(ref)
    assert said[0]["bytes"] == len(CONFIG) + len(WEIGHTS)
    # The hub's own library, offline, and its scan of the cache.
    code = (
        "import huggingface_hub as h; from pathlib import Path\n"
        f"p = h.hf_hub_download({NAME!r}, 'model.safetensors', local_files_only=True)\n"
        f"q = h.snapshot_download({NAME!r}, local_files_only=True)\n"
        "c = h.scan_cache_dir(); [r] = c.repos\n"
        "print(Path(p).stat().st_size, Path(q).name, r.size_on_disk, len(c.warnings))"
    )
    env = {**os.environ, "HF_HUB_OFFLINE": "1"}
    out = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    size, commit, on_disk, warnings = out.stdout.split()
    assert int(size) == len(WEIGHTS) and int(on_disk) == len(WEIGHTS) + len(CONFIG)
    assert commit == fake.models[NAME].refs["main"] and warnings == "0"


def test_what_is_there_is_not_fetched_again(fake: FakeHub) -> None:
    run()
    fake.commit(NAME, {"config.json": CONFIG + b" ", "model.safetensors": WEIGHTS})
    fake.seen.clear()
    run()
    assert fake.of("cdn") == []  # the new version has the same weights
    assert len(list((library.hub_cache() / "models--some--Llama-small/snapshots").iterdir())) == 2
    fake.seen.clear()
    run()
    assert [a.path for a in fake.of("hub")] == [f"/api/models/{NAME}/revision/main"]


def test_the_token_goes_to_the_hub_and_to_nobody_else(fake: FakeHub) -> None:
    run(token=TOKEN)
    assert {a.token for a in fake.of("hub")} == {TOKEN}
    assert {a.token for a in fake.of("cdn")} == {""} and fake.of("cdn")


def test_one_quantisation_of_a_gguf_model(fake: FakeHub) -> None:
    four, eight = crafted.gguf(data=64), crafted.gguf(data=4096)
    fake.add("x/GGUF", {"m-Q4_K_M.gguf": four, "m-Q8_0.gguf": eight, "config.json": CONFIG})
    said = run(name="x/GGUF", choice="m-Q8_0.gguf")
    assert said[0]["ref"] == "hub:x/GGUF:m-Q8_0.gguf"
    assert library.locate(ModelRef.parse(said[0]["ref"])).read_bytes() == eight
    assert list(blobs("x/GGUF").values()) == [len(eight)]
    with pytest.raises(Refused, match="has no m-Q2_K.gguf"):
        run(name="x/GGUF", choice="m-Q2_K.gguf")


def test_an_old_partial_never_replaces_what_another_program_finished(fake: FakeHub) -> None:
    folder = library.hub_cache() / "models--some--Llama-small" / "blobs"
    folder.mkdir(parents=True)
    (folder / PARTIAL).write_bytes(b"begun")
    (folder / PARTIAL.removesuffix(".incomplete")).write_bytes(WEIGHTS)
    run()
    assert fake.of("cdn") == [] and PARTIAL not in blobs()
    assert (library.locate(ModelRef.parse(f"hub:{NAME}")) / "model.safetensors").stat().st_size > 9


def test_where_there_are_no_links_the_file_itself_lies_in_the_snapshot(
    fake: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(self: Path, target: object) -> None:
        raise OSError("a required privilege is not held by the client")

    monkeypatch.setattr(Path, "symlink_to", no_links)
    run()
    folder = library.locate(ModelRef.parse(f"hub:{NAME}"))
    assert not (folder / "model.safetensors").is_symlink() and not any(blobs())
    library.check(ModelRef.parse(f"hub:{NAME}"))
    fake.seen.clear()
    run()
    assert fake.of("cdn") == []
    assert usage.delete(ModelRef.parse(f"hub:{NAME}")) > len(WEIGHTS)
    assert not folder.exists()


# What breaks and is mended


def test_a_connection_cut_at_sixty_percent_goes_on_by_range(fake: FakeHub) -> None:
    fake.faults.append(times(2, cut(0.6)))
    said = run()
    starts = [a.range for a in fake.of("cdn")]
    assert starts[0] == "" and starts[1] == f"bytes={int(len(WEIGHTS) * 0.6)}-"
    assert len(starts) == 3 and "Trying again" in said.notes()
    assert (library.locate(ModelRef.parse(f"hub:{NAME}")) / "model.safetensors").exists()


def test_a_connection_that_says_nothing_is_made_anew(fake: FakeHub) -> None:
    fake.faults.append(times(1, cut(0.5, then=4)))
    said = run(pace=replace(QUICK, stall=1.0))
    assert "did not answer in time" in said.notes()
    assert [a.range for a in fake.of("cdn")] == ["", f"bytes={len(WEIGHTS) // 2}-"]


@pytest.mark.parametrize("code", [500, 502, 503, 429])
def test_a_hub_that_breaks_for_a_moment_is_asked_again(fake: FakeHub, code: int) -> None:
    fake.faults += [times(2, status(code, "cdn")), times(1, status(code, "hub"))]
    run()
    assert len(fake.of("cdn")) == 3


def test_a_server_that_knows_no_ranges_sends_it_all_again(fake: FakeHub) -> None:
    fake.faults.append(times(1, cut(0.6)))
    fake.ranges = False
    run()
    assert len(blobs()) == 2 and PARTIAL not in blobs()


def test_a_second_process_goes_on_where_the_first_ended(fake: FakeHub) -> None:
    fake.faults.append(cut(0.3))
    fake.faults.append(cut(0.0))
    fake.faults[:] = [times(1, fake.faults[0]), fake.faults[1]]
    refusal("offline")
    there = blobs()[PARTIAL]
    assert there == int(len(WEIGHTS) * 0.3)
    fake.faults.clear()
    fake.seen.clear()
    said = run()
    assert said[0]["done"] == there + len(CONFIG)
    assert [a.range for a in fake.of("cdn")] == [f"bytes={there}-"]


# What is told


def test_faults_that_stay_are_told_after_some_tries(fake: FakeHub) -> None:
    fake.faults.append(status(503, "cdn"))
    assert "503" in refusal("server").message
    assert len(fake.of("cdn")) == QUICK.tries
    fake.faults[:] = [status(429, "cdn")]
    assert "too many requests" in refusal("busy").message


def test_offline_is_told_in_moments(fake: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert "offline" in refusal("offline").message


def test_gated_without_and_with_a_token_names_the_page(fake: FakeHub) -> None:
    fake.models[NAME].gated = True
    fake.commit(NAME, {"model.safetensors": WEIGHTS, "config.json": CONFIG})
    assert "set a token" in refusal("gated").hint
    said = refusal("gated", token=TOKEN)
    assert f"https://huggingface.co/{NAME}" in said.hint and "set a token" not in said.hint


def test_an_expired_token_is_told_without_the_token(fake: FakeHub) -> None:
    said = refusal("token", token="hf_expiredLongAgo99")
    assert "expired" in said.message and "hf_" not in str(said)


def test_a_version_that_is_gone(fake: FakeHub) -> None:
    first = fake.models[NAME].refs["main"]
    fake.commit(NAME, {"model.safetensors": WEIGHTS})
    del fake.models[NAME].commits[first]
    assert "version" in refusal("revision", commit=first).message
    refusal("missing", name="no/where")


def test_a_new_version_under_way_never_mixes(fake: FakeHub) -> None:
    old = fake.models[NAME].refs["main"]
    moved = []

    def move(handler: Handler, path: str) -> bool:
        if path.endswith("config.json") and not moved:
            moved.append(fake.commit(NAME, {"config.json": b"{}", "model.safetensors": b"new"}))
        return False

    fake.faults.append(move)
    run()
    folder = library.locate(ModelRef.parse(f"hub:{NAME}"))
    assert moved and folder.name == old
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    assert (folder / "config.json").read_bytes() == CONFIG


def test_another_file_than_the_listed_one_is_noticed_before_it_comes(fake: FakeHub) -> None:
    fake.tell_etag = lambda etag: "0" * len(etag)
    assert "changed on the hub" in refusal("changed").message
    assert fake.of("cdn") == [] and not any(blobs().values())


def test_a_wrong_bit_is_found_and_the_file_removed(fake: FakeHub) -> None:
    fake.flip = True
    said = refusal("damaged")
    assert "model.safetensors came damaged" in said.message and "removed" in said.hint
    assert PARTIAL not in blobs() and PARTIAL.split(".")[0] not in blobs()
    fake.flip = False
    run()


def test_more_than_was_listed_is_not_kept(fake: FakeHub) -> None:
    def longer(handler: Handler, path: str) -> bool:
        if handler.part == "cdn":
            handler.say(200, WEIGHTS + b"more")
        return handler.part == "cdn"

    fake.faults.append(longer)
    said = refusal("changed")
    assert said.message and said.hint


def test_a_disk_that_is_too_small_is_told_before(fake: FakeHub) -> None:
    said = refusal("full", spare=10**18)
    assert "1 MB" in said.message and "go on" in said.hint
    assert fake.of("cdn") == []


def test_a_redirect_away_from_https_is_not_followed(
    fake: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    import httpx

    from backends.models import hub_http

    monkeypatch.setenv("HF_ENDPOINT", "https://hub.example")
    seen = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append((request.url.host, "authorization" in request.headers))
        return httpx.Response(302, headers={"Location": "http://127.0.0.1:1/x"})

    with httpx.Client(transport=httpx.MockTransport(answer)) as client:
        with pytest.raises(HubError), hub_http.opened(client, "https://hub.example/f", TOKEN):
            raise AssertionError
    assert seen == [("hub.example", True)]


@pytest.mark.parametrize("to", ["http://[::1", "//", ""])
def test_a_redirect_to_nowhere_is_told(fake: FakeHub, to: str) -> None:
    fake.faults.append(lambda handler, path: handler.say(302, b"", Location=to) is None)
    with pytest.raises(HubError):
        run()


def test_the_speed_is_of_the_last_seconds_and_of_a_clock_that_never_jumps() -> None:
    now = [100.0]
    meter = Meter(lambda: now[0])
    assert meter.speed() == 0
    for _ in range(100):
        now[0] += 1
        meter.add(1000)
    assert meter.speed() == pytest.approx(1000)
    now[0] += 100
    meter.add(0)
    assert meter.speed() < 100


# The process


def child(fake: FakeHub, asked: str, token: str = "", limit: int = 0) -> tuple[str, str, int]:
    """Run it with a page that waits; what it said on stdout and stderr."""
    env = {**os.environ, "HF_TOKEN": token, fetch.TEST_PACE: "5,0.01,0.04,3"}
    code = (
        "import resource, sys, runpy\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit})) if {limit} else None\n"
        "import backends.models.fetch as f; f.main()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], env=env, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdin and process.stdout and process.stderr
    process.stdin.write(asked + "\n")
    process.stdin.flush()
    out, err = process.stdout.read(), process.stderr.read()
    process.stdin.close()
    code_ = process.wait(10)
    process.stdout.close()
    process.stderr.close()
    return out, err, code_


ASK = f'{{"id": 1, "name": "{NAME}", "revision": "main", "commit": "", "choice": ""}}'


def test_the_process_says_what_it_does_and_never_the_token(fake: FakeHub) -> None:
    out, err, code = child(fake, ASK, token=TOKEN)
    assert code == 0 and out.splitlines()[0].startswith('{"id":1,"say":"plan"')
    assert f'"say":"done","ref":"hub:{NAME}"' in out.splitlines()[-1]
    out2, err2, _ = child(fake, ASK, token="hf_expiredLongAgo99")
    assert '"kind":"token"' in out2
    assert TOKEN not in out + err and "hf_expired" not in out2 + err2


def test_a_full_disk_under_way_keeps_what_has_come(fake: FakeHub) -> None:
    out, err, code = child(fake, ASK, limit=500_000)
    assert code == 0 and '"kind":"full"' in out and "is full" in out and "go on" in out
    assert err == "" and blobs()[PARTIAL] == 500_000
    out, _, _ = child(fake, ASK)
    assert '"say":"done"' in out
    assert fake.of("cdn")[-1].range == "bytes=500000-"


def test_a_cache_that_cannot_be_written_is_told(
    fake: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("HF_HOME", str(tmp_path / "file"))
    out, err, _ = child(fake, ASK)
    assert '"kind":"disk"' in out and "cannot be written" in out and "HF_HOME" in out and err == ""


def test_killed_again_and_again_it_still_ends_with_the_right_file(fake: FakeHub) -> None:
    fake.slow = 0.02
    env = {**os.environ, fetch.TEST_PACE: "5,0.01,0.04,3"}
    chance, last = random.Random(7), 0
    partial = library.hub_cache() / "models--some--Llama-small" / "blobs" / PARTIAL
    for _ in range(4):
        process = subprocess.Popen(
            [sys.executable, "-m", "backends.models.fetch"], env=env, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        assert process.stdin and process.stdout
        process.stdin.write(ASK + "\n")
        process.stdin.flush()
        enough, deadline = last + chance.randint(1, 200_000), time.monotonic() + 30
        while not partial.is_file() or partial.stat().st_size < enough:
            assert time.monotonic() < deadline
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()
        last = partial.stat().st_size
    assert 0 < last < len(WEIGHTS)
    out, _, _ = child(fake, ASK)
    assert '"say":"done"' in out
    folder = library.locate(ModelRef.parse(f"hub:{NAME}"))
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS


def test_the_hubs_own_library_and_this_one_take_up_each_others_files(fake: FakeHub) -> None:
    code = (
        "import huggingface_hub as h\n"
        f"for f in ('config.json', 'model.safetensors'): h.hf_hub_download({NAME!r}, f)"
    )
    env = {**os.environ, "HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    for first, second in ((False, True), (True, False)):
        for ours in (first, second):
            fake.seen.clear()
            if ours:
                run()
            else:
                subprocess.run([sys.executable, "-c", code], env=env, check=True, timeout=60)
        assert fake.of("cdn") == []  # what the second one wanted was there
        assert library.locate(ModelRef.parse(f"hub:{NAME}")).is_dir()
        usage.delete(ModelRef.parse(f"hub:{NAME}"))
