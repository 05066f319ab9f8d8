"""The recipe in a picture: what others read of it, and a file that is whole or not there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from backends.image.recipe import a1111_text, png_bytes, save_png, short_name

ROOT = Path(__file__).resolve().parents[3]
SAID: dict[str, Any] = {
    "prompt": "a red fox, (autumn:1.2)", "negative": "blurry", "steps": 20, "guidance": 7.5,
    "width": 512, "height": 768, "seed": 1, "scheduler": "DPM++ 2M Karras",
    "model": "hub:someone/dream@main:dream_v8.safetensors", "model_title": "Dream 8",
    "strength": 0.6, "versions": {"werkbank": "0.1.0"},
}  # fmt: skip


def picture() -> Image.Image:
    return Image.new("RGB", (16, 8), (200, 30, 30))


def test_other_programs_read_prompt_negative_and_settings() -> None:
    assert a1111_text(SAID) == (
        "a red fox, (autumn:1.2)\nNegative prompt: blurry\n"
        "Steps: 20, Sampler: DPM++ 2M Karras, CFG scale: 7.5, Seed: 1, Size: 512x768, "
        "Model: Dream 8, Denoising strength: 0.6, Version: Werkbank 0.1.0"
    )


@pytest.mark.parametrize(
    ("more", "part"),
    [
        ({"model_title": "Dream, the 8th: new"}, 'Model: "Dream, the 8th: new"'),
        ({"model_title": ""}, "Model: dream_v8"),
        ({"clip_skip": 1}, "Clip skip: 2"),
        ({"guidance": 7.0}, "CFG scale: 7,"),
        ({"variation": 0.1 + 0.2, "variation_seed": 9},
         "Variation seed: 9, Variation seed strength: 0.3,"),
        ({"enlarge": 2.0, "enlarge_strength": 0.4},
         "Denoising strength: 0.4, Hires upscale: 2, Hires upscaler: Latent"),
        ({"adapters": [{"ref": "hub:a/b@main:ink.safetensors", "weight": 0.8},
                       {"ref": "job:20260101-x@500", "weight": 1.0}]},
         "(autumn:1.2) <lora:ink:0.8> <lora:20260101-x:1>\n"),
    ],
)  # fmt: skip
def test_the_text_is_as_automatic1111_writes_it(more: dict[str, Any], part: str) -> None:
    assert part in a1111_text({**SAID, **more})


def test_what_is_missing_is_left_out() -> None:
    assert a1111_text({}) == ""
    assert a1111_text({"prompt": "fox", "seed": 0}) == "fox\nSeed: 0"


def test_both_recipes_stand_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "fox.png"
    save_png(picture(), path, SAID)
    with Image.open(path) as read:
        assert json.loads(read.text["werkbank"]) == {"werkbank": 1, **SAID}
        assert read.text["parameters"] == a1111_text(SAID)
        assert list(read.convert("RGB").get_flattened_data()) == [(200, 30, 30)] * 128
    assert [file.name for file in tmp_path.iterdir()] == ["fox.png"]


@pytest.mark.parametrize(
    "prompt", ["ein Fuchs über Öland", "a fox 🦊 狐", "half \ud83e and \0 nul"]
)
def test_a_prompt_of_any_signs_is_kept(prompt: str, tmp_path: Path) -> None:
    save_png(picture(), tmp_path / "x.png", {"prompt": prompt})
    with Image.open(tmp_path / "x.png") as read:
        told = json.loads(read.text["werkbank"])["prompt"]
        assert read.text["parameters"] == told.replace("\0", "")
    assert told == prompt.replace("\ud83e", "?")


def test_the_same_recipe_gives_the_same_bytes() -> None:
    turned = dict(reversed(SAID.items()))
    assert png_bytes(picture(), SAID) == png_bytes(picture(), turned)


def test_a_full_disk_leaves_what_was_there_and_nothing_else(tmp_path: Path) -> None:
    save_png(picture(), tmp_path / "fox.png", SAID)
    before = (tmp_path / "fox.png").read_bytes()
    code = (
        "import os, resource, signal, sys; from pathlib import Path\n"
        "from PIL import Image; from backends.image.recipe import save_png\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "noise = Image.frombytes('RGB', (64, 64), os.urandom(64 * 64 * 3))\n"
        "try: save_png(noise, Path(sys.argv[1]), {})\n"
        "except OSError as error: print('OSError', error.errno)"
    )
    if os.name != "posix":
        pytest.skip("needs a limit on files")
    said = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "fox.png")],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert said.stdout.startswith("OSError"), said.stderr
    assert (tmp_path / "fox.png").read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["fox.png"]


@pytest.mark.parametrize(
    ("ref", "name"),
    [("hub:o/n@abc", "n"), ("starter:emoji-diffusion", "emoji-diffusion"), ("plain", "plain"),
     ("export:20260101-x/merged.safetensors", "merged"), ("hub:o/n@r:d/file.safetensors", "file")],
)  # fmt: skip
def test_a_model_is_called_as_its_file(ref: str, name: str) -> None:
    assert short_name(ref) == name
