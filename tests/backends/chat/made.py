"""Models and adapters made on the spot, with weights from a seed."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

ALL = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def peft_adapter(
    folder: Path, base: Any, seed: int = 0, *, size: float = 0.05, **given: Any
) -> Path:
    """A LoRA for a loaded transformers model, as PEFT itself saves it; both halves are random."""
    import peft
    import torch

    config = {"r": 8, "lora_alpha": 16, "target_modules": list(ALL), **given}
    torch.manual_seed(seed)
    with warnings.catch_warnings(action="ignore"):  # of layers tied to others
        wrapped = peft.get_peft_model(base, peft.LoraConfig(task_type="CAUSAL_LM", **config))
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_" in name and "magnitude" not in name:
                parameter.normal_(0, size)
    wrapped.save_pretrained(folder, save_embedding_layers=False)
    wrapped.unload()
    return folder


def change_config(folder: Path, **values: Any) -> None:
    file = folder / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))
