"""What trainings really took on this machine, and what that says of the next one.

One record of kind "training" in `measured.jsonl` for each run that ended:

    backend, model, device   which base, where
    settings                 what speed and memory depend on beside sizes (`class_of`)
    fit_bytes                what headers alone had said of its memory
    measured_bytes           its peak, on its device
    tokens_per_second        in the median of its steps
    operations               of one token, by `plan_train.operations`
"""

from __future__ import annotations

import statistics
from typing import Any

from backends.card import fit
from backends.card.fit import Prediction
from backends.card.fit_train import TrainPlan
from backends.card.measured import Measured

KIND = "training"
LAST = 10  # runs that a speed is told from


class Trainings:
    """What the file of measurements says of trainings on this machine."""

    def __init__(self, measured: Measured) -> None:
        self.measured = measured

    def records(self, device: str) -> list[dict[str, Any]]:
        """Those of this device, oldest first."""
        return [r for r in self.measured.of_kind(KIND) if r.get("device") == device]

    def rate(self, model: str, device: str) -> tuple[float, bool]:
        """Operations/s that trainings of this base reached here, else those of all bases; 0 where
        none was measured. And whether it was this base."""
        found = self.records(device)
        same = [record for record in found if record.get("model") == model]
        rates = [r for record in (same or found)[-LAST:] if (r := _rate(record))]
        return (statistics.median(rates), bool(same)) if rates else (0.0, False)

    def correct(
        self, prediction: Prediction, plan: TrainPlan, model: str, device: str
    ) -> Prediction:
        """By runs of this base with such settings; where there is none, by all runs here."""
        found, settings = self.records(device), class_of(plan)
        same = [r for r in found if r.get("model") == model and r.get("settings") == settings]
        return fit.learn(same or found, "sft", device).correct(prediction)

    def add(self, **values: Any) -> None:
        """One run that has ended, with the fields above."""
        self.measured.append(kind=KIND, backend="sft", **values)


def class_of(plan: TrainPlan) -> dict[str, Any]:
    """Trainings that are alike but for their sizes."""
    return {"method": plan.method, "quantisation": plan.quantisation, "optimizer": plan.optimizer,
            "checkpointing": plan.checkpointing}  # fmt: skip


def _rate(record: dict[str, Any]) -> float:
    speed, operations = record.get("tokens_per_second"), record.get("operations")
    if isinstance(speed, int | float) and isinstance(operations, int | float):
        return float(speed) * float(operations)
    return 0.0
