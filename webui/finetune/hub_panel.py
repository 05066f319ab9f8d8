"""A dataset of the hub, by its name: got like a model is, and one of the user's datasets then.

The download belongs to the page's queue and goes on though nobody watches. What is done is made a
dataset by whoever looks next (`adopt`): the panel that follows it, or the tab when it is opened.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable
from html import escape
from typing import Any

import gradio as gr

from backends.base import ModelRef, Refused
from backends.models import data_cache, hub, hub_token
from backends.models.hub_http import HubError, endpoint, page_of
from backends.models.repo import Choice, Repo
from backends.runtime.downloads import Download
from webui.bench import Bench
from webui.finetune.datasets import Datasets, Kept
from webui.model_picker import line, problem
from webui.models.view import left, link, size

QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
NOW: dict[str, Any] = {"queue": False, **QUIET}
OFFLINE = "Datasets that are on this machine work all the same."


class HubPanel:
    """The handlers. `datasets` are the user's own, of which it makes one more."""

    def __init__(self, bench: Bench, datasets: Datasets) -> None:
        self.bench, self.datasets = bench, datasets
        self.adopting = asyncio.Lock()
        self.gone: dict[str, str] = {}  # what was said of a cancelled one; "" until it is over

    def place(self) -> None:
        with gr.Accordion("From the hub", open=False, elem_id="finetune-hub") as self.fold:
            self.name = gr.Textbox(
                label="Dataset on the hub", max_lines=1, elem_id="finetune-hub-name",
                placeholder="owner/name, or the address of its page",
            )  # fmt: skip
            self.part = gr.Dropdown(
                [], label="Part of it", visible=False, interactive=True,
                elem_id="finetune-hub-part",
            )  # fmt: skip
            with gr.Row(elem_classes="buttons"):
                self.get = gr.Button("Get it", size="sm", elem_id="finetune-hub-get")
                self.resumed = gr.Button(
                    "Go on", size="sm", visible=False, elem_id="finetune-hub-resume"
                )
                self.cancelled = gr.Button(
                    "Cancel", size="sm", visible=False, elem_id="finetune-hub-cancel"
                )
            self.said = gr.HTML(elem_id="finetune-hub-said")

    def wire(
        self, tab: Any, chosen: Any, choices: Callable[..., Any], then_look: Callable[[Any], None]
    ) -> None:
        """`chosen` is the dropdown of datasets, `choices(id)` what it shows when `id` is chosen."""
        self.choices = choices
        state = [self.said, self.resumed, self.cancelled]
        more: dict[str, Any] = {"trigger_mode": "multiple", **QUIET}
        asked, shown = [self.name, self.part], [self.part, chosen, *state]
        self.name.input(self.other_name, None, self.part, **NOW)
        then_look(gr.on([self.get.click, self.name.submit], self.bring, asked, shown, **more))
        then_look(self.resumed.click(self.resume, None, shown, **more))
        self.cancelled.click(self.cancel, None, state, **NOW)
        if tab:
            watched = [self.fold, chosen, *state]
            tab.select(self.watch, None, watched, trigger_mode="once", **QUIET)

    # What is pressed

    def other_name(self) -> Any:
        """The parts that are listed belong to another one."""
        return gr.Dropdown(choices=[], value=None, visible=False)

    async def bring(self, text: str, part: str | None) -> AsyncGenerator[list[Any], None]:
        """Begin the download, or take what is here; then follow it to its end."""
        skip = [gr.skip(), gr.skip()]
        yield [*skip, line("Asking the hub.", "note"), gr.skip(), gr.skip()]
        try:
            name, revision, named = data_cache.parse(written(text))
            part = part or named
            try:
                repo = await asyncio.to_thread(
                    hub.read_repo, name, revision, hub_token.read(), "dataset"
                )
            except HubError as error:
                if error.kind != "offline":
                    raise
                found = await asyncio.to_thread(data_cache.here, name, revision, part, offline=True)
                if found is None:
                    raise
                kept = await asyncio.to_thread(self._kept, *found)
                yield [gr.skip(), self.choices(kept.id), here(kept), *self._buttons()]
                return
            choice = repo.choice(part)
            download = self.bench.downloads.add(
                name, choice.id, revision, choice.bytes, what="dataset"
            )
        except Refused as refused:
            yield [*skip, self._refused(refused), *self._buttons()]
            return
        yield [parts(repo, choice), gr.skip(), *self._state()]
        async for state, made in self._followed(download.id):
            yield [gr.skip(), self.choices(made.id) if made else gr.skip(), *state]

    async def resume(self) -> AsyncGenerator[list[Any], None]:
        """Go on with the one that is shown."""
        yield [gr.skip()] * 5
        download = self.current()
        if download is None:
            yield [gr.skip(), gr.skip(), *self._state()]
            return
        self.bench.downloads.resume(download.id)
        async for state, kept in self._followed(download.id):
            yield [gr.skip(), self.choices(kept.id) if kept else gr.skip(), *state]

    async def cancel(self) -> list[Any]:
        download = self.current()
        if download is None:
            return self._state()
        self.gone[download.id] = ""  # whoever follows it does not call it paused
        back = 0
        try:
            back = await self.bench.downloads.cancel(download.id)
        except Refused:  # another page has cancelled it
            pass
        finally:
            said = f"Cancelled: {size(back)} came back." if back else "Cancelled."
            self.gone[download.id] = line(said, "note")
        return [self.gone[download.id], *self._buttons()]

    async def watch(self) -> AsyncGenerator[list[Any], None]:
        """Whoever opens the tab sees the one that is under way, and finds it in the list then:
        what is chosen there meanwhile stays."""
        download = self.current()
        yield [gr.Accordion(open=True) if download else gr.skip(), *[gr.skip()] * 4]
        if download is None:
            return
        async for state, made in self._followed(download.id):
            listed = [(kept.name, kept.id) for kept in self.datasets.all()] if made else []
            yield [gr.skip(), gr.Dropdown(choices=listed) if made else gr.skip(), *state]

    # What is under way

    def current(self) -> Download | None:
        """The one that is shown: that which runs, else the newest one that is not done."""
        mine = [d for d in self.bench.downloads.listed() if d.what == "dataset" and d.open]
        return next((d for d in mine if d.state == "running"), mine[-1] if mine else None)

    async def _followed(self, id: str) -> AsyncGenerator[tuple[list[Any], Kept | None], None]:
        """The state at each change and once a second, until this one is done, rests or is gone; at
        last the dataset that it became."""
        before = ""
        async with contextlib.aclosing(self.bench.downloads.follow()) as following:  # type: ignore[type-var]
            async for listed in following:
                mine = next((d for d in listed if d.id == id), None)
                if self.gone.get(id) == "":
                    yield [gr.skip()] * 3, None
                    continue
                if mine is None or mine.state not in ("waiting", "running"):
                    break
                state = self._state()
                same, before = state[0] == before, state[0]
                yield ([gr.skip()] * 3 if same else state), None
        if id in self.gone:
            yield [self.gone[id], *self._buttons()], None
            return
        if mine is not None and mine.state != "done":
            yield self._state(), None
            return
        done = mine
        for download, made in await self.adopt():
            if download.id == id:
                said = here(made) if isinstance(made, Kept) else self._refused(made)
                yield [said, *self._buttons()], made if isinstance(made, Kept) else None
                return
        # Another page was quicker.
        kept = self._like(done) if done else None
        yield [here(kept) if kept else gr.skip(), *self._buttons()], kept

    async def adopt(self) -> list[tuple[Download, Kept | Refused]]:
        """Make datasets of the downloads that are done, or say why they cannot be."""
        found: list[tuple[Download, Kept | Refused]] = []
        async with self.adopting:
            for download in self.bench.downloads.listed():
                if download.what != "dataset" or download.open:
                    continue
                try:
                    found.append((download, await asyncio.to_thread(self._adopted, download)))
                except Refused as refused:
                    found.append((download, refused))
                self.bench.downloads.forget(download.id)
        return found

    def _adopted(self, download: Download) -> Kept:
        found = data_cache.here(download.name, download.commit, download.choice)
        if found is None:
            raise Refused(
                f"The files of {download.name} are not in the hub's cache any more.",
                "Get it again.",
            )
        return self._kept(*found)

    def _kept(self, repo: Repo, choice: Choice) -> Kept:
        title = repo.name if choice.id in data_cache.USUAL else f"{repo.name} ({choice.title})"
        return self.datasets.lay_out(
            title, reference(repo.name, repo.commit, choice.id),
            lambda folder: data_cache.lay_out(
                repo.name, repo.commit, choice, folder / repo.name.replace("/", "--")
            ),
        )  # fmt: skip

    def _like(self, download: Download) -> Kept | None:
        return self.datasets.of_hub(reference(download.name, download.commit, download.choice))

    # How it is said

    def _state(self) -> list[Any]:
        download = self.current()
        return [told(download) if download else "", *self._buttons()]

    def _buttons(self) -> list[Any]:
        download = self.current()
        rests = download is not None and download.state in ("paused", "failed")
        word = "Try again" if download and download.state == "failed" else "Go on"
        return [gr.Button(word, visible=rests), gr.Button(visible=download is not None)]

    def _refused(self, refused: Refused) -> str:
        kind = refused.kind if isinstance(refused, HubError) else ""
        return problem(str(refused)) + (line(OFFLINE, "note") if kind == "offline" else "")


def written(text: str) -> str:
    """What was typed as a reference: a name, `hub:…`, or the address of a dataset's page."""
    text = (text or "").strip().rstrip("/")
    for start in (f"{endpoint()}/datasets/", "https://huggingface.co/datasets/", "hub:"):
        text = text.removeprefix(start)
    return f"hub:{text}"


def reference(name: str, commit: str, choice: str) -> str:
    """Which version and part a dataset is, as a job may name it."""
    return str(ModelRef("hub", name, commit, choice))


def parts(repo: Repo, chosen: Choice) -> Any:
    """The parts that it has, where there are several."""
    listed = [(f"{c.title} ({size(c.bytes)})", c.id) for c in repo.choices]
    return gr.Dropdown(choices=listed, value=chosen.id, visible=len(listed) > 1)


def here(kept: Kept) -> str:
    return line(f"{kept.name} is one of your datasets now.", "good")


def told(download: Download) -> str:
    """How far, how fast and how long yet; or why it does not go on, and what to do."""
    called = f"{download.name} ({download.choice})" if download.choice else download.name
    share = 100 * download.done / download.bytes if download.bytes else 0.0
    if download.state == "waiting":
        return line(f"{called} waits for its turn.", "note")
    called = escape(called)
    facts = [f"{share:.0f} % of {size(download.bytes)}"] if download.bytes else ["asking the hub"]
    if download.state == "running":
        facts += [f"{size(download.speed)}/s"] if download.speed else []
        facts += [left(download.seconds_left)] if download.seconds_left is not None else []
    elif download.state == "paused":
        facts = [f"paused at {share:.0f} %"]
    bar = (
        f'<div class="line note">{called}: {" · ".join(facts)}</div>'
        f'<div class="bar{"" if download.bytes else " unknown"}" role="progressbar" '
        f'aria-valuenow="{share:.0f}" aria-label="Download of {called}">'
        f'<i style="width:{share:.1f}%"></i></div>'
    )
    if download.state == "running":
        return bar + (line(download.note, "note") if download.note else "")
    said = f"{download.message} {download.hint}".strip()
    if download.state == "paused":
        return bar + (line(said, "note") if said else "")
    page = ""
    if download.kind == "gated":
        page = f'<div class="line">{link(page_of(download.name, "dataset"), "Open its page")}</div>'
    return problem(said) + page + (line(OFFLINE, "note") if download.kind == "offline" else "")
