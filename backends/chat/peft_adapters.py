"""Adapters on a loaded transformers model: attached, weighted and taken off, the base untouched."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Generator
from pathlib import Path
from typing import Any

from backends.adapter_use import AdapterUse
from backends.base import Refused
from backends.events import Progress
from backends.models import adapters, library
from backends.models.adapters import Adapter, Base


class PeftAdapters:
    """The adapters of one model. `use` makes it answer with exactly those that are named.

    A weight changes without anything being read again. One that weighs 0 is passed by, not
    multiplied by 0, so that the answer is the base model's own to the last bit. One that two
    answers have not named is taken off, and with the last one the model's layers are as they were:
    not sooner, since two answers side by side take turns.
    """

    def __init__(self, model: Any, title: str) -> None:
        self.model, self.title = model, title
        self.attached: dict[tuple[Path, library.Stamp], str] = {}  # PEFT's name for each
        self.weights: dict[str, float] = {}  # of those that are not passed by
        self.before: set[tuple[Path, library.Stamp]] = set()  # named by the last answer
        self.made = 0

    def use(self, wanted: tuple[AdapterUse, ...]) -> Generator[Progress, None, bool]:
        """Returns whether the model answers differently from before. Raises Refused."""
        found = {}
        for one in wanted:
            path = adapters.locate(one.ref)
            found[path, library.stamp(path)] = one.weight
        new = [key for key in found if key not in self.attached]
        for step, key in enumerate(new):
            yield Progress(step, len(new), f"attaching the adapter {key[0].name}")
            self.attached[key] = self._attach(key[0])
        for key in [key for key in self.attached if key not in self.before.union(found)]:
            self._detach(self.attached.pop(key))
        self.before = set(found)
        weights = {self.attached[key]: weight for key, weight in found.items() if weight}
        if self.attached:  # each time: an attaching that failed has left its own order
            for layer in _lora_layers(self.model):
                for name, weight in weights.items():
                    layer.set_scale(name, weight)
                layer.enable_adapters(bool(weights))
                layer.set_adapter(list(weights), inference_mode=True)
        changed, self.weights = weights != self.weights, weights
        return changed

    def _attach(self, path: Path) -> str:
        import peft
        from safetensors.torch import load_file

        adapter = adapters.read_adapter(path)
        if adapter.format != "safetensors":
            raise Refused(
                f"The adapter {adapter.name} is a GGUF file, which only llama.cpp can attach.",
                "Detach it, or load a GGUF model.",
            )
        adapters.check_fit(adapter, self._base())
        self.made += 1
        name = f"adapter{self.made}"
        tensors = {}
        for key, tensor in load_file(path / adapters.WEIGHTS).items():
            layer, kind = adapters.layer_and_kind(key)
            tensors[layer, kind] = tensor
        try:
            # Without memory of their own: the file's tensors take their place.
            config = _config(peft, adapter)
            peft.inject_adapter_in_model(config, self.model, name, low_cpu_mem_usage=True)
            self._fill(name, tensors)
        except (ValueError, TypeError, KeyError, RuntimeError, NotImplementedError) as error:
            self._detach(name)
            raise Refused(
                f"The adapter {adapter.name} could not be attached.",
                "Take another one.",
                str(error),
            ) from error
        finally:  # PEFT's list of settings, which would only make it warn of the next adapter
            self.model.__dict__.pop("peft_config", None)
        return name

    def _fill(self, name: str, tensors: dict[tuple[str, str], Any]) -> None:
        """The adapter's tensors in fp32, as PEFT keeps them, where their layer computes."""
        import torch

        for path, layer in self.model.named_modules():
            if not _is_lora(layer):
                continue
            base = layer.get_base_layer()
            hook = getattr(base, "_hf_hook", None)  # of a layer whose weights wait in RAM
            device = getattr(hook, "execution_device", None)
            device = base.weight.device if device is None else device
            for kind in layer.adapter_layer_names:
                held = getattr(layer, kind)
                if name in held:
                    tensor = tensors[path, kind].to(device, torch.float32)
                    parameter = torch.nn.Parameter(tensor, requires_grad=False)
                    if isinstance(held, torch.nn.ParameterDict):
                        held[name] = parameter
                    else:
                        held[name].weight = parameter

    def _detach(self, name: str) -> None:
        for path, layer in [(p, m) for p, m in self.model.named_modules() if _is_lora(m)]:
            others = [other for other in layer.active_adapters if other != name]
            layer.set_adapter(others, inference_mode=True)  # PEFT would choose another one
            layer.delete_adapter(name)
            if not layer.scaling:  # it was the last one
                parent, _, child = path.rpartition(".")
                setattr(self.model.get_submodule(parent), child, layer.get_base_layer())

    def _base(self) -> Base:
        """What the loaded model has to adapt, whatever its weights are kept as."""
        layers = {}
        for name, module in self.model.named_modules():
            name = name.removesuffix(".base_layer")
            shape = _extents(module)
            if shape:
                layers[name] = shape
        config = self.model.config.get_text_config()
        return Base(self.title, layers, int(getattr(config, "hidden_size", 0) or 0))


def _config(peft: Any, adapter: Adapter) -> Any:
    """PEFT's own settings, from what was checked: each layer by its full name, nothing else."""
    shapes = {f"^{re.escape(n)}": (t.rank, t.scale * t.rank) for n, t in adapter.targets.items()}
    rank, alpha = Counter(shapes.values()).most_common(1)[0][0]
    return peft.LoraConfig(
        r=rank,
        lora_alpha=alpha,
        target_modules=list(adapter.targets),
        rank_pattern={name: r for name, (r, _) in shapes.items() if r != rank},
        alpha_pattern={name: a for name, (r, a) in shapes.items() if (r, a) != (rank, alpha)},
        use_dora=adapter.dora,
        fan_in_fan_out=adapter.fan_in_fan_out,
        inference_mode=True,
        init_lora_weights=False,
    )


def _is_lora(module: Any) -> bool:
    from peft.tuners.lora import LoraLayer

    return isinstance(module, LoraLayer)


def _lora_layers(model: Any) -> list[Any]:
    return [module for module in model.modules() if _is_lora(module)]


def _extents(module: Any) -> tuple[int, int] | None:
    """Inputs and outputs of a layer, None for what is no layer that LoRA adapts."""
    if hasattr(module, "base_layer"):
        return None  # seen once, as what it wraps
    for ins, outs in (("in_features", "out_features"), ("num_embeddings", "embedding_dim")):
        if hasattr(module, ins) and hasattr(module, outs):
            return int(getattr(module, ins)), int(getattr(module, outs))
    if type(module).__name__ == "Conv1D":  # GPT-2's, which keeps its weight the other way round
        return int(module.nx), int(module.nf)
    return None
