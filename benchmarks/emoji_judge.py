"""How well a model draws what it was taught: the judge of `benchmarks.emoji`."""

from __future__ import annotations

import argparse
import random
import statistics
import time
from pathlib import Path
from typing import Any

from backends.finetune.from_nothing.autoencoder import as_bytes, as_signed
from backends.finetune.from_nothing.samples import sheet
from backends.finetune.pictures import reading
from benchmarks.measure import Bar

SMALL = 32  # pixels of the side at which pictures are compared
UNSEEN = (
    "a red cat", "a blue heart", "green apple face", "a purple dog", "yellow umbrella",
    "robot with sunglasses", "a house in the snow", "a fish with a hat", "black star",
    "a sad pizza", "two red hearts", "orange bird", "a smiling cloud", "pink car",
    "a golden key", "frog king", "a cup of tea with flowers", "night mountain with moon",
    "an angry sun", "white rabbit with a book",
)  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", type=Path)
    parser.add_argument("--guidance", default="1,2,3", help="scales, each judged for itself")
    parser.add_argument("--captions", type=int, default=200)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batch", type=int, default=25)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--timed", type=int, default=3, help="pictures drawn alone, and timed")
    parser.add_argument("--out", type=Path, default=Path())


def judge(given: argparse.Namespace) -> int:
    pictures = everything(reading.read(given.dataset, side_of(given.model), True, lambda: False))
    pipeline = opened(given.model)
    device = str(pipeline.device)
    known = small(pictures.pixels.to(device))
    rows = random.Random(given.seed).sample(range(len(pictures)), given.captions)
    captions = [pictures.captions[row] for row in rows]
    given.out.mkdir(parents=True, exist_ok=True)
    unpacked = through_vae(pipeline, pictures.pixels[rows].to(device))
    share, told = score(unpacked, captions, known, pictures.captions), psnr(
        unpacked, pictures.pixels[rows]
    )  # fmt: skip
    table = [Bar("autoencoder: own caption", 95, " %", True, 1).row(share, f"PSNR {told:.1f} dB")]
    best: tuple[float, float, Any] = (-1.0, 1.0, None)
    for scale in map(float, given.guidance.split(",")):
        began = time.monotonic()
        made = drawn(pipeline, captions, scale, given, given.seed)
        share = score(made, captions, known, pictures.captions)
        each = (time.monotonic() - began) / len(captions)
        table.append(
            Bar(f"guidance {scale:g}: own caption", 80, " %", True, 1).row(
                share, f"{each:.3f} s a picture in batches of {given.batch} on {device}"
            )
        )
        best = max(best, (share, scale, made), key=lambda one: one[0])
    _, scale, made = best
    other = drawn(pipeline, captions[:16], scale, given, given.seed + 1)
    apart = float((made[:16].float() - other.float()).abs().mean())
    table.append(Bar("two seeds: mean difference of a pixel", 0.5, "", True).row(apart, "of 255"))
    table.append(alone(pipeline, captions, scale, given))
    pairs = zip(pictures.pixels[rows[:32]], made[:32], strict=False)
    save(sheet(stacked([one for pair in pairs for one in pair]), 8), given.out / "captions.png")
    save(sheet(drawn(pipeline, list(UNSEEN), scale, given, 7), 5), given.out / "unseen.png")
    for row in table:
        verdict = "holds" if row.holds else "MISSED"
        print(f"| {row.what} | {row.figure} | {row.bar} | {verdict} | {row.note} |")
    return 0


def everything(events: Any) -> Any:
    """What a generator of events returns."""
    while True:
        try:
            next(events)
        except StopIteration as end:
            return end.value


def side_of(model: Path) -> int:
    import json

    vae = json.loads((model / "vae" / "config.json").read_text("utf-8"))
    return int(vae["sample_size"])


def opened(model: Path) -> Any:
    import diffusers
    import torch

    made = diffusers.StableDiffusionPipeline.from_pretrained(model, torch_dtype=torch.float32)
    made.set_progress_bar_config(disable=True)
    return made.to("cuda" if torch.cuda.is_available() else "cpu")


def drawn(pipeline: Any, captions: list[str], scale: float, given: Any, seed: int) -> Any:
    """uint8 [captions, 3, side, side] on the CPU; each with a seed of its own."""
    import torch

    found = []
    for start in range(0, len(captions), given.batch):
        some = captions[start : start + given.batch]
        dice = [torch.Generator().manual_seed(seed * 100_000 + start + n) for n in range(len(some))]
        made = pipeline(some, num_inference_steps=given.steps, guidance_scale=scale,
                        generator=dice, output_type="pt").images  # fmt: skip
        found.append(as_bytes(made * 2 - 1))
    return torch.cat(found)


def alone(pipeline: Any, captions: list[str], scale: float, given: Any) -> Any:
    """Seconds of one picture by itself, median."""
    seconds = []
    one = argparse.Namespace(**{**vars(given), "batch": 1})
    for caption in captions[: given.timed + 1]:
        began = time.monotonic()
        drawn(pipeline, [caption], max(scale, 1.5), one, given.seed)
        seconds.append(time.monotonic() - began)
    note = f"{pipeline.device}, with guidance"
    return Bar(f"one picture, {given.steps} steps", 3, " s").row(
        statistics.median(seconds[1:]), note
    )


def through_vae(pipeline: Any, pixels: Any) -> Any:
    """uint8 [n, 3, side, side], packed and unpacked, on the CPU."""
    import torch

    vae, found = pipeline.vae, []
    with torch.no_grad():
        for part in pixels.split(25):
            latents = vae.encode(as_signed(part)).latent_dist.mode()
            found.append(as_bytes(vae.decode(latents).sample))
    return torch.cat(found)


def small(pixels: Any) -> Any:
    """fp32 [n, 3 * 32 * 32], each value the mean of its square of pixels."""
    import torch.nn.functional as F

    return F.adaptive_avg_pool2d(pixels.float(), SMALL).flatten(1)


def score(made: Any, captions: list[str], known: Any, all_captions: list[str]) -> float:
    """Percent of pictures whose nearest neighbour has the caption that was asked for."""
    import torch

    nearest = (
        torch.cdist(
            small(made.to(known.device)), known, compute_mode="donot_use_mm_for_euclid_dist"
        )
        .argmin(dim=1)
        .tolist()
    )
    right = sum(all_captions[n] == said for n, said in zip(nearest, captions, strict=True))
    return 100.0 * right / len(captions)


def psnr(made: Any, real: Any) -> float:
    """Decibels, mean over the pictures; 8 bits."""
    squares = (made.float() - real.float()).square().mean(dim=(1, 2, 3)).clamp_min(1e-6)
    return float((10.0 * (255.0**2 / squares).log10()).mean())


def stacked(pictures: list[Any]) -> Any:
    import torch

    return torch.stack(pictures)


def save(picture: Any, file: Path) -> None:
    picture.save(file)
    print(f"wrote {file}")
