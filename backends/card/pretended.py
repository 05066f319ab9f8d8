"""A graphics card that is not there, for tests: WERKBANK_TEST_CARD_MB=2000 makes one of 2,000 MB.

What is used on it is what the ledger says is held there. This is the one place that reads the
variable; nothing else in Werkbank knows of it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from backends.card.gpu import Machine
from backends.card.reading import Gpu, Reading

VARIABLE = "WERKBANK_TEST_CARD_MB"


class PretendedMachine(Machine):
    """This computer with a card of `total_bytes` in it, of which `held()` are in use."""

    def __init__(self, total_bytes: int, held: Callable[[], int], disk: Path | None = None) -> None:
        super().__init__(disk=disk)
        self.total_bytes, self.held = total_bytes, held

    def read(self) -> Reading:
        used = min(self.total_bytes, self.held())
        card = Gpu(
            0, "Pretended card", "GPU-pretended", busy_percent=0, used_bytes=used,
            free_bytes=self.total_bytes - used, total_bytes=self.total_bytes,
        )  # fmt: skip
        return replace(super().read(), mode="cuda", message="", gpus=(card,))


def machine(held: Callable[[], int]) -> Machine:
    """The real one, unless a test has asked for a card."""
    asked = os.environ.get(VARIABLE, "")
    return PretendedMachine(int(asked) * 2**20, held) if asked.isdecimal() else Machine()
