"""A transformers model with only some of its layers on the GPU: the others wait in RAM."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from backends.base import Refused


def device_map(path: Path, gpu_layers: int, near: Any = 0, far: str = "cpu") -> dict[str, Any]:
    """For `from_pretrained`: the first `gpu_layers` layers and all that is no layer on `near`.

    The rest is on `far`, from where accelerate moves a layer to `near` each time that it is needed.
    Raises Refused for a model that has no row of layers.
    """
    import accelerate
    import transformers

    common = {"local_files_only": True, "trust_remote_code": False}
    config = transformers.AutoConfig.from_pretrained(path, **common)
    with accelerate.init_empty_weights():
        model = transformers.AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    count = config.get_text_config().num_hidden_layers
    rows = [
        name
        for name, module in model.named_modules()
        if type(module).__name__ == "ModuleList" and len(module) == count
    ]
    if not rows:
        raise Refused(
            f"The layers of {path.name} cannot be told apart, so that it cannot be divided.",
            "Set Layers on the GPU to -1, or use a GGUF version of it.",
        )
    row = min(rows, key=len)
    return dict(_places(model, "", row, gpu_layers, near, far))


def _places(module: Any, prefix: str, row: str, gpu_layers: int, near: Any, far: str) -> Any:
    for name, child in module.named_children():
        path = prefix + name
        if path == row:
            for index in range(len(child)):
                yield f"{path}.{index}", near if index < gpu_layers else far
        elif row.startswith(path + "."):
            yield from _places(child, path + ".", row, gpu_layers, near, far)
        else:
            yield path, near


def pin(model: Any) -> None:
    """Lock the waiting weights in memory: the GPU fetches them two to three times as fast then.

    Where the system does not allow that, they stay as they are.
    """
    for module in model.modules():
        hook = getattr(module, "_hf_hook", None)
        source = getattr(getattr(hook, "weights_map", None), "dataset", None)
        held = getattr(source, "state_dict", None)
        if held:
            for name, tensor in held.items():
                if not tensor.is_pinned():
                    try:
                        held[name] = tensor.pin_memory()
                    except RuntimeError:  # the limit of locked memory
                        return
            return  # one table for all
