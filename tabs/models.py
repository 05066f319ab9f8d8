"""Models: what is on this machine, what fits, what to download; add, convert and delete."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import gradio as gr

from backends.base import ModelRef, Refused
from backends.card.badges import badges, of_figures
from backends.events import Progress
from backends.models import adding, hub, hub_token, library, plain_copy, usage
from backends.models.check import PICKLED
from backends.models.hub import Found
from backends.models.hub_http import HubError
from backends.models.repo import SMALL, Repo
from backends.runtime import conversion
from webui.bench import Bench
from webui.finetune import in_use
from webui.hand_over import Handed, build_go
from webui.model_picker import line, problem, progress_bar, tab_of
from webui.models import view
from webui.models.entries import Entry, budget_of, entries, matching
from webui.models.token import build_token, token_line

TITLE = "Models"
ASSETS = Path(__file__).resolve().parent.parent / "assets"
QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
NOW: dict[str, Any] = {"queue": False, **QUIET}
TASKS = [("All", ""), *((name, task) for task, name in view.TASKS.items())]
COUNTED = 10.0  # seconds that the disk is taken to be as it was
WHERE = [("All", "all"), ("On this machine", "here"), ("Fits", "fits")]
NOTHING = (
    "Nothing here matches. Press Enter in the search box, or “Ask the hub”, to look among "
    "all models on the hub; or choose “All” on the left."
)
OFFLINE = "Everything that is on this machine works all the same."


def build(bench: Bench) -> None:
    with gr.Row(elem_classes="work", elem_id="models"):
        with gr.Column(scale=1, min_width=220, elem_classes="left"):
            with gr.Group(elem_classes="panel"):
                task = gr.Radio(TASKS, value="", label="For", elem_id="models-task")
                where = gr.Radio(WHERE, value="all", label="Show", elem_id="models-where")
            with gr.Group(elem_classes="panel"):
                drop = gr.File(
                    label="Add your own: .gguf or .safetensors, up to 2 GB", height=100,
                    file_count="multiple", elem_id="models-drop",
                    file_types=[*adding.WEIGHTS, *SMALL, *PICKLED],
                )  # fmt: skip
                added = gr.HTML(
                    line("Larger ones: allow their folder in the settings, under the cog.", "note"),
                    elem_id="models-added",
                )
            token = build_token("models")
        with gr.Column(scale=5, min_width=320, elem_classes="middle"):
            head = gr.HTML(elem_id="models-head")
            with gr.Row(elem_classes="composer"):
                words = gr.Textbox(
                    show_label=False, label="Search models", placeholder="Search", lines=1,
                    max_lines=1, container=False, scale=8, elem_id="models-search",
                )  # fmt: skip
                ask = gr.Button("Ask the hub", min_width=110, elem_id="models-ask-hub")
            said = gr.HTML(elem_id="models-said")
            script = (ASSETS / "models.js").read_text("utf-8")
            asked = gr.HTML(js_on_load=script, elem_id="models-asked", apply_default_css=False)
            listed = gr.HTML(js_on_load=script, elem_id="models-list", apply_default_css=False)
    hits, go = gr.State(()), build_go("models-go")
    Models(bench).wire(
        task=task, where=where, words=words, ask=ask, drop=drop, added=added, head=head, said=said,
        asked=asked, listed=listed, hits=hits, go=go, token=token.status,
    )  # fmt: skip


class Models:
    """The handlers. What takes longer than a moment runs in a thread; a download is the bench's."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.uses: tuple[float, list[usage.Use]] = (0.0, [])  # when they were counted

    def wire(self, **part: Any) -> None:
        filters = [part["words"], part["task"], part["where"], part["hits"]]
        drawn = [part["head"], part["listed"]]
        told = [part["said"], part["asked"], part["go"], *drawn]
        latest: dict[str, Any] = {"trigger_mode": "always_last", **NOW}
        if tab := tab_of(gr.context.Context.block):  # nothing before somebody looks
            tab.select(self.draw, filters, drawn, **NOW)
            tab.select(token_line, None, part["token"], **NOW)  # the settings may have changed it
        for component in (part["words"], part["task"], part["where"]):
            component.change(self.draw, filters, drawn, **latest)
        part["listed"].changed(self.draw, filters, drawn, **latest)
        for list_of_buttons in (part["listed"], part["asked"]):
            list_of_buttons.act(self.act, filters, told, trigger_mode="multiple", **NOW)
        gr.on(
            [part["ask"].click, part["words"].submit], self.ask_hub, filters[:2],
            [part["said"], part["hits"]], **NOW,
        ).then(self.draw, filters, drawn, **NOW)  # fmt: skip
        part["listed"].convert(self.convert, None, part["said"], **QUIET).then(
            self.draw, filters, drawn, **NOW
        )
        part["drop"].upload(
            self.add, part["drop"], [part["added"], part["drop"]], **QUIET
        ).then(self.draw, filters, drawn, **NOW)  # fmt: skip

    # What is shown

    async def draw(
        self, words: str, task: str, where: str, hits: tuple[Found, ...]
    ) -> tuple[str, str]:
        return await asyncio.to_thread(self._draw, words, task, where, hits)

    def _draw(self, words: str, task: str, where: str, hits: tuple[Found, ...]) -> tuple[str, str]:
        uses = self._counted()
        everything = entries(self.bench, hits, uses)
        folder = library.hub_cache()
        while not folder.exists():
            folder = folder.parent
        free = shutil.disk_usage(folder).free
        names = [g.name or "GPU" for g in self.bench.reading.gpus if not g.error]
        taken = usage.total(uses)
        head = view.head(budget_of(self.bench), names[0] if names else "", taken, free)
        return head, view.model_list(matching(everything, words, task, where), NOTHING)

    def _counted(self) -> list[usage.Use]:
        """What the models take on the disk, counted again after a few seconds."""
        now = time.monotonic()
        if not self.uses[0] or now - self.uses[0] > COUNTED:
            self.uses = (now, usage.uses())
        return self.uses[1]

    async def ask_hub(self, words: str, task: str) -> tuple[str, Any]:
        if not (words or "").strip():
            return line("Write a name into the box first, such as qwen or whisper.", "note"), ()
        try:
            found = await asyncio.to_thread(hub.search, words, task, token=hub_token.read())
        except Refused as refused:
            return self._refused(refused), ()
        return line(f"The hub has {len(found)} for “{words.strip()}”.", "note"), tuple(found)

    def _refused(self, refused: Refused) -> str:
        offline = isinstance(refused, HubError) and refused.kind == "offline"
        return problem(str(refused)) + (line(OFFLINE, "note") if offline else "")

    # What is done

    async def act(
        self, event: gr.EventData, words: str, task: str, where: str, hits: tuple[Found, ...]
    ) -> tuple[Any, ...]:
        """One button of the list or of the panel over it."""
        sent: dict[str, Any] = event._data or {}
        name, key = str(sent.get("act", "")), str(sent.get("key", ""))
        said, asked, go = "", "", ""
        try:
            if name == "download":
                entry = await asyncio.to_thread(self._entry, key, hits)
                said, asked = await self._download(entry)
            elif name == "take":
                self.bench.downloads.add(str(sent.get("name", "")), str(sent.get("choice", "")))
            elif name in ("pause", "resume", "cancel"):
                said = await self._change(name, str(sent.get("id", "")))
            elif name == "chat":
                entry = await asyncio.to_thread(self._entry, key, hits)
                go = Handed(entry.id).as_text()
            elif name == "plain":
                ref = await asyncio.to_thread(plain_copy.make, ModelRef.parse(key))
                self.uses = (0.0, [])
                said = line(f"{ref.name} is in the list now, without the setting.", "good")
            elif name == "delete":
                said = await self._delete(key)
        except Refused as refused:
            said = self._refused(refused)
        drawn = await self.draw(words, task, where, hits)
        return said, asked, go or gr.skip(), *drawn

    def _entry(self, key: str, hits: tuple[Found, ...]) -> Entry:
        for entry in entries(self.bench, hits, self._counted()):
            if entry.ref == key:
                return entry
        raise Refused("This model is not in the list any more.", "Look at the list again.")

    async def _download(self, entry: Entry) -> tuple[str, str]:
        """Begin it, or ask what has to be known first. Returns what to say and what to ask."""
        if entry.gated and not hub_token.read():
            return "", view.terms(entry.name, entry.title)
        if entry.family:  # of the catalogue, which knows what to take
            self.bench.downloads.add(entry.name, entry.choice, size=entry.bytes)
            return "", ""
        repo = await asyncio.to_thread(hub.read_repo, entry.name, token=hub_token.read())
        if repo.gated and not hub_token.read():
            return "", view.terms(entry.name, entry.title)
        if len(repo.choices) > 1:
            return "", await asyncio.to_thread(self._choices, repo, entry)
        choice = repo.choice()
        self.bench.downloads.add(entry.name, choice.id, size=choice.bytes)
        return "", ""

    def _choices(self, repo: Repo, entry: Entry) -> str:
        """Each form with what it takes: of a GGUF its file, in RAM."""
        budget = budget_of(self.bench)
        sized = []
        for choice in repo.choices:
            source = of_figures("chat", {}, choice.bytes // 2, {})
            found = badges(source, budget) if source and choice.id.endswith(".gguf") else ()
            sized.append((choice, found[0] if found else None))
        return view.choices(repo, sized)

    async def _change(self, act: str, id: str) -> str:
        open_ones = {d.id: d for d in self.bench.downloads.listed() if d.open}
        if (download := open_ones.get(id)) is None:
            return ""
        if act == "pause":
            await self.bench.downloads.pause(download.id)
        elif act == "resume":
            self.bench.downloads.resume(download.id)
        else:
            back = await self.bench.downloads.cancel(download.id)
            return line(f"Cancelled: {view.size(back)} came back.", "note")
        return ""

    async def _delete(self, key: str) -> str:
        ref, bench = ModelRef.parse(key), self.bench
        downloading = [
            d.name
            for d in bench.downloads.listed()
            if d.what == "model" and d.state in ("waiting", "running")
        ]
        training = await asyncio.to_thread(in_use.bases, bench)
        taken = (bench.loaded_refs(), downloading, in_use.attached(bench), training)
        back = await asyncio.to_thread(usage.delete, ref, *taken)
        self.uses = (0.0, [])
        return line(f"Deleted: {view.size(back)} came back.", "good")

    async def add(self, files: list[str] | None) -> AsyncGenerator[tuple[Any, Any], None]:
        """Files that were dropped: one model, moved into the home's own folder; an old pickle is
        converted into it."""
        if not files:
            yield gr.skip(), gr.skip()
            return
        paths = [Path(file) for file in files]
        yield progress_bar(Progress(0, 0, "Checking"), ""), gr.skip()
        try:
            if len(paths) == 1 and paths[0].suffix.lower() in PICKLED:
                source = await asyncio.to_thread(adding.uploaded, paths[0], self.bench.temp)
                async for told in self._converted(source):
                    yield told, gr.skip()
                source.unlink(missing_ok=True)
                yield gr.skip(), None
                return
            ref = await asyncio.to_thread(adding.add_uploads, paths, self.bench.temp)
        except Refused as refused:
            yield problem(str(refused)), None
            return
        self.uses = (0.0, [])
        yield line(f"{ref.name} is in the list now.", "good"), None

    async def convert(self, event: gr.EventData) -> AsyncGenerator[str, None]:
        """A model of the list whose weights are old pickles. It ends with the page that watches."""
        key = str((event._data or {}).get("key", ""))
        yield progress_bar(Progress(0, 0, "Reading"), "")
        try:
            source = await asyncio.to_thread(library.locate, ModelRef.parse(key))
            async for told in self._converted(source):
                yield told
        except Refused as refused:
            yield problem(str(refused), refused.detail)

    async def _converted(self, source: Path) -> AsyncGenerator[str, None]:
        now = Progress(0, 0, f"Converting {source.name}")

        def report(progress: Progress) -> None:
            nonlocal now
            now = progress

        task = asyncio.create_task(conversion.convert(source, report))
        try:
            while not task.done():
                await asyncio.wait({task}, timeout=0.3)
                yield progress_bar(now, "Converting")
            self.uses = (0.0, [])
            yield view.converted(task.result())
        except Refused as refused:
            yield problem(str(refused), refused.detail)
        finally:
            task.cancel()
