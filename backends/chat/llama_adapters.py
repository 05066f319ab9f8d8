"""Adapters on a llama.cpp model: which files its server must be opened with, and each one's weight.

llama.cpp reads adapters only when it opens the model. After that a weight is one number in each
request, and 0 leaves the adapter out of the computation.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import replace
from pathlib import Path
from typing import Any

from backends.adapter_use import MOST_ADAPTERS, AdapterUse
from backends.base import Refused
from backends.events import Progress
from backends.models import adapters, library, lora_gguf
from backends.models.adapters import Base
from backends.models.check import gguf_parts
from backends.models.gguf_header import Header, read_header

File = tuple[Path, library.Stamp]


class LlamaServer:
    """The server object, opened again when an adapter comes that it was not opened with.

    `open` takes the adapters' files. Nothing is opened again to detach one or to change a weight.
    """

    def __init__(self, model: Path, title: str, open: Callable[[list[Path]], Any]) -> None:
        self.model, self.title, self.open = model, title, open
        self.attached: list[File] = []
        self._server: Any = open([])
        self._known: tuple[Header, Base] | None = None

    @property
    def server(self) -> Any:
        if self._server is None:  # the last opening failed
            self.attached, self._server = [], self.open([])
        return self._server

    def use(self, wanted: tuple[AdapterUse, ...]) -> Generator[Progress, None, dict[str, Any]]:
        """Returns what a request must say so that these are applied. Raises Refused."""
        if wanted:
            yield Progress(0, 0, "reading the adapters")
        files = {self._file(one): one.weight for one in wanted}
        if any(file not in self.attached for file in files):
            yield Progress(
                0, 0, "opening the model again, with the adapters: llama.cpp asks for it"
            )
            self._reopen(files)
        # All are named, those not wanted at 0. llama.cpp itself reads a prompt anew where the
        # weights are not those it was read with.
        scales = [{"id": i, "scale": files.get(f, 0.0)} for i, f in enumerate(self.attached)]
        return {"lora": scales} if scales else {}

    def _reopen(self, files: dict[File, float]) -> None:
        before = self.attached
        paths = {path for path, _ in files}
        spare = [f for f in before if f not in files and f[0] not in paths]
        wanted = [*files, *spare[: MOST_ADAPTERS - len(files)]]
        self._server = None  # its memory comes back first
        try:
            self._server = self.open([path for path, _ in wanted])
            self.attached = wanted
        except Refused as refused:
            raise Refused(
                f"llama.cpp could not open {self.title} with the adapters.",
                "Detach them, or choose others; the worker's log says more.",
                refused.detail,
            ) from refused

    def _file(self, one: AdapterUse) -> File:
        """The GGUF file of an adapter that fits, converted first where it is PEFT's."""
        adapter = adapters.read_adapter(adapters.locate(one.ref))
        header, base = self._base()
        if adapter.format == "gguf":
            if adapter.architecture != header.architecture:
                raise Refused(
                    f"The adapter {adapter.name} was made for {adapter.base or 'a model'} of "
                    f"the architecture {adapter.architecture}, and {self.title} is of "
                    f"{header.architecture}.",
                    "Detach it, or load the model that it was made for.",
                )
            adapters.check_fit(adapter, base)
            return adapter.path, library.stamp(adapter.path)
        names = lora_gguf.gguf_names(adapter, header)
        adapters.check_fit(adapter, replace(base, renamed=names))
        file = lora_gguf.ensure(adapter, header, names, library.cache())
        return file, library.stamp(file)

    def _base(self) -> tuple[Header, Base]:
        if self._known is None:
            headers = [read_header(part) for part in gguf_parts(self.model)]
            first = replace(headers[0], head=b"")  # the vocabulary, which is not needed
            self._known = first, adapters.gguf_base(self.title, headers)
        return self._known
