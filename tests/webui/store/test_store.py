"""Conversations survive kills, full disks, broken files, old and new versions."""

import asyncio
import re
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from backends.base import Refused
from webui.bench import Bench
from webui.store import INTERRUPTED, MIGRATIONS, Store
from webui.store.database import PATIENCE, Database

ROOT = Path(__file__).parents[3]
HARD = "NUL \0, emoji 👩‍🔬, العربية, Ünï, tab\t, line\r\nline, quote ' \" ; --"


def texts(store, conversation):
    return [m.text for m in store.messages(conversation)]


def test_what_was_saved_comes_back_whole(store):
    made = store.new_conversation("Hello", "smollm2", {"temperature": 0.5, "stop": ["ü"]})
    asked = store.add_message(made.id, "user", HARD)
    told = store.add_message(made.id, "assistant", "", state="streaming", model="smollm2")
    assert store.finish_message(told.id, HARD, "done", {"tokens": 3}, "a note") == ""
    read = store.messages(made.id)
    assert [m.text for m in read] == [HARD, HARD]
    assert read[0] == asked
    assert (read[1].parent, read[1].position, read[1].usage) == (asked.id, 1, {"tokens": 3})
    assert (read[1].state, read[1].note, read[1].model) == ("done", "a note", "smollm2")
    assert store.conversation(made.id).settings == {"temperature": 0.5, "stop": ["ü"]}


def test_broken_surrogates_are_replaced(store):
    made = store.new_conversation("a \ud800 b")
    store.add_message(made.id, "user", "a \udfff b")
    assert (made.title, texts(store, made.id)) == ("a ? b", ["a ? b"])


def test_a_title_is_the_first_line_that_says_something(store):
    assert store.new_conversation("\n\n  Hello \nworld").title == "Hello"
    assert store.new_conversation(" \n ").title == ""
    assert len(store.new_conversation("x" * 500).title) == 80


def test_the_list_has_pinned_ones_first_then_the_newest(store):
    a, b, c = (store.new_conversation(title).id for title in "abc")
    store.add_message(b, "user", "news")
    store.pin(a)
    assert [x.id for x in store.conversations()] == [a, b, c]
    assert [x.id for x in store.conversations(limit=2)] == [a, b]


def test_delete_is_soft_and_can_be_undone(store):
    made = store.new_conversation("a")
    store.add_message(made.id, "user", "hi")
    store.delete(made.id)
    assert (store.conversations(), store.messages(made.id)) == ([], [])
    assert store.conversation(made.id) is None
    with pytest.raises(Refused, match="does not exist any more. Start a new one"):
        store.add_message(made.id, "user", "hi")
    store.restore(made.id)
    assert texts(store, made.id) == ["hi"]


def test_rename(store):
    made = store.new_conversation("a")
    store.rename(made.id, "  b\nc")
    assert store.conversation(made.id).title == "b"


def test_a_second_answer_is_a_branch_and_the_newest_is_shown(store):
    made = store.new_conversation("a").id
    asked = store.add_message(made, "user", "q")
    first = store.add_message(made, "assistant", "one")
    second = store.add_message(made, "assistant", "two", parent=asked.id)
    assert texts(store, made) == ["q", "two"]
    assert (second.parent, second.position) == (first.parent, first.position)
    store.show_branch(first.id)  # the older branch is still there
    assert texts(store, made) == ["q", "one"]
    store.add_message(made, "user", "edited", parent="")
    assert texts(store, made) == ["edited"]


def test_a_branch_cannot_start_in_another_conversation(store):
    a, b = store.new_conversation("a").id, store.new_conversation("b").id
    foreign = store.add_message(a, "user", "secret")
    for parent in (foreign.id, "999", "x", "9" * 40):
        with pytest.raises(Refused):
            store.add_message(b, "user", "hi", parent=parent)
    assert texts(store, b) == []


def test_a_late_save_does_not_undo_the_end(store):
    made = store.new_conversation("a").id
    message = store.add_message(made, "assistant", "", state="streaming")
    store.append_text(message.id, "half")
    store.finish_message(message.id, "half and all", "done")
    store.append_text(message.id, "half and")
    assert texts(store, made) == ["half and all"]


def test_what_was_streaming_is_marked_as_interrupted_at_the_next_start(store):
    made = store.new_conversation("a").id
    message = store.add_message(made, "assistant", "", state="streaming")
    store.append_text(message.id, "half")
    assert store.mark_interrupted() == 1
    read = store.messages(made)[0]
    assert (read.text, read.state, read.note) == ("half", "stopped", INTERRUPTED)
    assert store.mark_interrupted() == 0


STREAM = """
import sys, time; from pathlib import Path; from webui.store import Store
store = Store(Path(sys.argv[1])); made = store.new_conversation("killed").id
message = store.add_message(made, "assistant", "", state="streaming"); text = ""
for i in range(10**9):
    text += f"{i} "; assert not store.append_text(message.id, text)
    print(i, flush=True)
"""


def test_after_kill_9_the_text_so_far_is_there(tmp_path):
    path = tmp_path / "werkbank.db"
    command = [sys.executable, "-c", STREAM, str(path)]
    writer = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    with writer.stdout:
        said = [int(writer.stdout.readline()) for _ in range(200)]
        writer.send_signal(signal.SIGKILL)
        writer.wait()
    store = Store(path)
    assert store.mark_interrupted() == 1
    [message] = store.messages(store.conversations()[0].id)
    assert (message.state, store.notice) == ("stopped", "")
    assert message.text.split()[: len(said)] == [str(i) for i in said]
    store.close()


@pytest.mark.alone
def test_saving_as_it_streams_takes_less_than_a_millisecond(store):
    made = store.new_conversation("a").id
    message = store.add_message(made, "assistant", "", state="streaming")
    text = "word " * 800
    times = []
    for i in range(200):
        started = time.perf_counter()
        store.append_text(message.id, text + str(i))
        times.append(time.perf_counter() - started)
    assert sorted(times)[100] < 0.001


FILL = """
import resource, sys; from pathlib import Path; from webui.store import Store
store = Store(Path(sys.argv[1])); made = store.new_conversation("full").id
message = store.add_message(made, "assistant", "", state="streaming")
assert store.append_text(message.id, "kept") == ""
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))
import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
print(store.append_text(message.id, "x" * 1_000_000))
print(store.finish_message(message.id, "x" * 1_000_000, "done"))
try: store.add_message(made, "user", "x" * 1_000_000)
except Exception as error: print(type(error).__name__, error)
print(len(store.messages(made)[0].text), store.database.read("SELECT text FROM messages")[0][0])
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
import time; time.sleep(3)  # it is tried again by itself
print(store.database.read("SELECT length(text), state, note FROM messages"))
"""


def test_a_full_disk_is_a_sentence_and_what_was_saved_stays(tmp_path):
    command = [sys.executable, "-c", FILL, str(tmp_path / "werkbank.db")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    appended, finished, added, kept, after = done.stdout.splitlines()
    assert appended == finished
    assert appended.startswith("The disk is full or failing, so nothing was saved. Free some space")
    assert added == f"Refused {appended}"
    assert kept == "1000000 kept"  # the page shows all of it, the file has what was saved
    assert after == "[(1000000, 'done', '')]"


@contextmanager
def held(path):
    """Another program writes, and does not stop."""
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        other.execute("ROLLBACK")
        other.close()


def test_a_locked_file_is_a_sentence_and_reading_goes_on(store, monkeypatch):
    monkeypatch.setattr("webui.store.database.PATIENCE", 0.05)
    made = store.new_conversation("a").id
    message = store.add_message(made, "assistant", "", state="streaming")
    with held(store.database.path):
        assert "Another program holds" in store.append_text(message.id, "x")
        assert texts(store, made) == [""]
    assert store.append_text(message.id, "x") == ""


def test_in_a_thread_a_write_waits_for_another_program(store):
    made = store.new_conversation("a").id
    with held(store.database.path):
        writer = threading.Thread(target=store.add_message, args=(made, "user", "x"))
        writer.start()
        time.sleep(0.5)
    writer.join()
    assert texts(store, made) == ["x"]


@pytest.mark.alone
def test_on_an_event_loop_nothing_waits_long_not_even_for_a_thread_that_does(store):
    made = store.new_conversation("a").id
    longest = 0.0

    async def page():
        nonlocal longest
        waiting = asyncio.create_task(asyncio.to_thread(store.rename, made, "b"))
        for _ in range(3):
            await asyncio.sleep(0.05)
            began = time.perf_counter()
            with pytest.raises(Refused, match="Another program holds.*Close what"):
                store.add_message(made, "user", "x")
            store.conversations()
            longest = max(longest, time.perf_counter() - began)
        return waiting

    async def both():
        with held(store.database.path):
            waiting = await page()
        await waiting

    asyncio.run(both())
    assert longest < 1.0 < PATIENCE
    assert store.conversation(made).title == "b"


def test_an_end_that_cannot_be_saved_is_shown_and_saved_later(store, monkeypatch):
    monkeypatch.setattr("webui.store.ends.RETRY", 0.05)
    monkeypatch.setattr("webui.store.database.PATIENCE", 0.05)
    threads = threading.active_count()
    made = store.new_conversation("a").id
    message = store.add_message(made, "assistant", "", state="streaming")
    in_file = f"SELECT text, state FROM messages WHERE id = {message.id}"
    with held(store.database.path):
        problem = store.finish_message(message.id, "all of it", "done", {"t": 3}, "so", {"e": 1})
        assert "Another program holds" in problem
        [shown] = store.messages(made)
        assert (shown.text, shown.state, shown.usage) == ("all of it", "done", {"t": 3})
        assert (shown.extra, shown.note) == ({"e": 1}, f"so {problem}")
        assert store.database.read(in_file) == [("", "streaming")]
    deadline = time.monotonic() + 5
    while store.database.read(in_file) != [("all of it", "done")]:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    time.sleep(0.2)
    assert (store.messages(made)[0].note, threading.active_count()) == ("so", threads)


def test_an_end_that_waits_to_be_saved_does_not_cover_a_newer_one(store, monkeypatch):
    monkeypatch.setattr("webui.store.ends.RETRY", 0.3)
    monkeypatch.setattr("webui.store.database.PATIENCE", 0.05)
    made = store.new_conversation("a").id
    message = store.add_message(made, "assistant", "", state="streaming")
    with held(store.database.path):
        assert store.finish_message(message.id, "older", "stopped")
    assert store.finish_message(message.id, "newer", "done") == ""
    assert texts(store, made) == ["newer"]
    time.sleep(0.5)
    assert texts(store, made) == ["newer"]


def test_an_end_that_could_not_be_saved_is_tried_again_when_the_page_ends(tmp_path, monkeypatch):
    monkeypatch.setattr("webui.store.database.PATIENCE", 0.05)
    path = tmp_path / "werkbank.db"
    store = Store(path)
    made = store.new_conversation("a").id
    message = store.add_message(made, "assistant", "", state="streaming")
    with held(path):
        assert store.finish_message(message.id, "older", "stopped")
    with held(path):
        assert store.finish_message(message.id, "newer", "done")
    store.close()
    again = Store(path)
    assert texts(again, made) == ["newer"]
    again.close()


def test_a_page_starts_while_another_program_holds_the_file_and_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr("webui.store.database.PATIENCE", 0.05)
    bench = Bench(tmp_path, spare=False)

    async def start():
        with held(tmp_path / "werkbank.db"):
            await bench.start()
        await bench.stop()

    asyncio.run(start())
    assert "Another program holds the file of the conversations" in bench.store.notice


def damaged(path, how):
    store = Store(path)
    made = store.new_conversation("old").id
    for i in range(300):
        store.add_message(made, "user", f"{i} " * 100)
    store.close()
    content = path.read_bytes()
    path.write_bytes(how(content))


@pytest.mark.parametrize(
    ("how", "can_be_read"),
    [
        pytest.param(lambda c: b"<html>not a database</html>" * 100, False, id="another-file"),
        pytest.param(lambda c: c[: len(c) // 2], True, id="cut-in-half"),
        pytest.param(lambda c: c[:4096] + b"\xa5" * (len(c) - 4096), False, id="overwritten"),
        pytest.param(lambda c: c[:100] + b"\xff" * 3996 + c[4096:], False, id="schema"),
    ],
)
def test_a_broken_file_is_set_aside_and_said_and_the_rest_goes_on(tmp_path, how, can_be_read):
    path = tmp_path / "werkbank.db"
    damaged(path, how)
    before = path.read_bytes()
    store = Store(path)
    [aside] = tmp_path.glob("werkbank-broken-*.db")
    assert aside.read_bytes() == before
    assert aside.name in store.notice and ". " in store.notice
    old = [c.id for c in store.conversations()]
    if can_be_read:
        kept = {int(m.split()[0]) for id in old for m in texts(store, id)}
        assert kept and kept < set(range(300))
        assert f"{len(kept)} messages" in store.notice
    else:
        assert old == [] and ".recover" in store.notice
    store.add_message(store.new_conversation("new").id, "user", "x")
    store.close()
    again = Store(path)
    assert (again.conversations()[0].title, again.notice) == ("new", "")
    again.close()


def test_damage_found_in_use_is_said_and_mended_while_the_page_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr("webui.store.database.ALWAYS_CHECKED", 0)  # as for a large file
    path = tmp_path / "werkbank.db"
    damaged(path, lambda c: c[:131072] + b"\xa5" * 40960 + c[172032:])
    store = Store(path)
    with pytest.raises(Refused, match="damaged.*mended. Wait a moment, then try again"):
        for _ in range(3):
            conversation = store.conversations()[0].id
            store.messages(conversation)
            store.add_message(conversation, "user", "x")
    while store.database._mender:
        time.sleep(0.01)
    assert "was damaged and was set aside as werkbank-broken-" in store.notice
    assert re.search(r"1 conversations and \d+ messages", store.notice)
    [old] = store.conversations()
    assert old.title == "old" and len(texts(store, old.id)) > 50
    store.add_message(old.id, "user", "okapi")
    assert [f.conversation for f in store.search("okapi")] == store.conversations()
    store.close()
    again = Store(path)
    assert again.notice == "" and texts(again, old.id)[-1] == "okapi"
    again.close()


def test_a_damaged_index_of_words_is_made_anew_and_nothing_is_set_aside(tmp_path):
    store = Store(tmp_path / "werkbank.db")
    made = store.new_conversation("old").id
    store.add_message(made, "user", "lighthouse")
    with store.database.writing() as db:
        db.execute("UPDATE message_words_data SET block = x'ff' WHERE id > 10")
        db.execute("UPDATE title_words_data SET block = x'ff' WHERE id > 10")
    with pytest.raises(Refused, match="being mended"):
        store.search("lighthouse")
        store.add_message(made, "user", "more")
    while store.database._mender:
        time.sleep(0.01)
    assert [f.conversation.id for f in store.search("lighthouse")] == [made]
    assert [f.conversation.id for f in store.search("old")] == [made]
    assert (store.notice, list(tmp_path.glob("*broken*"))) == ("", [])
    store.close()


def test_an_empty_file_becomes_a_database(tmp_path):
    path = tmp_path / "werkbank.db"
    path.touch()
    store = Store(path)
    assert (store.conversations(), store.notice) == ([], "")
    store.close()


def test_a_file_of_a_newer_version_is_refused_and_left_alone(tmp_path):
    path = tmp_path / "werkbank.db"
    Store(path).close()
    db = sqlite3.connect(path)
    db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(Refused, match="newer Werkbank.*Update Werkbank"):
        Store(path)
    assert [p.name for p in tmp_path.glob("*broken*")] == []


def test_an_older_file_is_migrated_and_a_copy_kept(tmp_path):
    path = tmp_path / "werkbank.db"
    old = Database(path, MIGRATIONS[:1], "conversations")
    with old.writing() as db:
        db.execute(
            "INSERT INTO conversations (id, title, created, updated, model, settings, head)"
            " VALUES ('c', 'old', 1, 1, '', '{}', 1)"
        )
        db.executemany(
            "INSERT INTO messages (conversation, parent, position, role, text, state, note, usage,"
            " model, created) VALUES ('c', ?, ?, 'user', ?, 'done', '', '{}', '', 1)",
            [(None, 0, "lighthouse"), (1, 1, "a keeper")],
        )
    old.close()
    store = Store(path)
    assert [c.title for c in store.conversations()] == ["old"]
    assert [(m.text, m.vote, m.edited_from, m.extra) for m in store.siblings("1")] == [
        ("lighthouse", 0, "", {})
    ]
    for word in ("old", "lighth", "keeper"):  # what was there before is found, too
        assert [f.conversation.id for f in store.search(word)] == ["c"], word
    store.close()
    [copy] = tmp_path.glob("werkbank-version-1.db")
    kept = Database(copy, MIGRATIONS[:1], "conversations")
    assert kept.read("SELECT text FROM messages") == [("lighthouse",), ("a keeper",)]
    kept.close()


def test_a_migration_that_fails_changes_nothing(tmp_path):
    path = tmp_path / "werkbank.db"
    Store(path).close()
    with pytest.raises(Refused):
        Database(path, (*MIGRATIONS, "CREATE TABLE new (a); NONSENSE"), "conversations")
    database = Database(path, MIGRATIONS, "conversations")
    assert database.read("SELECT name FROM sqlite_master WHERE name = 'new'") == []
    database.close()


def test_a_folder_that_cannot_be_made_is_a_sentence(tmp_path):
    (tmp_path / "home").touch()
    with pytest.raises(Refused, match="cannot be kept.*Check that folder"):
        Store(tmp_path / "home" / "werkbank.db")


def test_the_file_is_its_owners_alone(store):
    assert store.database.path.stat().st_mode & 0o777 == 0o600


def test_threads_may_write_at_once(store):
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    made = store.new_conversation("a").id
    errors = []

    def write(n):
        try:
            for i in range(50):
                store.add_message(made, "user", f"{n}/{i}")
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=write, args=(n,)) for n in range(4)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    sys.setswitchinterval(interval)
    assert (errors, len(store.messages(made))) == ([], 200)


def test_lists_use_an_index_so_that_ten_thousand_conversations_open_at_once(store):
    plans = {
        "list": ("SELECT id FROM conversations WHERE deleted IS NULL"
                 " ORDER BY pinned DESC, updated DESC LIMIT 50", "conversations_listed"),
        "start": ("UPDATE messages SET state = 'stopped' WHERE state = 'streaming'",
                  "messages_streaming"),
    }  # fmt: skip
    for sql, index in plans.values():
        plan = str(store.database.read("EXPLAIN QUERY PLAN " + sql))
        assert index in plan and "TEMP B-TREE" not in plan
