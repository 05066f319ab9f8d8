"""Edits, votes and deletions are branches and marks: nothing is ever written over."""

from __future__ import annotations

import pytest

from backends.base import Refused
from webui.store import Message, Store


@pytest.fixture
def talk(store) -> tuple[str, Message, Message]:
    """A question and its answer."""
    made = store.new_conversation("Capitals").id
    asked = store.add_message(made, "user", "What is the capital of France?")
    return made, asked, store.add_message(made, "assistant", "Lyon.", model="m", extra={"a": 1})


def texts(store, conversation):
    return [m.text for m in store.messages(conversation)]


def test_an_edited_question_is_a_branch_beside_the_old_one(store, talk):
    made, asked, answered = talk
    edited = store.edit(asked.id, "And of Spain?")
    assert (edited.parent, edited.role, edited.edited_from) == ("", "user", asked.id)
    assert texts(store, made) == ["And of Spain?"]
    assert [m.id for m in store.siblings(asked.id)] == [asked.id, edited.id]
    store.show_branch(asked.id)
    assert store.messages(made) == [asked, answered]


def test_an_edited_answer_keeps_what_the_model_wrote(store, talk):
    made, _, answered = talk
    edited = store.edit(answered.id, "Paris.")
    assert (edited.role, edited.model, edited.extra) == ("assistant", "m", {"a": 1})
    assert store.message(answered.id).text == "Lyon."
    assert store.messages(made)[-1] == edited


def test_siblings_are_those_behind_the_same_parent_of_the_same_conversation(store, talk):
    made, asked, answered = talk
    other = store.new_conversation("other").id
    store.add_message(other, "user", "first there, too")
    second = store.add_message(made, "assistant", "Paris.", parent=asked.id)
    below = store.add_message(made, "user", "Thanks")
    assert [m.id for m in store.siblings(asked.id)] == [asked.id]
    cousin = store.add_message(
        made, "assistant", "of Spain", parent=store.edit(asked.id, "Spain?").id
    )
    assert cousin.position == second.position
    assert [m.id for m in store.siblings(second.id)] == [answered.id, second.id]
    assert store.siblings("999") == store.siblings("x") == []
    assert store.children(made) == {
        "": [asked.id, cousin.parent], asked.id: [answered.id, second.id], second.id: [below.id],
        cousin.parent: [cousin.id],
    }  # fmt: skip


def test_a_branch_is_shown_down_to_its_newest_end(store, talk):
    made, asked, answered = talk
    store.add_message(made, "user", "older end")
    store.add_message(made, "user", "newer end", parent=answered.id)
    store.edit(asked.id, "elsewhere")
    store.show_branch(answered.id)
    assert texts(store, made)[1:] == ["Lyon.", "newer end"]


def test_two_pages_that_edit_one_message_both_keep_their_text(store, talk):
    made, asked, _ = talk
    here = store.edit(asked.id, "from this page")
    there = store.edit(asked.id, "from the other page")
    assert texts(store, made) == ["from the other page"]
    # The first page goes on from what it shows, not from what the other made the head.
    store.add_message(made, "assistant", "answer here", parent=here.id)
    assert texts(store, made) == ["from this page", "answer here"]
    store.show_branch(there.id)
    assert texts(store, made) == ["from the other page"]
    assert {m.text for m in store.siblings(asked.id)} == {
        "What is the capital of France?", "from this page", "from the other page",
    }  # fmt: skip


def test_a_deleted_message_takes_what_is_below_and_comes_back_with_it(store, talk):
    made, asked, answered = talk
    thanks = store.add_message(made, "user", "Thanks")
    store.add_message(made, "assistant", "You are welcome")
    store.delete_message(thanks.id)
    assert texts(store, made)[1:] == ["Lyon."]
    store.delete_message(answered.id)
    assert store.messages(made) == [asked]
    assert store.message(answered.id) is None
    store.restore_message(answered.id)
    assert texts(store, made)[1:] == ["Lyon."]  # what was deleted before stays so
    store.restore_message(thanks.id)
    assert texts(store, made)[1:] == ["Lyon.", "Thanks", "You are welcome"]


def test_where_the_shown_branch_is_deleted_its_sibling_is_shown(store, talk):
    made, asked, answered = talk
    second = store.add_message(made, "assistant", "Paris.", parent=asked.id)
    store.delete_message(second.id)
    assert store.messages(made) == [asked, answered]
    assert [m.id for m in store.siblings(answered.id)] == [answered.id]
    store.delete_message(asked.id)
    assert store.messages(made) == []
    store.restore_message(asked.id)
    assert store.messages(made) == [asked, answered]


def test_deleting_a_branch_that_is_not_shown_changes_nothing_on_the_page(store, talk):
    made, asked, answered = talk
    second = store.add_message(made, "assistant", "Paris.", parent=asked.id)
    store.delete_message(answered.id)
    assert store.messages(made) == [asked, second]


def test_what_is_deleted_or_under_way_cannot_be_changed(store, talk):
    made, asked, answered = talk
    growing = store.add_message(made, "assistant", "", state="streaming")
    with pytest.raises(Refused, match="still being written. Stop it"):
        store.edit(growing.id, "x")
    store.delete_message(answered.id)
    for change in (
        lambda: store.edit(answered.id, "x"),
        lambda: store.vote(answered.id, 1),
        lambda: store.show_branch(growing.id),
        lambda: store.restore_message(growing.id),
        lambda: store.delete_message("999"),
        lambda: store.restore_message("999"),
    ):
        with pytest.raises(Refused, match="does not exist any more. Reload"):
            change()
    with pytest.raises(Refused, match="go on from does not exist"):
        store.add_message(made, "user", "x", parent=answered.id)
    assert store.messages(made) == [asked]
    with pytest.raises(ValueError, match="A vote is -1, 0 or 1, not 2. Choose"):
        store.vote(asked.id, 2)


def test_what_the_page_keeps_with_a_message_comes_back(store, talk):
    made, asked, answered = talk
    assert store.message(answered.id).extra == {"a": 1}
    store.finish_message(answered.id, "Lyon!", "done")
    assert store.message(answered.id).extra == {"a": 1}
    store.finish_message(answered.id, "Lyon!", "done", extra={"dropped": ["ü"]})
    assert store.message(answered.id).extra == {"dropped": ["ü"]}


def pairs(store):
    return [(p.chosen, p.rejected, p.source) for p in store.pairs()]


def test_votes_among_siblings_are_pairs(store, talk):
    made, asked, answered = talk
    second = store.add_message(made, "assistant", "Paris.", parent=asked.id)
    third = store.add_message(made, "assistant", "Nice.", parent=asked.id)
    store.vote(answered.id, -1)
    assert pairs(store) == []
    store.vote(second.id, 1)
    assert pairs(store) == [("Paris.", "Lyon.", "vote")]  # the third was rejected by nobody
    store.vote(third.id, -1)
    assert pairs(store) == [("Paris.", "Lyon.", "vote"), ("Paris.", "Nice.", "vote")]
    [pair, _] = store.pairs()
    assert pair.prompt == ({"role": "user", "content": "What is the capital of France?"},)
    store.vote(second.id, 0)
    assert pairs(store) == []


def test_an_edited_answer_is_chosen_over_what_it_was(store, talk):
    _, asked, answered = talk
    edited = store.edit(answered.id, "Paris.")
    store.edit(asked.id, "Of Spain?")  # an edited question is none
    assert pairs(store) == [("Paris.", "Lyon.", "edit")]
    store.vote(answered.id, -1)
    store.vote(edited.id, 1)
    assert pairs(store) == [("Paris.", "Lyon.", "vote")]  # once
    store.vote(answered.id, 1)
    store.vote(edited.id, 0)
    assert pairs(store) == []  # the vote says the opposite


def test_the_system_prompt_of_an_answer_stands_before_its_turns(store, talk):
    made, asked, _ = talk
    second = store.add_message(
        made, "assistant", "Paris.", parent=asked.id, extra={"settings": {"system": "Be short."}}
    )
    store.edit(second.id, "Paris, of course.")
    [pair] = store.pairs()
    assert [t["role"] for t in pair.prompt] == ["system", "user"]


def test_what_is_deleted_empty_or_equal_is_no_pair(store, talk):
    made, asked, answered = talk
    store.edit(answered.id, "Lyon.")
    store.edit(answered.id, "  ")
    gone = store.edit(answered.id, "Paris.")
    store.delete_message(gone.id)
    assert pairs(store) == []
    store.restore_message(gone.id)
    assert pairs(store) == [("Paris.", "Lyon.", "edit")]
    store.delete(made)
    assert pairs(store) == []


def test_deleted_conversations_wait_thirty_days_and_then_are_gone(tmp_path):
    now = [1_000_000.0]
    store = Store(tmp_path / "werkbank.db", lambda: now[0])
    for title in ("old", "new", "kept"):
        made = store.new_conversation(title).id
        first = store.add_message(made, "assistant", "words")
        store.edit(first.id, "more words")
        if title != "kept":
            store.delete(made)
        now[0] += 12 * 86400
    assert [c.title for c in store.deleted()] == ["new", "old"]
    assert store.empty_deleted() == 1
    assert [c.title for c in store.deleted()] == ["new"]
    assert store.empty_deleted(store.deleted()[0].id) == 1
    assert store.empty_deleted(store.conversations()[0].id) == 0  # not one that is not deleted
    assert store.deleted() == []
    assert store.database.read("SELECT count(*) FROM messages") == [(2,)]
    assert store.database.read("SELECT count(*) FROM title_words") == [(1,)]
    assert [f.conversation.title for f in store.search("words")] == ["kept"]
    store.close()
