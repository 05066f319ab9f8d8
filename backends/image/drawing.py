"""One batch of pictures, from a prompt to files. It works in a thread of its own and says what
it does; what it needs of the model is in `Model`."""

from __future__ import annotations

import gc
import inspect
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backends.base import Refused
from backends.events import Artifact, Event, Item, Notice, Progress
from backends.image import encoding, latents, opening, placing, recipe, schedulers
from backends.image.begun import Begun, Steering
from backends.image.controls import Controls
from backends.image.families import Family
from backends.image.inversions import Inversions
from backends.image.latents import MOST_SEED, Decoder, Preview
from backends.image.loras import Loras
from backends.image.params import ImageParams
from backends.image.placing import Places
from backends.image.upscaling import Upscaler
from backends.threaded import Heard, Stopped

if TYPE_CHECKING:
    from PIL.Image import Image

WIDER = {"none": "model", "words": "model", "model": "group"}  # what leaves the GPU next


class TooLarge(Exception):
    """Memory ran out, and nothing is left that would take less."""


@dataclass
class Model:
    """What is loaded: the text-to-image pipeline and what belongs to it."""

    pipe: Any
    family: Family
    places: Places
    ref: str = ""
    title: str = ""
    tiling: str = "auto"
    versions: dict[str, str] = field(default_factory=dict)
    pipes: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.scheduler = self.pipe.scheduler  # the model's own; a run has its own copy
        self.decoder = Decoder(self.pipe.vae, self.family)
        self.preview = Preview(self.decoder)
        self.loras = Loras(self.pipe, self.family, self.title)
        self.controls = Controls(self.pipe, self.family, self.places.device, self.title)
        self.inversions = Inversions(self.pipe, self.family)

    def pipe_for(self, begun: str, steering: Steering | None) -> Any:
        """The pipeline that begins with a text, a picture, or a picture and a mask."""
        if steering:
            kind = self.family.pipelines[f"control_{begun}"]
            return opening.another(self.pipe, kind, self.family, controlnet=steering.network)
        if begun not in self.pipes:
            kind = self.family.pipelines[begun]
            made = begun == "text" and type(self.pipe).__name__ == kind
            self.pipes[begun] = self.pipe if made else opening.another(self.pipe, kind, self.family)
        return self.pipes[begun]


@dataclass(frozen=True)
class Look:
    """Latents on the CPU, to be shown as a preview."""

    step: int
    latents: Any


Word = Event | Look
Times = dict[str, float]


@dataclass
class Batch:
    """One run."""

    model: Model
    params: ImageParams
    begun: Begun
    heard: Heard[Word]
    cancelled: Callable[[], bool]
    upscaler: Upscaler | None = None
    times: Times = field(default_factory=lambda: dict.fromkeys(("text", "denoise", "decode"), 0.0))
    steps: int = 0
    made: int = 0
    before: float = 0.0  # steps of the passes that have ended, as they were asked for

    def __post_init__(self) -> None:
        self.seed = self.params.seed
        self.chunk = self.params.images if self.model.places.at_once else 1
        self.size = self.begun.size
        self.family = self.model.family

    # In order

    def draw(self) -> None:
        """Raises Stopped where nobody waits for it any more, TooLarge where memory is short."""
        if self.model.tiling == "on":
            self._tile()
        encoded = self._step("text", self._encode, ("offload",))
        for notice in encoded.notices:
            self.heard.say(Notice(notice))
        while self.made < self.params.images:
            drawn = self._step("denoise", partial(self._denoise, encoded), ("offload", "batch"))
            for row in drawn:
                if self.begun.larger:
                    enlarge = partial(self._enlarged, encoded, row, self.begun.larger)
                    row = self._step("denoise", enlarge, ("tile", "offload"))
                picture = self._step("decode", partial(self._finish, row), ("tile", "offload"))
                self._save(picture, self.made)

    def _part(self) -> list[int]:
        """The pictures that are drawn next, at once."""
        return list(range(self.made, min(self.params.images, self.made + self.chunk)))

    def _encode(self) -> encoding.Encoded:
        params = self.params
        words = encoding.Words(
            params.prompt, params.negative, params.guidance > 1, params.clip_skip
        )
        with self.model.places.encoders():
            pipe = self.model.pipe
            return encoding.encode(pipe, self.family, words, self.model.places.device)

    def _denoise(self, encoded: encoding.Encoded) -> list[Any]:
        """Latents for the next pictures, or the pictures themselves where nothing is to change."""
        part = self._part()
        if self.begun.kind != "text" and self._steps_of(self.begun.strength) < 1:
            return [self.begun.picture] * len(part)
        with self.model.places.network():
            pipe = self._pipe(self.begun.kind)
            call = self._call(pipe, encoded, part, self.begun.strength)
            call |= self._beginning(pipe, part, call["generator"])
            asked = self._steps_of(self.begun.strength)
            drawn = self._run(pipe, call, self.size, asked)
        return list(drawn.split(1))

    def _enlarged(self, encoded: encoding.Encoded, row: Any, size: tuple[int, int]) -> Any:
        """One picture drawn once more, larger: its latents, or the picture where nothing is to
        change."""
        steps = self._steps_of(self.params.enlarge_strength)
        again = steps >= 1 and self.family.can("image")
        if steps >= 1 and not again and not self.made:
            self.heard.say(Notice(f"{self.family.title} draws nothing over: it is only enlarged."))
        plain = not self.upscaler and self.family.by_latents and hasattr(row, "dtype")
        if again and plain:
            begun: Any = latents.larger(self.model.pipe, row, size)
        else:
            begun = self._larger_picture(row, size)
        if not again:
            return begun
        with self.model.places.network():
            pipe = self._pipe("image")
            call = self._call(pipe, encoded, [self.made], self.params.enlarge_strength)
            call |= {"image": begun if plain else [begun], "width": size[0], "height": size[1]}
            if self.begun.steering:
                call["control_image"] = self.begun.steering.images(size)
            return self._run(pipe, call, size, steps)

    def _larger_picture(self, row: Any, size: tuple[int, int]) -> Image:
        from PIL import Image

        picture = self._decoded(row) if hasattr(row, "dtype") else row
        if self.upscaler:
            picture = self.upscaler.enlarged(picture)
        return picture.resize(size, Image.Resampling.LANCZOS)

    def _finish(self, row: Any) -> Image:
        """The picture of one row of latents, what was not to change put back over it."""
        picture = row if not hasattr(row, "dtype") else self._decoded(row)
        return self.begun.kept(picture)

    def _decoded(self, row: Any) -> Image:
        self._tile_if_short(row)
        try:
            picture, said = self.model.decoder.picture(row)
        except ArithmeticError as error:
            raise Refused(
                "The model computed no picture: what came out is not a number.",
                "Load it in bf16 or fp32, or take another scheduler.",
            ) from error
        if said:
            self.heard.say(Notice(said))
        return picture

    # One pass through the network

    def _pipe(self, kind: str) -> Any:
        pipe = self.model.pipe_for(kind, self.begun.steering)
        made, said = schedulers.make(self.params.scheduler, self.model.scheduler, self.family)
        if said and not self.made:
            self.heard.say(Notice(said))
        pipe.scheduler = made
        return pipe

    def _call(
        self, pipe: Any, encoded: encoding.Encoded, part: list[int], strength: float
    ) -> dict[str, Any]:
        """The arguments that all ways to begin have in common."""
        call = {
            **self.family.begins,
            **encoded.times(len(part)),
            "num_inference_steps": self.params.steps,
            self.family.guidance_name: self.params.guidance,
            "generator": latents.generators([self.seed_of(index) for index in part]),
            "negative_prompt": None,  # some have "" there, which they would refuse
            "output_type": "latent",
            "return_dict": False,
            "strength": strength,
        }
        if self.begun.steering:
            call |= self.begun.steering.call()
        return call

    def _beginning(self, pipe: Any, part: list[int], dice: list[Any]) -> dict[str, Any]:
        """What the picture is begun with. `dice`: the generators of the call, for each picture."""
        width, height = self.size
        count = len(part)
        given: dict[str, Any] = {"width": width, "height": height}
        if self.begun.kind != "text":
            given |= {"image": [self.begun.picture] * count}
            if self.begun.steering:
                given["control_image"] = self.begun.steering.images()
        elif self.begun.steering:
            given["image"] = self.begun.steering.images()
        if self.begun.kind == "inpaint":
            given |= {"mask_image": [self.begun.mask] * count}
        if self.begun.kind == "text" and self.params.variation:
            given["latents"] = self._varied(pipe, part, dice)
        return given

    def _varied(self, pipe: Any, part: list[int], dice: list[Any]) -> Any:
        # With the call's own generators: schedulers that draw in their steps go on behind it.
        first = latents.noise(pipe, self.family, self.size, dice)
        other = latents.generators([(self.params.variation_seed + i) % MOST_SEED for i in part])
        second = latents.noise(pipe, self.family, self.size, other)
        mixed = latents.mixed(first, second, self.params.variation)
        return latents.packed(pipe, self.family, mixed)

    def _run(self, pipe: Any, call: dict[str, Any], size: tuple[int, int], asked: int) -> Any:
        """Latents after so many steps."""
        known = inspect.signature(type(pipe).__call__).parameters

        def stepped(step: int, found: Any) -> dict[str, Any]:
            total = int(getattr(pipe, "_num_timesteps", 0)) or asked  # Heun takes two for each
            self._stepped(step + 1, total, asked)
            every = self.params.preview_every
            if every and (step + 1) % every == 0 and step + 1 < total:
                rows = latents.unpacked(pipe, self.family, found.detach(), size)
                self.heard.say(Look(step + 1, rows.float().cpu()))
            return {}

        if "callback_on_step_end" in known:
            call["callback_on_step_end"] = lambda _, step, at, named: stepped(
                step, named["latents"]
            )
        else:
            call["callback"] = lambda step, at, found: stepped(step, found)
            call["callback_steps"] = 1
        found = pipe(**{name: value for name, value in call.items() if name in known})
        self.before += asked
        return latents.unpacked(pipe, self.family, found[0], size)

    def _stepped(self, step: int, total: int, asked: int) -> None:
        """Says how far the whole batch is, in steps as they were asked for."""
        self._check_wanted()
        self.steps += 1
        passes = -(-self.params.images // self.chunk)
        note = f"step {step} of {total}"
        if passes > 1:
            note = f"picture {self.made + 1} of {self.params.images}, {note}"
        done = self.before + step * asked / total
        whole = passes * self._steps_of(self.begun.strength)
        if self.begun.larger and self.family.can("image"):
            whole += self.params.images * self._steps_of(self.params.enlarge_strength)
        self.heard.say(Progress(done, whole, note))

    def _steps_of(self, strength: float) -> int:
        return int(self.params.steps * strength)

    # What is said and kept

    def seed_of(self, index: int) -> int:
        """Pictures of one batch differ by their seed; variations of one picture by the other."""
        varied = self.params.variation and self.begun.kind == "text"
        return self.seed if varied else (self.seed + index) % MOST_SEED

    def _save(self, picture: Image, index: int) -> None:
        name = f"{self.params.name}-{index + 1}.png"
        path = Path(self.params.folder) / name
        try:
            recipe.save_png(picture, path, self.said(picture, index))
        except OSError as error:
            raise Refused(
                f"The picture could not be saved ({error.strerror or error}).",
                "Free some space on the disk, then draw it again: its seed is "
                f"{self.seed_of(index)}.",
            ) from error
        self.made += 1
        told = {
            "file": name, "seed": self.seed_of(index), "width": picture.width,
            "height": picture.height,
        }  # fmt: skip
        self.heard.say(Item("picture", told))
        self.heard.say(Artifact(str(path), "image"))

    def said(self, picture: Image, index: int) -> dict[str, Any]:
        """The recipe of one picture: what was really used."""
        params, family = self.params, self.family
        said: dict[str, Any] = {
            "prompt": params.prompt,
            "steps": params.steps,
            "guidance": params.guidance,
            "width": picture.width,
            "height": picture.height,
            "seed": self.seed_of(index),
            "scheduler": schedulers.title(params.scheduler, self.model.scheduler),
            "model": self.model.ref,
            "model_title": self.model.title,
            "family": family.id,
            "kind": self.begun.said,
            "versions": self.model.versions,
        }
        if params.negative and params.guidance > 1 and family.negative:
            said["negative"] = params.negative
        if self.begun.kind != "text":
            said["strength"] = self.begun.strength
        elif params.variation:
            said["variation"] = params.variation
            said["variation_seed"] = (params.variation_seed + index) % MOST_SEED
        if params.clip_skip and family.weighted:
            said["clip_skip"] = params.clip_skip
        if self.begun.larger:
            said["enlarge"], said["enlarge_strength"] = params.enlarge, params.enlarge_strength
            said["width"], said["height"] = self.size
        if self.upscaler:
            said["upscaler"] = params.upscaler
        if params.embeddings:
            said["embeddings"] = list(params.embeddings)
        if params.controls:
            kept = ("ref", "kind", "weight", "start", "end")  # not where its picture lay
            said["controls"] = [{key: getattr(c, key) for key in kept} for c in params.controls]
        if params.adapters:
            said["adapters"] = [{"ref": a.ref, "weight": a.weight} for a in params.adapters]
        return said

    # Memory

    def _step(self, name: str, work: Callable[[], Any], rungs: tuple[str, ...]) -> Any:
        """`work`, timed, and once more with less where memory has run out: same seed, same steps.

        Raises TooLarge where nothing more can be done without.
        """
        while True:
            started = time.monotonic()
            try:
                self._check_wanted()
                result = work()
                self._settle()
                self.times[name] += time.monotonic() - started
                return result
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                traceback.clear_frames(error.__traceback__)
            self._free()
            if not any(self._take_less(rung) for rung in rungs):
                raise TooLarge

    def _take_less(self, rung: str) -> bool:
        """Whether something could be given up. Says what."""
        if rung == "tile" and not self._tiled():
            self._tile()
            return self._short("The VAE now works in tiles.")
        places = self.model.places
        if rung == "offload" and places.device != "cpu" and places.way in WIDER:
            places.way = WIDER[places.way]
            places.settle()
            return self._short("More of the model now waits in the computer's memory.")
        if rung == "batch" and self.chunk > 1:
            self.chunk = (self.chunk + 1) // 2
            return self._short(f"The pictures are now drawn {self.chunk} at once.")
        return False

    def _short(self, what: str) -> bool:
        self.heard.say(Notice(f"Memory ran out. {what} Seed and steps stay the same."))
        return True

    def _tile(self) -> None:
        placing.tile(self.model.pipe.vae)

    def _tile_if_short(self, row: Any) -> None:
        """Before a picture is decoded, where tiles are automatic."""
        if self.model.tiling != "auto" or self.model.places.device == "cpu" or self._tiled():
            return
        scale = int(self.model.pipe.vae_scale_factor)
        if placing.wants_tiles(self.model.pipe.vae, row.shape[-1] * scale, row.shape[-2] * scale):
            self._tile()

    def _tiled(self) -> bool:
        return bool(getattr(self.model.pipe.vae, "use_tiling", True))

    def _settle(self) -> None:
        """Work on a GPU is only begun when a call returns: the times are to be of its end."""
        import torch

        if self.model.places.device != "cpu":
            torch.cuda.synchronize()

    def _free(self) -> None:
        import torch

        gc.collect()
        if self.model.places.device != "cpu":
            torch.cuda.empty_cache()

    def _check_wanted(self) -> None:
        if self.heard.gone() or self.cancelled():
            raise Stopped


def is_out_of_memory(error: BaseException) -> bool:
    signs = ("out of memory", "can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED")
    return isinstance(error, MemoryError) or any(sign in str(error) for sign in signs)
