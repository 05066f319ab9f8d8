"""The list as people see it: no name becomes HTML, every state says what to do."""

from __future__ import annotations

from dataclasses import replace

import pytest

from backends.card.badges import Badge
from backends.models.repo import Choice, Repo, RepoFile
from backends.runtime.downloads import Download, State
from webui.models import view
from webui.models.entries import Entry, coming_now

GB = 10**9
ENTRY = Entry("hub:a/b", "A model", "chat", name="a/b", licence="MIT", bytes=3 * GB)
COMING = Download("0001-abcdef", "a/b", "main", "safetensors", "a/b", bytes=10 * GB, done=4 * GB)
GOOD = Badge("8-bit", 9 * 2**30, "good", "8-bit: needs about 9.0 GB. Fits.")
BAD = Badge("16-bit", 16 * 2**30, "bad", "16-bit: needs about 16.0 GB. Does not fit.")


def test_what_a_hub_or_a_file_says_is_text() -> None:
    evil = '<img src=x onerror="alert(1)">'
    entry = replace(ENTRY, title=evil, licence=evil, note=evil, problem=evil, name='a"b', ref='x"y')
    coming = replace(COMING, title=evil, message=evil, hint=evil, state="failed", kind="gated")
    choice = Choice(evil, evil, (RepoFile("f.gguf", 5),))
    for html in (
        view.row(entry), view.row(replace(entry, download=coming)), view.terms(evil, evil),
        view.choices(Repo(evil, "main", "c", (choice,)), [(choice, None)]),
    ):  # fmt: skip
        assert "<img" not in html and 'a"b' not in html and 'x"y' not in html


@pytest.mark.parametrize(
    ("entry", "texts", "acts"),
    [
        (ENTRY, ["3.0 GB"], ["download"]),
        (replace(ENTRY, here=True), [">3.0 GB<"], ["chat", "delete"]),
        (replace(ENTRY, here=True, loaded=True), ["loaded · 3.0 GB"], ["chat", "delete"]),
        (replace(ENTRY, here=True, starter=True), ["comes with Werkbank"], ["chat"]),
        (
            replace(ENTRY, here=True, problem="It is cut. Load it again."),
            ["It is cut."],
            ["delete"],
        ),
        (replace(ENTRY, here=True, usable=False, task="speech"), ["Speech tab"], ["delete"]),
        (replace(ENTRY, here=True, usable=False, task=""), ["No tab opens it"], ["delete"]),
        (replace(ENTRY, gated=True), ["terms to accept"], ["download"]),
        (replace(ENTRY, bytes=0), ["size not known"], ["download"]),
    ],
)
def test_a_row_says_its_state_and_offers_what_can_be_done(
    entry: Entry, texts: list[str], acts: list[str]
) -> None:
    html = view.row(entry)
    assert all(text in html for text in texts)
    assert [a for a in ("download", "chat", "delete") if f'data-act="{a}"' in html] == acts


@pytest.mark.parametrize(
    ("download", "texts", "acts"),
    [
        (replace(COMING, state="waiting"), ["Waits for its turn"], ["cancel"]),
        (replace(COMING, state="running", speed=50_000_000),
         ["40 % · 50 MB/s · 2 min left"], ["pause", "cancel"]),
        (replace(COMING, state="running", bytes=0, done=0),
         ["Asking the hub"], ["pause", "cancel"]),
        (replace(COMING, state="paused"), ["Paused at 40 %"], ["cancel", "resume"]),
        (replace(COMING, state="paused", message="The disk is full.", hint="Make room."),
         ["The disk is full. Make room."], ["cancel", "resume"]),
        (replace(COMING, state="failed", message="No.", hint="Do.", kind="gated"),
         ["No. Do.", "Open its page", 'href="https://huggingface.co/a/b"'], ["cancel", "resume"]),
    ],
)  # fmt: skip
def test_a_download_says_how_far_and_how_long_or_why_not(
    download: Download, texts: list[str], acts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_ENDPOINT", raising=False)
    html = view.download_state(download)
    assert all(text in html for text in texts), html
    assert sorted(a for a in ("pause", "resume", "cancel") if f'data-act="{a}"' in html) == sorted(
        acts
    )


@pytest.mark.parametrize("state", ["waiting", "running", "paused", "failed"])
@pytest.mark.parametrize("first", [False, True])
def test_of_two_forms_under_way_the_one_that_runs_is_shown_and_its_buttons_are_its_own(
    state: State, first: bool
) -> None:
    runs = replace(COMING, state="running")
    other = replace(COMING, id="0002-abcdef", choice="b-Q8_0.gguf", state="waiting")
    assert coming_now([runs, other] if first else [other, runs]) == {"a/b": runs}
    html = view.download_state(replace(other, state=state))
    assert html.count("data-act=") == html.count('data-id="0002-abcdef"') > 0


def test_the_verdict_is_words_and_the_one_to_take_is_framed() -> None:
    html = view.fit([BAD, GOOD])
    assert "Fits in 8-bit" in html and html.count(" best") == 1
    assert view.verdict(None) == ("Too large here", "bad")
    part = Badge("part in RAM", 11 * 2**30, "tight", "Works, slowly.")
    assert view.verdict(part)[0] == "Slow: a part in RAM"


def test_groups_and_an_empty_list_that_says_what_to_do() -> None:
    found = [replace(ENTRY, here=True), ENTRY, replace(ENTRY, popular=9)]
    html = view.model_list(found, "nothing")
    order = [html.index(t) for t in ("On this machine", "To download", "On the hub")]
    assert order == sorted(order)
    assert "do this" in view.model_list([], "do this")


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 bytes"), (2500, "2 kB"), (98_400_000, "98 MB"), (3.21e9, "3.2 GB"), (250e9, "250 GB")],
)
def test_sizes(count: float, text: str) -> None:
    assert view.size(count) == text


def test_times() -> None:
    assert [view.left(s) for s in (0.2, 50, 100, 7200)] == [
        "1 s left", "50 s left", "2 min left", "2.0 h left",
    ]  # fmt: skip
