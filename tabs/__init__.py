"""TABS: the tabs in the order they stand on the page. A task is a file here and a name there."""

from __future__ import annotations

from tabs import chat, finetune, image, models, multimodal, speech

TABS = [chat, finetune, image, multimodal, speech, models]
