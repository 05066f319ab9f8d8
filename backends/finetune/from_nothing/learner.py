"""Modules that learn together: AdamW, a warm-up and a cosine, clipping, the averaged weights."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

FLOOR = 0.02  # of the learning rate's peak, which is left at the end
CLIP = 1.0  # the gradients' norm at most


@dataclass(frozen=True)
class Schedule:
    """How the learning rate rises over `warmup` steps and falls as half a cosine until `steps`."""

    steps: int
    warmup: int = 0

    def share(self, step: int) -> float:
        """Of the peak, in the step after `step` steps."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        way = (step - self.warmup) / max(1, self.steps - self.warmup)
        return FLOOR + (1 - FLOOR) * 0.5 * (1 + math.cos(math.pi * min(1.0, way)))


class Learner:
    """`modules` by name, each with the peak of its own learning rate; `average` is their EMA."""

    def __init__(
        self, modules: dict[str, Any], peaks: Mapping[str, float], schedule: Schedule, ema: float,
        betas: tuple[float, float] = (0.9, 0.99), weight_decay: float = 0.0, clip: float = CLIP,
    ) -> None:  # fmt: skip
        import torch

        self.modules, self.schedule, self.ema, self.clip = modules, schedule, ema, clip
        self.average = {name: copy.deepcopy(m).requires_grad_(False).eval()
                        for name, m in modules.items()}  # fmt: skip
        self.parameters = [p for m in modules.values() for p in m.parameters()]
        self._pairs = [
            list(pair)
            for pair in zip(
                *((a, p) for name, m in modules.items()
                  for a, p in zip(self.average[name].parameters(), m.parameters(), strict=True)),
                strict=True,
            )
        ]  # fmt: skip
        groups = [{"params": list(m.parameters()), "peak": peaks[name]}
                  for name, m in modules.items()]  # fmt: skip
        self.optimizer = torch.optim.AdamW(
            groups, lr=0.0, betas=betas, weight_decay=weight_decay,
            fused=self.parameters[0].is_cuda,
        )  # fmt: skip

    def begin(self, step: int) -> float:
        """Before the step after `step` steps. Returns the first module's learning rate."""
        share = self.schedule.share(step)
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * share
        self.optimizer.zero_grad(set_to_none=True)
        return float(self.optimizer.param_groups[0]["lr"])

    def end(self, step: int) -> Any:
        """Go one step; the gradients' norm before clipping, as a tensor that nobody waited for."""
        import torch

        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.clip)
        self.optimizer.step()
        # A young average would be of the first, random weights.
        decay = min(self.ema, (1 + step) / (10 + step))
        with torch.no_grad():
            torch._foreach_lerp_(self._pairs[0], self._pairs[1], 1.0 - decay)
            for name, module in self.modules.items():
                mine = dict(self.average[name].named_buffers())
                for key, value in module.named_buffers():
                    mine[key].copy_(value)
        return norm

    def forget(self) -> None:
        """Drop the gradients of a step that is given up."""
        self.optimizer.zero_grad(set_to_none=True)

    def bytes(self) -> int:
        """Of a checkpoint: weights, average and AdamW's two numbers."""
        return int(4 * sum(p.numel() * p.element_size() for p in self.parameters))

    def state(self) -> dict[str, dict[str, Any]]:
        """Tensors by the name of their file: all that a resume needs."""
        moments = {
            f"{number}.{key}": value
            for number, of_one in self.optimizer.state_dict()["state"].items()
            for key, value in of_one.items()
        }
        return {"weights": _flat(self.modules), "average": _flat(self.average),
                "optimizer": moments}  # fmt: skip

    def load(self, state: Mapping[str, Mapping[str, Any]]) -> None:
        """What `state` gave. Raises RuntimeError, KeyError where it is another model's."""
        import torch

        for name, module in self.modules.items():
            module.load_state_dict(_part(state["weights"], name))
            self.average[name].load_state_dict(_part(state["average"], name))
        moments: dict[int, dict[str, Any]] = {}
        for key, value in state["optimizer"].items():
            number, _, name = key.partition(".")
            like = self.parameters[int(number)]
            if value.shape == like.shape:  # the fused step wants them laid out as the weights are
                value = torch.empty_like(like, requires_grad=False).copy_(value)
            else:
                value = value.clone()
            moments.setdefault(int(number), {})[name] = value
        whole = self.optimizer.state_dict()
        self.optimizer.load_state_dict({"state": moments, "param_groups": whole["param_groups"]})


def _flat(modules: Mapping[str, Any]) -> dict[str, Any]:
    return {f"{name}.{key}": value for name, module in modules.items()
            for key, value in module.state_dict().items()}  # fmt: skip


def _part(state: Mapping[str, Any], name: str) -> dict[str, Any]:
    start = f"{name}."
    return {key.removeprefix(start): v for key, v in state.items() if key.startswith(start)}
