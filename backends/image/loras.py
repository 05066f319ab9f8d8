"""LoRAs on a loaded pipeline: judged from their header first, attached, weighted, taken off. The
base's weights stay what they are."""

from __future__ import annotations

import re
import warnings
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any

from backends.adapter_use import AdapterUse
from backends.base import ModelRef, Refused
from backends.events import Progress
from backends.image.families import Family
from backends.models import library
from backends.models.check import check_file, read_json, read_safetensors

WEIGHTS = ("pytorch_lora_weights.safetensors", "adapter_model.safetensors")
PEFT = "base_model.model."
ANOTHER = "Take it off, or load the model that it was made for."
# What a LoRA was made for, by a layer that only that kind has and how many numbers it takes (0: any
# number). The first that fits is meant.
KINDS: tuple[tuple[str, str, int], ...] = (
    ("FLUX.1", r"single_transformer_blocks|single_blocks|double_blocks", 0),
    ("Stable Diffusion 3", r"add_k_proj|joint_blocks", 0),
    ("Stable Diffusion XL", r"attn2[._]to_[kv]", 2048),
    ("Stable Diffusion 2", r"attn2[._]to_[kv]", 1024),
    ("Stable Diffusion 1.5", r"attn2[._]to_[kv]", 768),
    ("a language model", r"model\.layers\.\d+\.(self_attn|mlp)", 0),
)
DOWN = re.compile(r"\.?(lora_A|lora_down|lora\.down|lora_linear_layer\.down)(\.\w+)?\.weight$")


def made_for(tensors: Mapping[str, tuple[int, ...]]) -> str:
    """The kind of model, "" where its layers do not tell."""
    for title, layer, inputs in KINDS:
        for name, shape in tensors.items():
            if re.search(layer, name) and (not inputs or _takes(name, shape) == inputs):
                return title
    return ""


def _takes(name: str, shape: tuple[int, ...]) -> int:
    return shape[1] if DOWN.search(name) and len(shape) >= 2 else -1


def weights_file(ref: str) -> Path:
    """The safetensors file that a reference names, itself or in its folder. Raises Refused."""
    path = library.locate(ModelRef.parse(ref))
    if path.is_dir():
        named = [path / name for name in WEIGHTS if (path / name).is_file()]
        found = named or sorted(path.glob("*.safetensors"))
        if len(found) != 1:
            raise Refused(
                f"{path.name} is no LoRA: it has {len(found) or 'no'} safetensors files.",
                "Name one file of it.",
            )
        path = found[0]
    check_file(path)
    return path


class Loras:
    """Those of one pipeline. `use` makes it draw with exactly the ones that are named."""

    def __init__(self, pipe: Any, family: Family, title: str) -> None:
        self.pipe, self.family, self.title = pipe, family, title
        self.attached: dict[tuple[Path, library.Stamp], str] = {}  # the pipeline's name for each
        self.made = 0

    def use(self, wanted: tuple[AdapterUse, ...]) -> Generator[Progress, None, None]:
        """Raises Refused, with nothing attached that was not before."""
        found: dict[tuple[Path, library.Stamp], float] = {}
        for one in wanted:
            file = weights_file(one.ref)
            found[file, library.stamp(file)] = one.weight
        new = [key for key in found if key not in self.attached]
        read = {key: self._read(key[0]) for key in new}  # all are judged before one is attached
        for step, (key, state) in enumerate(read.items()):
            yield Progress(step, len(new), f"attaching the LoRA {key[0].stem}")
            self.attached[key] = self._attach(key[0], state)
        for key in [key for key in self.attached if key not in found]:
            self.pipe.delete_adapters(self.attached.pop(key))
        if not self.attached:
            if self.made:  # the layers are what they were
                self.pipe.unload_lora_weights()
                self.made = 0
            return
        weights = {self.attached[key]: weight for key, weight in found.items() if weight}
        if weights:
            self.pipe.enable_lora()
            self.pipe.set_adapters(list(weights), list(weights.values()))
        else:  # passed by, not multiplied by 0
            self.pipe.disable_lora()

    def _read(self, file: Path) -> dict[str, Any]:
        """Its tensors by the pipeline's names, every one of which has its layer. Raises Refused."""
        from safetensors.torch import load_file

        header = read_safetensors(file).tensors
        kind = made_for(header)
        name = file.stem if file.name not in WEIGHTS else file.parent.name
        if not self.family.lora:
            raise Refused(
                f"LoRAs cannot be attached to {self.family.title} here.", "Take them off."
            )
        if any("dora_scale" in key or "magnitude" in key for key in header):
            raise Refused(
                f"The LoRA {name} is a DoRA, which cannot be attached here.", "Take another one."
            )
        if kind and self._reads_otherwise(kind):
            raise self._wrong(name, kind, "")
        state = load_file(file)
        if any(key.startswith(PEFT) for key in state):
            state = _from_peft(state, file.parent, self.family.backbone)
        try:
            layers = self._layers(state)
        except (ValueError, KeyError, IndexError, NotImplementedError, AttributeError) as error:
            raise self._wrong(name, kind, str(error)) from error
        self._check(name, kind, layers)
        return dict(state)

    def _reads_otherwise(self, kind: str) -> bool:
        """Whether the kind says so already: what it reads is of another width."""
        known = {title: inputs for title, _, inputs in KINDS}
        there = getattr(self.pipe, self.family.backbone).config.get("cross_attention_dim")
        inputs = known[kind]
        if self.family.backbone == "unet":
            return not inputs or inputs != there
        return kind != self.family.title

    def _wrong(self, name: str, kind: str, detail: str) -> Refused:
        made = f"was made for {kind}" if kind else "was made for another kind of model"
        return Refused(
            f"The LoRA {name} {made}, and the loaded model {self.title} is {self._is()}.",
            ANOTHER,
            detail,
        )

    def _is(self) -> str:
        width = getattr(self.pipe, self.family.backbone).config.get("cross_attention_dim")
        known = {inputs: title for title, _, inputs in KINDS if inputs}
        return known.get(width, self.family.title)

    def _layers(self, state: dict[str, Any]) -> dict[str, tuple[int, int]]:
        """Inputs and outputs of each layer that it adapts, by component and name."""
        from diffusers.utils import convert_state_dict_to_diffusers, convert_state_dict_to_peft
        from diffusers.utils.state_dict_utils import convert_unet_state_dict_to_peft

        backbone = self.family.backbone
        more = {"unet_config": self.pipe.unet.config} if backbone == "unet" else {}
        found, *_ = self.pipe.lora_state_dict(dict(state), **more)
        layers: dict[str, tuple[int, int]] = {}
        for part in (backbone, *self.family.encoders):
            mine = {
                key.removeprefix(f"{part}."): value
                for key, value in found.items()
                if key.startswith(f"{part}.") and "alpha" not in key
            }
            if not mine:
                continue
            if part != backbone:
                mine = convert_state_dict_to_peft(convert_state_dict_to_diffusers(mine))
            elif not any("lora_A" in key for key in mine):
                mine = convert_unet_state_dict_to_peft(mine)
            for key, value in mine.items():
                if key.endswith("lora_A.weight"):
                    layer = key.removesuffix(".lora_A.weight")
                    other = mine[f"{layer}.lora_B.weight"]
                    layers[f"{part}.{layer}"] = int(value.shape[1]), int(other.shape[0])
        return layers

    def _check(self, name: str, kind: str, layers: dict[str, tuple[int, int]]) -> None:
        if not layers:
            raise self._wrong(name, kind, "no layer of it is one of this model")
        known = {}
        for part in (self.family.backbone, *self.family.encoders):
            module = getattr(self.pipe, part, None)
            for layer, inner in module.named_modules() if module is not None else ():
                if shape := _extents(inner):
                    known[f"{part}.{layer.removesuffix('.base_layer')}"] = shape
        for layer, shape in layers.items():
            there = known.get(layer) or known.get(layer.replace(".text_model.", ".", 1))
            if there != shape:
                raise self._wrong(name, kind, f"{layer} is {shape}, and here {there}")

    def _attach(self, file: Path, state: dict[str, Any]) -> str:
        self.made += 1
        name = f"lora{self.made}"
        more = {"unet_config": self.pipe.unet.config} if self.family.backbone == "unet" else {}
        try:
            with warnings.catch_warnings():
                # PEFT would warn of every further one that the model has several.
                warnings.filterwarnings("ignore", message="Already found a `peft_config`")
                self.pipe.load_lora_weights(dict(state), adapter_name=name, **more)
        except (ValueError, TypeError, KeyError, RuntimeError, NotImplementedError) as error:
            raise Refused(
                f"The LoRA {file.stem} could not be attached.", "Take another one.", str(error)
            ) from error
        return name


def _from_peft(state: dict[str, Any], folder: Path, backbone: str) -> dict[str, Any]:
    """PEFT's names as diffusers' own, its scale put into the second matrix: diffusers reads no
    adapter_config.json."""
    config = read_json(folder / "adapter_config.json")
    alpha, by_root = float(config.get("lora_alpha", 8)), config.get("use_rslora") is True
    plain = {key.removeprefix(PEFT).replace(".default.", "."): v for key, v in state.items()}
    found = {}
    for key, value in plain.items():
        if key.endswith("lora_B.weight"):
            rank = value.shape[1]
            value = value * (alpha / (rank**0.5 if by_root else rank))
        named = key.startswith((f"{backbone}.", "text_encoder"))
        found[key if named else f"{backbone}.{key}"] = value
    return found


def _extents(module: Any) -> tuple[int, int] | None:
    """Inputs and outputs of a layer, None for what is no layer that LoRA adapts."""
    if hasattr(module, "base_layer"):
        return None  # seen once, as what it wraps
    for ins, outs in (("in_features", "out_features"), ("in_channels", "out_channels")):
        if ins in vars(module) and outs in vars(module) and hasattr(module, "weight"):
            return int(getattr(module, ins)), int(getattr(module, outs))
    return None
