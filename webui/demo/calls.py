"""What a guest's page may ask of Gradio's queue: its own page's calls, heard by itself alone.

Gradio tells the events of a page to whoever names that page's hash, and looks a call up by the
number that it is given. So the door remembers whose page a hash is, and knows the calls there are.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field

HASH = re.compile(r"[a-zA-Z0-9]{1,40}")  # as Gradio's page draws it, anew with each reload
PAGES = 200  # of one visitor that are remembered


@dataclass
class Calls:
    """`inputs`: how many values each call takes, by its number."""

    inputs: dict[int, int] = field(default_factory=dict)
    owners: dict[str, str] = field(default_factory=dict)  # a page's hash -> its visitor

    def may_join(self, visitor: str, body: bytes) -> bool:
        """Whether this is a call of the page, by a page of this visitor."""
        try:
            call = json.loads(body)
        except (ValueError, RecursionError):
            return False
        if not isinstance(call, dict):
            return False
        number, data = call.get("fn_index"), call.get("data")
        if type(number) is not int or not isinstance(data, list):
            return False
        known = self.inputs.get(number) == len(data)
        return known and self.owns(visitor, call.get("session_hash"))

    def owns(self, visitor: str, page: object) -> bool:
        """Whether this page is the visitor's; one that nobody has named before becomes it."""
        if not isinstance(page, str) or not HASH.fullmatch(page):
            return False
        if page not in self.owners:
            mine = [one for one, owner in self.owners.items() if owner == visitor]
            for old in mine[: max(0, len(mine) + 1 - PAGES)]:
                del self.owners[old]
            self.owners[page] = visitor
        return self.owners[page] == visitor
