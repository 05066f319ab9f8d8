"""Speech: from a recording to a text."""

from __future__ import annotations

from webui.bench import Bench
from webui.empty_state import build_empty_state

TITLE = "Speech"


def build(bench: Bench) -> None:
    build_empty_state(
        TITLE,
        "Turn a recording into a text that you can work in.",
        (
            "Transcripts with word times, corrected beside the sound.",
            "Subtitles and plain text to download.",
            "Recordings stay on this machine.",
        ),
    )
