"""What people type is found, while they type it, and never is an error."""

from __future__ import annotations

import pytest

from webui.store.search import pieces, query_of


@pytest.fixture
def store(store):
    for title, *said in (
        ("Leuchtturm", "Tell me a story", "The keeper of the lighthouse was called Jürgen."),
        ("100% sure", "Use snake_case in C++", "Danke 👩‍🔬 👍"),
        ("Grüße", "Schöne Grüße aus Köln", "x = a[\"b\"] + 'c' -- NOT (a OR b)"),
    ):
        made = store.new_conversation(title).id
        for number, text in enumerate(said):
            store.add_message(made, "assistant" if number % 2 else "user", text)
    return store


def titles(store, text):
    return [f.conversation.title for f in store.search(text)]


@pytest.mark.parametrize(
    ("text", "title"),
    [
        ("leucht", "Leuchtturm"), ("LIGHTH", "Leuchtturm"), ("jurg", "Leuchtturm"),
        ("story tell", "Leuchtturm"), ('"the lighthouse"', "Leuchtturm"), ("100%", "100% sure"),
        ("snake_c", "100% sure"), ("👍", "100% sure"), ("👩‍🔬", "100% sure"),
        ("KOLN", "Grüße"), ("grüße", "Grüße"), ("a[\"b\"]", "Grüße"), ("NOT (a OR", "Grüße"),
        ("-- aus -- k", "Grüße"),
    ],
)  # fmt: skip
def test_it_is_found(store, text, title):
    assert titles(store, text) == [title]


@pytest.mark.parametrize(
    "text",
    ["", " ", '"', '""', '"a', "a\"b", "'", "*", "a*", "AND", "OR OR", "NEAR(a b)", "title:x", "^a",
     "{a b}:c", "-a", "a:b", "(((", "\\", "%", "\0", "a\0b", "\ud800", "ß", "٣", "漢字", "x" * 9999,
     "a " * 9999, "; DROP TABLE messages", "🇩🇪", "\u202e", "a\x02b\x03"],
)  # fmt: skip
def test_nothing_that_is_typed_is_an_error(store, text):
    assert isinstance(store.search(text), list)


def test_quoted_words_stand_side_by_side(store):
    assert titles(store, '"lighthouse keeper"') == []
    assert titles(store, "lighthouse keeper") == ["Leuchtturm"]


def test_only_the_last_word_may_be_a_beginning(store):
    assert query_of('tell me "a story" lig') == '"tell" "me" "a story" "lig"*'
    assert titles(store, "lig keeper") == []
    assert titles(store, "C++") == ["Grüße", "100% sure"]  # both have a single c, others begin so


def test_the_snippet_shows_the_hit(store):
    [found] = store.search("lighth")
    assert found.snippet == (
        ("The keeper of the ", False), ("lighthouse", True), (" was called Jürgen.", False)
    )  # fmt: skip
    assert store.message(found.message).text.startswith("The keeper")
    [by_title] = store.search("sure")
    assert (by_title.snippet, by_title.message) == ((), "")
    assert pieces("a\x02b\x03\x03 \x02c") == (("a", False), ("b", True), (" ", False), ("c", True))


def test_an_answer_is_found_when_it_is_finished_and_not_before(store):
    made = store.new_conversation("t").id
    message = store.add_message(made, "assistant", "", state="streaming")
    store.append_text(message.id, "zebra")
    assert titles(store, "zebra") == []
    store.finish_message(message.id, "zebra crossing", "done")
    assert titles(store, "zebra") == ["t"]
    store.finish_message(message.id, "giraffe", "done")
    assert (titles(store, "zebra"), titles(store, "giraffe")) == ([], ["t"])
    store.add_message(made, "assistant", "okapi", state="streaming")
    store.mark_interrupted()
    assert titles(store, "okapi") == ["t"]
    check = "INSERT INTO message_words (message_words, rank) VALUES ('integrity-check', 1)"
    with store.database.writing() as db:
        db.execute(check)


def test_saves_of_a_growing_answer_leave_the_index_alone(store):
    made = store.new_conversation("t").id
    message = store.add_message(made, "assistant", "", state="streaming")
    size = "SELECT count(*), total(length(block)) FROM message_words_data"
    before = store.database.read(size)
    for i in range(20):
        store.append_text(message.id, "word " * i)
    assert store.database.read(size) == before


def test_every_branch_is_searched_but_nothing_that_was_deleted(store):
    made = store.new_conversation("t").id
    first = store.add_message(made, "user", "aardvark")
    second = store.edit(first.id, "badger")
    assert titles(store, "aardv") == titles(store, "badg") == ["t"]
    store.delete_message(second.id)
    assert titles(store, "badg") == []
    store.delete(made)
    assert titles(store, "aardv") == []
    store.restore(made)
    store.rename(made, "chinchilla")
    assert (titles(store, "aardv"), titles(store, "chin")) == (["chinchilla"], ["chinchilla"])


def test_a_title_comes_before_a_text_and_each_conversation_once(store):
    made = store.new_conversation("about lighthouses").id
    for _ in range(3):
        store.add_message(made, "user", "lighthouse")
    assert titles(store, "lighthouse") == ["about lighthouses", "Leuchtturm"]
    assert [f.snippet for f in store.search("lighthouse")][0] == (("lighthouse", True),)
    assert len(store.search("lighthouse", limit=1)) == 1


def test_searching_walks_the_index_and_stops(store):
    plan = str(store.database.read(
        "EXPLAIN QUERY PLAN SELECT rowid FROM message_words WHERE message_words MATCH ?"
        " ORDER BY rowid DESC LIMIT 10", '"a"*'
    ))  # fmt: skip
    assert "VIRTUAL TABLE INDEX" in plan and "TEMP B-TREE" not in plan
