"""The hub token's field: set, check, remove. The token itself is never shown again."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import gradio as gr

from backends.base import Refused
from backends.models import hub_token
from backends.models.hub_http import TOKENS
from webui.model_picker import line, problem

NONE = (
    "None. It is only needed for models with terms to accept. "
    f'<a href="{TOKENS}" target="_blank" rel="noopener noreferrer">Make one</a> of the kind “Read”.'
)
QUIET: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}


@dataclass(frozen=True)
class TokenField:
    status: Any
    box: Any

    def shown(self) -> list[Any]:
        return [self.status, self.box]


def token_line() -> str:
    shown = hub_token.shown()
    if not shown:
        return f'<div class="line note">{NONE}</div>'
    return line(f"Kept: {shown}. Only this computer has it.", "good")


def build_token(prefix: str) -> TokenField:
    with gr.Group(elem_classes="panel token"):
        box = gr.Textbox(
            label="Hub token", type="password", placeholder="hf_…", max_lines=1,
            elem_id=f"{prefix}-token", html_attributes=gr.InputHTMLAttributes(autocomplete="off"),
        )  # fmt: skip
        status = gr.HTML(token_line(), elem_id=f"{prefix}-token-status")
        with gr.Row(elem_classes="buttons"):
            keep = gr.Button("Keep", size="sm", elem_id=f"{prefix}-token-keep")
            check = gr.Button("Check", size="sm", elem_id=f"{prefix}-token-check")
            remove = gr.Button("Remove", size="sm", elem_id=f"{prefix}-token-remove")
    outputs = [status, box]
    keep.click(keep_token, box, outputs, **QUIET)
    box.submit(keep_token, box, outputs, **QUIET)
    check.click(check_token, None, status, **QUIET)
    remove.click(remove_token, None, outputs, **QUIET)
    return TokenField(status, box)


async def keep_token(token: str) -> tuple[str, str]:
    try:
        await asyncio.to_thread(hub_token.save, token)
    except Refused as refused:
        return problem(str(refused)), ""
    return token_line(), ""


async def check_token() -> str:
    try:
        account = await asyncio.to_thread(hub_token.check)
    except Refused as refused:
        return problem(str(refused))
    return line(f"The hub knows it: it belongs to {account}.", "good")


async def remove_token() -> tuple[str, str]:
    try:
        await asyncio.to_thread(hub_token.remove)
    except Refused as refused:
        return problem(str(refused)), ""
    return token_line(), ""
