"""What a model says of itself, read from its headers and config in milliseconds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backends.base import Refused
from backends.models.check import gguf_parts, read_json, read_safetensors
from backends.models.gguf_header import read_header

# GGUF architectures that hold something other than a language model.
NOT_CHAT = (
    "clip",
    "bert",
    "nomic-bert",
    "jina-bert",
    "whisper",
    "t5encoder",
    "mmproj",
    "sd",
    "flux",
)
CONTEXT_KEYS = ("max_position_embeddings", "n_positions", "max_sequence_length", "seq_length")


@dataclass(frozen=True)
class Facts:
    """`context_length` is what the model was trained for, 0 where it does not say."""

    format: str  # gguf or safetensors
    architecture: str
    parameters: int
    bytes: int
    context_length: int
    chat_template: bool
    task: str  # the tab that it seems to be for, "" where that is not known
    layers: int = 0  # 0 where it does not say


def read_facts(path: Path) -> Facts:
    """The facts about a file or folder that `check` has passed. Raises Refused, OSError."""
    if path.is_dir():
        return _of_folder(path)
    if path.suffix == ".gguf":
        return _of_gguf(path)
    header = read_safetensors(path)
    pictures = any(name.startswith("model.diffusion_model.") for name in header.tensors)
    task = "image" if pictures else ""
    return Facts("safetensors", "", header.parameters, header.bytes, 0, False, task)


def guess_task(path: Path) -> str:
    """The tab for a model that `check` has refused, as far as its names tell."""
    if path.suffix == ".gguf":
        return "" if path.name.startswith("mmproj") else "chat"
    try:
        config = _json_object(path / "config.json")
    except (Refused, OSError):
        return "chat" if path.is_dir() else ""  # shown somewhere, so that its problem is seen
    names = config.get("architectures")
    architecture = str(names[0]) if isinstance(names, list) and names else ""
    return _task(path, architecture, config)


def _of_gguf(path: Path) -> Facts:
    parts = gguf_parts(path)
    headers = [read_header(part) for part in parts]
    first = headers[0]
    context = first.of_architecture("context_length", 0)
    not_chat = first.architecture.startswith(NOT_CHAT) or path.name.startswith("mmproj")
    not_chat = not_chat or first.values.get("general.type") == "adapter"
    return Facts(
        format="gguf",
        architecture=first.architecture,
        parameters=sum(h.parameters for h in headers),
        bytes=sum(p.stat().st_size for p in parts),
        context_length=context if isinstance(context, int) else 0,
        chat_template=bool(first.values.get("tokenizer.chat_template")),
        task="" if not_chat else "chat",
        layers=_count(first.of_architecture("block_count", 0)),
    )


def _of_folder(folder: Path) -> Facts:
    headers = [read_safetensors(f) for f in sorted(folder.rglob("*.safetensors"))]
    config = _json_object(folder / "config.json")
    names = config.get("architectures")
    architecture = str(names[0]) if isinstance(names, list) and names else ""
    return Facts(
        format="safetensors" if headers else "",
        architecture=architecture or str(config.get("model_type", "")),
        parameters=sum(h.parameters for h in headers),
        bytes=sum(h.bytes for h in headers),
        context_length=_context_length(config),
        chat_template=_has_chat_template(folder),
        task=_task(folder, architecture, config),
        layers=_count(_text_config(config).get("num_hidden_layers")),
    )


def _json_object(file: Path) -> dict[str, Any]:
    content = read_json(file) if file.is_file() else None
    return content if isinstance(content, dict) else {}


def _context_length(config: dict[str, Any]) -> int:
    inner = config.get("text_config")
    for level in (config, inner if isinstance(inner, dict) else {}):
        for key in CONTEXT_KEYS:
            if isinstance(level.get(key), int):
                return int(level[key])
    return 0


def _text_config(config: dict[str, Any]) -> dict[str, Any]:
    """The language model's part, where a model has others beside it."""
    inner = config.get("text_config")
    return inner if isinstance(inner, dict) else config


def _count(value: Any) -> int:
    return value if isinstance(value, int) else 0


def _has_chat_template(folder: Path) -> bool:
    if (folder / "chat_template.jinja").is_file():
        return True
    return bool(_json_object(folder / "tokenizer_config.json").get("chat_template"))


def _task(folder: Path, architecture: str, config: dict[str, Any]) -> str:
    if (folder / "model_index.json").is_file():
        return "image"
    if architecture.endswith("ForCTC") or "Whisper" in architecture:
        return "speech"
    if "vision_config" in config:
        return "multimodal"
    return "chat" if architecture.endswith(("ForCausalLM", "LMHeadModel")) else ""
