"""Several trainings from nothing in one go: the libraries are imported once, each run is a forked
child.

`python diffusion_runs.py SPEC.json`: a list of {"name", "params", "fault", "at"}. Events of a run
go to NAME.jsonl beside the spec. Faults are real: SIGKILL, an exception where PyTorch raises its
own.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[3]))

import diffusers
import torch
import transformers

from backends.base import ModelRef, Refused
from backends.events import Event, Metric, to_json
from backends.finetune import sealing
from backends.finetune.diffusion import Diffusion
from backends.finetune.diffusion_params import DiffusionOptions, DiffusionParams
from backends.finetune.from_nothing import autoencoder, denoiser, words
from backends.finetune.from_nothing.autoencoder import AutoencoderStage
from backends.finetune.from_nothing.denoiser import DenoiserStage
from backends.finetune.from_nothing.learner import Learner
from backends.finetune.from_nothing.sizes import SIZES
from backends.finetune.from_nothing.stages import Bench
from backends.params import read
from backends.runtime import checkpoints

HURRY: list[int] = []


def inject(fault: str, at: int) -> None:
    """Put a fault into this process. `at`: the step of all stages together."""
    if fault == "kill-save":
        seal = sealing.seal

        def torn(job: Path, folder: Path, keep: int) -> None:
            if checkpoints.step_of(folder) == at:
                os.kill(os.getpid(), signal.SIGKILL)
            seal(job, folder, keep)

        sealing.seal = torn
    if fault == "disk":
        checkpoints.free_bytes_needed = lambda last: 10**18 if last >= at else 0
    calls = [0]

    def wrong(stage: Any, plain: Any) -> Any:
        def losses(self: Any, batch: dict[str, Any]) -> dict[str, Any]:
            values = plain(self, batch)
            rows = len(next(iter(batch.values())))
            calls[0] += 1
            if calls[0] < at:
                return dict(values)
            if fault == "hurry":
                HURRY.append(1)
            if fault == "oom-always" or (fault == "oom" and rows > 4):
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
            if fault == "nan":
                values["loss"] = values["loss"] * float("nan")
            return dict(values)

        return losses

    if fault in ("hurry", "oom", "oom-always", "nan"):
        for stage in (AutoencoderStage, DenoiserStage):
            stage.losses = wrong(stage, stage.losses)  # type: ignore[method-assign]
    if fault == "oom-step":
        end = Learner.end

        def half_done(self: Any, step: int) -> Any:
            made = end(self, step)
            if step + 1 == at:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
            return made

        Learner.end = half_done  # type: ignore[method-assign]


def told(backend: Diffusion, params: DiffusionParams) -> Iterator[Event]:
    """The events of a run; what is refused is the last one."""
    try:
        yield from backend.run(params)
    except Refused as error:
        yield error.as_event()


def run(spec: dict[str, Any], out: Path) -> None:
    fault, at = spec.get("fault", ""), spec.get("at", 0)
    inject(fault, at)
    backend, stop = Diffusion(), []
    backend.cancelled = lambda: bool(stop or HURRY)  # type: ignore[method-assign]
    backend.hurried = lambda: bool(HURRY)  # type: ignore[method-assign]
    backend.load(ModelRef.parse("none:"), DiffusionOptions(device="cpu"))
    with out.open("w", encoding="utf-8") as file:
        for event in told(backend, read(DiffusionParams, spec["params"])):
            file.write(json.dumps(to_json(event)) + "\n")
            file.flush()
            if isinstance(event, Metric) and event.step == at:
                if fault == "kill":
                    os.kill(os.getpid(), signal.SIGKILL)
                if fault == "cancel":
                    stop.append(1)


def warm_up() -> None:
    """What an optimizer and a pipeline import when they are first used: here, not in each child."""
    weight = torch.nn.Parameter(torch.zeros(2, 2))
    optimizer = torch.optim.AdamW([weight])
    weight.sum().backward()
    optimizer.step()
    bench = Bench(DiffusionParams(size="tiny", side=16), SIZES["tiny"], None, "cpu", "fp32")  # type: ignore[arg-type]
    vae, unet = autoencoder.autoencoder(bench), denoiser.unet(bench)
    made = words.opened(words.files(["a"], 520), 16)
    denoiser.pipeline_of(vae, denoiser.text_encoder(bench, made), made, unet)


def main() -> None:
    file = Path(sys.argv[1])
    torch.set_num_threads(1)  # a fork with OpenMP's threads would hang
    assert diffusers.StableDiffusionPipeline and diffusers.DDPMPipeline and diffusers.AutoencoderKL
    assert diffusers.UNet2DConditionModel and diffusers.UNet2DModel and diffusers.DDPMScheduler
    assert transformers.CLIPTextModel and transformers.CLIPTokenizer and diffusers.DDIMScheduler
    warm_up()
    for spec in json.loads(file.read_text("utf-8")):
        child = os.fork()
        if not child:
            try:
                run(spec, file.with_name(f"{spec['name']}.jsonl"))
            except BaseException:
                import traceback

                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        began = time.monotonic()
        os.waitpid(child, 0)
        print(f"{spec['name']}: {time.monotonic() - began:.1f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
