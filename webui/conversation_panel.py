"""The panel of conversations beside a chat: search, list, rename, pin, delete, export, import.

A tab places it, says when the list may have changed (`touch`), and hands over what it does when a
conversation is opened or goes away. The panel keeps the rest to itself.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from backends.base import Refused
from backends.events import Progress
from webui.bench import Bench
from webui.conversation_list import UNTITLED, conversation_list, found_list
from webui.downloads import exports
from webui.model_picker import details, line, problem, progress_bar
from webui.store import transfer

ASSETS = Path(__file__).resolve().parent.parent / "assets"
LISTED = 60  # conversations, and again as many with each "Show more"
PACE = 0.1  # seconds between two looks at an import or export
QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
TOUCH = "() => String(performance.timeOrigin + performance.now())"
UNDO = """
let timer = 0, fetched = '';
element.addEventListener('click', (event) => {
  const button = event.target.closest('[data-act]');
  if (button) trigger('act', { act: button.dataset.act, id: button.dataset.id });
});
watch('value', () => {
  clearTimeout(timer);
  const toast = element.querySelector('.toast'), file = element.querySelector('a[download]');
  if (toast) timer = setTimeout(() => { toast.hidden = true; }, 10000);
  if (file && file.href !== fetched) { fetched = file.href; file.click(); }
});
"""


@dataclass(frozen=True)
class Panel:
    """`list` selects with `{"id": …}`. `stamp` is what a tab sets to `touch()` whenever the list
    may have changed; `left` changes when the open conversation was deleted."""

    bench: Bench
    search: Any
    list: Any
    said: Any
    cancel: Any
    bring: Any
    save: Any
    stamp: Any
    left: Any
    limit: Any
    stopping: set[str] = field(default_factory=set)  # pages whose import or export is to end

    @staticmethod
    def touch() -> str:
        """A new value of `stamp`: the list is drawn again."""
        return str(time.time_ns())

    def wire(
        self,
        current: Any,
        *,
        stop: Callable[[str], Awaitable[None]],
        leave: Callable[..., Any],
        editing: Any,
        outputs: list[Any],
    ) -> None:
        """`current` holds the id of the open conversation. `stop(id)` ends what is written in one,
        before it is deleted; `leave`, with `editing` (what it reads of an edit) and `outputs`,
        opens none where the open one went."""
        seen = [self.search, self.limit, current]

        async def act(event: gr.EventData, current: str) -> tuple[Any, Any, Any]:
            asked = event._data or {}
            name, id = str(asked.get("act", "")), str(asked.get("id", ""))
            title = str(asked.get("title", ""))
            if name == "delete":
                await stop(id)
            try:
                said = await asyncio.to_thread(self.act, name, id, title=title)
            except Refused as refused:
                said = problem(str(refused), refused.detail)
            gone = name == "delete" and id == current
            return said, self.touch(), self.touch() if gone else gr.skip()

        now: dict[str, Any] = {"queue": False, **QUIET}
        # One handler alone draws the list, one call at a time and the last one wins: else an older
        # look at the store could come later than a newer one.
        self.stamp.change(self.listed, seen, self.list, trigger_mode="always_last", **now)
        self.search.change(None, None, self.stamp, js=TOUCH)
        for component in (self.list, self.said):
            component.act(
                act, current, [self.said, self.stamp, self.left], trigger_mode="multiple", **now
            )
        self.list.further(
            lambda limit: (limit + LISTED, self.touch()), self.limit, [self.limit, self.stamp],
            **now,
        )  # fmt: skip
        self.left.change(leave, editing, outputs, **now)
        busy = [self.said, self.cancel, self.stamp]
        self.bring.upload(self.bring_in, self.bring, [*busy, self.bring], **QUIET)
        self.save.click(self.save_all, None, busy, **QUIET)
        self.cancel.click(self.end, None, None, queue=False, **QUIET)

    # What the list shows

    def listed(self, search: str, limit: int, current: str) -> str:
        """The list as HTML: what was found, or all, or why there is none."""
        store = self.bench.store
        try:
            if search.strip():
                found = store.search(search, limit + 1)
                return found_list(found[:limit], current, search, further=len(found) > limit)
            rows = store.conversations(limit + 1)
            notice = line(store.notice, "note") if store.notice else ""
            return notice + conversation_list(
                rows[:limit], current, store.deleted(), further=len(rows) > limit
            )
        except Refused as refused:
            return problem(str(refused), refused.detail)

    def act(self, name: str, id: str, *, title: str = "") -> str:
        """One thing done with one conversation. Returns what to say. Raises Refused."""
        store = self.bench.store
        if name == "rename" and title.strip():
            store.rename(id, title)
        elif name in ("pin", "unpin"):
            store.pin(id, name == "pin")
        elif name == "delete":
            known = store.conversation(id)
            store.delete(id)
            return deleted_line(id, known.title if known else "")
        elif name == "restore":
            store.restore(id)
        elif name == "erase":
            store.empty_deleted(id)
        return ""

    # Files

    def bring_in(
        self, file: str | None, request: gr.Request
    ) -> Iterator[tuple[Any, Any, Any, Any]]:
        """Import what was chosen; a line of progress, then the result."""
        if not file:
            yield gr.skip(), gr.skip(), gr.skip(), gr.skip()
            return
        so_far, seen, page, ended = transfer.Imported(), 0.0, str(request.session_hash), ""
        self.stopping.discard(page)
        yield (
            progress_bar(Progress(0, 0, "Reading the file"), ""),
            gr.Button(visible=True),
            gr.skip(),
            gr.skip(),
        )
        try:
            for so_far in transfer.import_file(self.bench.store, Path(file)):
                if page in self.stopping:
                    ended = "Stopped. "
                    break
                if time.monotonic() - seen > PACE:
                    seen = time.monotonic()
                    done = Progress(int(1000 * so_far.share), 1000, _brought(so_far))
                    yield progress_bar(done, ""), gr.skip(), gr.skip(), gr.skip()
            said = line(ended + so_far.sentences(), "bad" if so_far.left_out else "good")
        except Refused as refused:
            said = problem(str(refused), refused.detail)
            if so_far.conversations:
                said += line(f"Before that, {so_far.sentences()}", "note")
        finally:
            Path(file).unlink(missing_ok=True)
        said += details("What was left out", "\n".join(so_far.problems))
        yield said, gr.Button(visible=False), self.touch(), None

    def save_all(self, request: gr.Request) -> Iterator[tuple[Any, Any, Any]]:
        """Write all conversations into a file; the page fetches it when its link appears."""
        folder, seen, total = exports(self.bench), 0.0, 0
        page = str(request.session_hash)
        self.stopping.discard(page)
        yield progress_bar(Progress(0, 0, "Exporting"), ""), gr.Button(visible=True), gr.skip()
        path = folder / f"all-{secrets.token_hex(16)}.jsonl"
        try:
            for done, total in transfer.export_all(self.bench.store, path):
                if page in self.stopping:
                    path.unlink(missing_ok=True)
                    yield line("Stopped.", "note"), gr.Button(visible=False), gr.skip()
                    return
                if time.monotonic() - seen > PACE:
                    seen = time.monotonic()
                    told = Progress(done, total, f"Exporting {done:,} of {total:,}")
                    yield progress_bar(told, ""), gr.skip(), gr.skip()
            said = ready_line(path, total) if total else line("There is nothing to export.", "note")
        except Refused as refused:
            said = problem(str(refused), refused.detail)
        except OSError as error:
            said = problem(f"The file could not be written ({error.strerror}). Free some space.")
        yield said, gr.Button(visible=False), gr.skip()

    def end(self, request: gr.Request) -> None:
        """The import or export of this page ends at its next step, and says how far it came."""
        self.stopping.add(str(request.session_hash))


def build_conversation_panel(bench: Bench) -> Panel:
    search = gr.Textbox(
        show_label=False, label="Search conversations", placeholder="Search", container=False,
        lines=1, max_lines=1, elem_id="conversations-search",
    )  # fmt: skip
    said = gr.HTML(
        js_on_load=UNDO, elem_id="conversations-said", apply_default_css=False, padding=False
    )
    cancel = gr.Button("Cancel", size="sm", visible=False, elem_id="conversations-cancel")
    listed = gr.HTML(
        js_on_load=(ASSETS / "conversations.js").read_text("utf-8"),
        elem_id="conversations", apply_default_css=False,
    )  # fmt: skip
    with gr.Row(elem_classes="buttons"):
        bring = gr.UploadButton(
            "Import", size="sm", min_width=60, file_types=[".json", ".jsonl"],
            elem_id="conversations-import",
        )  # fmt: skip
        save = gr.Button("Export all", size="sm", min_width=60, elem_id="conversations-export")
    stamp, left = gr.Textbox(visible=False), gr.Textbox(visible=False)
    return Panel(bench, search, listed, said, cancel, bring, save, stamp, left, gr.State(LISTED))


def deleted_line(id: str, title: str) -> str:
    """Said for ten seconds after a deletion, with the way back."""
    return (
        f'<div class="toast line" role="status"><span>“{escape(title or UNTITLED)}” was deleted.'
        f'</span><button data-act="restore" data-id="{escape(id)}">Undo</button></div>'
    )


def ready_line(path: Path, count: int) -> str:
    name = f"werkbank-conversations-{time.strftime('%Y-%m-%d')}.jsonl"
    size = path.stat().st_size / 1e6
    return (
        f'<div class="line good" role="status">{count:,} exported, {size:.1f} MB. '
        f'<a href="/export/{path.name}" download="{name}">Save the file</a></div>'
    )


def _brought(so_far: transfer.Imported) -> str:
    return f"{so_far.conversations:,} came in"


def selected(event: gr.EventData) -> str:
    """The id in a select event of the list."""
    data: dict[str, Any] = event._data or {}
    return str(data.get("id", ""))
