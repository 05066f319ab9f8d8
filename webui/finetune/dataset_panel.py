"""The dataset of the Fine-tune tab: dropped, recognised, found fault with, repaired."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any

import gradio as gr

from backends.base import Refused
from webui.bench import Bench
from webui.finetune import in_use, view
from webui.finetune.columns_panel import ColumnsPanel
from webui.finetune.datasets import EXAMPLE, Datasets, Kept
from webui.finetune.hub_panel import HubPanel
from webui.finetune.looking import Look, look
from webui.finetune.saving_panel import SavingPanel
from webui.finetune.tokens_panel import TokensPanel
from webui.finetune.validation_panel import ValidationPanel
from webui.model_picker import line, problem, progress_bar, tab_of

ENDINGS = [".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".parquet", ".txt", ".md", ".zip"]
QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
NOW: dict[str, Any] = {"queue": False, **QUIET}
BLANKS = 6  # placeholders that have a box at once; the next ones come when these are filled


class DatasetPanel:
    """The handlers. The dropdown says which dataset is chosen, everything else is on the disk.

    `place` draws the controls, `place_view` what is known of the dataset, `wire` joins them.
    `chosen` is the dropdown; each event in `looked` ends when a look at a dataset is over.
    """

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        folders = bench.settings
        self.datasets = Datasets(bench.home, lambda: [Path(f) for f in folders.value.folders])
        self.hub = HubPanel(bench, self.datasets)
        self.columns = ColumnsPanel(self.datasets)
        self.tokens = TokensPanel(bench, self.datasets)
        self.saving = SavingPanel(bench, self.datasets)
        self.validation = ValidationPanel(self.datasets)

    def place(self) -> None:
        with gr.Group(elem_classes="panel"):
            self.dropped = gr.File(
                label="Drop a dataset, up to 2 GB", height=110, file_types=ENDINGS,
                elem_id="finetune-drop",
            )  # fmt: skip
            with gr.Row(elem_classes="buttons"):
                self.example = gr.Button("Use the example", size="sm", elem_id="finetune-example")
            self.chosen = gr.Dropdown(
                [], label="Dataset", interactive=True, elem_id="finetune-dataset"
            )
            with gr.Row(elem_classes="buttons", visible=False) as self.repairs:
                self.singled = gr.Button("Drop duplicates", size="sm", elem_id="finetune-single")
                self.neared = gr.Button("Drop near-duplicates", size="sm", elem_id="finetune-near")
                self.saving.place()
                self.undone = gr.Button("Undo", size="sm", elem_id="finetune-undo")
                self.deleted = gr.Button("Delete", size="sm", elem_id="finetune-delete")
            self.gone = gr.State("")  # what was deleted last on this page
            with gr.Row(elem_classes="buttons"):
                self.restored = gr.Button(
                    "Bring it back", size="sm", visible=False, elem_id="finetune-restore"
                )
            self.validation.place()
            with gr.Accordion("It lies on this computer", open=False):
                self.path = gr.Textbox(
                    label="File or folder", max_lines=1, elem_id="finetune-path",
                    placeholder="In a folder that the settings allow; it is not copied",
                )  # fmt: skip
                self.used = gr.Button("Use it", size="sm", elem_id="finetune-use")
            self.hub.place()
        self.said = gr.HTML(elem_id="finetune-said")
        self.saving.place_said()
        with gr.Group(elem_classes="panel", visible=False, elem_id="finetune-blanks") as blanks:
            self.boxes = [gr.Textbox(visible=False, max_lines=1) for _ in range(BLANKS)]
            self.filled = gr.Button(
                "Fill in", size="sm", variant="primary", elem_id="finetune-fill"
            )
        self.blanks = blanks

    def place_view(self) -> None:
        self.drawn = gr.State("")  # which dataset, read how, the fields were filled for
        self.told = gr.HTML(view.NOTHING_YET, elem_id="finetune-told")
        self.columns.place()
        self.tokens.place()
        self.rows = gr.HTML(elem_id="finetune-rows")

    def wire(self) -> None:
        chosen, said = self.chosen, self.said
        shown = [self.drawn, said, self.told, self.rows, self.repairs, self.singled, self.neared,
                 *self._fields()]  # fmt: skip
        more: dict[str, Any] = {"trigger_mode": "multiple", **QUIET}
        looks: list[Any] = []

        def then_look(event: Any) -> None:
            looks.append(event.then(self.look, [chosen, self.drawn], shown, **more))

        if tab := tab_of(gr.context.Context.block):
            then_look(
                tab.select(self.refresh, chosen, [chosen, self.hub.fold, self.hub.said], **NOW)
            )
        looks.append(chosen.input(self.look, [chosen, self.drawn], shown, **more))
        added = [chosen, said, self.dropped]
        then_look(self.dropped.upload(self.drop, self.dropped, added, **QUIET))
        then_look(self.example.click(self.take_example, None, added, **QUIET))
        then_look(gr.on([self.used.click, self.path.submit], self.use, self.path, added, **QUIET))
        self.hub.wire(tab, chosen, self._choices, then_look)
        then_look(self.filled.click(self.fill, [chosen, *self.boxes], said, **NOW))
        then_look(self.singled.click(self.single, chosen, said, **NOW))
        then_look(self.neared.click(self.single_near, chosen, said, **NOW))
        then_look(self.undone.click(self.undo, chosen, said, **NOW))
        left = [chosen, said, self.gone, self.restored]
        then_look(self.deleted.click(self.delete, chosen, left, **NOW))
        then_look(self.restored.click(self.restore, self.gone, left, **NOW))

        def changed(listen: Any, do: Callable[..., None], inputs: list[Any]) -> None:
            def change(id: str | None, *values: Any) -> str:
                return self._change(id, lambda kept: do(kept, *values))

            then_look(listen(change, inputs, said, **NOW))

        self.columns.wire(chosen, changed, NOW)
        self.validation.wire(chosen, changed)
        self.saving.button.click(self.save, chosen, [chosen, self.saving.said], **QUIET)
        self.looked = looks
        self.tokens.wire(chosen, QUIET)

    # Which

    async def refresh(self, id: str | None) -> list[Any]:
        said = await self.hub.opened()
        refused = [gr.Accordion(open=True), said] if said else [gr.skip(), gr.skip()]
        return [self._choices(id), *refused]

    def _choices(self, id: str | None) -> Any:
        kept = self.datasets.all()
        known = [k.id for k in kept]
        value = id if id in known else known[0] if known else None
        return gr.Dropdown(choices=[(k.name, k.id) for k in kept], value=value)

    async def drop(self, file: str | None) -> list[Any]:
        if not file:
            return [gr.skip(), gr.skip(), gr.skip()]
        return await self._added(lambda: self.datasets.take(Path(file), self.bench.temp))

    async def take_example(self) -> list[Any]:
        """The example that comes with Werkbank: the copy that is here already, else a new one."""
        return await self._added(lambda: self.datasets.like(EXAMPLE) or self.datasets.copy(EXAMPLE))

    async def use(self, text: str) -> list[Any]:
        if not text.strip():
            return [gr.skip(), problem("No file is named. Write where it lies."), gr.skip()]
        return await self._added(lambda: self.datasets.point(text))

    async def _added(self, add: Callable[[], Kept]) -> list[Any]:
        try:
            kept = await asyncio.to_thread(add)
        except Refused as refused:
            return [gr.skip(), problem(str(refused)), None]
        return [self._choices(kept.id), "", None]

    async def save(self, id: str | None) -> AsyncGenerator[list[Any], None]:
        """The repaired set as a new one in the list. Another may be chosen by now: that stays."""
        yield [gr.skip(), ""]
        async with contextlib.aclosing(self.saving.save(id)) as saving:
            async for said, made in saving:
                names = [(k.name, k.id) for k in self.datasets.all()] if made else []
                yield [gr.Dropdown(choices=names) if made else gr.skip(), said]

    # What it is

    async def look(self, id: str | None, drawn: str) -> AsyncGenerator[list[Any], None]:
        """Fields are filled once for each change: what is typed or chosen there meanwhile stays,
        and so does what was said where a change was refused."""
        unchanged: list[Any] = [gr.skip()] * len(self._fields())
        try:
            kept = self.datasets.get(id or "")
        except Refused:
            gone = ["", gr.skip(), view.NOTHING_YET, "", gr.Row(visible=False), gr.skip()]
            hidden = [
                *self.validation.hidden(), *self.columns.hidden(), *self.tokens.fresh(None)
            ]  # fmt: skip
            yield [*gone, gr.skip(), *hidden, *self._boxes({})]
            return
        key = f"{kept.id} {kept.how!r}"
        columns = began = quiet = key == drawn
        at = len(self._fields()) - 1 - BLANKS
        async for found in look(self.bench, self.datasets, kept):
            about, report = found.said.get("dataset"), found.said.get("report")
            filled = unchanged.copy()
            if about and not columns:
                filled[:at] = [
                    *self.validation.shown(kept), *self.columns.shown(kept, about),
                    *self.tokens.fresh(about),
                ]  # fmt: skip
            filled[at:] = self._boxes(report["placeholders"] if report else {}, not began)
            began, columns = True, columns or bool(about)
            quiet = quiet and not (found.progress or found.problem)
            shown = self._drawn(found, about, report)
            yield [key, gr.skip() if quiet else shown[0], *shown[1:], *filled]

    def _fields(self) -> list[Any]:
        """What can be typed into or opened."""
        return [
            *self.validation.outputs, *self.columns.outputs, *self.tokens.outputs, self.blanks,
            *self.boxes,
        ]  # fmt: skip

    def _drawn(
        self, found: Look, about: dict[str, Any] | None, report: dict[str, Any] | None
    ) -> list[Any]:
        said = problem(found.problem, found.detail) if found.problem else ""
        if found.progress:
            said = progress_bar(found.progress, "Checking every row")
        told = rows = ""
        if about:
            told, rows = view.head(about, report), view.rows(about)
        if report:
            told += view.verdict(report)
        if lengths := found.said.get("lengths"):
            told += view.lengths(lengths)
        kinds = {f["kind"] for f in report["findings"]} if report else set()
        return [
            said, told, rows, gr.Row(visible=True), gr.Button(visible="duplicate" in kinds),
            gr.Button(visible="near_duplicate" in kinds),
        ]  # fmt: skip

    def _boxes(self, names: dict[str, int], fresh: bool = True) -> list[Any]:
        """One box for each placeholder. Said anew with each state, as Gradio sometimes loses the
        first of two that come at once; emptied only where it is `fresh`."""
        empty = {"value": ""} if fresh else {}
        shown: list[Any] = [gr.Group(visible=bool(names))]
        for name, count in list(names.items())[:BLANKS]:
            label = f"{{{{{name}}}}} in {count:,} rows"
            shown.append(gr.Textbox(visible=True, label=label, **empty))
        return shown + [gr.Textbox(visible=False, **empty)] * (1 + BLANKS - len(shown))

    # Repairing

    def fill(self, id: str | None, *values: str) -> Any:
        def change(kept: Kept) -> None:
            names = list(kept.said.get("report", {}).get("placeholders", {}))[:BLANKS]
            filled = {n: v for n, v in zip(names, values, strict=False) if v.strip()}
            if not filled:
                raise Refused("No box is filled.", "Write what shall stand there.")
            self._step(kept, {"do": "fill", "values": filled})

        return self._change(id, change)

    def single(self, id: str | None) -> Any:
        return self._change(id, lambda kept: self._step(kept, {"do": "drop_duplicates"}))

    def single_near(self, id: str | None) -> Any:
        step = {"do": "drop_duplicates", "near": True}
        return self._change(id, lambda kept: self._step(kept, step))

    def undo(self, id: str | None) -> Any:
        def change(kept: Kept) -> None:
            if not kept.before:
                raise Refused("There is nothing to undo.", "The dataset is as it was dropped.")
            self.datasets.undo(kept.id)

        return self._change(id, change)

    def _step(self, kept: Kept, step: dict[str, Any]) -> None:
        self.datasets.change(kept.id, steps=(*kept.how.steps, step))

    def _change(self, id: str | None, change: Callable[[Kept], None]) -> str:
        try:
            change(self.datasets.get(id or ""))
        except (Refused, ValueError) as refused:
            return problem(str(refused))
        return ""

    def delete(self, id: str | None) -> list[Any]:
        try:
            in_use.check_dataset(self.bench, self.datasets.folder.resolve() / (id or " "))
            self.validation.check_free(id or "")
            kept = self.datasets.delete(id or "")
        except Refused as refused:
            return [gr.skip(), problem(str(refused)), gr.skip(), gr.skip()]
        back = gr.Button(f"Bring back {kept.name}", visible=True)
        return [self._choices(None), line(f"{kept.name} is deleted.", "note"), kept.id, back]

    def restore(self, id: str) -> list[Any]:
        try:
            self.datasets.restore(id)
        except Refused as refused:
            return [gr.skip(), problem(str(refused)), gr.skip(), gr.Button(visible=False)]
        return [self._choices(id), "", "", gr.Button(visible=False)]
