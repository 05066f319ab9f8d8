"""The process that renders chat templates: a hostile one can end it, and nothing else.

A template comes with the model and is code. Jinja2's sandbox keeps it from running other code,
but not from looping for ever or from filling the memory, so it renders here, with a clock that
needs no GIL and a limit on memory. One JSON object in, one out, a line each; end of input ends it.
Started by `template.py`; imports nothing of Werkbank.
"""

from __future__ import annotations

import datetime
import faulthandler
import functools
import json
import os
import sys
from typing import Any

import jinja2
import jinja2.ext
import jinja2.sandbox

MEMORY_BYTES = 512 * 2**20  # of address space
TEXT_CHARS = 16 * 2**20


class GenerationTag(jinja2.ext.Extension):
    """`{% generation %}…{% endgeneration %}` marks what is trained on: here it marks nothing."""

    tags = {"generation"}

    def parse(self, parser: jinja2.parser.Parser) -> list[jinja2.nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


@functools.lru_cache(maxsize=4)
def compiled(source: str) -> jinja2.Template:
    """The template in the surroundings that models expect: those of transformers."""
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[GenerationTag, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = to_json
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(form)
    return environment.from_string(source)


def to_json(value: Any, ensure_ascii: bool = False, indent: int | None = None, **other: Any) -> str:
    """JSON as it is: jinja2's own filter would escape it for HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **other)


def raise_exception(message: str) -> None:
    """How a template says that it does not take these messages."""
    raise jinja2.TemplateError(str(message))


def answer(request: dict[str, Any]) -> dict[str, str]:
    """{"text": …}, or {"error": …} with what the template complained of."""
    try:
        text = compiled(request["template"]).render(**request["values"])
    except MemoryError:
        return {"error": "it needs more memory than a chat template may take"}
    except Exception as error:  # whatever a stranger's template raises
        return {"error": str(error)[:500].rstrip(".") or type(error).__name__}
    if len(text) > TEXT_CHARS:
        return {"error": f"it wrote {len(text):,} characters"}
    return {"text": text}


def limit_memory() -> None:
    """A hard limit, where the system keeps it. Elsewhere the clock alone has to do."""
    if sys.platform == "linux":
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))


def main() -> None:
    limit_memory()
    seconds = float(sys.argv[1])
    out, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    for line in sys.stdin.buffer:
        # Watched by a C thread that needs no GIL and ends the process.
        faulthandler.dump_traceback_later(seconds, exit=True, file=nowhere)
        reply = answer(json.loads(line))
        faulthandler.cancel_dump_traceback_later()
        data = json.dumps(reply).encode() + b"\n"
        while data:
            data = data[os.write(out, data) :]


if __name__ == "__main__":
    main()
