"""No file reaches native code before its header adds up; what is refused is named."""

from __future__ import annotations

import json
import pickle
import struct
import time
import zipfile
from pathlib import Path

import gguf
import pytest

from backends.base import ModelRef, Refused
from backends.models import library
from backends.models.check import check_path, what_it_is
from backends.models.facts import read_facts
from backends.models.gguf_header import BLOCKS, read_header
from tests.backends.models import crafted

STARTER = ModelRef.parse("starter:smollm2-135m-instruct")


class Evil:
    """Unpickling it makes a file."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[object, ...]:
        return (open, (str(self.canary), "w"))


def refusal(path: Path) -> Refused:
    started = time.monotonic()
    with pytest.raises(Refused) as caught:
        check_path(path)
    assert time.monotonic() - started < 2
    assert caught.value.message.endswith(".") and caught.value.hint.endswith(".")
    return caught.value


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


# safetensors


def test_a_whole_safetensors_file_passes(tmp_path: Path) -> None:
    path = written(tmp_path / "m.safetensors", crafted.safetensors())
    check_path(path)
    assert read_facts(path).parameters == 6


def test_an_empty_tensor_and_none_at_all_pass(tmp_path: Path) -> None:
    shapes = {"a": ([0, 4], [0, 0]), "b": ([2], [0, 8])}
    check_path(written(tmp_path / "m.safetensors", crafted.safetensors(shapes)))
    path = written(tmp_path / "n.safetensors", crafted.framed(b"{}"))
    check_path(path)
    assert read_facts(path).parameters == 0


@pytest.mark.parametrize("keep", [9, 40, -1])
def test_a_truncated_safetensors_file_is_refused_with_both_sizes(tmp_path: Path, keep: int) -> None:
    whole = crafted.safetensors()
    path = written(tmp_path / "m.safetensors", whole[:keep])
    refused = refusal(path)
    assert "incomplete" in refused.message and f"({path.stat().st_size:,} of " in refused.message
    assert refused.hint == "Download it again."


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (struct.pack("<Q", 2**63) + b"{" + b" " * 99, "header claims"),
        (crafted.framed(b"{not json" + b" " * 20), "not JSON"),
        (crafted.framed(b"{" + b'"a":[' * 50_000), "not JSON"),
        (crafted.framed(b'{"a": 3}'), "makes no sense"),
        (crafted.safetensors({"a": ([4], [0, 8])}), "size that its shape needs"),
        (crafted.safetensors({"a": ([2], [0, 8]), "b": ([2], [4, 12])}), "lies over another"),
        (crafted.safetensors({"a": ([2], [0, 8]), "b": ([2], [16, 24])}), "hole"),
        (crafted.safetensors({"a": ([-2], [0, 8])}), "makes no sense"),
        (crafted.safetensors({"a": ([2], [8, 0])}), "size that its shape needs"),
        (crafted.safetensors({"a": ([2**31, 2**31], [0, 8])}), "size that its shape needs"),
        (crafted.safetensors(dtype="X99"), "unknown type"),
        (crafted.safetensors() + b"extra", "5 bytes follow"),
    ],
)
def test_a_safetensors_header_that_lies_is_refused(
    tmp_path: Path, content: bytes, says: str
) -> None:
    assert says in refusal(written(tmp_path / "m.safetensors", content)).message


def zipped(path: Path) -> bytes:
    with zipfile.ZipFile(path / "z", "w") as archive:
        archive.writestr("data.pkl", b"x")
    return (path / "z").read_bytes()


def test_what_is_renamed_safetensors_is_named_and_never_opened(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    pretenders = {
        "pickle": pickle.dumps(Evil(canary)),
        "zip archive": zipped(tmp_path),
        "web page": b"<!DOCTYPE html><html>Sign in</html>",
        "git-lfs pointer": b"version https://git-lfs.example/spec/v1\noid sha256:abc\nsize 9\n",
        "GGUF": crafted.gguf(),
        "empty file": b"",
    }
    for kind, content in pretenders.items():
        assert kind in refusal(written(tmp_path / "m.safetensors", content)).message
    assert not canary.exists()


@pytest.mark.parametrize("name", ["m.bin", "m.pt", "m.ckpt", "m.pth"])
def test_a_pickled_file_is_refused_with_a_way_out(tmp_path: Path, name: str) -> None:
    refused = refusal(written(tmp_path / name, pickle.dumps({"a": 1})))
    assert "pickle" in refused.message and "onvert" in refused.hint


# GGUF


def test_a_whole_gguf_file_passes_and_says_what_it_is(tmp_path: Path) -> None:
    tokens = {"tokenizer.ggml.tokens": ["a", "<s>", "ü"], "tokenizer.ggml.bos_token_id": 1,
              "tokenizer.ggml.eos_token_id": 7, "tokenizer.chat_template": "hi"}  # fmt: skip
    path = written(tmp_path / "m.gguf", crafted.gguf(tokens))
    check_path(path)
    header, facts = read_header(path), read_facts(path)
    assert (header.token("bos"), header.token("eos"), header.token("unk")) == ("<s>", "", "")
    assert (facts.context_length, facts.parameters, facts.chat_template) == (128, 16, True)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (crafted.gguf(data=60), "incomplete"),
        (crafted.gguf()[:100], "incomplete"),
        (crafted.gguf()[:20], "incomplete"),
        (crafted.gguf(magic=b"GGML"), "and not a GGUF file"),
        (crafted.gguf(version=1), "version 1"),
        (crafted.gguf(version=0x03000000), "big-endian"),
        (crafted.gguf(tensor_count=2**62), "claims to hold"),
        (crafted.gguf(tensor_count=3), "0 dimensions"),
        (crafted.gguf(pair_count=2**62), "claims to hold"),
        (crafted.gguf(tensors=[crafted.tensor("w", (2**40,))]), "incomplete"),
        (crafted.gguf(tensors=[crafted.tensor("w", (2**62, 4))]), "impossible shape"),
        (crafted.gguf(tensors=[crafted.tensor("w", (0,))]), "impossible shape"),
        (crafted.gguf(tensors=[crafted.tensor("w", (16,), offset=2**60)]), "incomplete"),
        (crafted.gguf(tensors=[crafted.tensor("w", (8,), offset=8)]), "lies over another"),
        (crafted.gguf(tensors=[crafted.tensor("w", (4,) * 5)]), "5 dimensions"),
        (crafted.gguf(tensors=[crafted.tensor("w", (16,), kind=4)]), "tensor type 4"),
        (crafted.gguf(tensors=[crafted.tensor("w", (33,), kind=3)]), "impossible shape"),
        (crafted.gguf(tensors=[crafted.tensor("w", (8,))] * 2), "twice"),
        (crafted.gguf({"general.alignment": 0}), "alignment"),
        (crafted.gguf({"general.alignment": 3}), "alignment"),
    ],
)
def test_a_gguf_file_that_lies_is_refused(tmp_path: Path, content: bytes, says: str) -> None:
    assert says in refusal(written(tmp_path / "m.gguf", content)).message


@pytest.mark.parametrize("length", [2**20, 2**40, 2**63, 2**64 - 1])
def test_a_gguf_text_longer_than_its_file_is_refused(tmp_path: Path, length: int) -> None:
    head = b"GGUF" + struct.pack("<IQQ", 3, 0, 1)
    lying = struct.pack("<Q", length) + b"x" * 40
    key = written(tmp_path / "key.gguf", head + lying)
    value = written(tmp_path / "v.gguf", head + crafted.text("k") + struct.pack("<I", 8) + lying)
    array = crafted.text("k") + struct.pack("<IIQ", 9, 8, 2) + lying
    entry = written(tmp_path / "entry.gguf", head + array)
    for path in (key, value, entry):
        assert refusal(path)


def test_no_changed_byte_of_a_gguf_header_gets_past_the_check_as_a_crash(tmp_path: Path) -> None:
    whole = crafted.gguf({"tokenizer.ggml.tokens": ["a", "b"]})
    path, survived = tmp_path / "m.gguf", 0
    for at in range(len(whole) - 64):
        for value in (0x00, 0x7F, 0xFF):
            path.write_bytes(whole[:at] + bytes([value]) + whole[at + 1 :])
            try:
                check_path(path)
                survived += 1
            except Refused:
                continue
    assert 0 < survived < (len(whole) - 64) * 3  # names may change, structure may not


def test_every_part_of_a_split_gguf_must_be_there(tmp_path: Path) -> None:
    first = written(tmp_path / "m-00001-of-00002.gguf", crafted.gguf())
    assert "m-00002-of-00002.gguf of the model is missing" in refusal(first).message
    written(tmp_path / "m-00002-of-00002.gguf", crafted.gguf())
    check_path(first)
    assert read_facts(first).parameters == 32


def test_the_table_of_tensor_types_is_ggmls() -> None:
    assert {int(kind): size for kind, size in gguf.GGML_QUANT_SIZES.items()} == BLOCKS


@pytest.mark.alone
@pytest.mark.model
def test_the_starter_passes_in_fifty_milliseconds() -> None:
    path = library.locate(STARTER)
    check_path(path)
    times = []
    for _ in range(5):
        started = time.monotonic()
        check_path(path)
        times.append(time.monotonic() - started)
    assert min(times) < 0.05
    assert read_facts(path).parameters == 134_515_008


@pytest.mark.model
def test_a_truncated_starter_is_refused_before_native_code_sees_it(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    size = library.locate(STARTER).stat().st_size
    with library.locate(STARTER).open("rb") as whole:
        path.write_bytes(whole.read(20_000_000))
    assert refusal(path).message == (
        f"The file m.gguf is incomplete (20,000,000 of {size:,} bytes)."
    )


# Folders


def test_a_header_whose_length_begins_as_a_pickle_does_is_none(tmp_path: Path) -> None:
    for length in (0x280, 0x380, 0x480, 0x580):
        header = b'{"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}'.ljust(length)
        file = written(tmp_path / "m.safetensors", length.to_bytes(8, "little") + header)
        check_path(file)
        assert what_it_is(file) == "a safetensors file"


def test_a_whole_folder_passes_and_says_what_it_is(tmp_path: Path) -> None:
    path = crafted.folder(tmp_path / "m", **{"chat_template.jinja": b"hi"})
    check_path(path)
    facts = read_facts(path)
    assert (facts.architecture, facts.context_length, facts.task, facts.chat_template) == (
        "LlamaForCausalLM", 256, "chat", True,
    )  # fmt: skip


def test_a_folder_with_only_pickled_weights_is_refused_with_a_way_out(tmp_path: Path) -> None:
    path = crafted.folder(tmp_path / "m", **{"pytorch_model.bin": b"x"})
    check_path(path)  # beside safetensors, nothing opens it
    (path / "model.safetensors").unlink()
    refused = refusal(path)
    assert "pytorch_model.bin" in refused.message and "Convert" in refused.hint


def test_a_missing_part_is_named(tmp_path: Path) -> None:
    index = {"weight_map": {"weight": "model.safetensors", "b": "model-2.safetensors"}}
    path = crafted.folder(
        tmp_path / "m", **{"model.safetensors.index.json": json.dumps(index).encode()}
    )
    assert "1 of 2 parts of the model are missing: model-2" in refusal(path).message
    (path / "model-2.safetensors").write_bytes(crafted.safetensors())
    assert "model-2.safetensors lacks the tensor 'b'" in refusal(path).message


@pytest.mark.parametrize("part", ["../m.safetensors", "/m.safetensors", "sub/m.safetensors", "x"])
def test_an_index_cannot_lead_out_of_its_folder(tmp_path: Path, part: str) -> None:
    (tmp_path / "m.safetensors").write_bytes(crafted.safetensors())
    index = json.dumps({"weight_map": {"weight": part}}).encode()
    path = crafted.folder(tmp_path / "m", **{"model.safetensors.index.json": index})
    assert "as a part" in refusal(path).message


@pytest.mark.parametrize(
    ("file", "config", "key"),
    [
        ("config.json", {"auto_map": {"AutoModel": "x.Y"}}, "auto_map"),
        ("config.json", {"text_config": {"auto_map": {"AutoModel": "x.Y"}}}, "auto_map"),
        ("config.json", {"layers": [{"auto_map": "x.Y"}]}, "auto_map"),
        ("config.json", {"_attn_implementation_internal": "a/b"}, "_attn_implementation_internal"),
        ("config.json", {"_experts_implementation_internal": "a/b"}, "_experts_implementation"),
        ("config.json", {"text_config": {"_attn_implementation": "a/b"}}, "_attn_implementation"),
        ("config.json", {"_name_or_path": {"a": 1}}, "_name_or_path"),
        ("config.json", {"attn_implementation": "a/b"}, "attn_implementation"),
        ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["x.Y", None]}}, "auto_map"),
        ("generation_config.json", {"_evil": 1}, "_evil"),
        ("adapter_config.json", {"auto_map": "x.Y"}, "auto_map"),
    ],
)
def test_a_setting_that_names_code_is_refused_by_name(
    tmp_path: Path, file: str, config: dict[str, object], key: str
) -> None:
    path = crafted.folder(tmp_path / "m")
    (path / file).write_text(json.dumps({**crafted.CONFIG, **config}))
    message = refusal(path).message
    assert key in message and file in message


def test_what_save_pretrained_writes_itself_passes(tmp_path: Path) -> None:
    config = {**crafted.CONFIG, "_commit_hash": None, "_attn_implementation_autoset": True,
              "_remove_final_layer_norm": False, "auto_map": None,
              "label2id": {"_O": 0}}  # fmt: skip
    path = crafted.folder(tmp_path / "m", config)
    (path / "generation_config.json").write_text('{"_from_model_config": true}')
    check_path(path)
    assert read_facts(path).task == "chat"


@pytest.mark.parametrize("content", [b"[]", b"{", b"", b"\xff\xfe{}", b'"text"'])
def test_a_config_that_is_no_json_object_is_refused(tmp_path: Path, content: bytes) -> None:
    path = crafted.folder(tmp_path / "m")
    (path / "config.json").write_bytes(content)
    assert "config.json is damaged" in refusal(path).message


@pytest.mark.parametrize(
    ("lie", "told"),
    [
        ({"num_hidden_layers": 1_000_000}, "1,000,000 layers, and the weights hold 1 tensors"),
        ({"num_hidden_layers": "many"}, "'many' for num_hidden_layers"),
        ({"num_hidden_layers": True}, "'True' for num_hidden_layers"),
        ({"hidden_size": -1}, "'-1' for hidden_size"),
        ({"hidden_size": 1e300}, "for hidden_size"),
        ({"intermediate_size": 10**9}, "'1000000000' for intermediate_size"),
        ({"max_position_embeddings": [1]}, "'[1]' for max_position_embeddings"),
        ({"vocab_size": 20_000_000, "hidden_size": 32}, "20,000,000 words of 32 numbers"),
        ({"text_config": {"vocab_size": 9_999, "hidden_size": 99}}, "9,999 words of 99 numbers"),
        ({"text_config": {"num_attention_heads": 0}}, "'0' for num_attention_heads"),
    ],
)
def test_a_config_that_promises_more_than_the_weights_hold_is_refused(
    tmp_path: Path, lie: dict[str, object], told: str
) -> None:
    path = crafted.folder(tmp_path / "m", {**crafted.CONFIG, **lie})
    refused = refusal(path)
    assert told in refused.message and "m/config.json says" in refused.message
    assert refused.hint


def test_sizes_that_the_weights_bear_out_pass(tmp_path: Path) -> None:
    sizes = {"num_hidden_layers": 1, "vocab_size": 3, "hidden_size": 2, "num_key_value_heads": None}
    check_path(crafted.folder(tmp_path / "m", {**crafted.CONFIG, **sizes}))
    base = {**crafted.CONFIG, "vocab_size": 49152, "hidden_size": 576}
    check_path(crafted.folder(tmp_path / "adapter", base, **{"adapter_config.json": b"{}"}))


def test_a_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    outside = written(tmp_path / "secret.json", b"{}")
    path = crafted.folder(tmp_path / "m")
    (path / "tokenizer.json").symlink_to(outside)
    assert "leads out" in refusal(path).message
    (path / "tokenizer.json").unlink()
    (path / "more").symlink_to(tmp_path, target_is_directory=True)
    assert "leads out" in refusal(path).message
    (path / "more").unlink()
    (path / "copy.json").symlink_to(path / "config.json")
    check_path(path)


def test_links_into_the_hub_caches_own_blobs_pass(tmp_path: Path) -> None:
    model = tmp_path / "hub" / "models--a--b"
    snapshot = crafted.folder(model / "snapshots" / "abc")
    for store in (model / "blobs", tmp_path / "hub" / "blobs" / "ab"):
        store.mkdir(parents=True)
        blob = written(store / "1", crafted.safetensors())
        (snapshot / "model.safetensors").unlink()
        (snapshot / "model.safetensors").symlink_to(blob)
        check_path(snapshot)
    elsewhere = written(tmp_path / "x", crafted.safetensors())
    (snapshot / "model.safetensors").unlink()
    (snapshot / "model.safetensors").symlink_to(elsewhere)
    assert "leads out" in refusal(snapshot).message


def test_what_is_not_there_or_not_a_file_is_a_sentence(tmp_path: Path) -> None:
    assert "cannot be read" in refusal(tmp_path / "none.gguf").message
    (tmp_path / "empty").mkdir()
    assert "holds no model" in refusal(tmp_path / "empty").message


def test_kinds_of_files_are_told_apart(tmp_path: Path) -> None:
    tar = b"\0" * 257 + b"ustar" + b"\0" * 250
    assert what_it_is(written(tmp_path / "t", tar)) == "an archive"
    assert what_it_is(written(tmp_path / "s", crafted.safetensors())) == "a safetensors file"
    assert what_it_is(written(tmp_path / "u", b"hello")) == "a file of an unknown kind"
