"""An image model opened by diffusers: only its own classes, only safetensors, nothing fetched."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

from backends.base import Refused
from backends.image.families import Family
from backends.image.recognising import Recognised
from backends.models.check import read_safetensors
from backends.models.gguf_header import AGAIN

CONFIGS = Path(__file__).parents[2] / "assets" / "pipelines"


def open_pipeline(found: Recognised, quantisation: str, dtype: Any) -> Any:
    """The text-to-image pipeline, on the CPU (what is quantised on the GPU).

    Raises Refused where diffusers cannot make sense of it.
    """
    import diffusers

    diffusers.utils.logging.disable_progress_bar()  # it would fill the worker's log
    family = found.family
    try:
        pipe = (
            _from_file(found, dtype) if found.single else _from_folder(found, quantisation, dtype)
        )
        if family.renamed:
            parts = {family.renamed.get(k, k): v for k, v in pipe.components.items()}
            pipe.tokenizer.model_max_length = 77  # what its own pipeline reads
            kind = getattr(diffusers, family.pipelines["text"])
            pipe = kind(**parts, feature_extractor=None, **family.loads)
    except (ValueError, KeyError, ImportError, OSError, TypeError, AttributeError,
            RuntimeError, AssertionError) as error:  # fmt: skip
        if "out of memory" in str(error):
            raise
        first = str(error).strip().partition("\n")[0][:300]
        raise Refused(
            f"diffusers could not open {found.path.name}: {first}",
            "Check that the model is complete, or use another one.",
            str(error),
        ) from error
    if not found.single and quantisation != "nf4":
        _check_whole(found, pipe)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _from_folder(found: Recognised, quantisation: str, dtype: Any) -> Any:
    import diffusers

    family = found.family
    kind = getattr(diffusers, family.index_class)
    known = inspect.signature(kind.__init__).parameters
    given = {k: v for k, v in family.loads.items() if k in known}
    if "image_encoder" in known:
        given["image_encoder"] = None  # for another way to begin, which is not offered
    if quantisation == "nf4":
        given["quantization_config"] = _packed(family, dtype)
    return kind.from_pretrained(
        found.path,
        dtype=dtype,
        local_files_only=True,
        use_safetensors=True,
        variant=_variant(found.path / family.backbone),
        **given,
    )


def _variant(folder: Path) -> str | None:
    """fp16 where the weights are there only under that name."""
    names = [file.name for file in folder.glob("*.safetensors")]
    return "fp16" if names and all(".fp16" in name for name in names) else None


def _packed(family: Family, dtype: Any) -> Any:
    """NF4 for the parts that the row names, by the library that opens each."""
    import diffusers
    import transformers
    from diffusers.quantizers import PipelineQuantizationConfig

    told = {
        "load_in_4bit": True,
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_use_double_quant": True,
        "bnb_4bit_compute_dtype": dtype,
    }
    kinds = {True: diffusers.BitsAndBytesConfig, False: transformers.BitsAndBytesConfig}
    return PipelineQuantizationConfig(
        quant_mapping={name: kinds[name == family.backbone](**told) for name in family.quantised}
    )


def _from_file(found: Recognised, dtype: Any) -> Any:
    import diffusers

    family = found.family
    folder = CONFIGS / family.config
    if not (folder / "model_index.json").is_file():
        raise Refused(
            f"What belongs to single files of {family.title} is missing here.",
            "Get Werkbank again: a part of it is not there.",
        )
    from backends.image.clip_words import clip_tokenizer

    kind = getattr(diffusers, family.pipelines["text"])
    given: dict[str, Any] = dict(family.loads)
    for name in family.parts:
        if name.startswith("tokenizer"):
            given[name] = clip_tokenizer(folder / name)
    return kind.from_single_file(
        str(found.path), config=str(folder), local_files_only=True, dtype=dtype, **given
    )


def _check_whole(found: Recognised, pipe: Any) -> None:
    """Raises Refused where weights are missing: diffusers would draw them at random."""
    family = found.family
    for name in (family.backbone, "vae"):
        inner = next((old for old, new in family.renamed.items() if new == name), name)
        files = list((found.path / inner).glob("*.safetensors"))
        variant = _variant(found.path / inner)
        chosen = [f for f in files if (".fp16" in f.name) == bool(variant)]
        there = len({key for file in chosen for key in read_safetensors(file).tensors})
        wanted = len(getattr(pipe, name).state_dict())
        if there < wanted:
            raise Refused(
                f"The {inner} of {found.path.name} lacks {wanted - there} of its tensors.", AGAIN
            )


def another(pipe: Any, kind: str, family: Family, **more: Any) -> Any:
    """A pipeline of diffusers' class `kind` around the same parts."""
    import diffusers

    cls = getattr(diffusers, kind)
    known = inspect.signature(cls.__init__).parameters
    told = {**dict(pipe.config), **family.loads, **pipe.components, **more}
    made = cls(**{key: value for key, value in told.items() if key in known})
    made.set_progress_bar_config(disable=True)
    return made
