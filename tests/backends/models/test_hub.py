"""Search and one model's page, asked of a hub on loopback; what goes wrong is two sentences."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from backends.base import Refused
from backends.models import hub, hub_token
from backends.models.hub_http import HubError
from tests.backends.models.fake_hub import TOKEN, FakeHub, status

CONFIG = b'{"architectures": ["LlamaForCausalLM"]}'


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    with FakeHub() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        server.add("some/Llama-small", {"config.json": CONFIG, "model.safetensors": b"x" * 50})
        yield server


def refusal(step: object, kind: str) -> HubError:
    with pytest.raises(HubError) as caught:
        step()  # type: ignore[operator]
    assert caught.value.kind == kind
    assert caught.value.message.endswith(".") and caught.value.hint.endswith(".")
    return caught.value


def test_search_finds_by_words_and_task_and_shows_what_matters(fake: FakeHub) -> None:
    fake.add("more/llama", {}, gated=True, downloads=99, tags=("gguf", "license:llama3"))
    fake.add("more/llama-paints", {}, pipeline="text-to-image", tags=())
    found = hub.search("llama", "chat")
    assert [f.name for f in found] == ["more/llama", "some/Llama-small"]
    assert (found[0].gated, found[0].licence, found[0].formats) == (True, "llama3", ("gguf",))
    assert (found[1].gated, found[1].licence, found[1].formats) == (
        False,
        "apache-2.0",
        ("safetensors",),
    )
    assert (found[0].bytes, found[0].parameters) == (0, 8000)
    assert (found[1].bytes, found[1].parameters, found[1].downloads) == (2000, 1000, 10)
    assert found[1].updated == "2026-01-02" and found[1].task == "chat"
    [paints] = hub.search("paints")
    assert paints.task == "image" and paints.formats == ()
    assert hub.search("nothing like it") == []


def test_search_sends_no_token_of_its_own(fake: FakeHub) -> None:
    hub.search("llama")
    assert {a.token for a in fake.seen} == {""}


def test_a_page_lists_what_can_be_downloaded(fake: FakeHub) -> None:
    repo = hub.read_repo("some/Llama-small")
    assert repo.commit == fake.models["some/Llama-small"].refs["main"]
    [choice] = repo.choices
    assert choice.bytes == 50 + len(CONFIG)
    assert {f.path for f in choice.files} == {"config.json", "model.safetensors"}


def test_a_model_of_pickles_alone_is_said(fake: FakeHub) -> None:
    fake.add("old/model", {"config.json": CONFIG, "pytorch_model.bin": b"x"})
    repo = hub.read_repo("old/model")
    assert repo.choices == ()
    assert "pytorch_model.bin" in repo.problem and repo.problem.endswith("files.")
    with pytest.raises(Refused, match="could run code"):
        repo.choice()


@pytest.mark.parametrize(
    "name", ["Llama", "../etc/passwd", "a/b/c", "a/..", "https://x/y", "a/b:c", "a/b@c", "", " a/b"]
)
def test_what_is_no_name_is_never_asked_for(fake: FakeHub, name: str) -> None:
    with pytest.raises(Refused, match="owner/name"):
        hub.read_repo(name)
    assert fake.seen == []


def test_a_file_with_a_dangerous_name_is_refused_by_name(fake: FakeHub) -> None:
    for name in ("../../x.safetensors", "a\\..\\x.safetensors", "con.gguf", "C:x.gguf", "/x.gguf"):
        fake.add("evil/model", {"config.json": CONFIG, "model.safetensors": b"x", name: b"y"})
        try:
            paths = {f.path for c in hub.read_repo("evil/model").choices for f in c.files}
            assert name not in paths
        except Refused as refused:
            assert "kept safely" in refused.message


def test_a_model_with_code_of_its_own_is_marked_before_it_is_downloaded(fake: FakeHub) -> None:
    files = {"config.json": CONFIG, "model.safetensors": b"x"}
    fake.add("odd/model", files, tags=("safetensors", "custom_code"))
    assert [f.own_code for f in hub.search("odd")] == [True]
    assert "never run" in hub.read_repo("odd/model").warning
    assert hub.read_repo("some/Llama-small").warning == ""


# What goes wrong


def test_a_missing_model_a_missing_version_and_a_private_one(fake: FakeHub) -> None:
    refusal(lambda: hub.read_repo("no/where"), "missing")
    refusal(lambda: hub.read_repo("some/Llama-small", "gone"), "revision")
    fake.models["some/Llama-small"].private = True
    refusal(lambda: hub.read_repo("some/Llama-small"), "missing")
    assert hub.read_repo("some/Llama-small", token=TOKEN).commit


def test_a_token_that_expired(fake: FakeHub) -> None:
    said = refusal(lambda: hub.whoami("hf_oldTokenThatExpired"), "token")
    assert "expired" in said.message and "hf_old" not in str(said)
    assert hub.whoami(TOKEN) == "tester"


@pytest.mark.parametrize(("code", "kind"), [(429, "busy"), (500, "server"), (503, "server")])
def test_a_hub_that_is_busy_or_broken(fake: FakeHub, code: int, kind: str) -> None:
    fake.faults.append(status(code, "hub", Retry_After="7"))
    assert refusal(lambda: hub.search("llama"), kind).wait == 7


def test_a_login_page_in_the_hubs_place(fake: FakeHub) -> None:
    fake.faults.append(lambda handler, path: handler.say(200, b"<html>log in</html>") is None)
    assert "login page" in refusal(lambda: hub.search("llama"), "server").hint


def test_offline_is_said_and_what_still_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{port}")
    said = refusal(lambda: hub.search("llama"), "offline")
    assert "on this machine work" in said.hint
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "HF_HUB_OFFLINE" in refusal(lambda: hub.search("llama"), "offline").message


# The token


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("WERKBANK_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "hub-token"


def test_the_token_is_kept_for_its_owner_alone(kept: Path, fake: FakeHub) -> None:
    assert hub_token.read() == "" and hub_token.shown() == ""
    hub_token.save(f" {TOKEN}\n")
    assert hub_token.read() == TOKEN and hub_token.check() == "tester"
    assert kept.stat().st_mode & 0o777 == 0o600
    assert TOKEN not in hub_token.shown() and hub_token.shown().endswith("1234")
    hub_token.save("hf_anotherOne123456")
    assert hub_token.read() == "hf_anotherOne123456"
    refusal(hub_token.check, "token")
    hub_token.remove()
    hub_token.remove()
    assert hub_token.read() == "" and list(kept.parent.iterdir()) == []
    with pytest.raises(Refused, match="No token is set"):
        hub_token.check()


@pytest.mark.parametrize("text", ["", "short", "hf_a b c d e f", "hf_x\r\nEvil: yes1", "hf_ü" * 9])
def test_what_is_no_token_is_not_kept(kept: Path, text: str) -> None:
    with pytest.raises(Refused, match="not a token") as caught:
        hub_token.save(text)
    assert not kept.exists() and (not text or text not in str(caught.value))
