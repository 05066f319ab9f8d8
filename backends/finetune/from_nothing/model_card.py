"""The README of a model that was trained from nothing."""

from __future__ import annotations

from pathlib import Path

from backends.finetune.from_nothing.kinds import Kind
from backends.finetune.from_nothing.stages import Bench
from backends.params import to_dict

HIDDEN = {"folder", "dataset", "resume", "prompts", "minutes"}
USES = {
    "text": "pipe = StableDiffusionPipeline.from_pretrained(folder)\n"
    "pipe({caption!r}, num_inference_steps={steps}, guidance_scale={guidance}, "
    "height={side}, width={side}).images[0]",
    "unconditional": "pipe = DDPMPipeline.from_pretrained(folder)\n"
    "pipe(num_inference_steps={steps}).images[0]",
    "gan": "generator = opened_gan(folder)  # backends.finetune.from_nothing.kinds\n"
    "generator(torch.randn(1, 100, 1, 1))",
}


def text(bench: Bench, kind: Kind, sha256: str, last_loss: float | None) -> str:
    """Markdown, without a path of this computer."""
    params = bench.params
    settings = {k: v for k, v in to_dict(params).items() if k not in HIDDEN}
    lines = "\n".join(f"| {key} | {value} |" for key, value in settings.items())
    weights = sum(v.numel() for part in bench.finished.values() for v in part.values())
    use = USES[kind.name].format(
        caption=bench.pictures.captions[0], steps=params.sample_steps, guidance=params.guidance,
        side=params.side,
    )  # fmt: skip
    loss = "unknown" if last_loss is None else f"{last_loss:.4f}"
    return (
        f"---\nlibrary_name: {kind.library}\ntags: [werkbank, from-nothing, {kind.name}]\n---\n\n"
        f"# A small image model\n\n"
        f"Trained by Werkbank from random weights. It holds {weights / 1e6:.1f} million weights "
        f"in fp16, and no pictures.\n\n"
        f"- Layout: {kind.pipeline}\n"
        f"- Dataset: {Path(params.dataset).name}, {len(bench.pictures):,} pictures, "
        f"sha256 `{sha256}`\n"
        f"- Size of a picture: {params.side} x {params.side}\n"
        f"- Final loss: {loss}\n\n"
        f"```python\n{use}\n```\n\n"
        f"| setting | value |\n|---|---|\n{lines}\n"
    )
