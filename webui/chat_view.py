"""A conversation as Gradio's Chatbot takes it, with what each answer took below it."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from webui.answers import Answer
from webui.model_picker import details, line, progress_bar
from webui.store import Message

STATES = {"stopped": "stopped", "failed": "failed"}


def chatbot_value(
    messages: Sequence[Message], running: Answer | None = None
) -> list[dict[str, Any]]:
    """All turns; the one that is being answered shows the text so far."""
    turns = []
    for message in messages:
        if message.role == "system":
            continue
        live = running if running and running.message == message.id else None
        text = live.text if live else message.text
        turns.append({"role": message.role, "content": text or ("…" if live else "")})
        foot = "" if live and not live.over else footer(message, live)
        if message.role == "assistant" and foot:
            turns[-1]["content"] += "\n\n" + foot
    return turns


def footer(message: Message, live: Answer | None = None) -> str:
    """Tokens, speed, time to first token; what went wrong, where something did."""
    usage = live.usage if live else message.usage
    state = live.state if live else message.state
    note = live.note if live else message.note
    parts = [STATES[state]] if state in STATES else []
    parts += usage_parts(usage)
    said = f'<span class="usage">{escape(" · ".join(parts))}</span>' if parts else ""
    told = f'<span class="told {state}">{escape(note)}</span>' if note else ""
    return "".join((told, "<br>" if told and said else "", said))


def usage_parts(usage: dict[str, Any]) -> list[str]:
    parts = []
    if tokens := usage.get("completion_tokens"):
        parts.append(f"{tokens} token{'' if tokens == 1 else 's'}")
    if speed := speed_of(usage):
        parts.append(f"{speed:.1f} tokens/s")
    if first := usage.get("first_token_seconds"):
        parts.append(f"first after {first:.2f} s")
    if prompt := usage.get("prompt_tokens"):
        parts.append(f"prompt {prompt}")
    if usage.get("finish_reason") == "length":
        parts.append("reached max new tokens")
    return parts


def speed_of(usage: dict[str, Any]) -> float:
    """Tokens per second of decoding: without the wait for the first token."""
    if usage.get("tokens_per_second"):
        return float(usage["tokens_per_second"])
    tokens, seconds = usage.get("completion_tokens") or 0, usage.get("seconds") or 0.0
    decoding = seconds - (usage.get("first_token_seconds") or 0.0)
    return (tokens - 1) / decoding if tokens > 1 and decoding > 0 else 0.0


def status_of(answer: Answer) -> str:
    """The line over the input, as HTML: position, loading, nothing while words arrive.

    What went wrong stands under the answer, for good; here are its details.
    """
    if answer.state == "failed":
        return details("Details of what went wrong", str(answer.usage.get("detail", "")))
    if answer.progress and not answer.over:
        return progress_bar(answer.progress, answer.status)
    if answer.note:
        return line(answer.note, "note")
    return line(answer.status, "note") if answer.status and not answer.over else ""
