"""The kinds of model: which stages each is trained in, and the folder of what was learned."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backends.finetune.from_nothing import autoencoder, denoiser, gan, unconditional, words
from backends.finetune.from_nothing.stages import Bench, Stage
from backends.finetune.from_nothing.state import save

if TYPE_CHECKING:
    from backends.finetune.diffusion_params import DiffusionParams

SHARD = "14MB"  # of one file at most: what a repository of code takes without more ado


@dataclass(frozen=True)
class Kind:
    """One kind.

    stages    made in this order, each from what the ones before have finished
    steps     of each stage, from the params
    captioned whether a picture without a caption is of no use
    keep      writes the finished modules into a folder, in fp16
    library   that opens the folder; pipeline: its class there
    """

    name: str
    stages: tuple[Callable[[Bench], Stage], ...]
    steps: Callable[[DiffusionParams], tuple[int, ...]]
    captioned: bool
    keep: Callable[[Bench, Path], None]
    library: str
    pipeline: str


def keep_text(bench: Bench, folder: Path) -> None:
    """As StableDiffusionPipeline opens it, with the tokenizer's own two files."""
    tokenizer = words.opened(bench.words, bench.size.length)
    parts = {"vae": autoencoder.autoencoder(bench), "unet": denoiser.unet(bench),
             "text_encoder": denoiser.text_encoder(bench, tokenizer)}  # fmt: skip
    for name, module in parts.items():
        module.load_state_dict(bench.finished[name])
        module.half().eval()
    pipeline = denoiser.pipeline_of(parts["vae"], parts["text_encoder"], tokenizer, parts["unet"])
    pipeline.save_pretrained(folder, safe_serialization=True, max_shard_size=SHARD)
    words.write(folder / "tokenizer", bench.words)
    # transformers would open it as it was written and diffusers in fp32: together they fail.
    file = folder / "text_encoder" / "config.json"
    config = json.loads(file.read_text("utf-8")) | {"dtype": "float32"}
    file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", "utf-8")


def keep_unconditional(bench: Bench, folder: Path) -> None:
    """As DDPMPipeline opens it."""
    import diffusers

    module = unconditional.unet(bench)
    module.load_state_dict(bench.finished["unet"])
    pipeline = diffusers.DDPMPipeline(unet=module.half().eval(),
                                      scheduler=unconditional.scheduler())  # fmt: skip
    pipeline.save_pretrained(folder, safe_serialization=True, max_shard_size=SHARD)


def keep_gan(bench: Bench, folder: Path) -> None:
    """generator.safetensors and a config.json that says how to build it again."""
    import torch

    tensors = {k: v.half() if v.is_floating_point() else v
               for k, v in bench.finished["generator"].items()}  # fmt: skip
    folder.mkdir(parents=True)
    save(folder / "generator.safetensors", tensors)
    config = {"model_type": "dcgan", "side": bench.params.side, "width": bench.size.gan,
              "noise": gan.NOISE, "dtype": str(torch.float16).removeprefix("torch.")}  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config, indent=1), "utf-8")


def opened_gan(folder: Path) -> Any:
    """The generator that `keep_gan` wrote, in fp32. Raises OSError, KeyError, RuntimeError."""
    import safetensors.torch

    config = json.loads((folder / "config.json").read_text("utf-8"))
    module = gan.generator(int(config["side"]), int(config["width"]))
    module.load_state_dict(safetensors.torch.load_file(folder / "generator.safetensors"))
    return module.float().eval()


KINDS = {
    kind.name: kind
    for kind in (
        Kind(
            "text", (autoencoder.AutoencoderStage, denoiser.DenoiserStage),
            lambda params: (params.vae_steps, params.steps), True, keep_text,
            "diffusers", "StableDiffusionPipeline",
        ),
        Kind(
            "unconditional", (unconditional.UnconditionalStage,), lambda params: (params.steps,),
            False, keep_unconditional, "diffusers", "DDPMPipeline",
        ),
        Kind(
            "gan", (gan.GanStage,), lambda params: (params.steps,), False, keep_gan, "pytorch",
            "DCGAN",
        ),
    )
}  # fmt: skip
