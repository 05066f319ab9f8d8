"""What loads and training steps really took, one JSON line each: what predictions learn from.

The file only grows. A line that a crash tore is skipped, and the next one starts on a line of its
own. Several processes may append at once: each record is one write.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)


class Measured:
    """The file `measured.jsonl` in the home folder, made with the first line."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._kept: dict[str, tuple[tuple[int, int], list[dict[str, Any]]]] = {}

    def append(self, **values: Any) -> bool:
        """Write one record, `time` (Unix seconds) added. False, and a line in the log, where the
        disk refuses: a measurement is never worth failing a load for."""
        line = json.dumps({"time": round(time.time(), 3), **values}, ensure_ascii=False)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with open(self.path, "ab+", buffering=0) as file:
                # Another writer half way through its line looks torn, too: an empty line is fine.
                torn = file.seek(0, os.SEEK_END) > 0 and self._last_byte(file) != b"\n"
                file.write(b"\n" * torn + line.encode("utf-8", "replace") + b"\n")
        except OSError as error:
            log.warning("a measurement was not kept in %s: %s", self.path, error)
            return False
        return True

    def records(self, **wanted: Any) -> Iterator[dict[str, Any]]:
        """All records whose fields have these values, oldest first. Broken lines are skipped."""
        try:
            lines = self.path.read_bytes().splitlines()
        except FileNotFoundError:
            return
        for line in lines:
            try:
                record = json.loads(line)
            except ValueError:  # also what is no UTF-8
                continue
            if isinstance(record, dict) and all(record.get(k) == v for k, v in wanted.items()):
                yield record

    def of_kind(self, kind: str) -> list[dict[str, Any]]:
        """All records of a kind, oldest first; the file is read when it has changed."""
        try:
            found = self.path.stat()
        except OSError:
            return []
        stamp = (found.st_mtime_ns, found.st_size)
        if kind not in self._kept or self._kept[kind][0] != stamp:
            self._kept[kind] = (stamp, list(self.records(kind=kind)))
        return self._kept[kind][1]

    def latest(self, **wanted: Any) -> dict[str, Any] | None:
        """The newest such record."""
        found = list(self.records(**wanted))
        return found[-1] if found else None

    @staticmethod
    def _last_byte(file: Any) -> bytes:
        file.seek(-1, os.SEEK_END)
        return bytes(file.read(1))
