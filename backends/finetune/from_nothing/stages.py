"""What a stage of training is: some modules, and how one batch makes them better."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from backends.finetune.diffusion_params import DiffusionParams
    from backends.finetune.from_nothing.learner import Learner
    from backends.finetune.from_nothing.sizes import Size
    from backends.finetune.pictures.reading import Pictures

ON_DEVICE = 4 * 10**9  # bytes of pictures that are kept on the GPU itself


@dataclass
class Bench:
    """What all stages of one training work with.

    precision: "bf16" or "fp32". finished: weights by the name of a module that has been learned.
    words: the tokenizer's files, once there is one.
    """

    params: DiffusionParams
    size: Size
    pictures: Pictures
    device: str
    precision: str
    finished: dict[str, dict[str, Any]] = field(default_factory=dict)
    words: dict[str, str] = field(default_factory=dict)

    def autocast(self) -> Any:
        """A context in which a batch is computed."""
        import torch

        if self.precision == "bf16":
            return torch.autocast(self.device, torch.bfloat16)
        return nullcontext()

    def placed(self, module: Any) -> Any:
        """A module where it is trained, laid out as this device likes it."""
        import torch

        form = torch.channels_last if self.device == "cuda" else torch.contiguous_format
        return module.to(self.device, memory_format=form)

    def pixels(self) -> Any:
        """uint8 [pictures, 3, side, side], on the GPU where they fit."""
        held = self.pictures.pixels
        small = held.numel() <= ON_DEVICE
        return held.to(self.device) if small else held

    def built(self, make: Callable[[], Any], name: str) -> Any:
        """A module with random weights that come from the seed and its name alone."""
        import torch

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(mixed(self.params.seed, *name.encode()))
            return self.placed(make())


class Stage:
    """One stage. Subclasses fill in what is here, with `learner` as their modules.

    name     of its files in a checkpoint; label: what the user is told
    steps, batch   how many steps it has, of how many pictures
    """

    name: ClassVar[str]
    label: ClassVar[str]
    steps: int
    batch: int
    learners: dict[str, Learner]

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.changing = False  # whether weights are being changed just now

    def learn(
        self, step: int, rows: Any, dice: Any, parts: int, look: Callable[[], None]
    ) -> dict[str, Any]:
        """One step, the one after `step` steps. The numbers to tell, as tensors on the device.

        rows: of the pictures, an int64 tensor [batch]. dice: a torch.Generator on the device.
        parts: micro-batches. look: called between them, and may raise.
        """
        raise NotImplementedError

    def compile(self) -> None:
        """From now on through torch.compile."""
        raise NotImplementedError

    def interpret(self) -> None:
        """Undo `compile`."""
        raise NotImplementedError

    def finish(self) -> dict[str, dict[str, Any]]:
        """Weights by module, when all steps are done: fp32, on the CPU."""
        raise NotImplementedError

    def drawn(self, look: Callable[[], None]) -> Drawn:
        """What the averaged weights make now, always of the same seeds."""
        raise NotImplementedError


@dataclass
class Drawn:
    """Samples as uint8 tensors [pictures, 3, side, side] on the CPU; `film` shows one of them at
    several moments, `captions` what was asked for."""

    pictures: Any
    captions: list[str]
    film: Any = None


class Descent(Stage):
    """A stage whose modules go down one loss together."""

    learner: Learner

    @property
    def learners(self) -> dict[str, Learner]:  # type: ignore[override]
        return {self.name: self.learner}

    def gathered(self, rows: Any, dice: Any) -> dict[str, Any]:
        """The batch, each value [batch, …], all its chance included."""
        raise NotImplementedError

    def losses(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Means over a part of the batch: "loss", and more to tell."""
        raise NotImplementedError

    def learn(
        self, step: int, rows: Any, dice: Any, parts: int, look: Callable[[], None]
    ) -> dict[str, Any]:
        rate = self.learner.begin(step)
        told: dict[str, Any] = {}
        for part, share in portions(self.gathered(rows, dice), parts):
            look()
            with self.bench.autocast():
                values = self.losses(part)
            (values["loss"] * share).backward()
            for name, value in values.items():
                told[name] = told.get(name, 0) + value.detach() * share
        self.changing = True
        told["grad_norm"] = self.learner.end(step)
        self.changing = False
        return told | {"learning_rate": rate}


def portions(batch: dict[str, Any], parts: int) -> Iterator[tuple[dict[str, Any], float]]:
    """A batch in `parts` of about one size, and what share of it each is."""
    size = len(next(iter(batch.values())))
    edges = [size * n // parts for n in range(parts + 1)]
    for low, high in zip(edges, edges[1:], strict=False):
        if high > low:
            yield {k: v[low:high] for k, v in batch.items()}, (high - low) / size


def mixed(*numbers: int) -> int:
    """One seed of several: 31 bits, as every generator takes them (splitmix64)."""
    state = 0
    for number in numbers:
        state = (state + number + 0x9E3779B97F4A7C15) & (2**64 - 1)
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & (2**64 - 1)
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & (2**64 - 1)
        state ^= state >> 31
    return state & (2**31 - 1)


class Order:
    """Which pictures a step takes: every epoch has an order of its own, from the seed."""

    def __init__(self, pictures: int, batch: int, seed: int) -> None:
        self.pictures, self.batch, self.seed = pictures, batch, seed
        self._known: tuple[int, Any] = (-1, None)

    def rows(self, step: int) -> Any:
        """int64 [batch], of the step after `step` steps."""
        import torch

        at, end, pieces = step * self.batch, (step + 1) * self.batch, []
        while at < end:
            epoch, inside = divmod(at, self.pictures)
            count = min(end - at, self.pictures - inside)
            pieces.append(self._epoch(epoch)[inside : inside + count])
            at += count
        return torch.cat(pieces)

    def _epoch(self, number: int) -> Any:
        import torch

        if self._known[0] != number:
            dice = torch.Generator().manual_seed(mixed(self.seed, number))
            self._known = number, torch.randperm(self.pictures, generator=dice)
        return self._known[1]
