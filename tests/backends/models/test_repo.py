"""Which files of a model are worth downloading, for repositories as the hub has them."""

from __future__ import annotations

import hashlib

from backends.models.repo import Choice, Repo, RepoFile, choices_of, quantisation


def listed(*paths: str, **sizes: int) -> list[RepoFile]:
    return [
        RepoFile(path, sizes.get(path, 10), sha256=hashlib.sha256(path.encode()).hexdigest())
        for path in paths
    ]


def choices(*paths: str) -> dict[str, set[str]]:
    return {c.id: {f.path for f in c.files} for c in choices_of("a/b", listed(*paths))}


def repo(*paths: str) -> Repo:
    return Repo("a/b", "main", "c" * 40, choices_of("a/b", listed(*paths)))


TOKENIZER = {"config.json", "tokenizer.json", "tokenizer_config.json", "vocab.txt"}
PARTS = {"model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"}


def test_a_language_model_in_parts() -> None:
    index = {"model.safetensors.index.json"}
    rest = {"pytorch_model.bin", "pytorch_model.bin.index.json", "modeling_x.py", "README.md",
            ".gitattributes", "original/params.json", "original/consolidated.00.pth",
            "onnx/model.onnx", "consolidated.safetensors"}  # fmt: skip
    assert choices(*TOKENIZER, *PARTS, *index, *rest) == {"safetensors": TOKENIZER | PARTS | index}


def test_the_whole_beside_its_parts_is_taken_once() -> None:
    index = "model.safetensors.index.json"
    found = choices("config.json", "model.safetensors", index, *PARTS)
    assert found == {"safetensors": {"config.json", "model.safetensors"}}


def test_other_precisions_beside_the_plain_one_stay() -> None:
    fp32 = ["model.fp32-00001-of-00002.safetensors", "model.fp32-00002-of-00002.safetensors",
            "model.safetensors.index.fp32.json"]  # fmt: skip
    assert "model.safetensors" in choices("config.json", "model.safetensors", *fp32)["safetensors"]
    assert fp32[0] not in choices("config.json", "model.safetensors", *fp32)["safetensors"]


def test_a_pipeline_has_its_components_and_half_precision_apart() -> None:
    small = {"model_index.json", "scheduler/scheduler_config.json", "unet/config.json",
             "tokenizer/vocab.json", "tokenizer/merges.txt"}  # fmt: skip
    full = {"unet/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors"}
    half = {"unet/diffusion_pytorch_model.fp16.safetensors",
            "text_encoder/model.fp16.safetensors"}  # fmt: skip
    rest = {"sd_xl_base_1.0.safetensors", "unet/diffusion_pytorch_model.bin", "unet/model.onnx",
            "unet/diffusion_pytorch_model.non_ema.safetensors"}  # fmt: skip
    found = choices(*small, *full, *half, *rest)
    assert found == {"safetensors": small | full, "safetensors.fp16": small | half}
    assert choices(*small, *half) == {"safetensors": small | half}


def test_a_name_with_other_dots_is_not_lost() -> None:
    found = choices("config.json", "llama-3.1-8B.safetensors")
    assert found == {"safetensors": {"config.json", "llama-3.1-8B.safetensors"}}


def test_single_checkpoints_without_a_config_are_a_choice_each() -> None:
    assert choices("a.safetensors", "b.safetensors") == {
        "a.safetensors": {"a.safetensors"},
        "b.safetensors": {"b.safetensors"},
    }


def test_ggufs_by_quantisation_split_ones_together_and_halves_not_at_all() -> None:
    split = ["Q8_0/m-Q8_0-00001-of-00002.gguf", "Q8_0/m-Q8_0-00002-of-00002.gguf"]
    torn = ["m-F16-00001-of-00002.gguf"]
    names = ["m.Q2_K.gguf", "m.Q4_K_M.gguf", "mmproj-m.gguf", *split, *torn, "config.json"]
    found = repo(*names)
    assert {c.title: len(c.files) for c in found.choices} == {
        "GGUF Q2_K": 1,
        "GGUF Q4_K_M": 1,
        "GGUF Q8_0": 2,
    }
    usual = found.choice()
    assert usual.title == "GGUF Q4_K_M"
    assert str(usual.ref("a/b")) == "hub:a/b:m.Q4_K_M.gguf"
    assert str(found.choice(split[0]).ref("a/b", "v1")) == f"hub:a/b@v1:{split[0]}"


def test_two_ggufs_of_one_quantisation_are_told_apart() -> None:
    titles = [c.title for c in repo("a-Q4_0.gguf", "b-Q4_0.gguf").choices]
    assert titles == ["GGUF a-Q4_0.gguf", "GGUF b-Q4_0.gguf"]


def test_what_a_name_says_of_its_numbers() -> None:
    said = {
        "SmolLM2-135M-Instruct.Q4_1.gguf": "Q4_1",
        "model-IQ3_XXS.gguf": "IQ3_XXS",
        "Qwen3-8B-UD-Q4_K_XL.gguf": "UD-Q4_K_XL",
        "gpt-oss-20b-MXFP4.gguf": "MXFP4",
        "llama-bf16.gguf": "BF16",
        "Qwen3-8B.gguf": "",
    }
    assert {name: quantisation(name) for name in said} == said


def test_a_name_with_a_space_can_be_named() -> None:
    choice = Choice("my model.gguf", "GGUF", tuple(listed("my model.gguf")))
    assert " " not in str(choice.ref("a/b"))
