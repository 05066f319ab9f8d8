"""The starter model `emoji-diffusion`: trained in pieces on a borrowed GPU, and judged anywhere.

    python -m benchmarks.emoji train [--job FOLDER] [--minutes 8.4] [--out FOLDER] [--from FOLDER]
    python -m benchmarks.emoji judge MODEL [--guidance 1,2,3] [--out FOLDER]
    python -m benchmarks.emoji unpack FOLDER DESTINATION
    python -m benchmarks.emoji dry

train    one piece of the job in `assets/starter/emoji-diffusion/spec.json`, through the job's own
         pause and resume: run it again until it says "finished". In --out it leaves what travels:
         the model, or a checkpoint small enough to go on from elsewhere (--from), in parts of
         15 MiB (`emoji_travel.py`), with the curve and the last samples
judge    of 200 captions drawn by seed, how often the generated picture's nearest neighbour among
         all pictures, by L2 on 32 x 32 RGB, is its own caption's; the same of the autoencoder's
         reconstructions; two seeds; seconds a picture here; sheets as PNG
unpack   what `train` left in --out: the model's folder, or a job's checkpoint
dry      all of it with a tiny model on this CPU, in two minutes

Needs torch, transformers, diffusers, tokenizers, safetensors, Pillow, psutil.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from backends.runtime.disk import read_json, read_lines, write_json
from backends.runtime.job_spec import with_hashes, with_places
from backends.runtime.process import CHECKOUT
from benchmarks import emoji_judge, emoji_travel

SPEC = CHECKOUT / "assets" / "starter" / "emoji-diffusion" / "spec.json"
PLACES = (SPEC.with_name("fluent_emoji_3d.zip"), CHECKOUT / ".carry" / "fluent_emoji_3d.zip",
          CHECKOUT / "shared" / "data" / "fluent_emoji_3d.zip",
          CHECKOUT.parent / "shared" / "data" / "fluent_emoji_3d.zip")  # fmt: skip
DATASET = next((place for place in PLACES if place.exists()), PLACES[0])
TOLD_EVERY = 20.0  # seconds between two lines of the curve
TINY = {"size": "tiny", "side": 32, "vae_steps": 30, "steps": 30, "batch": 8, "vae_batch": 8,
        "save_steps": 20, "samples": 4, "sample_steps": 4}  # fmt: skip


def make_job(job: Path, dataset: Path, params: dict[str, Any]) -> None:
    """The job's folder, once; later only how long this piece may take is changed."""
    job.mkdir(parents=True, exist_ok=True)
    spec = read_json(job / "spec.json")
    if not spec:
        spec = {**read_json(SPEC), "dataset": str(dataset.resolve())}
        spec = with_hashes(with_places(spec, SPEC.parent))
    spec["params"] |= params
    write_json(job / "spec.json", spec)


def run_piece(job: Path) -> dict[str, Any]:
    """One process of the job, to its end or its time limit. Returns its exit.json."""
    environment = os.environ | {
        "TORCHINDUCTOR_CACHE_DIR": str(job.parent / "inductor"),  # compiled once for all pieces
        "PYTHONPATH": os.pathsep.join([str(CHECKOUT), os.environ.get("PYTHONPATH", "")]),
        "HF_HUB_OFFLINE": "1",
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "backends.train", str(job)], cwd=CHECKOUT, env=environment,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    metrics, began = job / "metrics.jsonl", time.monotonic()
    at = metrics.stat().st_size if metrics.exists() else 0
    last, told = (0, time.monotonic()), time.monotonic()
    while process.poll() is None:
        time.sleep(0.5)
        if time.monotonic() - told < TOLD_EVERY:
            continue
        told = time.monotonic()
        lines, at = read_lines(metrics, at)
        last = tell(lines, last, read_json(job / "state.json"), told - began)
    ended = read_json(job / "exit.json")
    usage = ended.get("usage", {})
    print(f"{ended.get('status')}: {ended.get('message')} step {usage.get('steps')}, "
          f"{ended.get('seconds')} s", flush=True)  # fmt: skip
    if ended.get("status") in ("failed", "diverged", None):
        print(ended.get("detail", ""), (job / "log.txt").read_text("utf-8")[-3000:], flush=True)
    return ended


def tell(
    lines: list[dict[str, Any]], last: tuple[int, float], state: dict[str, Any], seconds: float
) -> tuple[int, float]:
    """Print where it is. Returns the last step and when."""
    if not lines:
        print(f"{seconds:6.0f} s  {state.get('status')}: {state.get('message')}", flush=True)
        return last
    line, now = lines[-1], time.monotonic()
    step, total = int(line["step"]), int(state.get("total") or 0)
    rate = (step - last[0]) / (now - last[1]) if last[0] else 0.0
    left = f", {(total - step) / rate / 60:.1f} min left" if rate else ""
    values = "  ".join(f"{k} {line[k]:.4g}" for k in
                       ("loss", "mse", "kl", "loss_from_noise", "grad_norm", "learning_rate")
                       if line.get(k) is not None)  # fmt: skip
    memory = (line.get("memory") or 0) / 2**30
    print(f"{seconds:6.0f} s  step {step}/{total}  {rate:.1f} steps/s{left}  {values}  "
          f"{line['images_per_second']:.0f} pictures/s  {memory:.1f} GiB", flush=True)  # fmt: skip
    return step, now


def train(given: argparse.Namespace) -> int:
    params: dict[str, Any] = {"minutes": given.minutes}
    if given.set:
        params |= json.loads(given.set)
    make_job(given.job, given.dataset, params)
    if given.source and not (given.job / "checkpoints").exists():
        found = emoji_travel.unpack(given.source, given.job.parent / "travelled")
        print(f"goes on from {emoji_travel.fattened(found, given.job).name}", flush=True)
    ended = run_piece(given.job)
    if given.out:
        emoji_travel.leave(given.job, given.out)
    return 0 if ended.get("status") in ("finished", "paused") else 1


def dry(given: argparse.Namespace) -> int:
    """Train, pause, resume elsewhere from what travels, save, open with the stock pipeline."""
    import diffusers

    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory() as name:
        there, here, out = Path(name, "there"), Path(name, "here"), Path(name, "out")
        make_job(there, given.dataset, {**TINY, "minutes": 0.0})
        pause_at(there, 45)
        assert read_json(there / "exit.json")["status"] == "paused"
        emoji_travel.leave(there, out)
        make_job(here, given.dataset, {**TINY, "minutes": 0.0})
        emoji_travel.fattened(emoji_travel.unpack(out, Path(name, "travelled")), here)
        ended = run_piece(here)
        assert ended["status"] == "finished", ended
        assert [line["step"] for line in read_lines(here / "metrics.jsonl")[0]][0] > 30
        emoji_travel.leave(here, Path(name, "made"))
        model = emoji_travel.unpack(Path(name, "made"), Path(name, "model"))
        pipeline = diffusers.StableDiffusionPipeline.from_pretrained(model)
        picture = pipeline("red heart", num_inference_steps=4, height=32, width=32).images[0]
        print(f"a picture of {picture.size} pixels from {sorted(p.name for p in model.iterdir())}")
    return 0


def pause_at(job: Path, step: int) -> None:
    """Run the job and ask it to pause at about that step, as the page does."""
    process = subprocess.Popen(
        [sys.executable, "-m", "backends.train", str(job)], cwd=CHECKOUT, stdin=subprocess.DEVNULL
    )
    while process.poll() is None:
        if int(read_json(job / "state.json").get("step") or 0) >= step:
            write_json(job / "control.json", {"pause": True})
        time.sleep(0.05)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    one = verbs.add_parser("train")
    one.add_argument("--job", type=Path, default=Path(tempfile.gettempdir(), "emoji", "job"))
    one.add_argument("--minutes", type=float, default=8.4)
    one.add_argument("--out", type=Path)
    one.add_argument("--from", dest="source", type=Path, help="what an earlier --out received")
    one.add_argument("--set", default="", help="params as JSON, instead of the spec's")
    two = verbs.add_parser("judge")
    emoji_judge.add_arguments(two)
    three = verbs.add_parser("unpack")
    three.add_argument("source", type=Path)
    three.add_argument("destination", type=Path)
    four = verbs.add_parser("dry")
    for verb in (one, two, four):
        verb.add_argument("--dataset", type=Path, default=DATASET)
    given = parser.parse_args()
    if given.verb == "unpack":
        print(emoji_travel.unpack(given.source, given.destination))
        return 0
    verb = {"train": train, "judge": emoji_judge.judge, "dry": dry}[given.verb]
    return verb(given)


if __name__ == "__main__":
    sys.exit(main())
