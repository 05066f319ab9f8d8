"""A conversation as Gradio's Chatbot takes it: the turns, what each took, and its buttons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

from backends.card.energy import in_words
from backends.models.adapters import adapter_title
from webui.answers import Answer
from webui.attachments import attachments_of
from webui.chat.buttons import buttons, control
from webui.chat.markdown import closed, drawable
from webui.model_picker import details, line, progress_bar
from webui.store import Message

STATES = {"stopped": "stopped", "failed": "failed"}


@dataclass(frozen=True)
class Shown:
    """One branch of a conversation, as far as it is shown.

    children: the ids behind each message ("": the first ones), from `Store.children`
    key: what a button must carry to be ours, see `webui.chat.buttons`
    """

    messages: Sequence[Message] = ()
    children: Mapping[str, Sequence[str]] = field(default_factory=dict)
    key: str = ""

    @property
    def tip(self) -> str:
        """The id of the last message; what is sent next goes behind it."""
        return self.messages[-1].id if self.messages else ""

    def versions(self, message: Message) -> Sequence[str]:
        """The ids of all that stand behind the same parent, this one among them."""
        return self.children.get(message.parent, ()) or (message.id,)

    @property
    def left_out(self) -> int:
        """How many of the oldest turns the last answer was not shown."""
        return next(
            (int(m.usage.get("dropped_messages", 0)) for m in reversed(self.messages) if m.usage), 0
        )


def chatbot_value(shown: Shown, running: Answer | None = None) -> list[dict[str, Any]]:
    """All turns; the one that is being answered shows the text so far, without buttons."""
    turns: list[dict[str, Any]] = []
    spoken = [m for m in shown.messages if m.role != "system"]
    for at, message in enumerate(spoken):
        live = running if running and running.message == message.id else None
        text = drawable(live.text if live else message.text, message.role == "assistant")
        if live and not live.over:
            turns.append({"role": message.role, "content": text or "…"})
            continue
        foot = [footer(message, live) if message.role == "assistant" else files(message)]
        if at < shown.left_out:
            foot.append('<span class="usage">left out: the context is full</span>')
        foot.append(buttons(shown, message, last=at == len(spoken) - 1) if shown.key else "")
        content = "\n\n".join(part for part in (closed(text), *foot) if part)
        turns.append({"role": message.role, "content": content})
    return turns


def files(message: Message) -> str:
    """The names of what was attached."""
    names = [
        f'<span class="file" title="{a.characters:,} characters">{escape(a.name)}</span>'
        for a in attachments_of(message.extra)
    ]
    return " ".join(names)


def attached_titles(message: Message) -> list[str]:
    """The adapters that an answer was given with, as people know them."""
    uses = (message.extra.get("settings") or {}).get("adapters") or []
    found = [(str(use.get("ref", "")), use.get("weight", 1.0)) for use in uses]
    return [adapter_title(ref) for ref, weight in found if ref and weight]


def footer(message: Message, live: Answer | None = None) -> str:
    """Its adapters, tokens, speed, time to first token; what went wrong, where something did."""
    usage = live.usage if live else message.usage
    state = live.state if live else message.state
    note = live.note if live else message.note
    parts = [STATES[state]] if state in STATES else []
    parts += ["edited"] if message.edited_from else []
    parts += [f"+ {title}" for title in attached_titles(message)]
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
    if (energy := usage.get("energy_wh")) is not None:
        parts.append(in_words(float(energy)))
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


def meter(shown: Shown) -> str:
    """How full the context is after the last answer: "812 of 2,048 tokens", with a bar."""
    usage = next((m.usage for m in reversed(shown.messages) if m.usage.get("context_length")), {})
    context = int(usage.get("context_length") or 0)
    if not context:
        return ""
    used = int(usage.get("prompt_tokens") or 0) + int(usage.get("completion_tokens") or 0)
    share = min(100.0, 100 * used / context)
    left = f" · {shown.left_out} oldest messages left out" if shown.left_out else ""
    return (
        f'<div class="meter{" full" if share > 85 or left else ""}" title="What the model had '
        f'before it, out of what it can read at once"><span class="bar"><i style="width:'
        f'{share:.0f}%"></i></span>{used:,} of {context:,} tokens{left}</div>'
    )


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


def deleted_line(message: str, key: str) -> str:
    """What stands over the input after a message was deleted, with the way back."""
    undo = control("undo", message, "Undo", "Bring it back")
    return (
        f'<div class="line note acts {key}">The message and what followed it are gone. {undo}</div>'
    )
