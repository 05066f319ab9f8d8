"""What the tests of training from nothing share: pictures, and several runs in one process."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from backends.runtime import checkpoints

COMMON = {"size": "tiny", "side": 16, "vae_steps": 4, "steps": 4, "batch": 8, "vae_batch": 8,
          "save_steps": 2, "keep": 10, "samples": 2, "sample_steps": 2, "seed": 7,
          "learning_rate": 1e-3, "warmup_steps": 0}  # fmt: skip
COLOURS = ("red", "green", "blue", "yellow", "black", "purple")


def draw(folder: Path) -> list[dict[str, str]]:
    """Twelve pictures of 20 x 20 pixels, and the rows of their metadata.jsonl."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(12):
        colour, round_ = COLOURS[number % 6], number < 6
        image = Image.new("RGB", (20, 20), "white")
        pen = ImageDraw.Draw(image)
        (pen.ellipse if round_ else pen.rectangle)((3, 3, 16, 16), fill=colour)
        image.save(folder / f"{number:02}.png")
        shape = "circle" if round_ else "square"
        rows.append({"file_name": f"{number:02}.png", "text": f"{colour} {shape}"})
    return rows


def as_zip(folder: Path, file: Path) -> Path:
    """All files of a folder as a ZIP."""
    with zipfile.ZipFile(file, "w") as archive:
        for path in sorted(folder.rglob("*")):
            archive.write(path, path.relative_to(folder).as_posix())
    return file


class Runs:
    """What the trainings said, by name."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def events(self, name: str, kind: str = "") -> list[dict[str, Any]]:
        lines = (self.folder / f"{name}.jsonl").read_text("utf-8").splitlines()
        return [e for e in map(json.loads, lines) if kind in ("", e["event"])]

    def values(self, name: str, metric: str = "loss") -> dict[int, float]:
        found = self.events(name, "Metric")
        return {e["step"]: e["value"] for e in found if e["name"] == metric}

    def notices(self, name: str) -> list[str]:
        return [e["message"] for e in self.events(name, "Notice")]

    def end(self, name: str) -> dict[str, Any]:
        return self.events(name)[-1]

    def steps(self, job: str) -> list[int]:
        return [
            checkpoints.step_of(f) for f in checkpoints.steps(self.folder / job / "checkpoints")
            if not checkpoints.verify(f)
        ]  # fmt: skip

    def model(self, job: str) -> dict[str, str]:
        """The sha256 of every file of weights and words."""
        folder = self.folder / job / "model"
        kept = [f for f in folder.rglob("*") if f.suffix in (".safetensors", ".txt")]
        kept.append(folder / "tokenizer" / "vocab.json")
        return {f.relative_to(folder).as_posix(): hashlib.sha256(f.read_bytes()).hexdigest()
                for f in sorted(kept) if f.exists()}  # fmt: skip


def one(
    folder: Path, name: str, job: str = "", fault: str = "", at: int = 0, **more: Any
) -> dict[str, Any]:
    """One run of the harness: of the job `job`, whose folder has the run's own name otherwise."""
    params = {**COMMON, **more, "folder": str(folder / (job or name)),
              "dataset": str(folder / "pictures.zip")}  # fmt: skip
    return {"name": name, "params": params, "fault": fault, "at": at}


def run_all(folder: Path, specs: list[dict[str, Any]]) -> Runs:
    rows = draw(folder / "pictures")
    lines = "\n".join(map(json.dumps, rows))
    (folder / "pictures" / "metadata.jsonl").write_text(lines, "utf-8")
    as_zip(folder / "pictures", folder / "pictures.zip")
    for spec in specs:
        Path(spec["params"]["folder"]).mkdir(exist_ok=True)
    (folder / "specs.json").write_text(json.dumps(specs), "utf-8")
    script = Path(__file__).with_name("diffusion_runs.py")
    more = {"WERKBANK_HOME": str(folder / "home"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-W", "error", str(script), str(folder / "specs.json")],
        capture_output=True, text=True, env=os.environ | more,
    )  # fmt: skip
    (folder / "log.txt").write_text(done.stderr, "utf-8")
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr[-3000:]
    return Runs(folder)
