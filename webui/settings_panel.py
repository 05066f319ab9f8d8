"""The cog in the header and its dialog: settings, allowed folders, hub token, the disk."""

from __future__ import annotations

import asyncio
from html import escape
from typing import Any

import gradio as gr

from backends.base import Refused
from webui.bench import Bench
from webui.finetune import in_use
from webui.form import Form, build_form
from webui.model_picker import line, problem
from webui.models.token import build_token, token_line
from webui.models.view import size
from webui.opening import when_open
from webui.places import clear_made, places
from webui.settings import Settings

NOW: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
APPLY = "(theme) => { window.werkbankTheme?.(theme); return theme; }"
FOLDERS_JS = """
element.addEventListener('click', (event) => {
  const button = event.target.closest('[data-folder]');
  if (button) trigger('forbid', { folder: button.dataset.folder });
});
document.addEventListener('keydown', (event) => {
  const shown = event.key === 'Escape' && element.offsetParent;
  if (shown) document.querySelector('#settings-close')?.click();
});
"""
ASK = """() => confirm('Clear what Werkbank made and can make again?\\n'
  + 'The first load of a converted model then takes longer. Nothing of yours is deleted.')
  ? 'yes' : ''"""


def build_settings(bench: Bench) -> None:
    """The button; the dialog is over the page and closed at first."""
    cog = gr.Button("⚙", elem_id="settings-open", min_width=36)
    with gr.Group(visible=False, elem_id="settings-dialog", elem_classes="panel") as dialog:
        gr.HTML("<h3>Settings</h3>")
        form = build_form(Settings, prefix="settings", values=vars(bench.settings.value))
        said = gr.HTML(elem_id="settings-said")
        with gr.Row(elem_classes="buttons"):
            save = gr.Button("Save", variant="primary", size="sm", elem_id="settings-save")
            close = gr.Button("Close", size="sm", elem_id="settings-close")
        with gr.Accordion("Folders with models", open=True):
            folders = gr.HTML(js_on_load=FOLDERS_JS, elem_id="settings-folders")
            with gr.Row(elem_classes="buttons"):
                typed = gr.Textbox(
                    show_label=False, label="Folder", placeholder="The whole path of a folder",
                    max_lines=1, container=False, scale=4, elem_id="settings-folder",
                )  # fmt: skip
                allow = gr.Button("Allow", size="sm", elem_id="settings-allow")
        token = build_token("settings")
        with gr.Accordion("On the disk", open=True):
            disk = gr.HTML(elem_id="settings-disk")
            with gr.Row(elem_classes="buttons"):
                clear = gr.Button(
                    "Clear what can be made again", size="sm", elem_id="settings-clear"
                )
        sure, theme = gr.Textbox(visible=False), gr.Textbox(visible=False)
    handlers = Handlers(bench, form)
    opened = [dialog, said, folders, token.status, *form.components]
    cog.click(handlers.open, None, opened, **NOW).then(handlers.disk, None, disk, **NOW)
    close.click(lambda: gr.Group(visible=False), None, dialog, **NOW)
    save.click(handlers.save, list(form.components), [said, theme], **NOW)
    theme.change(None, theme, theme, js=APPLY)
    when_open(lambda: bench.settings.value.theme, None, theme, **NOW)
    gr.on(
        [allow.click, typed.submit], handlers.allow, typed, [said, folders, typed], **NOW
    )  # fmt: skip
    folders.forbid(handlers.forbid, None, [said, folders], **NOW)
    clear.click(None, sure, sure, js=ASK).then(handlers.clear, sure, [said, sure], **NOW).then(
        handlers.disk, None, disk, **NOW
    )


class Handlers:
    def __init__(self, bench: Bench, form: Form) -> None:
        self.bench, self.form = bench, form

    async def open(self) -> list[Any]:
        kept = self.bench.settings
        notice = problem(kept.notice) if kept.notice else ""
        values = self.form.fill(vars(kept.value))
        return [gr.Group(visible=True), notice, self.folders(), token_line(), *values]

    async def save(self, *values: Any) -> tuple[str, Any]:
        given = dict.fromkeys(self.form.names) | self.form.read(values)  # an empty box is None
        try:
            changed = await asyncio.to_thread(lambda: self.bench.settings.change(**given))
        except Refused as refused:
            return problem(str(refused)), gr.skip()
        return line("Saved.", "good"), changed.theme

    def folders(self) -> str:
        kept = self.bench.settings.value.folders
        if not kept:
            own = escape(str(self.bench.home / "models"))
            return line(f"Only Werkbank's own, {own}. Allow others where you keep models.", "note")
        rows = "".join(
            f"<li><span>{escape(f)}</span>"
            f'<button type="button" data-folder="{escape(f)}">Remove</button></li>'
            for f in kept
        )
        return f'<ul class="folders">{rows}</ul>'

    async def allow(self, typed: str) -> tuple[str, str, str]:
        try:
            kept = await asyncio.to_thread(self.bench.settings.allow, typed)
        except Refused as refused:
            return problem(str(refused)), self.folders(), typed
        told = line(f"Models in {kept.folders[-1]} are in the lists now.", "good")
        return told, self.folders(), ""

    async def forbid(self, event: gr.EventData) -> tuple[str, str]:
        folder = str((event._data or {}).get("folder", ""))
        try:
            await asyncio.to_thread(self.bench.settings.forbid, folder)
        except Refused as refused:
            return problem(str(refused)), self.folders()
        return line("Removed from the list; nothing in it was changed.", "note"), self.folders()

    async def disk(self) -> str:
        found = await asyncio.to_thread(places, self.bench.home)
        rows = "".join(
            f'<tr><td>{p.title}<br><span class="line note">{escape(str(p.path))}</span></td>'
            f"<td>{size(p.bytes)}</td></tr>"
            for p in found
        )
        return f'<table class="places">{rows}</table>'

    async def clear(self, sure: str) -> tuple[Any, str]:
        if sure != "yes":
            return gr.skip(), ""
        try:
            training = await asyncio.to_thread(in_use.bases, self.bench)
            back = await asyncio.to_thread(clear_made, [*self.bench.loaded_refs(), *training])
        except Refused as refused:
            return problem(str(refused)), ""
        return line(f"{size(back)} came back.", "good"), ""
