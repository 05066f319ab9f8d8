"""From tokens to text, piece by piece: whole characters only, and nothing after a stop string."""

from __future__ import annotations

from collections.abc import Callable, Sequence

UNFINISHED = "\ufffd"  # what a tokenizer writes for bytes that are not a whole character yet
LONGEST_CHARACTER = 8  # tokens; after these, such a character is what the model meant


class TextStream:
    """Feed it tokens with `push`; each call returns the text that is certain by then.

    decode: token ids to text, special tokens left out
    stops: strings that end the answer and are not part of it
    """

    def __init__(self, decode: Callable[[list[int]], str], stops: Sequence[str] = ()) -> None:
        self.decode, self.stops = decode, stops
        self.ids: list[int] = []
        self.start = self.told = 0  # ids[start:told] is text given out, and the context of the rest
        self.held = ""  # may be the beginning of a stop string
        self.stopped = False

    def push(self, token: int) -> str:
        """The next piece of text, often empty. After a stop string, `stopped` is true."""
        self.ids.append(token)
        # A token's text depends on the one before it (spaces, split characters): so both are
        # decoded, and what the first one said is cut off.
        before = self.decode(self.ids[self.start : self.told])
        text = self.decode(self.ids[self.start :])
        if text.endswith(UNFINISHED) and len(self.ids) - self.told < LONGEST_CHARACTER:
            return ""
        self.start, self.told = self.told, len(self.ids)
        return self._without_stops(text[len(before) :])

    def end(self) -> str:
        """What was held back, once no more tokens come."""
        before = self.decode(self.ids[self.start : self.told])
        rest = self.decode(self.ids[self.start :])[len(before) :]
        text = self._without_stops(rest.rstrip(UNFINISHED))
        held, self.held = self.held, ""
        return text if self.stopped else text + held

    def _without_stops(self, text: str) -> str:
        self.held += text
        found = [at for stop in self.stops if (at := self.held.find(stop)) >= 0]
        if found:
            self.stopped = True
            return self._give(min(found))
        return self._give(len(self.held) - self._risky())

    def _give(self, length: int) -> str:
        text, self.held = self.held[:length], self.held[length:]
        return text

    def _risky(self) -> int:
        """How many characters at the end could be the beginning of a stop string."""
        longest = max((len(s) for s in self.stops), default=1) - 1
        for length in range(min(longest, len(self.held)), 0, -1):
            if any(s.startswith(self.held[-length:]) for s in self.stops):
                return length
        return 0
