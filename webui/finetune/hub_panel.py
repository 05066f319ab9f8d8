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
from backends.models.hub_http import AGAIN, HubError, endpoint, page_of
from backends.models.repo import Choice, Repo
from backends.runtime.downloads import Download
from webui.bench import Bench
from webui.finetune.datasets import Datasets, Kept
from webui.model_picker import line, problem
from webui.models.view import left, link, size

QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
NOW: dict[str, Any] = {"queue": False, **QUIET}
PAGES = tuple(f"{start}huggingface.co/datasets/" for start in ("https://", "http://", ""))
OFFLINE = "Datasets that are on this machine work all the same."


class Gone(Refused):
    """What came is not there any more: there is nothing to wait for."""


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
            self.shown = gr.State("")  # the download that `said` is about
            self.made = gr.State(None)  # what was chosen at the press, and what came of it

    def wire(
        self, tab: Any, chosen: Any, choices: Callable[..., Any], then_look: Callable[[Any], None]
    ) -> None:
        """`chosen` is the dropdown of datasets, `choices(id)` what it shows when `id` is chosen."""
        self.choices = choices
        state = [self.said, self.resumed, self.cancelled, self.shown]
        more: dict[str, Any] = {"trigger_mode": "multiple", **QUIET}
        asked = [self.name, self.part, chosen]
        shown = [self.part, chosen, *state, self.made]

        def then_choose(event: Any) -> None:
            then_look(event.then(self.settle, [chosen, self.made], chosen, **NOW))

        self.name.input(self.other_name, None, self.part, **NOW)
        then_choose(gr.on([self.get.click, self.name.submit], self.bring, asked, shown, **more))
        then_choose(self.resumed.click(self.resume, [self.shown, chosen], shown, **more))
        self.cancelled.click(self.cancel, self.shown, state, **NOW)
        if tab:
            watched = [self.fold, chosen, *state]
            tab.select(self.watch, None, watched, trigger_mode="once", **QUIET)

    # What is pressed

    def other_name(self) -> Any:
        """The parts that are listed belong to another one."""
        return gr.Dropdown(choices=[], value=None, visible=False)

    async def bring(
        self, text: str, part: str | None, chosen: str | None = None
    ) -> AsyncGenerator[list[Any], None]:
        """Begin the download, or take what is here; then follow it to its end."""
        skip = [gr.skip(), gr.skip()]
        yield [*skip, line("Asking the hub.", "note"), *[gr.skip()] * 3, None]
        try:
            name, revision, named = data_cache.parse(written(text))
            # One of another name is left from an answer that came late.
            part = part.removeprefix(f"{name}:") if part and part.startswith(f"{name}:") else named
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
                yield [gr.skip(), self._listed(), *self._state(here(kept)), (chosen, kept.id)]
                return
            choice = repo.choice(part)
            download = self.bench.downloads.add(
                name, choice.id, revision, choice.bytes, what="dataset"
            )
        except Refused as refused:
            stays = isinstance(refused, HubError) and refused.kind in AGAIN
            listed = gr.skip() if stays else self.other_name()
            yield [listed, gr.skip(), *self._state(self._refused(refused)), None]
            return
        yield [parts(repo, choice), gr.skip(), *self._state(), None]
        async for frame in self._to_its_end(download.id, chosen):
            yield frame

    async def resume(self, id: str, chosen: str | None) -> AsyncGenerator[list[Any], None]:
        """Go on with the one that was shown."""
        yield [*[gr.skip()] * 6, None]
        download = self._open(id)
        if download is None:
            yield [gr.skip(), gr.skip(), *self._state(), None]
            return
        self.bench.downloads.resume(id)
        async for frame in self._to_its_end(id, chosen):
            yield frame

    async def _to_its_end(self, id: str, chosen: str | None) -> AsyncGenerator[list[Any], None]:
        async for state, made in self._followed(id):
            if made:
                yield [gr.skip(), self._listed(), *state, (chosen, made.id)]
            else:
                yield [gr.skip(), gr.skip(), *state, None]

    def settle(self, chosen: str | None, made: tuple[str | None, str] | None) -> Any:
        """What came is chosen, unless another one was chosen meanwhile."""
        if made is None or chosen != made[0]:
            return gr.skip()
        return self.choices(made[1])

    def _listed(self) -> Any:
        """The list with what came; what is chosen in it stays."""
        return gr.Dropdown(choices=[(kept.name, kept.id) for kept in self.datasets.all()])

    async def cancel(self, id: str) -> list[Any]:
        download = self._open(id)
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
        return self._state(self.gone[download.id])

    async def watch(self) -> AsyncGenerator[list[Any], None]:
        """Whoever opens the tab sees the one that is under way, and finds it in the list then:
        what is chosen there meanwhile stays."""
        download = self.current()
        yield [gr.Accordion(open=True) if download else gr.skip(), *[gr.skip()] * 5]
        if download is None:
            return
        async for state, made in self._followed(download.id):
            yield [gr.skip(), self._listed() if made else gr.skip(), *state]

    # What is under way

    def current(self) -> Download | None:
        """The one that is shown: that which runs, else the newest one that is not done."""
        mine = [d for d in self.bench.downloads.listed() if d.what == "dataset" and d.open]
        return next((d for d in mine if d.state == "running"), mine[-1] if mine else None)

    def _open(self, id: str) -> Download | None:
        """The one of that id, unless it is done or gone by now."""
        return next((d for d in self.bench.downloads.listed() if d.id == id and d.open), None)

    async def _followed(self, id: str) -> AsyncGenerator[tuple[list[Any], Kept | None], None]:
        """The state at each change and once a second, until this one is done, rests or is gone; at
        last the dataset that it became."""
        before = ""
        known: Download | None = None
        async with contextlib.aclosing(self.bench.downloads.follow()) as following:  # type: ignore[type-var]
            async for listed in following:
                mine = next((d for d in listed if d.id == id), None)
                if self.gone.get(id) == "":
                    yield [gr.skip()] * 4, None
                    continue
                known = mine or known
                if mine is None or mine.state not in ("waiting", "running"):
                    break
                state = self._state()
                same, before = state[0] == before, state[0]
                yield ([gr.skip()] * 4 if same else state), None
        if id in self.gone:
            yield self._state(self.gone[id]), None
            return
        if mine is not None and mine.state != "done":
            yield self._state(), None
            return
        for _, made in await self.adopt(id):
            said = here(made) if isinstance(made, Kept) else self._refused(made)
            yield self._state(said), made if isinstance(made, Kept) else None
            return
        # Another page was quicker: by what was last seen of it, it is known again.
        kept = self._like(known) if known else None
        yield self._state(here(kept) if kept else ""), kept

    async def adopt(self, id: str = "") -> list[tuple[Download, Kept | Refused]]:
        """Make datasets of the downloads that are done (of `id` alone), or say why they cannot be.

        One that was refused stays for the next who looks, unless its files are gone.
        """
        found: list[tuple[Download, Kept | Refused]] = []
        async with self.adopting:
            for download in self.bench.downloads.listed():
                if download.what != "dataset" or download.open or id not in ("", download.id):
                    continue
                try:
                    found.append((download, await asyncio.to_thread(self._adopted, download)))
                except Refused as refused:
                    found.append((download, refused))
                    if not isinstance(refused, Gone):
                        continue
                self.bench.downloads.forget(download.id)
        return found

    async def opened(self) -> str:
        """What is to be said of those that are done and could not be made datasets; "" of none."""
        found = await self.adopt()
        return "".join(self._refused(made) for _, made in found if isinstance(made, Refused))

    def _adopted(self, download: Download) -> Kept:
        found = data_cache.here(download.name, download.commit, download.choice)
        if found is None:
            raise Gone(
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

    def _state(self, said: str = "") -> list[Any]:
        """`said`, and the one that is under way; its buttons act on that one."""
        download = self.current()
        said += told(download) if download else ""
        rests = download is not None and download.state in ("paused", "failed")
        word = "Try again" if download and download.state == "failed" else "Go on"
        cancelled = gr.Button(visible=download is not None)
        return [said, gr.Button(word, visible=rests), cancelled, download.id if download else ""]

    def _refused(self, refused: Refused) -> str:
        kind = refused.kind if isinstance(refused, HubError) else ""
        return problem(str(refused)) + (line(OFFLINE, "note") if kind == "offline" else "")


def written(text: str) -> str:
    """What was typed as a reference: a name, `hub:…`, or an address of a dataset's pages."""
    text = (text or "").strip().rstrip("/")
    for start in (f"{endpoint()}/datasets/", *PAGES):
        if text.startswith(start):
            path = text.removeprefix(start).partition("?")[0].partition("#")[0]
            owner, name, *rest = *path.split("/"), ""
            version = rest[1] if len(rest) > 1 and rest[0] in ("tree", "blob") else ""
            return f"hub:{owner}/{name}" + (f"@{version}" if version else "")
    return f"hub:{text.removeprefix('hub:')}"


def reference(name: str, commit: str, choice: str) -> str:
    """Which version and part a dataset is, as a job may name it."""
    return str(ModelRef("hub", name, commit, choice))


def parts(repo: Repo, chosen: Choice) -> Any:
    """The parts that it has, where there are several."""
    listed = [(f"{c.title} ({size(c.bytes)})", f"{repo.name}:{c.id}") for c in repo.choices]
    return gr.Dropdown(
        choices=listed, value=f"{repo.name}:{chosen.id}", label=f"Part of {repo.name}",
        visible=len(listed) > 1,
    )  # fmt: skip


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
