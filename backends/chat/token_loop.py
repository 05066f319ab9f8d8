"""The loop that writes an answer with a transformers model: one forward pass a token.

Our own, and not `generate`: it can stop while it reads a prompt, it keeps what it has read for
the next turn of a conversation, and closing it ends it at once.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from backends.chat.json_answer import JsonAnswer
from backends.chat.params import ChatParams
from backends.events import Progress


@dataclass
class Kept:
    """What the model has read. Of `ids`, the first `exact` were read in whole chunks.

    The same text read in other pieces gives numbers that differ in the last bits, and a seed
    would then draw other words. So with a given seed only the exact part is used again.
    """

    ids: list[int]
    past: Any
    exact: int


class TokenLoop:
    """One model's loop. `chunk` is how many prompt tokens it reads between two looks at Stop.

    `scores` (vocabulary,) are those that the last token was drawn from, as the model gave them.
    """

    def __init__(self, model: Any, ends: set[int], chunk: int) -> None:
        self.model, self.ends, self.chunk = model, ends, chunk
        self.kept: Kept | None = None
        self.scores: Any = None
        accepted = inspect.signature(model.forward).parameters
        self.only_last = {"logits_to_keep": 1} if "logits_to_keep" in accepted else {}

    def tokens(
        self,
        prompt: list[int],
        params: ChatParams,
        seed: int,
        limit: int,
        cancelled: Callable[[], bool],
        json_answer: JsonAnswer | None = None,
    ) -> Iterator[int | Progress]:
        """Token by token, the end token included. Before the first, Progress over the prompt."""
        kept = self._reuse(prompt, exactly=params.seed >= 0 and params.temperature > 0)
        self.kept = None  # should this fail half-way, nothing of it is used again
        sampler = Sampler(self.model.device, params, seed, prompt, json_answer)
        try:
            yield from self._write(kept, prompt, sampler, limit, cancelled)
        except GeneratorExit:
            self.kept = kept
            raise
        self.kept = kept

    def _write(
        self,
        kept: Kept,
        prompt: list[int],
        sampler: Sampler,
        limit: int,
        cancelled: Callable[[], bool],
    ) -> Iterator[int | Progress]:
        while len(kept.ids) < len(prompt):
            if cancelled():
                return
            logits = self._read_chunk(kept, prompt)
            if len(prompt) > self.chunk:
                yield Progress(len(kept.ids), len(prompt), "reading the prompt")
        for step in range(limit):
            self.scores = logits
            token = sampler.draw(logits)
            yield token
            if token in self.ends or step == limit - 1 or cancelled():
                return
            logits = self._forward([token], kept)

    def warm_up(self) -> None:
        """Read one token and forget it: the weights come off the disk, the libraries get ready."""
        self._forward([min(self.ends, default=0)], Kept([], None, 0))

    def forget(self) -> None:
        """Drop all that lies beside the weights; it is made again when it is needed."""
        self.kept = self.scores = None

    def _read_chunk(self, kept: Kept, prompt: list[int]) -> Any:
        at = len(kept.ids)
        end = min(at + self.chunk - at % self.chunk, len(prompt))
        if at == kept.exact and end % self.chunk == 0:
            kept.exact = end
        return self._forward(prompt[at:end], kept)

    def _forward(self, ids: list[int], kept: Kept) -> Any:
        """Read `ids`; the scores for the token that follows."""
        import torch

        with torch.inference_mode():
            out = self.model(
                input_ids=torch.tensor([ids], device=self.model.device),
                past_key_values=kept.past,
                use_cache=True,
                **self.only_last,
            )
        kept.past = out.past_key_values
        kept.ids.extend(ids)
        return out.logits[0, -1]

    def _reuse(self, prompt: list[int], exactly: bool) -> Kept:
        """What is already read of `prompt`; at least its last token is always read again."""
        kept = self.kept
        if kept is None or kept.past is None:
            return Kept([], None, 0)
        same = 0
        for a, b in zip(kept.ids, prompt[:-1], strict=False):
            if a != b:
                break
            same += 1
        if exactly:
            same = min(same, kept.exact) // self.chunk * self.chunk
        surplus = len(kept.ids) - same
        if same == 0 or (surplus and not _can_shorten(kept.past, self.model)):
            return Kept([], None, 0)
        if surplus:
            kept.past.crop(-surplus)
        return Kept(kept.ids[:same], kept.past, min(kept.exact, same // self.chunk * self.chunk))


def _can_shorten(past: Any, model: Any) -> bool:
    """Recurrent states and full sliding windows cannot go back."""
    if getattr(model, "_is_stateful", False):
        return False
    for layer in getattr(past, "layers", [None]):
        if not getattr(layer, "is_croppable", False):
            return False
        if layer.is_sliding and layer.get_seq_length() >= layer.sliding_window:
            return False
    return True


class Sampler:
    """Draws the next token. The filters and their order are llama.cpp's: the same settings mean
    the same with either library."""

    def __init__(
        self,
        device: Any,
        params: ChatParams,
        seed: int,
        prompt: list[int],
        json_answer: JsonAnswer | None = None,
    ) -> None:
        import torch

        self.params, self.json_answer = params, json_answer
        self.random = torch.Generator(device).manual_seed(seed)
        self.penalises = (
            params.repetition_penalty != 1 or params.frequency_penalty or params.presence_penalty
        )
        self.prompt = torch.tensor(prompt if self.penalises else [], dtype=torch.long)
        self.used: Any = None  # (vocabulary,): how often each token was used

    def draw(self, logits: Any) -> int:
        import torch

        params = self.params
        with torch.inference_mode():
            scores = self._penalised(self._biased(logits.float()))
            if self.json_answer:
                scores = self.json_answer.masked(scores)
            if params.temperature == 0:
                token = int(scores.argmax())
            else:
                count = min(params.top_k or len(scores), len(scores))
                scores, ids = scores.topk(count)  # the likeliest first
                scores = self._filtered(scores) / params.temperature
                chosen = torch.multinomial(scores.softmax(-1), 1, generator=self.random)
                token = int(ids[chosen])
            if self.penalises:
                self.used[token] += 1
        if self.json_answer:
            self.json_answer.take(token)
        return token

    def _biased(self, scores: Any) -> Any:
        if not self.params.logit_bias:
            return scores
        scores = scores.clone()
        for token, bias in self.params.logit_bias.items():
            if int(token) < len(scores):
                scores[int(token)] += bias
        return scores

    def _penalised(self, scores: Any) -> Any:
        if not self.penalises:
            return scores
        import torch

        if self.used is None:
            used = torch.bincount(self.prompt, minlength=len(scores))
            self.used = used[: len(scores)].to(scores.device, torch.float32)
        factor, seen = self.params.repetition_penalty, self.used > 0
        scores = torch.where(
            seen, torch.where(scores > 0, scores / factor, scores * factor), scores
        )
        return (
            scores
            - self.used * self.params.frequency_penalty
            - seen.float() * self.params.presence_penalty
        )

    def _filtered(self, scores: Any) -> Any:
        """Top-p, then min-p, over scores in falling order. The first one always stays."""
        shares = scores.softmax(-1)
        drop = (shares.cumsum(-1) - shares >= self.params.top_p) | (
            shares < self.params.min_p * shares[0]
        )
        drop[0] = False
        return scores.masked_fill(drop, float("-inf"))
