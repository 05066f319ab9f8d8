"""Conversations leave as files and come back; what is wrong with a file is said by its entry."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from backends.base import Refused
from webui.store import Store, transfer

HARD = 'Ünï 👩‍🔬 "quoted"\n# heading\n\ttab \u2028 \x00 end'
GREETING = {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]}


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path / "werkbank.db")
    yield store
    store.close()


@pytest.fixture
def other(tmp_path):
    store = Store(tmp_path / "other.db")
    yield store
    store.close()


def talk(store) -> str:
    made = store.new_conversation("Capitals: of \ud800 France?", "m", {"temperature": 0.5}).id
    asked = store.add_message(made, "user", HARD, extra={"attachments": [
        {"name": "a.txt", "text": "three words here"}
    ]})  # fmt: skip
    first = store.add_message(made, "assistant", "Lyon.", model="m", extra={"odd": "\ud800"})
    edited = store.edit(first.id, "Paris.")
    store.add_message(made, "user", "Thanks")
    gone = store.add_message(made, "assistant", "You are welcome")
    store.delete_message(gone.id)
    store.vote(edited.id, 1)
    store.add_message(made, "user", "elsewhere", parent=asked.id)
    growing = store.add_message(made, "assistant", "", state="streaming")
    store.append_text(growing.id, "half")
    store.show_branch(edited.id)
    store.pin(made)
    return made


def write(tmp_path, content, name="in.json"):
    path = tmp_path / name
    if not isinstance(content, bytes):
        content = (content if isinstance(content, str) else json.dumps(content)).encode()
    path.write_bytes(content)
    return path


def bring(store, path):
    *_, end = transfer.import_file(store, path)
    return end


def told(store):
    """All that a file keeps of each conversation, in the order of the list."""
    return [
        transfer.as_json(store, c)["conversations"][0] for c in store.conversations()
    ]  # fmt: skip


def test_a_conversation_comes_back_with_branches_votes_and_settings(store, other, tmp_path):
    path = write(tmp_path, transfer.export_one(store, talk(store), "json"))
    end = bring(other, path)
    assert (end.conversations, end.messages, end.problems) == (1, 6, [])
    [before], [after] = told(store), told(other)
    for conversation in (before, after):  # broken surrogates are replaced on their way
        for message in conversation["messages"]:
            message["extra"].pop("odd", None)
    assert after == before
    assert [m["state"] for m in after["messages"]][-1] == "stopped"  # nobody writes it here
    [made] = other.conversations()
    assert made.pinned and made.settings == {"temperature": 0.5}
    assert [m.text for m in other.messages(made.id)] == [HARD, "Paris.", "Thanks"]
    assert [m.text for m in other.siblings(other.messages(made.id)[1].id)] == [
        "Lyon.", "Paris.", "elsewhere",
    ]  # fmt: skip
    [pair] = other.pairs()
    assert (pair.chosen, pair.rejected) == ("Paris.", "Lyon.")
    assert pair.prompt[0]["content"].startswith("File: a.txt")
    assert [f.conversation.id for f in other.search("elsewhere")] == [made.id]


def test_all_conversations_come_back_in_their_order(store, other, tmp_path):
    for number in range(30):
        store.add_message(store.new_conversation(f"n{number}").id, "user", HARD)
    store.delete(store.conversations()[3].id)
    path = tmp_path / "all.jsonl"
    steps = list(transfer.export_all(store, path))
    assert (steps[0], steps[-1], len(steps)) == ((1, 29), (29, 29), 29)
    shares = [i.share for i in transfer.import_file(other, path)]
    assert shares == sorted(shares) and shares[-1] == 1.0 and len(shares) == 29
    assert [c.title for c in other.conversations()] == [c.title for c in store.conversations()]


def test_markdown_has_the_shown_branch_to_read(store):
    text = transfer.export_one(store, talk(store), "md")
    assert text.startswith("# Capitals: of ? France?\n\n*")
    assert "## You\n\n*Attached: a.txt (16 characters)*\n\nÜnï" in text
    assert "## Assistant, m (voted up)\n\nParis.\n\n## You\n\nThanks\n" in text
    assert "Lyon" not in text and "welcome" not in text


def test_what_is_gone_cannot_be_exported(store):
    with pytest.raises(Refused, match="does not exist any more"):
        transfer.export_one(store, "nonsense", "md")


def test_file_names_are_fit_for_every_system():
    assert transfer.file_name('Was ist "Grüße/../x"?\n', "md") == "Was ist Grüße x.md"
    assert transfer.file_name("...", "json") == "conversation.json"


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (GREETING, "one.json"),
        ([GREETING], "list.json"),
        (json.dumps(GREETING) + "\n\n" + json.dumps(GREETING) + "\n", "lines.jsonl"),
        (json.dumps(GREETING) + "\r\n" + json.dumps(GREETING), "lines.json"),
        (json.dumps([GREETING], indent=2).encode("utf-16"), "utf16.json"),
        (b"\xef\xbb\xbf" + json.dumps(GREETING).encode(), "bom.json"),
        ({"messages": [{"role": "user", "content": "Hi"},
                       {"role": "assistant", "content": "Hello"}]}, "openai.json"),
    ],
)  # fmt: skip
def test_sharegpt_comes_in(store, tmp_path, content, name):
    end = bring(store, write(tmp_path, content, name))
    assert end.problems == [] and end.conversations >= 1
    for made in store.conversations():
        turns = [(m.role, m.text) for m in store.messages(made.id)]
        assert turns == [("user", "Hi"), ("assistant", "Hello")]
    if "openai" not in name:
        assert made.title == "Hi"


def ours(**changes):
    message = {"id": 1, "parent": None, "role": "user", "text": "x"} | changes
    return {"format": transfer.FORMAT, "version": 1, "conversations": [{"messages": [message]}]}


@pytest.mark.parametrize(
    ("entry", "why"),
    [
        (7, "It is a number, not a conversation."),
        ({}, 'It has neither "conversations" (ShareGPT) nor "messages".'),
        ({"conversations": []}, "It has no messages."),
        ({"conversations": [{"from": "robot", "value": "x"}]},
         'The "from" of turn 1 is "robot", not human, gpt or system.'),
        ({"conversations": [{"from": "gpt", "value": 3}]}, 'Turn 1 has no "value" that is a text.'),
        ({"conversations": ["x"]}, "Its turn 1 is a text."),
        ({"format": "other"}, 'Its format is "other", not werkbank-conversations.'),
        (ours() | {"version": 2}, "Its version is 2, this Werkbank reads 1."),
        (ours(role="tool"),
         'The "role" of message 1 is "tool", not one of system, user, assistant.'),
        (ours(parent=5), 'The "parent" of message 1 is 5, no earlier message.'),
        (ours(edited_from=1), 'The "edited_from" of message 1 is 1, no earlier message.'),
        (ours(vote=9), 'The "vote" of message 1 is 9, not -1, 0 or 1.'),
        (ours(text=None), "Message 1 has no text."),
        (ours(extra=[]), 'The "extra" of message 1 is a list, not an object.'),
        (ours(note={}), 'The "note" of message 1 is an object, not a text.'),
        (ours(text="x" * (transfer.MAX_TEXT + 1)),
         'The "text" of message 1 has more than 10,000,000 characters.'),
        ({"messages": [{"role": "user", "text": "x"}] * (transfer.MAX_MESSAGES + 1)},
         "It has 20,001 messages, more than 20,000."),
    ],
)  # fmt: skip
def test_a_wrong_entry_is_named_with_its_reason_and_the_good_ones_come_in(
    store, tmp_path, entry, why
):
    lines = [GREETING, entry, GREETING]
    end = bring(store, write(tmp_path, "\n".join(json.dumps(x) for x in lines), "in.jsonl"))
    assert end.problems == [f"Entry 2: {why}"]
    assert end.sentences() == "2 conversations came in, 4 messages. 1 entry was left out."
    assert len(store.conversations()) == 2


def test_lines_that_are_not_json_are_named(store, tmp_path):
    lines = [b"{", b"\xfa\xff", b"[" * 100_000, b"1" * 5000, b"", json.dumps(GREETING).encode()]
    end = bring(store, write(tmp_path, b"\n".join(lines), "in.jsonl"))
    assert [p.partition(" (")[0] for p in end.problems] == [
        "Entry 1: It is not JSON", "Entry 2: It is not UTF-8 text",
        "Entry 3: It is nested too deeply.", "Entry 4: A number in it has too many digits.",
    ]  # fmt: skip
    assert end.conversations == 1


def test_many_problems_are_counted_and_the_first_ones_told(store, tmp_path):
    end = bring(store, write(tmp_path, "7\n" * 50, "in.jsonl"))
    assert (end.left_out, len(end.problems)) == (50, transfer.TOLD)
    assert end.sentences() == "Nothing came in. 50 entries were left out."


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "has no conversations in it. Choose"),
        (b"[]", "has no conversations in it. Choose"),
        (b'{\n"conversations": [', r"This file is not JSON \(.*line 2\). Nothing was brought in"),
        (b"\x89PNG\r\n\x1a\n\xff\x00", r"This file is not UTF-8 text \(byte 0\). Nothing was"),
    ],
)
def test_a_file_that_is_none_is_refused_whole(store, tmp_path, content, sentence):
    with pytest.raises(Refused, match=sentence):
        bring(store, write(tmp_path, content))
    assert store.conversations() == []


def test_a_large_document_is_refused_and_a_long_line_left_out(store, tmp_path, monkeypatch):
    monkeypatch.setattr(transfer, "MAX_DOCUMENT", 1000)
    long = json.dumps(GREETING | {"x": "y" * 5000})
    with pytest.raises(Refused, match="more than 50 MB. Write it as JSONL"):
        bring(store, write(tmp_path, json.dumps([GREETING] * 50, indent=1)))
    end = bring(store, write(tmp_path, f"{long}\n{json.dumps(GREETING)}\n{long}", "in.jsonl"))
    assert (end.conversations, end.left_out) == (1, 2)
    monkeypatch.setattr(transfer, "MAX_FILE", 1000)
    with pytest.raises(Refused, match="more than 1 GB. Split it"):
        bring(store, write(tmp_path, "x" * 1001))


def test_a_conversation_that_cannot_be_written_is_not_there_by_half(store, tmp_path, monkeypatch):
    monkeypatch.setattr("webui.store.store.clean", lambda text: text if text != "Hello" else 1 / 0)
    with pytest.raises(ZeroDivisionError):
        bring(store, write(tmp_path, GREETING))
    assert store.conversations() == []
    assert store.database.read("SELECT count(*) FROM messages") == [(0,)]


def test_odd_numbers_and_nothing_where_a_time_belongs_do_no_harm(store, tmp_path):
    for created in ("NaN", "Infinity", "1e400", "-5", "true", '"x"', "1" + "0" * 400):
        document = json.dumps(ours()).replace('"text"', f'"created": {created}, "text"')
        assert bring(store, write(tmp_path, document)).problems == []
    made = store.conversations()
    assert len(made) == 7
    assert all(store.messages(c.id)[0].created > 1e9 for c in made)


def test_the_example_in_the_docs_comes_in(store, tmp_path):
    text = (Path(__file__).parents[3] / "docs" / "conversation-files.md").read_text("utf-8")
    document = text.partition("```json\n")[2].partition("```")[0]
    assert bring(store, write(tmp_path, document)).problems == []
    [made] = store.conversations()
    assert [m.text for m in store.messages(made.id)][1:] == ["Paris."]
    assert [m.vote for m in store.siblings(store.messages(made.id)[1].id)] == [-1, 0]
