"""Pickled weights become safetensors with the same numbers; a pickle with code runs none of it."""

from __future__ import annotations

import asyncio
import json
import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from backends.base import Refused
from backends.models import library
from backends.models.convert import Result, safe_name
from backends.models.convert import convert as convert_here
from backends.runtime.conversion import Converted, convert, convert_upload
from backends.runtime.process import CHECKOUT
from tests.backends.models import crafted


@pytest.fixture(autouse=True)
def places(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("WERKBANK_HOME", str(home))
    monkeypatch.setenv("HF_TOKEN", "hf_secretOfTheUser")
    return home


def run(source: Path) -> Converted:
    return asyncio.run(convert(source))


def here(source: Path) -> tuple[Result, Path]:
    """The same without a process."""
    out = source.with_name("out")
    out.mkdir()
    return convert_here(source, out), out


def refused(source: Path) -> Refused:
    with pytest.raises(Refused) as caught:
        run(source)
    assert caught.value.message.endswith(".") and caught.value.hint.endswith(".")
    models = library.models_folder()
    assert not models.exists() or list(models.iterdir()) == []  # nothing is left behind
    return caught.value


def weights() -> dict[str, Any]:
    torch.manual_seed(1)
    return {
        "model.embed_tokens.weight": torch.randn(8, 4),
        "half": torch.randn(3, 5).half(),
        "whole": torch.arange(6).reshape(2, 3).t(),  # not contiguous
        "empty": torch.zeros(0, 4),
    }


def test_two_forms_that_would_get_one_name_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "both"
    folder.mkdir()
    torch.save({"w": torch.ones(2)}, folder / "model.bin")
    torch.save({"w": torch.zeros(2)}, folder / "pytorch_model.bin")
    assert "several files" in refused(folder).message


def test_a_file_becomes_a_model_with_the_same_numbers(tmp_path: Path, home: Path) -> None:
    given = weights()
    torch.save({"state_dict": given, "epoch": 3}, tmp_path / "Mein altes.ckpt")
    made = run(tmp_path / "Mein altes.ckpt")
    path = library.locate(made.ref)
    assert path == home / "models" / "Mein altes.safetensors"
    back = load_file(path)
    assert back.keys() == given.keys()
    assert all(torch.equal(back[k], given[k]) and back[k].dtype == given[k].dtype for k in given)
    assert made.tensors == 4 and made.bytes == path.stat().st_size
    assert made.types == {"float32": 2, "float16": 1, "int64": 1}
    assert made.largest[0] == ("model.embed_tokens.weight", [8, 4], "float32")
    assert made.dropped == {} and list((home / "models").iterdir()) == [path]
    assert list((home / "werkbank-tmp").glob("convert-*")) == []


def test_a_file_from_before_the_zip_format(tmp_path: Path) -> None:
    torch.save(weights(), tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    made, out = here(tmp_path / "old.pt")
    assert made.tensors == 4 and [f.name for f in out.iterdir()] == ["old.safetensors"]


def shared(folder: Path, config: dict[str, Any]) -> tuple[Result, Path]:
    table = torch.randn(8, 4)
    crafted.folder(folder, config).joinpath("model.safetensors").unlink()
    tensors = {"lm_head.weight": table, "model.embed_tokens.weight": table, "part": table[2:4]}
    torch.save(tensors, folder / "pytorch_model.bin")
    return here(folder)


def test_shared_tensors_are_dropped_where_the_model_ties_them(tmp_path: Path) -> None:
    made, out = shared(tmp_path / "m", {**crafted.CONFIG, "tie_word_embeddings": True})
    back = load_file(out / "model.safetensors")
    assert made.dropped == {"lm_head.weight": "model.embed_tokens.weight"}
    assert back.keys() == {"model.embed_tokens.weight", "part"}
    assert torch.equal(back["part"], back["model.embed_tokens.weight"][2:4])


def test_shared_tensors_are_copied_where_nobody_would_put_them_back(tmp_path: Path) -> None:
    made, out = shared(tmp_path / "m", {**crafted.CONFIG, "tie_word_embeddings": False})
    back = load_file(out / "model.safetensors")
    assert made.dropped == {} and made.tensors == 3
    assert torch.equal(back["lm_head.weight"], back["model.embed_tokens.weight"])


def test_parts_keep_their_index_and_their_folder_its_config(tmp_path: Path) -> None:
    folder = crafted.folder(tmp_path / "big", **{"tokenizer.json": b"{}", "code.py": b"1/0"})
    (folder / "model.safetensors").unlink()
    parts = {f"pytorch_model-0000{n}-of-00002.bin": {f"layer.{n}": torch.ones(n)} for n in (1, 2)}
    for name, tensors in parts.items():
        torch.save(tensors, folder / name)
    old = {"weight_map": {k: name for name, tensors in parts.items() for k in tensors}}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(old))
    torch.save({"lr": 1}, folder / "optimizer.pt")
    made = run(folder)
    path = library.locate(made.ref)
    assert path.name == "big-safetensors" and made.tensors == 2
    assert {f.name for f in path.iterdir()} == {
        "config.json",
        "tokenizer.json",
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
    }
    index = json.loads((path / "model.safetensors.index.json").read_text())
    assert index["weight_map"]["layer.2"] == "model-00002-of-00002.safetensors"
    library.check(made.ref)


def test_a_component_of_a_pipeline_keeps_its_folder_and_name(tmp_path: Path) -> None:
    folder = tmp_path / "paints"
    crafted.folder(folder, **{"model_index.json": b"{}"}).joinpath("model.safetensors").unlink()
    (folder / "unet").mkdir()
    torch.save({"w": torch.ones(2)}, folder / "unet" / "diffusion_pytorch_model.bin")
    path = here(folder)[1]
    assert (path / "unet" / "diffusion_pytorch_model.safetensors").is_file()
    assert safe_name("diffusion_pytorch_model.bin") == "diffusion_pytorch_model.safetensors"


def test_a_model_in_the_hub_cache_keeps_its_name(tmp_path: Path) -> None:
    repo = tmp_path / "hub" / "models--old--bert-x"
    snapshot = crafted.folder(repo / "snapshots" / ("c" * 40))
    (snapshot / "model.safetensors").unlink()
    (repo / "blobs").mkdir()
    torch.save(weights(), repo / "blobs" / "1")
    (snapshot / "pytorch_model.bin").symlink_to("../../blobs/1")
    assert str(run(snapshot).ref) == "folder:bert-x-safetensors"


def test_an_upload_is_converted_and_goes(tmp_path: Path) -> None:
    torch.save(weights(), tmp_path / "a.pt")
    with pytest.raises(Refused, match="not there any more"):
        asyncio.run(convert_upload(tmp_path / "a.pt", tmp_path / "uploads"))
    assert str(asyncio.run(convert_upload(tmp_path / "a.pt", tmp_path)).ref) == (
        "folder:a.safetensors"
    )
    assert not (tmp_path / "a.pt").exists()


# What is refused


class Evil:
    """Unpickling it makes a file."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[object, ...]:
        return (os.system, (f"touch '{self.canary}'",))


@pytest.mark.parametrize("how", ["torch", "old", "bare", "hidden"])
def test_code_in_a_pickle_never_runs(tmp_path: Path, how: str) -> None:
    canary, file = tmp_path / "canary", tmp_path / "evil.bin"
    evil = {"weight": torch.ones(2), "x": Evil(canary)}
    if how == "bare":
        file.write_bytes(pickle.dumps(evil))
    else:
        torch.save(evil, file, _use_new_zipfile_serialization=how != "old")
    if how == "hidden":  # as weights in a model's folder
        crafted.folder(tmp_path / "m").joinpath("model.safetensors").unlink()
        file.rename(tmp_path / "m" / "pytorch_model.bin")
    found = refused(tmp_path / "m" if how == "hidden" else file)
    assert not canary.exists()
    assert "could run code" in found.message and "not opened" in found.message
    assert "posix.system" in found.message or how in ("old", "bare")
    # The canary is one: opened as torch once did, it runs.
    if how == "torch":
        torch.load(file, weights_only=False)
        assert canary.exists()


def test_what_is_damaged_empty_or_no_weights(tmp_path: Path) -> None:
    file, out = tmp_path / "a.bin", tmp_path / "out"
    out.mkdir()
    torch.save(weights(), file)
    whole = file.read_bytes()
    cut = whole[:-30], whole[: len(whole) // 2]
    for content in (b"", *cut, b"hello", b"\x80\x02.", b"PK\x03\x04"):
        file.write_bytes(content)
        with pytest.raises(Refused, match="a.bin") as caught:
            convert_here(file, out)
        assert caught.value.hint.endswith(".")
    torch.save({"epoch": 3, "lr": 0.1}, file)
    with pytest.raises(Refused, match="no weights"):
        convert_here(file, out)
    assert list(out.iterdir()) == []
    file.write_bytes(cut[0])
    assert "not whole" in refused(file).message
    (tmp_path / "a.txt").write_text("x")
    assert "old form" in refused(tmp_path / "a.txt").message
    assert "old form" in refused(crafted.folder(tmp_path / "ready")).message


def test_a_bomb_is_stopped_by_its_limits(tmp_path: Path) -> None:
    torch.save({"w": torch.zeros(400_000_000, dtype=torch.uint8)}, tmp_path / "a.bin")
    with zipfile.ZipFile(tmp_path / "a.bin") as plain:
        entries = {i.filename: plain.read(i) for i in plain.infolist()}
    with zipfile.ZipFile(tmp_path / "b.bin", "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in entries.items():
            packed.writestr(name, content)
    assert (tmp_path / "b.bin").stat().st_size < 1_000_000
    refused(tmp_path / "b.bin")


def test_a_folder_with_a_link_out_of_it_is_refused_by_name(tmp_path: Path) -> None:
    torch.save(weights(), tmp_path / "secret.bin")
    folder = crafted.folder(tmp_path / "m")
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").symlink_to(tmp_path / "secret.bin")
    assert "pytorch_model.bin" in refused(folder).message


def test_a_cancelled_conversion_leaves_nothing(tmp_path: Path, home: Path) -> None:
    torch.save(weights(), tmp_path / "a.bin")

    async def body() -> None:
        task = asyncio.create_task(convert(tmp_path / "a.bin"))
        await asyncio.sleep(0.5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(body())
    assert list((home / "models").iterdir()) == []


# The fence


@pytest.mark.parametrize(
    ("deed", "allowed"),
    [
        ("open(f'{out}/x', 'w')", True),
        ("os.mkdir(f'{out}/d')", True),
        ("open(f'{out}/../x', 'w')", False),
        ("open('/tmp/werkbank-fence', 'w')", False),
        ("os.open(f'{out}/../x', os.O_CREAT | os.O_WRONLY)", False),
        ("os.symlink('/etc', f'{out}/l')", False),
        ("os.rename(f'{out}/a', f'{out}/b')", False),
        ("socket.create_connection(('127.0.0.1', 9))", False),
        ("subprocess.run(['true'])", False),
        ("os.system('true')", False),
        ("os.fork()", False),
    ],
)
def test_behind_the_fence(tmp_path: Path, deed: str, allowed: bool) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "a").touch()
    code = (
        "import os, socket, subprocess\nfrom pathlib import Path\n"
        "from backends.runtime.fence import shut_doors\n"
        f"out = {str(out)!r}\nshut_doors(Path(out))\n{deed}"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True, text=True
    )
    assert ("is not allowed here" in done.stderr) != allowed, done.stderr
