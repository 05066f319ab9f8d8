"""The contract. Read this first, then `events.py`, then `echo.py`.

A backend has a card that can be read before anything is loaded, and three methods. `load` brings
one model into memory. `run` takes one parameters object and yields events until it is done.
`unload` gives the memory back. To cancel, the worker closes the generator. What cannot be done is
an exception with a sentence in it.

    class Shout(Backend):
        card = Card(name="shout", task="chat", params=ShoutParams)

        def load(self, model, options):
            self.voice = library.locate(model).read_text()   # heavy imports belong here

        def run(self, params):
            yield Text(params.text.upper() + self.voice)

        def unload(self):
            del self.voice

An adapter imports its heavy library inside `load`, never at the top of its file: the page reads
cards, and the page must stay light.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from backends.card.offload import Size, Weights, as_in_the_file
from backends.card.plan import LoadPlan, no_plan
from backends.events import Event, Failed
from backends.params import Params

REF_KINDS = ("hub", "folder", "wheel", "starter", "job", "export", "none")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)?")


class Refused(Exception):
    """What cannot be done: `message` says what happened, `hint` what to do, both as sentences.

    `detail` (a traceback, the end of a log) is shown only when asked for.
    """

    def __init__(self, message: str, hint: str = "", detail: str = "") -> None:
        super().__init__(f"{message} {hint}".strip())
        self.message, self.hint, self.detail = message, hint, detail

    def as_event(self) -> Failed:
        return Failed(self.message, self.hint, self.detail, refused=True)


@dataclass(frozen=True)
class ModelRef:
    """The name of a model: `kind:name[@revision][:file]`, never a path.

    Kinds: `hub:owner/name@revision[:file]`, `folder:<id>`, `wheel:<package>`, `starter:<id>`,
    `job:<id>[@step]`, `export:<job>/<file>`, and `none:` for a backend without a model.
    """

    kind: str
    name: str
    revision: str = ""
    file: str = ""

    @classmethod
    def parse(cls, text: str) -> ModelRef:
        """Raises Refused for anything that is not a reference, paths above all."""
        kind, _, rest = text.strip().partition(":")
        if text.strip() == "none:":
            return cls("none", "")
        name, _, file = rest.partition(":")
        name, _, revision = name.partition("@")
        clean = _NAME.fullmatch(name) and ".." not in name
        clean = clean and all(re.fullmatch(r"[\w.-]*", p) and p != ".." for p in file.split("/"))
        if kind not in REF_KINDS[:-1] or not clean or not re.fullmatch(r"[\w.-]*", revision):
            raise Refused(
                f"{text[:80]!r} does not name a model.",
                "Pick one from the list, or write it as hub:owner/name or folder:name.",
            )
        return cls(kind, name, revision, file)

    def __str__(self) -> str:
        revision = f"@{self.revision}" if self.revision else ""
        return f"{self.kind}:{self.name}{revision}" + (f":{self.file}" if self.file else "")


@dataclass(frozen=True)
class NoOptions(Params):
    """For a backend whose loading has nothing to choose."""


def never(options: Any) -> bool:
    """For a backend that works on the CPU alone."""
    return False


def opens_all(path: Path) -> None:
    """For a backend that opens whatever has its format."""


def nothing_less(options: Any, on_gpu: bool) -> dict[str, tuple[Any, str]]:
    """For a backend that chooses nothing by itself."""
    return {}


@dataclass(frozen=True)
class Card:
    """What a backend is, readable before anything heavy is imported.

    name          unique; what saved settings and the API call it
    task          chat, finetune, image, multimodal, speech: the tab it serves
    params        what one run takes, a Params dataclass
    load_options  what one load takes, a Params dataclass
    formats       the model formats it opens: safetensors, gguf; empty: it needs no model
    check         raises Refused for a file or folder of such a format that it cannot open, from
                  headers alone: it is listed with that sentence
    preload       modules that a warm spare imports beforehand; none of them may touch the GPU.
                  Empty: it is quick without one, and takes none
    memory_factor resident bytes for each byte of the weights, until a real load was measured
    memory_base   bytes of RAM that its libraries take, whatever the model
    slots         how many runs it can carry at once
    weights       what the weights of a model take (`backends.card.offload`), from the options, the
                  model's size and the device
    plan          what memory depends on (`backends.card.plan`), from the options, the device and
                  the context that the model was trained for; None: nothing foretells it
    on_gpu        whether a load with these options goes to the GPU where there is one
    less          what to choose for options that are automatic when memory has run out, from the
                  options and whether they are for a GPU: by name the value, and how to say it;
                  never one that the user has set
    parkable      it has `park` and `unpark`
    pictures      its dataset is pictures with captions (`backends.finetune.pictures`), not rows
    measured      what its loads took is kept and foretells the next ones; not where it is no model
    """

    name: str
    task: str
    params: type[Params]
    load_options: type[Params] = NoOptions
    formats: tuple[str, ...] = ()
    check: Callable[[Path], object] = opens_all
    label: str = ""
    preload: tuple[str, ...] = ()
    memory_factor: float = 1.2
    memory_base: int = 0
    slots: int = 1
    weights: Callable[[Any, Size, str], Weights] = as_in_the_file
    plan: Callable[[Any, str, int], LoadPlan | None] = no_plan
    on_gpu: Callable[[Any], bool] = never
    less: Callable[[Any, bool], dict[str, tuple[Any, str]]] = nothing_less
    parkable: bool = False
    pictures: bool = False
    measured: bool = True


class Backend:
    """One model in memory. Made in a worker, used by one thread, one run at a time.

    `report` may be called by `load` to say how far it is; `run` yields instead. `cancelled` turns
    true when somebody pressed Stop: a long step that cannot yield looks at it. `hurried` turns true
    when the process is to be gone in seconds: what is not needed to go on later is left out.
    """

    card: ClassVar[Card]
    report: Callable[[Event], None] = staticmethod(lambda event: None)
    cancelled: Callable[[], bool] = staticmethod(lambda: False)
    hurried: Callable[[], bool] = staticmethod(lambda: False)

    def load(self, model: ModelRef, options: Any) -> None:
        """Bring `model` into memory. Raises Refused where that cannot be done."""
        raise NotImplementedError

    def run(self, params: Any) -> Iterator[Event]:
        """Do one piece of work. The last event may be Done with usage; without one, one is added.

        Raises Refused (or ValueError with a sentence) where it cannot be done.
        """
        raise NotImplementedError

    def unload(self) -> None:
        """Drop everything `load` brought. The worker measures what came back."""
        raise NotImplementedError

    def park(self) -> None:
        """Move the weights to RAM, and free what can be made again. Only where `card.parkable`.

        Afterwards `memory` says "parked_bytes". Raises Refused, with nothing moved, where RAM is
        short.
        """
        raise NotImplementedError

    def unpark(self) -> None:
        """Bring parked weights back; answers are the same as before. Only where `card.parkable`.

        Raises Refused, with nothing moved, where the GPU is short of memory.
        """
        raise NotImplementedError

    def memory(self) -> dict[str, int]:
        """More numbers for the ledger than the worker finds out itself, in bytes."""
        return {}
