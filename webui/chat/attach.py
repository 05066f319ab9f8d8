"""Files beside the message: read, counted, shown as chips until they are sent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from backends.base import Refused
from webui.attachments import Attachment, as_prompt, attachments_of, clean_name, read_attachment
from webui.bench import Bench
from webui.chat.buttons import control
from webui.form import Form
from webui.model_picker import Picker, problem

MOST = 8  # files in one message
CHARACTERS_PER_TOKEN = 4  # about, in English text and code, where no model is there to count


@dataclass(frozen=True)
class Attach:
    """`files` holds what was read and not sent yet, as dicts that a message keeps too."""

    bench: Bench
    button: Any
    files: Any
    chips: Any
    key: str

    def shown(self) -> list[Any]:
        return [self.files, self.chips]

    def read(self, files: Any) -> tuple[Attachment, ...]:
        return attachments_of({"attachments": files})

    def emptied(self) -> dict[Any, Any]:
        return {self.files: [], self.chips: ""}

    def without(self, files: Any, at: str) -> dict[Any, Any]:
        """The files but for the one whose ✕ was pressed."""
        left = [f for i, f in enumerate(files or []) if str(i) != at]
        return {self.files: left, self.chips: self.html(left)}

    def html(self, files: Sequence[dict[str, Any]]) -> str:
        if not files:
            return ""
        chips = []
        for i, one in enumerate(files):
            tokens = one.get("tokens") or 0
            size = f"{tokens:,} tokens" if tokens else f"about {about(one):,} tokens"
            note = f" · {one['note']}" if one.get("note") else ""
            drop = control("unattach", str(i), "✕", "Do not send it")
            chips.append(f'<span class="file" title="{escape(str(one.get("name")))}">'
                         f"{escape(str(one.get('name')))} <small>{size}{escape(note)}</small> "
                         f"{drop}</span>")  # fmt: skip
        return f'<div class="files acts {self.key}">{"".join(chips)}</div>'

    def wire(self, picker: Picker, form: Form, status: Any) -> None:
        async def add(
            request: gr.Request, paths: list[str], files: list[Any], *values: Any
        ) -> dict[Any, Any]:
            read, wrong = list(files or []), ""
            room = max(0, MOST - len(read))
            for path in (paths or [])[:room]:
                try:
                    read.append(await self._read(Path(path), picker, form, values))
                except (Refused, ValueError) as error:
                    wrong += problem(str(error))
            if more := [clean_name(Path(path).name) for path in (paths or [])[room:]]:
                wrong += problem(
                    f"A message takes {MOST} files. Send these first, then: {', '.join(more)}."
                )
            return {self.files: read, self.chips: self.html(read), status: wrong}

        self.button.upload(
            add, [self.button, self.files, *picker.inputs, *form.components],
            [self.files, self.chips, status], api_visibility="private",
        )  # fmt: skip

    async def _read(
        self, path: Path, picker: Picker, form: Form, values: tuple[Any, ...]
    ) -> dict[str, Any]:
        """Raises Refused for what is no text, and for what the loaded model cannot take."""
        one = await read_attachment(path, self.bench.temp)
        listed, _ = picker.chosen(values[: len(picker.inputs)])
        settings = form.read(values[len(picker.inputs) :])
        message = {"role": "user", "content": as_prompt([one], "")}
        tokens, context = await self.bench.count_tokens(
            listed, {**settings, "messages": [message]}, "owner:count"
        )
        if context and tokens >= context:
            raise Refused(
                f"{one.name} makes {tokens:,} tokens, and the model reads {context:,} at once.",
                "Attach a part of it, or load the model with a longer context.",
            )
        return {**one.as_dict(), "tokens": tokens}


def about(one: dict[str, Any]) -> int:
    return max(1, len(str(one.get("text", ""))) // CHARACTERS_PER_TOKEN)


def build_attach(bench: Bench, key: str) -> Attach:
    """The chips stand where this is called; `button` is to be rendered beside the box."""
    chips = gr.HTML(elem_id="chat-files")
    files = gr.State([])
    button = gr.UploadButton(
        "Attach", size="sm", file_count="multiple", elem_id="chat-attach", render=False,
        min_width=70,
    )  # fmt: skip
    return Attach(bench, button, files, chips, key)
