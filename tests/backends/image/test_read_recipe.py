"""Recipes of other programs, and files that mean no good."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import zlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from backends.base import Refused
from backends.image import read_recipe
from backends.image.foreign.told import usual
from backends.image.read_recipe import MAX_BYTES, answer, read
from backends.image.recipe import png_bytes
from tests.backends.image import foreign_files as files
from tests.backends.image.foreign_files import as_json, chunk, exif, itxt, jpeg, png, text, webp

SCRIPT = Path(read_recipe.__file__)


def recipe(data: bytes) -> dict[str, Any]:
    found = read(data)["recipe"]
    assert isinstance(found, dict), read(data)
    return found


# Each program


def test_automatic1111() -> None:
    said = recipe(png(text("parameters", files.A1111), size=(768, 1152)))
    unknown = said.pop("unknown")
    assert said == {
        "source": "a1111", "prompt": "a red fox, (autumn:1.2)\nsecond line",
        "negative": "blurry\nugly", "steps": 28, "scheduler": "DPM++ 2M Karras", "guidance": 6.5,
        "seed": 123456789, "width": 512, "height": 768, "model_title": "dreamshaper_8",
        "variation_seed": 5, "variation": 0.2, "enlarge_strength": 0.45, "enlarge": 1.5,
        "clip_skip": 1, "adapters": [{"ref": "", "name": "ink", "weight": 0.8}],
    }  # fmt: skip
    assert unknown == {
        "Model hash": "abc123", "VAE": "a, b: c", "Hires upscaler": "4x-UltraSharp",
        "Version": "v1.10.1",
    }  # fmt: skip


def test_a_picture_begun_from_another_has_its_strength() -> None:
    said = recipe(png(text("parameters", "fox\nSteps: 9, Seed: 1, Denoising strength: 0.3")))
    assert (said["strength"], said["width"], "enlarge_strength" in said) == (0.3, 8, False)


def test_comfyui() -> None:
    said = recipe(png(text("prompt", as_json(files.COMFY))))
    unknown = said.pop("unknown")
    assert said == {
        "source": "comfyui", "prompt": "ein Fuchs 🦊", "negative": "blurry", "seed": 42,
        "steps": 25, "guidance": 7.0, "scheduler": "DPM++ 2M SDE Karras", "width": 640,
        "height": 448, "model_title": "v1-5",
        "adapters": [{"ref": "", "name": "ink", "weight": 0.7}],
    }  # fmt: skip
    assert unknown == {"nodes": "UltimateSDUpscale"}


def test_comfyuis_flux_whose_sampler_is_put_together() -> None:
    said = recipe(png(itxt("prompt", as_json(files.FLUX), packed=True)))
    assert said == {
        "source": "comfyui", "prompt": "a fox", "seed": 99, "steps": 20, "guidance": 3.5,
        "scheduler": "Euler", "width": 1024, "height": 1024, "model_title": "flux1-dev",
        "unknown": {},
    }  # fmt: skip


def test_comfyuis_graph_as_the_page_drew_it() -> None:
    said = recipe(png(text("workflow", as_json(files.WORKFLOW))))
    assert said == {
        "source": "comfyui", "prompt": "a fox", "seed": 7, "steps": 12, "guidance": 5.5,
        "scheduler": "Euler", "width": 256, "height": 320, "model_title": "base", "unknown": {},
    }  # fmt: skip


def test_a_graph_that_goes_round_in_circles_ends() -> None:
    node = {"class_type": "KSampler", "inputs": {
        "steps": 1, "positive": ["1", 0], "negative": ["1", 1], "model": ["1", 0],
        "latent_image": ["1", 0], "seed": ["1", 0]}}  # fmt: skip
    assert recipe(png(text("prompt", as_json({"1": node}))))["steps"] == 1


def test_both_sides_of_a_control_net_are_followed_apart() -> None:
    graph = json.loads(as_json(files.COMFY))
    graph["3"]["inputs"] |= {"positive": ["9", 0], "negative": ["9", 1]}
    graph["9"] = {"class_type": "ControlNetApplyAdvanced", "inputs": {
        "positive": ["6", 0], "negative": ["7", 0], "image": ["1", 0]}}  # fmt: skip
    said = recipe(png(text("prompt", as_json(graph))))
    assert (said["prompt"], said["negative"]) == ("ein Fuchs 🦊", "blurry")
    assert "ControlNetApplyAdvanced" in said["unknown"]["nodes"]


def test_invokeai() -> None:
    said = recipe(png(text("invokeai_metadata", as_json(files.INVOKE))))
    assert said == {
        "source": "invokeai", "prompt": "a red fox", "negative": "blurry", "width": 832,
        "height": 1216, "seed": 3141, "steps": 30, "guidance": 5.5, "scheduler": "DPM++ 2M Karras",
        "model_title": "juggernaut", "adapters": [{"ref": "", "name": "ink", "weight": 0.5}],
        "unknown": {"app_version": "5.6.0", "generation_mode": "txt2img",
                    "cfg_rescale_multiplier": 0.0},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("key", "value", "seed", "scheduler", "model"),
    [
        ("sd-metadata", as_json(files.SD_METADATA), 11, "Euler a", "stable-diffusion-1.5"),
        ("Dream", files.DREAM, 1234, "LMS", None),
    ],
)
def test_older_invokeai(key: str, value: str, seed: int, scheduler: str, model: str | None) -> None:
    said = recipe(png(text(key, value)))
    assert said["prompt"].startswith("a fox") and said["negative"] == "blurry"
    assert (said["seed"], said["scheduler"], said.get("model_title")) == (seed, scheduler, model)
    assert (said["steps"], said["guidance"], said["width"], said["height"]) == (50, 7.5, 512, 640)


def test_fooocus() -> None:
    said = recipe(
        png(text("parameters", as_json(files.FOOOCUS)), text("fooocus_scheme", "fooocus"))
    )
    unknown = said.pop("unknown")
    assert said == {
        "source": "fooocus", "prompt": "a fox", "steps": 30, "guidance": 4.0, "width": 1152,
        "height": 896, "scheduler": "DPM++ 2M SDE Karras", "seed": 8124, "clip_skip": 1,
        "model_title": "juggernautXL_v8",
        "adapters": [{"ref": "", "name": "ink", "weight": 0.25},
                     {"ref": "", "name": "snow", "weight": 0.1}],
    }  # fmt: skip
    assert {"styles", "sharpness", "version"} <= unknown.keys()


def test_our_own_comes_back_as_it_was() -> None:
    said = {
        "prompt": "ein Fuchs 🦊", "negative": "x", "steps": 20, "guidance": 7.5, "width": 512,
        "height": 512, "seed": 5, "scheduler": "DDIM", "model": "hub:a/b@r", "model_title": "B",
        "variation": 0.1, "variation_seed": 4, "clip_skip": 1, "enlarge": 2.0,
        "enlarge_strength": 0.5, "family": "sd15", "kind": "text",
        "adapters": [{"ref": "hub:a/ink@r", "weight": 0.5}], "versions": {"diffusers": "0.42.1"},
    }  # fmt: skip
    found = recipe(png_bytes(Image.new("RGB", (8, 8)), said))
    adapter = {"ref": "hub:a/ink@r", "name": "ink", "weight": 0.5}
    assert found == {**said, "adapters": [adapter], "source": "werkbank", "unknown": {}}


def test_our_own_as_other_programs_read_it() -> None:
    picture = Image.new("RGB", (8, 8))
    said = {"prompt": "a fox", "steps": 20, "seed": 5, "guidance": 7.5, "scheduler": "Euler a",
            "clip_skip": 1, "adapters": [{"ref": "hub:a/ink@r", "weight": 0.5}]}  # fmt: skip
    data = png_bytes(picture, said).replace(b"werkbank", b"somebody")
    found = recipe(data)
    assert (found["source"], found["clip_skip"], found["scheduler"]) == ("a1111", 1, "Euler a")
    assert found["adapters"] == [{"ref": "", "name": "ink", "weight": 0.5}]


@pytest.mark.parametrize(
    ("name", "schedule", "ours"),
    [
        ("DPM++ 2M Karras", "", "DPM++ 2M Karras"), ("DPM++ 2M", "Automatic", "DPM++ 2M"),
        ("euler_ancestral", "normal", "Euler a"), ("dpmpp_2m", "karras", "DPM++ 2M Karras"),
        ("dpmpp_2m_sde_k", "", "DPM++ 2M SDE Karras"), ("uni_pc_bh2", "simple", "UniPC"),
        ("Restart", "", "Restart"), ("DPM++ 2M", "SGM Uniform", "DPM++ 2M Sgm Uniform"),
        ("DDIM", "ddim_uniform", "DDIM Ddim Uniform"), ("k_euler", "", "Euler"),
    ],
)  # fmt: skip
def test_samplers_get_their_usual_names(name: str, schedule: str, ours: str) -> None:
    assert usual(name, schedule) == ours


# Where it stands


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(
    "comment",
    [b"UNICODE\0" + files.A1111.encode("utf-16-be"), b"UNICODE\0" + files.A1111.encode("utf-16-le"),
     b"ASCII\0\0\0" + files.A1111.encode(), b"\0" * 8 + files.A1111.encode()],
)  # fmt: skip
def test_a_user_comment_in_jpeg_webp_and_png(order: str, comment: bytes) -> None:
    block = exif(comment, order=order)
    for data in (
        jpeg(b"Exif\0\0" + block, size=(300, 200)),
        webp((b"EXIF", block), size=(300, 200)),
        webp((b"EXIF", b"Exif\0\0" + block), size=(300, 200)),
        png(chunk(b"eXIf", block), size=(300, 200)),
    ):
        said = read(data)
        assert said["recipe"]["seed"] == 123456789 and said["recipe"]["prompt"].startswith("a red")
        assert (said["width"], said["height"]) == (300, 200)


def test_comfyuis_graph_in_a_webp() -> None:
    block = exif(make=f"workflow:{as_json(files.WORKFLOW)}", model=f"prompt:{as_json(files.COMFY)}")
    assert recipe(webp((b"EXIF", block)))["seed"] == 42


def test_xmp_and_comments_of_a_jpeg() -> None:
    xmp = (
        '<x:xmpmeta><exif:UserComment><rdf:Alt><rdf:li xml:lang="x-default">'
        f"{files.A1111.replace('<', '&lt;')}</rdf:li></rdf:Alt></exif:UserComment></x:xmpmeta>"
    ).encode()
    assert recipe(jpeg(b"http://ns.adobe.com/xap/1.0/\0" + xmp))["seed"] == 123456789
    assert recipe(webp((b"XMP ", xmp)))["adapters"][0]["name"] == "ink"


def test_texts_behind_the_pixels_and_packed_ones_are_found() -> None:
    behind = text("parameters", files.A1111)
    assert recipe(png(after=behind))["seed"] == 123456789
    packed = files.ztxt("parameters", zlib.compress(files.A1111.encode()))
    assert recipe(png(packed))["seed"] == 123456789


@pytest.mark.parametrize("said", ["über Öl", "🦊 und 狐", "a\0b"])
def test_german_emoji_and_nul(said: str) -> None:
    text = f"{said}\nSteps: 1, Sampler: Euler, Seed: 2"
    for made in (itxt("parameters", text), chunk(b"tEXt", b"parameters\0" + text.encode())):
        assert recipe(png(made))["prompt"] == said.replace("\0", " ")


def test_a_picture_saved_by_pillow_is_read(tmp_path: Path) -> None:
    made = Image.new("RGB", (40, 30))
    about = made.getexif()
    about[0x9286] = b"ASCII\0\0\0" + files.A1111.encode()
    for kind in ("JPEG", "WEBP"):
        made.save(tmp_path / "x", kind, exif=about)
        said = read((tmp_path / "x").read_bytes())
        assert (said["recipe"]["seed"], said["width"], said["height"]) == (123456789, 40, 30)
        assert said["recipe"]["prompt"].startswith("a red fox")


def test_fooocus_in_a_jpeg_has_no_mark_before_its_comment(tmp_path: Path) -> None:
    about = Image.new("RGB", (8, 8)).getexif()
    about[0x9286], about[0x927C] = as_json(files.FOOOCUS), "fooocus"
    for kind in ("JPEG", "WEBP", "PNG"):
        Image.new("RGB", (8, 8)).save(tmp_path / "x", kind, exif=about)
        assert recipe((tmp_path / "x").read_bytes())["seed"] == 8124


# What means no good


def test_a_picture_without_a_recipe_says_so() -> None:
    for data in (png(), jpeg(), webp(), png(text("Software", "GIMP"), text("parameters", "fox"))):
        said = read(data)
        assert said["recipe"] is None and "no recipe" in said["note"]


@pytest.mark.parametrize("data", [b"", b"x", b"GIF89a", b"<svg/>", b"PK\x03\x04", b"\0" * 5000])
def test_what_is_no_such_picture_is_refused(data: bytes) -> None:
    with pytest.raises(Refused):
        read(data)


def test_30000_pixels_are_only_a_number() -> None:
    began = time.monotonic()
    said = read(png(text("parameters", files.A1111), size=(30_000, 30_000)))
    assert (said["width"], said["recipe"]["width"]) == (30_000, 512)
    assert time.monotonic() - began < 0.5


@pytest.mark.parametrize("kind", ["zTXt", "iTXt"])
def test_a_bomb_is_left_out(kind: str) -> None:
    bomb = zlib.compress(b"\0" * 50_000_000, 9)
    made = (
        files.ztxt("parameters", bomb)
        if kind == "zTXt"
        else chunk(b"iTXt", b"parameters\0\1\0\0\0" + bomb)
    )
    began = time.monotonic()
    said = read(png(*[made] * 20))
    assert said["recipe"] is None and "too long" in said["note"]
    assert time.monotonic() - began < 2


def test_10_mb_of_metadata_are_left_out_and_the_rest_is_read() -> None:
    long = "x" * 10_000_000
    assert "too long" in read(png(text("parameters", long)))["note"]
    both = png(text("workflow", long), text("parameters", files.A1111))
    assert recipe(both)["seed"] == 123456789


def test_a_truncated_file_is_read_as_far_as_it_goes() -> None:
    data = png(text("parameters", files.A1111))
    assert recipe(data[:-30])["seed"] == 123456789
    for length in range(8, len(data), 37):
        answer(data[:length])


@pytest.mark.parametrize(
    "value",
    ["[" * 100_000, '{"1":' * 50_000, "9" * 100_000, '{"1": {"inputs": {"positive": 1e999}}}',
     '{"1": {"inputs": {"positive": ["1", 0], "steps": NaN, "seed": 1e400}}}', "null", "[]"],
)  # fmt: skip
def test_json_that_means_no_good_is_no_exception(value: str) -> None:
    for key in ("prompt", "workflow", "invokeai_metadata", "sd-metadata", "parameters", "werkbank"):
        assert "recipe" in read(png(text(key, value)))


@pytest.mark.parametrize(
    "line",
    ["a" * 100_000, "a:" * 50_000, 'a:"' * 40_000, " " * 100_000, 'a: "' + "\\" * 100_000,
     "a b-" * 30_000 + ":", "<lora:" * 20_000, "[" * 100_000, "Steps: 1, " * 10_000],
    ids=range(9),
)  # fmt: skip
def test_no_line_takes_long(line: str) -> None:
    began = time.monotonic()
    tail = "\nSteps: 1, Sampler: x, Seed: 2"
    answer(png(text("parameters", line), text("Dream", f'"{line}" {line}')))
    answer(png(text("parameters", line + tail)))
    answer(jpeg(b"http://ns.adobe.com/xap/1.0/\0" + f"<exif:UserComment>{line}"[:60_000].encode()))
    assert time.monotonic() - began < 3


def test_values_of_the_wrong_kind_are_unknown_and_never_settings() -> None:
    bad = "fox\nSteps: many, Sampler: Euler, Seed: 1e99, CFG scale: nan, Size: big, Clip skip: x"
    said = recipe(png(text("parameters", bad)))
    assert {"steps", "seed", "guidance", "clip_skip"}.isdisjoint(said)
    assert said["unknown"]["Steps"] == "many" and said["unknown"]["CFG scale"] == "nan"
    own = {"werkbank": 1, "prompt": ["x"], "steps": {"a": 1}, "seed": True, "adapters": "x",
           "versions": [1], "width": 1e300, "more": [1, {"deep": None}]}  # fmt: skip
    found = recipe(png(itxt("werkbank", as_json(own))))
    assert "steps" not in found and "seed" not in found and found["width"] == 8


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["inputs", "class_type", "positive", "steps", "model", "image", "loras",
                             "prompt", "weight", "nodes", "links", "1", "adapters", "base_model",
                             "widgets_values", "type", "id", "link", "name"]), inner, max_size=5)
    ),
    max_leaves=20,
)  # fmt: skip
QUIET = settings(max_examples=150, deadline=2000, suppress_health_check=[HealthCheck.too_slow])


@QUIET
@given(
    JSON,
    st.sampled_from(
        ["prompt", "workflow", "invokeai_metadata", "sd-metadata", "parameters", "werkbank"]
    ),
)
def test_any_json_is_read_without_an_exception(value: Any, key: str) -> None:
    value = {"1": value, "werkbank": 1, "image": value, "base_model": value, "prompt": value,
             "nodes": value, "links": value, "adapters": value, "loras": value}  # fmt: skip
    assert "recipe" in json.dumps(read(png(itxt(key, as_json(value)))))


@QUIET
@given(st.binary(max_size=400), st.integers(0, 400), st.sampled_from("pjw"))
def test_any_bytes_anywhere_are_read_without_an_exception(noise: bytes, at: int, kind: str) -> None:
    block = exif(b"ASCII\0\0\0" + files.A1111.encode())
    whole = {
        "p": png(text("parameters", files.A1111), chunk(b"eXIf", block)),
        "j": jpeg(b"Exif\0\0" + block),
        "w": webp((b"EXIF", block)),
    }[kind]
    for data in (whole[:at] + noise + whole[at + len(noise) :], whole[:16] + noise):
        assert {"recipe", "error"} & answer(data).keys()


@QUIET
@given(st.text(max_size=300))
def test_any_text_is_read_without_an_exception(value: str) -> None:
    said = value.encode("utf-8", "replace").decode()
    assert "recipe" in read(png(itxt("parameters", said), itxt("Dream", f'"{said}" {said}')))
    assert "recipe" in read(png(itxt("parameters", f"{said}\nSteps: 1, Seed: 2, {said}")))


# The process


def run(data: bytes, seconds: str = "10") -> Any:
    done = subprocess.run(
        [sys.executable, "-P", SCRIPT.name, seconds], cwd=SCRIPT.parent, input=data,
        capture_output=True, env={"PYTHONPATH": str(SCRIPT.parents[2])}, timeout=30,
    )  # fmt: skip
    return json.loads(done.stdout), done


def test_the_process_answers_in_one_line() -> None:
    said, done = run(png(text("prompt", as_json(files.COMFY))))
    assert said["recipe"]["prompt"] == "ein Fuchs 🦊" and done.stdout.count(b"\n") == 1
    assert run(b"no picture")[0]["error"] == "This is no PNG, JPEG or WebP."


def test_the_process_stays_within_its_memory() -> None:
    bomb = chunk(b"iTXt", b"parameters\0\1\0\0\0" + zlib.compress(b"x" * 100_000_000, 9))
    assert "too long" in run(png(bomb))[0]["note"]
    said, _ = run(b"\x89PNG\r\n\x1a\n" + b"\0" * MAX_BYTES)
    assert "more than 100 MB" in said["error"]
