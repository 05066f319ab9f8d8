"""What Chat keeps: conversations as trees of messages, in one SQLite file."""

from webui.store.pairs import Pair
from webui.store.schema import MIGRATIONS, Conversation, Message
from webui.store.search import Found
from webui.store.store import INTERRUPTED, Store, clean

__all__ = [
    "INTERRUPTED",
    "MIGRATIONS",
    "Conversation",
    "Found",
    "Message",
    "Pair",
    "Store",
    "clean",
]
