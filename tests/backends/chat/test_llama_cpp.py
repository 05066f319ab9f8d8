"""llama.cpp with the real starter model: answers, settings, Stop, and nothing that listens."""

from __future__ import annotations

import gc
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from backends.base import ModelRef, Refused
from backends.chat.llama_cpp import LlamaCpp, LlamaCppOptions
from backends.chat.params import Message
from backends.events import Done, Progress, Text
from backends.models import library
from tests.backends.chat import talk
from tests.backends.models import crafted

pytestmark = pytest.mark.model
STARTER = ModelRef.parse("starter:smollm2-135m-instruct")


@pytest.fixture(scope="module")
def backend() -> Iterator[LlamaCpp]:
    loaded = LlamaCpp()
    loaded.load(STARTER, LlamaCppOptions())
    yield loaded
    loaded.unload()


def run_script(code: str, *args: object, **environment: str) -> str:
    """Run `code` in a process of its own; a crash of it is a failure here."""
    out = subprocess.run(
        [sys.executable, "-c", code, *map(str, args)],
        capture_output=True, text=True, timeout=60, env={**os.environ, **environment},
    )  # fmt: skip
    assert out.returncode == 0, out.stderr[-2000:]
    return out.stdout


# Answers


def test_it_knows_the_capital_of_france_and_says_so_in_pieces(backend: LlamaCpp) -> None:
    found = talk.events(backend, talk.CAPITAL, temperature=0)
    pieces = [e.delta for e in found if isinstance(e, Text)]
    assert "Paris" in "".join(pieces) and len(pieces) > 3
    assert isinstance(found[-1], Done) and not found[-1].cancelled


def test_default_sampling_with_a_seed_says_paris_too_and_says_it_again(backend: LlamaCpp) -> None:
    first, done = talk.answer(backend, talk.CAPITAL, seed=2)
    assert "Paris" in first and done.usage["seed"] == 2
    talk.answer(backend, talk.STORY, max_new_tokens=20)
    assert talk.answer(backend, talk.CAPITAL, seed=2)[0] == first


def test_usage_says_what_it_took(backend: LlamaCpp) -> None:
    usage = talk.answer(backend, talk.CAPITAL, temperature=0)[1].usage
    assert set(usage) == talk.USAGE
    assert (usage["prompt_tokens"], usage["finish_reason"]) == (27, "stop")
    assert 5 < usage["completion_tokens"] < 20 and usage["context_length"] == 8192
    assert 0 < usage["first_token_seconds"] <= usage["seconds"] and usage["seed"] >= 0
    assert usage["tokens_per_second"] > 1


def test_the_settings_do_what_they_say(backend: LlamaCpp) -> None:
    talk.check_settings(backend)


def test_stop_strings_end_the_answer(backend: LlamaCpp) -> None:
    talk.check_stop_strings(backend)


def test_hard_characters_come_back_whole(backend: LlamaCpp) -> None:
    text, _ = talk.answer(backend, talk.REPEAT, temperature=0, max_new_tokens=40)
    assert "Grüße" in text and "🎉" in text and "\ufffd" not in text
    assert talk.answer(backend, talk.HARD, max_new_tokens=5)[1].usage["prompt_tokens"] > 40


def test_an_unfinished_answer_is_continued(backend: LlamaCpp) -> None:
    messages = (
        Message("user", talk.CAPITAL),
        Message("assistant", "The capital of France is the beautiful city of"),
    )
    assert talk.answer(backend, messages, temperature=0)[0].startswith(" Paris")


def test_a_short_question_is_answered_the_same_whatever_was_asked_before() -> None:
    story = Message("user", "Tell me a very long story about a lighthouse keeper and the sea.")
    begun = (
        "The story of a lighthouse keeper and the sea is a timeless tale of resilience, sacrifice,"
    )
    question = Message("user", talk.CAPITAL)
    fresh = LlamaCpp()
    fresh.load(STARTER, LlamaCppOptions())
    # The part that both have in common was computed in pieces of another size here; where it is
    # kept, it rounds to another answer.
    talk.answer(fresh, (story, Message("assistant", begun), question), max_new_tokens=3)
    said, _ = talk.answer(fresh, (question,), max_new_tokens=30, temperature=0)
    fresh.unload()
    assert said == "The capital of France is Paris."


def test_the_next_turn_does_not_read_the_conversation_again(backend: LlamaCpp) -> None:
    first = Message("user", talk.FOX * 60)
    said, _ = talk.answer(backend, (first,), max_new_tokens=5, temperature=0)
    turn = (first, Message("assistant", said), Message("user", "Go on."))
    found = talk.events(backend, turn, max_new_tokens=2, temperature=0)
    read = [e for e in found if isinstance(e, Progress)]
    assert read[0].step > 400 and read[0].total - read[0].step < 64


# What programs ask for


def test_special_tokens_in_a_message_are_text(
    backend: LlamaCpp, monkeypatch: pytest.MonkeyPatch
) -> None:
    talk.check_special_tokens(backend, monkeypatch)


def test_json_fits_its_schema(backend: LlamaCpp) -> None:
    talk.check_json(backend)


def test_log_probabilities_are_those_of_the_text(backend: LlamaCpp) -> None:
    talk.check_logprobs(backend)


def test_penalties_change_the_answer(backend: LlamaCpp) -> None:
    talk.check_penalties(backend)


def test_a_prompt_is_continued_without_a_template(backend: LlamaCpp) -> None:
    talk.check_raw_prompt(backend)


def test_tools_are_called(backend: LlamaCpp, monkeypatch: pytest.MonkeyPatch) -> None:
    talk.check_tools(backend, monkeypatch)


# Limits


def test_a_prompt_longer_than_the_context_is_refused_at_once(backend: LlamaCpp) -> None:
    started = time.monotonic()
    with pytest.raises(Refused, match=r"is \d,\d\d\d tokens long, and the context takes 8,192"):
        talk.events(backend, talk.FOX * 900)
    assert time.monotonic() - started < 2
    assert "Paris" in talk.answer(backend, talk.CAPITAL, temperature=0)[0]


def test_an_answer_ends_where_the_context_is_full() -> None:
    small = LlamaCpp()
    small.load(STARTER, LlamaCppOptions(context_length=256))
    usage = talk.answer(small, talk.STORY, max_new_tokens=1000, temperature=0)[1].usage
    assert usage["finish_reason"] == "length" and usage["context_length"] == 256
    assert usage["prompt_tokens"] + usage["completion_tokens"] in (255, 256, 257)
    small.unload()


def test_more_context_than_it_was_trained_for_is_refused() -> None:
    with pytest.raises(Refused, match="trained for a context of 8,192 tokens, not 9,000"):
        LlamaCpp().load(STARTER, LlamaCppOptions(context_length=9000))


# Stop


@pytest.mark.alone
def test_stop_is_heard_while_it_writes_and_while_it_reads(backend: LlamaCpp) -> None:
    talk.check_stop_pressed(backend)


def test_closing_the_run_stops_llama_cpp_itself(backend: LlamaCpp) -> None:
    run = backend.run(talk.ask(talk.STORY, max_new_tokens=5000))
    assert talk.seconds_to_close(run, Text) < 1
    run = backend.run(talk.ask(talk.FOX * 150))
    assert talk.seconds_to_close(run, Progress) < 2
    talk.answer(backend, "Hi", max_new_tokens=1)  # the slot is free again
    before = sum(psutil.Process().cpu_times()[:2])
    time.sleep(0.5)
    assert sum(psutil.Process().cpu_times()[:2]) - before < 0.2


# What is refused


def test_a_truncated_file_never_reaches_native_code(monkeypatch: pytest.MonkeyPatch) -> None:
    import xllamacpp

    monkeypatch.setattr(xllamacpp, "Server", lambda given: pytest.fail("native code saw it"))
    library.models_folder().mkdir(parents=True, exist_ok=True)
    path = library.models_folder() / "cut.gguf"
    path.write_bytes(library.locate(STARTER).read_bytes()[:-1000])
    with pytest.raises(Refused, match="cut.gguf is incomplete"):
        LlamaCpp().load(ModelRef.parse("folder:cut.gguf"), LlamaCppOptions())
    path.unlink()


HOSTILE = """
import sys
from backends.base import ModelRef, Refused
from backends.chat.llama_cpp import LlamaCpp, LlamaCppOptions
from tests.backends.chat import talk
from tests.backends.models import crafted
backend = LlamaCpp()
backend.load(ModelRef.parse(sys.argv[1]), LlamaCppOptions(context_length=512))
try:
    print(talk.answer(backend, "Hi", max_new_tokens=3))
except Refused as refused:
    print("refused:", refused)
backend.unload()
"""


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ("{% if true %}" * 20_000 + "{% endif %}" * 20_000, "refused: The model's chat template"),
        ("{{ ''.__class__.__base__.__subclasses__() }}", "refused: The model's chat template"),
        ("", "Done(cancelled=False"),
    ],
    ids=["nested", "code", "none"],
)
def test_a_hostile_template_in_a_model_is_refused_and_not_parsed_by_native_code(
    template: str, says: str
) -> None:
    library.models_folder().mkdir(parents=True, exist_ok=True)
    path = crafted.with_template(
        library.locate(STARTER), library.models_folder() / "hostile.gguf", template
    )
    try:
        out = run_script(HOSTILE, "folder:hostile.gguf")
        assert says in out
    finally:
        path.unlink()


# The process around it

ALONE = """
import os, pathlib, sys, tempfile
import psutil
from backends.base import ModelRef
from backends.chat.llama_cpp import LlamaCpp, LlamaCppOptions
from tests.backends.chat import talk
from tests.backends.models import crafted
backend = LlamaCpp()
backend.load(ModelRef.parse("starter:smollm2-135m-instruct"), LlamaCppOptions())
text, done = talk.answer(backend, talk.CAPITAL, temperature=0)
me = psutil.Process()
print("Paris" in text)
print([c.laddr for c in me.net_connections(kind="inet")])
sockets = [c.laddr for c in me.net_connections(kind="unix") if c.status == "LISTEN" or c.laddr]
print([s for s in sockets if os.path.exists(s)])
print(os.listdir(tempfile.gettempdir()))
"""


@pytest.mark.parametrize("name", ["short", "ein sehr langer Ordner mit Ümläuten " * 4])
def test_nothing_listens_and_no_socket_can_be_reached(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name.strip()
    folder.mkdir()
    assert run_script(ALONE, TMPDIR=str(folder)).split("\n") == ["True", "[]", "[]", "[]", ""]


def test_a_path_with_spaces_and_umlauts_works() -> None:
    folder = library.models_folder() / "m"
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(library.locate(STARTER), folder / "q4.gguf")
    assert " " in str(folder) and "ö" in str(folder)  # the home of all tests
    backend = LlamaCpp()
    backend.load(ModelRef.parse("folder:m"), LlamaCppOptions(context_length=256))
    assert "Paris" in talk.answer(backend, talk.CAPITAL, temperature=0)[0]
    backend.unload()
    shutil.rmtree(folder)


@pytest.mark.alone
def test_it_loads_quickly_and_gives_everything_back() -> None:
    first = LlamaCpp()  # the library's log gets a thread with its first line, for good
    first.load(STARTER, LlamaCppOptions())
    first.unload()
    me = psutil.Process()
    gc.collect()
    threads, memory = me.num_threads(), me.memory_info().rss
    children = len(me.children())
    for _ in range(3):
        backend = LlamaCpp()
        started = time.monotonic()
        backend.load(STARTER, LlamaCppOptions())
        assert time.monotonic() - started < 3  # 0.5 s on a quiet machine
        backend.unload()
    gc.collect()
    assert me.num_threads() <= threads and len(me.children()) == children
    assert me.memory_info().rss < memory + 150 * 2**20
