"""Chat templates: from messages to the one text that a model continues.

The template is the model's own. It renders in a process of its own (`template_process.py`), since
it is a stranger's code.
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from backends.base import Refused

PROCESS = Path(__file__).with_name("template_process.py")
SECONDS = 3.0  # for one rendering; a real one takes milliseconds
MAX_CHARS = 500_000  # of a template; the longest in use have about 50,000
OTHER_MODEL = "Use another model, or a version of this one with a working chat template."

# For a model that brings none. It was not trained to chat, so there is no right answer.
PLAIN = (
    "{% for message in messages %}{{ message.role | capitalize }}: {{ message.content }}\n\n"
    "{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"
)
PLAIN_NOTE = (
    "This model brings no chat template, so it was not trained to chat. "
    "The conversation is sent to it as plain text."
)


class ChatTemplate:
    """One model's template. `close` ends its process.

    tokens: the special tokens that a template may name, such as `bos_token`.
    """

    def __init__(self, source: str, tokens: Mapping[str, str] | None = None) -> None:
        if len(source) > MAX_CHARS:
            raise Refused(
                f"The model's chat template is {len(source):,} characters long, more than "
                f"{MAX_CHARS:,}.",
                OTHER_MODEL,
            )
        self.plain = not source.strip()
        self.source = PLAIN if self.plain else source
        self.tokens = dict(tokens or {})
        self.process = self._start()  # now, so that it is there when the model is

    def render(self, messages: list[dict[str, Any]], tools: Sequence[dict[str, Any]] = ()) -> str:
        """The text that the model continues. Raises Refused where the template does not take it.

        Where the last message is the assistant's own, the text ends inside it. `tools` are
        functions as OpenAI describes them.
        """
        if tools and not self.has_tools:
            raise Refused(
                "This model's chat template has no tools.",
                "Leave them out, or use a model that was trained to call tools.",
            )
        going_on = messages[-1]["role"] == "assistant"
        answer = self._ask(messages, going_on, tools)
        if "error" in answer and messages[0]["role"] == "system" and len(messages) > 1:
            # Some models know no system role; what it says then opens the first message.
            folded = self._ask(_without_system(messages), going_on, tools)
            answer = folded if "text" in folded else answer
        if "error" in answer:
            raise Refused(f"The model's chat template failed: {answer['error']}.", OTHER_MODEL)
        text = answer["text"]
        if going_on:
            said = messages[-1]["content"].strip()
            text = text[: text.rindex(said) + len(said)] if said in text else text
        return text

    @functools.cached_property
    def has_tools(self) -> bool:
        """Whether the template tells the model of tools at all: seen in what it writes."""
        hello, name = [{"role": "user", "content": "x"}], "tool_of_a_test"
        parameters = {"type": "object", "properties": {}}
        tool = {"name": name, "description": "x", "parameters": parameters}
        shown = self._ask(hello, False, [{"type": "function", "function": tool}])
        return name in shown.get("text", "")

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()

    def _ask(
        self, messages: list[dict[str, Any]], going_on: bool, tools: Sequence[dict[str, Any]]
    ) -> dict[str, str]:
        values = {
            **self.tokens,
            "messages": messages,
            "add_generation_prompt": not going_on,
            "tools": list(tools) or None,
            "documents": None,
        }
        if self.process.poll() is not None:
            self.process = self._start()
        assert self.process.stdin and self.process.stdout
        try:
            request = {"template": self.source, "values": values}
            self.process.stdin.write(json.dumps(request).encode() + b"\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = b""
        if not line:
            self.close()
            raise Refused(
                f"The model's chat template did not finish within {SECONDS:.0f} s.", OTHER_MODEL
            )
        answer: dict[str, str] = json.loads(line)
        return answer

    def _start(self) -> subprocess.Popen[bytes]:
        keep = ("PATH", "SYSTEMROOT", "PYTHONPATH", "LD_LIBRARY_PATH")
        return subprocess.Popen(
            # A bare file name: whoever looks for workers on command lines does not find this.
            [sys.executable, "-P", PROCESS.name, str(SECONDS)],
            cwd=PROCESS.parent,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={k: os.environ[k] for k in keep if k in os.environ},
        )


def _without_system(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    system, first, *rest = messages
    return [{**first, "content": f"{system['content']}\n\n{first['content']}"}, *rest]
