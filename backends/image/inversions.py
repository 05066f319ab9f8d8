"""Textual inversions: words of one's own, each with the numbers that a file gives it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from backends.base import Refused
from backends.image.families import Family
from backends.image.loras import weights_file

PARTS = {"clip_l": "text_encoder", "clip_g": "text_encoder_2"}  # in files for two encoders


class Inversions:
    """Those of one pipeline. A prompt uses one by the name of its file."""

    def __init__(self, pipe: Any, family: Family) -> None:
        self.pipe, self.family = pipe, family
        self.there: dict[Path, str] = {}

    def use(self, refs: tuple[str, ...]) -> None:
        """Exactly those that are named. Raises Refused."""
        files = [weights_file(ref) for ref in refs]
        new = {file: self._read(file) for file in files if file not in self.there}
        for file in [file for file in self.there if file not in files]:
            self._remove(self.there.pop(file))
        for file, parts in new.items():
            for encoder, numbers in parts.items():
                self.pipe.load_textual_inversion(
                    numbers, token=file.stem,
                    text_encoder=getattr(self.pipe, encoder),
                    tokenizer=getattr(self.pipe, encoder.replace("text_encoder", "tokenizer")),
                )  # fmt: skip
            self.there[file] = file.stem

    def _read(self, file: Path) -> dict[str, Any]:
        """The numbers for each encoder, checked. Raises Refused."""
        from safetensors.torch import load_file

        if not self.family.weighted:
            raise Refused(
                f"Textual inversions cannot be used with {self.family.title} here.",
                "Take them away.",
            )
        state = load_file(file)
        if set(state) <= set(PARTS):
            parts = {PARTS[key]: value for key, value in state.items()}
        elif len(state) == 1:
            parts = {"text_encoder": next(iter(state.values()))}
        else:
            raise Refused(f"{file.name} is no textual inversion.", "Take another file.")
        found = {}
        for encoder, numbers in parts.items():
            numbers = numbers.reshape(-1, numbers.shape[-1])
            module = getattr(self.pipe, encoder, None)
            wanted = int(module.config.hidden_size) if module is not None else 0
            if numbers.shape[-1] != wanted or len(parts) != len(self.family.encoders):
                raise Refused(
                    f"The textual inversion {file.stem} was made for another kind of model "
                    f"({numbers.shape[-1]} numbers for a word, here {wanted or 'none'}).",
                    "Take it away, or load the model that it was made for.",
                )
            found[encoder] = numbers
        return found

    def _remove(self, token: str) -> None:
        for encoder in self.family.encoders:
            tokenizer = getattr(self.pipe, encoder.replace("text_encoder", "tokenizer"))
            words = [
                added.content
                for added in tokenizer.added_tokens_decoder.values()
                if added.content == token or added.content.startswith(f"{token}_")
            ]
            self.pipe.unload_textual_inversion(
                words, text_encoder=getattr(self.pipe, encoder), tokenizer=tokenizer
            )
