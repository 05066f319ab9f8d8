"""What a page asks when it opens: the conversation first, the rest once that is there.

A browser has six connections to a host and Python one core: were all asked at once, the text that
somebody waits for after a reload would stand behind lists that nobody has opened.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gradio as gr


class Opening:
    """Of one page; `Blocks` carries it while the page is built."""

    def __init__(self) -> None:
        self.rest: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
        self.first: Any = None

    def wire(self, page: gr.Blocks) -> None:
        """Place the rest behind the first, or where no tab has one, at the page's own start."""
        after: Callable[..., Any] = self.first.then if self.first else page.load
        for arguments, more in self.rest:
            after(*arguments, **more)


def when_open(*arguments: Any, **more: Any) -> None:
    """Like `page.load(handler, inputs, outputs, …)`, in its turn."""
    root = gr.context.Context.root_block
    opening: Opening | None = getattr(root, "opening", None)
    if opening:
        opening.rest.append((arguments, more))
    else:
        root.load(*arguments, **more)


def first_of_all(event: Any) -> None:
    """This event, a load of the page, is what the rest waits for."""
    opening: Opening | None = getattr(gr.context.Context.root_block, "opening", None)
    if opening:
        opening.first = event
