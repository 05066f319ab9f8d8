"""An adapter (LoRA) that one run attaches: what chat and pictures have in common."""

from __future__ import annotations

from dataclasses import dataclass

from backends.params import Params, setting

MOST_ADAPTERS = 8


@dataclass(frozen=True)
class AdapterUse(Params):
    """At weight 0 the result is the base model's own."""

    ref: str = setting("", "Adapter")  # a ModelRef as text
    weight: float = setting(1.0, "Weight", min=-2.0, max=2.0, step=0.05)


def check_adapters(adapters: tuple[AdapterUse, ...]) -> None:
    """Raises ValueError in two sentences for too many, or for one twice."""
    if len(adapters) > MOST_ADAPTERS:
        raise ValueError(f"These are {len(adapters)} adapters. Attach at most {MOST_ADAPTERS}.")
    if len({one.ref for one in adapters}) < len(adapters):
        raise ValueError("An adapter is attached twice. Give it one weight.")
