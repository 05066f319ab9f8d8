"""BACKENDS: the list of all backends. Adding one is a file in its task's folder and a line here."""

from __future__ import annotations

from backends.base import Backend
from backends.chat.llama_cpp import LlamaCpp
from backends.chat.transformers_chat import TransformersChat
from backends.echo import Echo
from backends.finetune.dataset import DatasetDoctor
from backends.finetune.diffusion import Diffusion
from backends.finetune.sft import Sft
from backends.image.diffusers_image import DiffusersImage

BACKENDS: dict[str, type[Backend]] = {
    b.card.name: b
    for b in (LlamaCpp, TransformersChat, DiffusersImage, Echo, DatasetDoctor, Sft, Diffusion)
}
