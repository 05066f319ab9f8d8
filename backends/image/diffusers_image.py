"""Pictures through diffusers: Stable Diffusion and its kin, on the CPU or on an NVIDIA GPU."""

from __future__ import annotations

import os
import secrets
import time
import tomllib
from collections.abc import Generator, Iterator
from dataclasses import replace
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backends.base import Backend, Card, ModelRef, Refused
from backends.card.parked import Parked
from backends.card.source import read_source
from backends.events import Artifact, Done, Event, Failed, Notice, Progress
from backends.image import opening, options, placing, recognising
from backends.image.begun import Begun, begin
from backends.image.drawing import Batch, Look, Model, TooLarge, Word
from backends.image.latents import MOST_SEED
from backends.image.options import ImageOptions
from backends.image.params import ImageParams
from backends.image.upscaling import Upscaler
from backends.models import catalogue, library
from backends.threaded import Heard, Stopped, listen

if TYPE_CHECKING:
    from PIL.Image import Image

PREVIEW_SIDE = 256  # px: the longer side of a preview is made at least this


class DiffusersImage(Backend):
    """One image model in memory."""

    card = Card(
        name="diffusers",
        task="image",
        params=ImageParams,
        load_options=ImageOptions,
        formats=("safetensors",),
        check=recognising.recognise,
        label="diffusers",
        preload=(
            "torch",
            "transformers.models.clip.modeling_clip",
            "diffusers.models.autoencoders.autoencoder_kl",
            "diffusers.models.unets.unet_2d_condition",
            "diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion",
        ),
        memory_factor=1.2,
        memory_base=900_000_000,  # torch, transformers and diffusers
        weights=lambda chosen, size, device: options.weights_of(chosen, size, device),
        plan=lambda chosen, device, trained: options.plan_of(chosen, device, trained),
        on_gpu=lambda chosen: chosen.device != "cpu",
        less=lambda chosen, on_gpu: options.less_of(chosen, on_gpu),
        parkable=True,
    )
    parked: Parked | None = None
    upscaler: tuple[str, Upscaler] | None = None

    def load(self, model: ModelRef, chosen: ImageOptions) -> None:
        path = library.prepare(model, self.report, self.cancelled)
        found = recognising.recognise(path)
        import torch

        family = found.family
        device, quantisation = options.choose(chosen, torch.cuda.is_available(), family)
        self.report(
            Progress(0, 0, f"opening {family.title} {model.name} as {quantisation} on the {device}")
        )
        types = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
        dtype = types.get(quantisation, torch.bfloat16)
        pipe = opening.open_pipeline(found, quantisation, dtype)
        way = chosen.offload
        if way == "auto":
            way = self._way(path, found, quantisation, device)
        places = placing.Places(pipe, family, device, way if device != "cpu" else "none")
        places.settle()
        if placing.IN_WORDS[places.way]:
            self.report(Notice(placing.IN_WORDS[places.way]))
        self.model = Model(
            pipe, family, places, str(model), title_of(model), chosen.tiling, versions()
        )

    def _way(
        self, path: Path, found: recognising.Recognised, quantisation: str, device: str
    ) -> str:
        """What leaves the GPU, by what the model will take and what this process may have."""
        if device == "cpu":
            return "none"
        return placing.choose(read_source(path), quantisation, found.family.side, placing.room())

    def run(self, params: ImageParams) -> Iterator[Event]:
        started = time.monotonic()
        if not params.folder:
            raise Refused("The pictures have no folder to go to.", "Name one in `folder`.")
        params = with_seeds(params)
        begun = yield from self._begin(params)
        self.model.inversions.use(params.embeddings)
        yield from self.model.loras.use(params.adapters)
        upscaler = self._upscaler(params.upscaler if begun.larger else "")
        batch: Batch | None = None

        def work(heard: Heard[Word]) -> Batch:
            nonlocal batch
            batch = Batch(self.model, params, begun, heard, lambda: self.cancelled(), upscaler)
            batch.draw()
            return batch

        stopped = False
        try:
            yield from self._told(listen(work), params)
        except Stopped:
            stopped = True
        except TooLarge:
            yield too_large(params, self.model.places.device)
            return
        yield Done(stopped, usage_of(batch, params, time.monotonic() - started))

    def _begin(self, params: ImageParams) -> Generator[Event, None, Begun]:
        multiple = int(self.model.pipe.vae_scale_factor) * self.model.family.patch
        for one in begin(params, self.model.family, multiple):
            if not isinstance(one, Begun):
                yield one
                continue
            one.steering = yield from self.model.controls.steer(params.controls, one.size, one.kind)
            return one
        raise AssertionError("begin ends with what to begin with")

    def _upscaler(self, ref: str) -> Upscaler | None:
        """The one that was used last stays for the next run."""
        if not ref:
            return None
        if self.upscaler is None or self.upscaler[0] != ref:
            self.upscaler = None
            self.upscaler = ref, Upscaler(ref, self.model.places.device)
        return self.upscaler[1]

    def _told(self, words: Generator[Word, None, Any], params: ImageParams) -> Iterator[Event]:
        """The events of a batch; looks are made previews here, beside the steps."""
        try:
            for word in words:
                if isinstance(word, Look):
                    yield self._preview(word, params)
                else:
                    yield word
        finally:
            words.close()

    def _preview(self, look: Look, params: ImageParams) -> Artifact:
        path = Path(params.folder) / f"{params.name}-preview.jpg"
        save_preview(self.model.preview.picture(look.latents), path)
        return Artifact(str(path), "preview")

    def unload(self) -> None:
        self.parked = self.upscaler = None
        del self.model

    def park(self) -> None:
        self.model.controls.kept.clear()
        self.upscaler = None
        if self.parked is None:
            parts = [part for _, part in self.model.places.modules()]
            device = "cpu" if self.model.places.device == "cpu" else "cuda"
            self.parked = Parked(*parts, device=device)

    def unpark(self) -> None:
        if self.parked:
            self.parked.restore()
        self.parked = None

    def memory(self) -> dict[str, int]:
        import torch

        parked = {"parked_bytes": self.parked.bytes} if self.parked else {}
        if not torch.cuda.is_initialized():
            return parked
        return parked | {
            "cuda_allocated_bytes": torch.cuda.memory_allocated(),
            "cuda_peak_bytes": torch.cuda.max_memory_reserved(),
        }


def with_seeds(params: ImageParams) -> ImageParams:
    """The same with both seeds drawn where they are left open."""
    seed = params.seed if params.seed >= 0 else secrets.randbelow(MOST_SEED)
    other = params.variation_seed
    if other < 0 and params.variation:
        other = secrets.randbelow(MOST_SEED)
    return replace(params, seed=seed, variation_seed=other)


def usage_of(batch: Batch | None, params: ImageParams, seconds: float) -> dict[str, Any]:
    times = batch.times if batch else {}
    return {
        "seconds": seconds,
        **{f"{name}_seconds": value for name, value in times.items()},
        "steps": batch.steps if batch else 0,
        "images": batch.made if batch else 0,
        "seed": params.seed,
    }


def too_large(params: ImageParams, device: str) -> Failed:
    """What is said where nothing more can be given up; on a GPU with who else is on it."""
    held = ""
    if device != "cpu":
        import torch

        free, total = torch.cuda.mem_get_info()
        others = total - free - torch.cuda.memory_reserved()
        held = f" Other programs hold {max(0, others) / 1e9:.1f} GB of the GPU."
    return Failed(
        f"The memory is too small for a picture of {params.width} x {params.height}, even one at "
        f"a time, in tiles and with the model's parts by turns.{held}",
        "Make it smaller, or load the model with NF4 or in 16 bits.",
        out_of_memory=True,
    )


def save_preview(picture: Image, path: Path) -> None:
    """A small JPEG, whole or not at all."""
    from PIL import Image

    factor = max(1, PREVIEW_SIDE // max(picture.size))
    size = (picture.width * factor, picture.height * factor)
    partial = path.with_suffix(".partial")
    picture.resize(size, Image.Resampling.BILINEAR).save(partial, "JPEG", quality=80)
    os.replace(partial, path)


def title_of(model: ModelRef) -> str:
    row = catalogue.find_row(model)
    return row.title if row else model.name


@lru_cache(maxsize=1)
def versions() -> dict[str, str]:
    """What a recipe says that it was drawn with."""
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text("utf-8"))
    found = {name: metadata.version(name) for name in ("diffusers", "torch")}
    return {"werkbank": str(project["project"]["version"]), **found}
