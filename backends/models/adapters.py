"""Adapters (LoRA) on this machine: what they are, and which model they fit.

Two formats: a PEFT folder (`adapter_config.json` beside `adapter_model.safetensors`) and a GGUF
file whose `general.type` is "adapter". Both are judged from their headers. The base model that an
adapter names is shown to people and never opened.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from backends.base import ModelRef, Refused
from backends.models import library, trained
from backends.models.catalogue import base_of, base_title
from backends.models.check import check_path, read_json, read_safetensors
from backends.models.gguf_header import Header, read_header

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
AGAIN = "Take another adapter, or make this one again."
SUFFIX = re.compile(
    r"\.(?:lora_(?P<linear>[AB])(?:\.default)?\.weight"
    r"|lora_embedding_(?P<embedding>[AB])(?:\.default)?"
    r"|lora_magnitude_vector(?:\.default)?(?:\.weight)?)"
)
# What PEFT can do to a LoRA beside the two matrices. A weight cannot be put before any of it.
UNKNOWN_HERE = (
    "alora_invocation_tokens", "arrow_config", "kasa_config", "layer_replication", "lora_bias",
    "megatron_config", "monteclora_config", "target_parameters", "trainable_token_indices",
    "use_bdlora", "use_qalora", "velora_config",
)  # fmt: skip
# Layers that read the hidden state: the width of theirs is the model's hidden size.
READERS = ("q_proj", "k_proj", "v_proj", "qkv_proj", "gate_proj", "up_proj", "gate_up_proj",
           "attn_q", "attn_k", "attn_v", "attn_qkv", "ffn_gate", "ffn_up", "c_attn",
           "query_key_value")  # fmt: skip
MOST_RANK = 4096


@dataclass(frozen=True)
class Target:
    """One adapted layer: it takes `inputs` numbers and gives `outputs`, through `rank` of them."""

    inputs: int
    outputs: int
    rank: int
    scale: float = 1.0  # alpha / rank, or alpha / sqrt(rank)
    embedding: bool = False


@dataclass(frozen=True)
class Adapter:
    """One adapter. `targets` are by layer: of the model's modules, or of the GGUF's tensors."""

    path: Path
    format: str  # safetensors or gguf
    base: str  # what it says that it was made for; told to people, never opened
    architecture: str  # of a GGUF, else ""
    targets: Mapping[str, Target]
    bytes: int
    dora: bool = False
    fan_in_fan_out: bool = False
    title: str = ""

    @property
    def name(self) -> str:
        """What people know it by."""
        return self.title or self.path.name

    @property
    def rank(self) -> int:
        return max(target.rank for target in self.targets.values())

    @property
    def hidden_size(self) -> int:
        """0 where none of its layers tells."""
        return next((t.inputs for name, t in self.targets.items() if _reads(name)), 0)

    @property
    def kinds(self) -> tuple[str, ...]:
        """The adapted layers without their numbers: `q_proj`, `v_proj`."""
        return tuple(sorted({_short(name) for name in self.targets}))


@dataclass(frozen=True)
class ListedAdapter:
    """One adapter of the list. `problem` is empty, or says why it cannot be attached."""

    id: str  # the reference as text
    title: str
    ref: ModelRef
    format: str = ""
    base: str = ""
    rank: int = 0
    targets: tuple[str, ...] = ()
    hidden_size: int = 0
    bytes: int = 0
    problem: str = ""
    dora: bool = False
    trained_on: str = ""  # of a training's: the reference of the model that it began with

    @property
    def backend(self) -> str:
        """The one backend that can attach it, "" where both can."""
        return "llama_cpp" if self.format == "gguf" else ""


@dataclass(frozen=True)
class Base:
    """What an adapter must fit: the loaded model's layers, each with its inputs and outputs."""

    title: str
    layers: Mapping[str, tuple[int, int]]
    hidden_size: int = 0
    renamed: Mapping[str, str] = field(default_factory=dict)  # an adapter's layer -> the model's


# Reading


def is_adapter(path: Path) -> bool:
    """Whether a file or folder is an adapter, as far as its names tell."""
    if path.is_dir():
        return (path / CONFIG).is_file()
    return path.suffix == ".gguf" and read_header(path).values.get("general.type") == "adapter"


def read_adapter(path: Path) -> Adapter:
    """The adapter at `path`, checked. Raises Refused where it must not or cannot be attached."""
    made = trained.made_at(path)
    name = made.title if made else path.name
    if path.is_dir() and not (path / WEIGHTS).is_file():
        pickled = (path / "adapter_model.bin").is_file()
        what = "only as adapter_model.bin, a pickled file that could run code" if pickled else "not"
        raise Refused(
            f"The adapter {name} holds its weights {what}"
            + (" when it is opened." if pickled else ": adapter_model.safetensors is missing."),
            "Convert it to safetensors where you trust it, or take one with safetensors.",
        )
    check_path(path)
    if not path.is_dir():
        return _of_gguf(path)
    adapter = _of_folder(path, name)
    return replace(adapter, base=base_title(made.base), title=name) if made else adapter


def _of_folder(folder: Path, name: str) -> Adapter:
    config = read_json(folder / CONFIG) if (folder / CONFIG).is_file() else None
    if not isinstance(config, dict):
        raise Refused(f"The folder {folder.name} has no {CONFIG} that can be read.", AGAIN)
    _check_config(name, config)
    header = read_safetensors(folder / WEIGHTS)
    return Adapter(
        path=folder,
        format="safetensors",
        base=str(config.get("base_model_name_or_path") or ""),
        architecture="",
        targets=_targets(name, header.tensors, config),
        bytes=header.bytes,
        dora=config.get("use_dora") is True,
        fan_in_fan_out=config.get("fan_in_fan_out") is True,
    )


def _check_config(name: str, config: dict[str, Any]) -> None:
    kind = str(config.get("peft_type", ""))[:40]
    if kind != "LORA":
        raise Refused(f"The adapter {name} is of the kind {kind or 'unknown'}, not LORA.", AGAIN)
    for key in UNKNOWN_HERE:
        if config.get(key):
            raise Refused(f"The adapter {name} uses {key}, which cannot be attached here.", AGAIN)
    if config.get("bias", "none") != "none":
        raise Refused(f"The adapter {name} changes biases, which cannot be weighted.", AGAIN)


def _targets(
    name: str, tensors: Mapping[str, tuple[int, ...]], config: dict[str, Any]
) -> dict[str, Target]:
    """The adapted layers, from pairs of tensors that belong together."""
    sides: dict[str, dict[str, tuple[int, ...]]] = {}
    embeddings = set()
    for tensor, shape in tensors.items():
        layer, found = split_name(tensor)
        if found is None:
            raise Refused(
                f"The adapter {name} brings a whole layer of its own ({tensor[:80]}).",
                "Merge it with its base model, or take an adapter of LoRA weights only.",
            )
        side = found["linear"] or found["embedding"]
        if side:
            sides.setdefault(layer, {})[side] = shape
        if found["embedding"]:
            embeddings.add(layer)
    targets = {}
    for layer, pair in sides.items():
        a, b = pair.get("A", ()), pair.get("B", ())
        if len(a) != 2 or len(b) != 2 or a[0] != b[1] or not 0 < a[0] <= MOST_RANK or 0 in (*a, *b):
            raise Refused(f"The two halves of {layer[:80]} in {name} do not fit.", AGAIN)
        scale = _scale(name, config, layer, a[0])
        targets[layer] = Target(a[1], b[0], a[0], scale, layer in embeddings)
    if not targets:
        raise Refused(f"The adapter {name} holds no LoRA weights.", AGAIN)
    return targets


def split_name(tensor: str) -> tuple[str, re.Match[str] | None]:
    """The layer that a tensor of a PEFT file adapts, and which half of the pair it is."""
    found = SUFFIX.search(tensor)
    if found is None or found.end() != len(tensor):
        return "", None
    return tensor[: found.start()].removeprefix("base_model.model."), found


def layer_and_kind(tensor: str) -> tuple[str, str]:
    """The layer, and PEFT's own word for the tensor: `lora_A`, `lora_magnitude_vector`."""
    layer, found = split_name(tensor)
    return layer, found[0].removeprefix(".").partition(".")[0] if found else ""


def _scale(name: str, config: dict[str, Any], layer: str, rank: int) -> float:
    """PEFT's own rule; a pattern is a layer's name or its end."""
    alpha = config.get("lora_alpha", 8)
    patterns = config.get("alpha_pattern") or {}
    for pattern, value in patterns.items() if isinstance(patterns, dict) else ():
        plain = str(pattern).removeprefix("^")
        if not re.fullmatch(r"[\w.-]+", plain):
            raise Refused(f"The adapter {name} has the pattern {pattern[:60]!r}.", AGAIN)
        if layer == plain or (plain == pattern and layer.endswith("." + plain)):
            alpha = value
            break
    if isinstance(alpha, bool) or not isinstance(alpha, (int, float)) or not abs(alpha) <= 1e6:
        raise Refused(f"The adapter {name} has the alpha {str(alpha)[:40]}.", AGAIN)
    return float(alpha / (rank**0.5 if config.get("use_rslora") is True else rank))


def _of_gguf(path: Path) -> Adapter:
    header = read_header(path)
    if header.values.get("general.type") != "adapter":
        raise Refused(f"{path.name} is a model and not an adapter.", "Pick an adapter.")
    if header.values.get("adapter.type") != "lora":
        raise Refused(f"The adapter {path.name} is not a LoRA.", AGAIN)
    halves: dict[str, dict[str, tuple[int, ...]]] = {}
    for tensor in header.tensors:
        layer, _, side = tensor.name.rpartition(".lora_")
        if side in ("a", "b") and (len(tensor.shape) != 2 or layer.startswith("token_embd")):
            raise Refused(
                f"The adapter {path.name} adapts embeddings or experts ({layer[:60]}), which "
                "cannot be attached here.",
                AGAIN,
            )
        if side in ("a", "b"):
            halves.setdefault(layer, {})[side] = tensor.shape
        elif not tensor.name.endswith("_norm.weight"):
            raise Refused(f"The adapter {path.name} holds {tensor.name[:60]!r}.", AGAIN)
    targets = {}
    for layer, pair in halves.items():
        a, b = pair.get("a", ()), pair.get("b", ())
        if not a or not b or a[1] != b[0]:
            raise Refused(f"The two halves of {layer[:80]} in {path.name} do not fit.", AGAIN)
        targets[layer.removesuffix(".weight")] = Target(a[0], b[1], a[1])
    if not targets:
        raise Refused(f"The adapter {path.name} holds no LoRA weights.", AGAIN)
    base = header.values.get("general.base_model.0.name") or header.values.get("general.name") or ""
    return Adapter(path, "gguf", str(base), header.architecture, targets, path.stat().st_size)


# Fitting


def check_fit(adapter: Adapter, base: Base) -> None:
    """Raises Refused, naming both models, where the adapter was made for another base."""
    made_for = adapter.base or "another model"
    other = "Detach it, or load the model that it was made for."
    name = adapter.name
    if adapter.hidden_size and base.hidden_size and adapter.hidden_size != base.hidden_size:
        raise Refused(
            f"The adapter {name} was made for {made_for} (hidden size {adapter.hidden_size}), and "
            f"the loaded model {base.title} has the hidden size {base.hidden_size}.",
            other,
        )
    for layer, target in adapter.targets.items():
        there = base.layers.get(base.renamed.get(layer, layer))
        if there is None:
            raise Refused(
                f"The adapter {name} was made for {made_for}, and the loaded model {base.title} "
                f"has no layer {layer[:80]}.",
                other,
            )
        if there != (target.inputs, target.outputs):
            raise Refused(
                f"The adapter {name} was made for {made_for}: its layer {layer[:80]} is "
                f"{target.inputs} x {target.outputs}, and that of the loaded model {base.title} is "
                f"{there[0]} x {there[1]}.",
                other,
            )


def gguf_base(title: str, headers: list[Header]) -> Base:
    """What an adapter must fit in a GGUF model, of all its parts."""
    first = headers[0]
    width = first.of_architecture("embedding_length", 0)
    layers = {
        tensor.name.removesuffix(".weight"): (tensor.shape[0], tensor.shape[1])
        for header in headers
        for tensor in header.tensors
        if len(tensor.shape) >= 2
    }
    return Base(title, layers, width if isinstance(width, int) else 0)


# The list


def locate(text: str) -> Path:
    """Where the adapter lies that a reference names. Raises Refused."""
    return library.locate(ModelRef.parse(text))


def list_adapters() -> list[ListedAdapter]:
    """All adapters on this machine: of trainings, the newest first, then own folders, then the hub
    cache."""
    here = (*library.own_models(), *library.hub_models())
    found = [_of_training(made) for made in trained.listed(library.jobs_folder()) if not made.whole]
    return found + [listed for ref, path in here if (listed := _listed(ref, path))]


def find_adapter(text: str) -> ListedAdapter | None:
    """One of the list, or an older snapshot, which the list leaves out; None where it is gone."""
    try:
        ref = ModelRef.parse(text)
        if ref.kind == "job":
            jobs, path = library.jobs_folder(), library.locate(ref)
            title, base = trained.title_of(jobs, ref), trained.base_of(jobs, ref)
            return _of_training(trained.Trained(ref, path, title, base))
    except Refused:
        return None
    return next((one for one in list_adapters() if one.id == text), None)


def adapter_title(text: str) -> str:
    """How people know the adapter of that reference, also when it is gone."""
    kind, _, name = text.partition(":")
    if kind != "job":
        return name
    try:
        return trained.title_of(library.jobs_folder(), ModelRef.parse(text))
    except Refused:
        return name


def suits(one: ListedAdapter, model: library.Listed, models: Sequence[library.Listed]) -> bool:
    """Whether it is worth offering for `model`, one of `models`: what a training made, for what it
    was trained on and for the same weights in another form; every other adapter, always."""
    if not one.trained_on:
        return True
    if one.dora and model.format == "gguf":
        return False
    try:
        base = base_of(one.trained_on)
    except Refused:
        return True
    if library.origin(base) == library.origin(model.ref):
        return True
    known = next((m for m in models if m.ref == base), None)
    if known is None or not known.parameters or not model.parameters:
        return known is None
    # A GGUF may hold the table of words once more, or once less.
    alike = 0.8 < model.parameters / known.parameters < 1.25
    return alike and model.layers == known.layers


def _of_training(made: trained.Trained) -> ListedAdapter:
    files = tuple(_file_stamp(file) for file in adapter_files(made.path))
    judged, problem = _judgement(made.path, files)
    listed = judged or ListedAdapter("", "", made.ref, problem=problem or "It is no adapter.")
    return replace(
        listed, id=str(made.ref), title=made.title, ref=made.ref, trained_on=made.base or "none:"
    )


def _file_stamp(file: Path) -> tuple[str, int, int]:
    try:
        status = file.stat()
    except OSError:
        return file.name, -1, 0
    return file.name, status.st_size, status.st_mtime_ns


def _listed(ref: ModelRef, path: Path) -> ListedAdapter | None:
    listed = ListedAdapter(str(ref), f"{ref.name} {ref.file}".strip(), ref)
    try:
        ModelRef.parse(str(ref))
    except Refused:
        return None  # it is shown among the models, with what is wrong with its name
    judged, problem = _judgement(path, library.stamp(path))
    if judged is None:
        return replace(listed, problem=problem) if problem else None
    return replace(judged, id=listed.id, title=listed.title, ref=ref)


@lru_cache(maxsize=2000)
def _judgement(path: Path, stamp: library.Stamp) -> tuple[ListedAdapter | None, str]:
    """What it is, or its problem, or neither where it is none; read again only when changed."""
    try:
        if not is_adapter(path):
            return None, ""
    except (Refused, OSError):
        return None, ""  # a damaged file is shown among the models
    try:
        one = read_adapter(path)
    except Refused as refused:
        return None, str(refused)
    except OSError as error:
        return None, f"{path.name} cannot be read ({error.strerror}). Check who may read it."
    return ListedAdapter(
        "", "", ModelRef("none", ""), format=one.format, base=one.base, rank=one.rank,
        targets=one.kinds, hidden_size=one.hidden_size, bytes=one.bytes, dora=one.dora,
    ), ""  # fmt: skip


def _short(layer: str) -> str:
    return layer.rpartition(".")[2]


def _reads(layer: str) -> bool:
    return _short(layer) in READERS


def adapter_files(path: Path) -> Iterator[Path]:
    """The files that make an adapter what it is."""
    yield from (path / CONFIG, path / WEIGHTS) if path.is_dir() else (path,)
