"""A process of its own that calls the library in a loop, with nothing of ours in between.

`python -m benchmarks.direct MODEL MESSAGE TOKENS`. It loads the model as the worker does (same
file, same threads, same options), says so, and then makes one answer for each line it is sent:
xllamacpp's `handle_completions`, transformers' `generate`.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

from backends import BACKENDS
from backends.chat.params import ChatParams, Message
from benchmarks.starter import listed

Answer = tuple[list[float], str]  # when each token came (monotonic), and the text


def main() -> None:
    out = os.dup(1)
    os.dup2(2, 1)  # libraries print
    name, message, tokens = sys.argv[1], sys.argv[2], int(sys.argv[3])
    model = listed(name)
    card = BACKENDS[model.backend].card
    backend: Any = BACKENDS[model.backend]()
    backend.load(model.ref, card.load_options())
    asked = ChatParams(messages=(Message("user", message),), system=model.system)
    prompt = backend.template.render(asked.conversation())
    ways: dict[str, Callable[[Any, str, int], Answer]] = {
        "llama_cpp": through_llama_cpp,
        "transformers": through_transformers,
    }
    answer = ways[model.backend]
    answer(backend, prompt, 8)  # warm
    os.write(out, b'{"ready": true}\n')
    for _ in sys.stdin:
        began = time.monotonic()
        times, text = answer(backend, prompt, tokens)
        said = {
            "tokens": len(times),
            "first": times[0] - began,
            "decode": times[-1] - times[0],
            "text": text,
        }
        os.write(out, json.dumps(said).encode() + b"\n")


def through_llama_cpp(backend: Any, prompt: str, tokens: int) -> Answer:
    """Greedy, streamed to a callback."""
    times: list[float] = []
    pieces: list[str] = []

    def hear(chunk: dict[str, Any]) -> bool:
        choice = chunk["choices"][0]
        if choice["finish_reason"] is None:  # the last chunk repeats no token
            times.append(time.monotonic())
        pieces.append(choice["text"])
        return False

    request = {
        "prompt": prompt,
        "n_predict": tokens,
        "temperature": 0,
        "stream": True,
        "cache_prompt": False,  # as ours, which reads a short prompt whole
    }
    backend.server.handle_completions(request, hear)
    return times, "".join(pieces)


def through_transformers(backend: Any, prompt: str, tokens: int) -> Answer:
    """Greedy, streamed to a streamer that notes the time."""
    times: list[float] = []

    class Clock:
        """What `generate` calls with the prompt first, then with each token."""

        prompt = True

        def put(self, value: Any) -> None:
            if not self.prompt:
                times.append(time.monotonic())
            self.prompt = False

        def end(self) -> None:
            pass

    ids = backend.tokenizer(prompt, return_tensors="pt", add_special_tokens=False)
    ids = ids.to(backend.model.device)
    made = backend.model.generate(
        **ids, max_new_tokens=tokens, do_sample=False, streamer=Clock(),
        pad_token_id=backend.tokenizer.eos_token_id,
    )  # fmt: skip
    written = made[0][ids["input_ids"].shape[1] :]
    return times, backend.tokenizer.decode(written, skip_special_tokens=True)


if __name__ == "__main__":
    main()
