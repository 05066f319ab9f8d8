"""ControlNets: networks that steer the drawing by a picture, and what is taken from it."""

from __future__ import annotations

from collections.abc import Callable, Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backends.base import ModelRef, Refused
from backends.events import Notice, Progress
from backends.image import edges, sources
from backends.image.begun import Steering
from backends.image.families import Family
from backends.image.params import ControlUse
from backends.models import library
from backends.models.check import read_json

if TYPE_CHECKING:
    from PIL.Image import Image

ANOTHER = "Take it off, or load the model that it was made for."
# What is taken from a picture. Depth and pose need models of their own, which are not here.
TAKEN: dict[str, Callable[[Image], Image]] = {"canny": edges.canny, "as_is": lambda p: p}
NOT_HERE = {"depth": "depth of a picture", "pose": "pose of people"}


class Controls:
    """Those that were used last with one pipeline, kept for the next run."""

    def __init__(self, pipe: Any, family: Family, device: str, title: str) -> None:
        self.pipe, self.family, self.device, self.title = pipe, family, device, title
        self.kept: dict[Path, Any] = {}

    def steer(
        self, uses: tuple[ControlUse, ...], size: tuple[int, int], begun: str
    ) -> Generator[Progress | Notice, None, Steering | None]:
        """What the named ControlNets do for a picture of that size. Raises Refused."""
        if not uses:
            self.kept.clear()
            return None
        if not self.family.can(f"control_{begun}"):
            raise Refused(
                f"{self.family.title} takes no ControlNets here.", "Take them off, or load a model "
                "of Stable Diffusion."
            )  # fmt: skip
        pictures = []
        for use in uses:
            picture = yield from self._taken(use, size)
            pictures.append(picture)
        paths = [library.prepare(ModelRef.parse(use.ref)) for use in uses]
        self.kept = {path: net for path, net in self.kept.items() if path in paths}
        for step, path in enumerate(paths):
            if path not in self.kept:
                yield Progress(step, len(paths), f"opening the ControlNet {path.name}")
                self.kept[path] = self._open(path)
        networks = [self.kept[path] for path in paths]
        return Steering(
            networks[0] if len(networks) == 1 else networks, pictures,
            [use.weight for use in uses], [use.start for use in uses], [use.end for use in uses],
        )  # fmt: skip

    def _taken(self, use: ControlUse, size: tuple[int, int]) -> Generator[Notice, None, Image]:
        if use.kind in NOT_HERE:
            raise Refused(
                f"The {NOT_HERE[use.kind]} is not computed here.",
                "Give a picture that shows it already, and choose 'It is prepared already'.",
            )
        opened = sources.open_picture(Path(use.image))
        picture, said = sources.fitted(opened.picture, *size)
        for notice in (*opened.notices, said):
            if notice:
                yield Notice(notice)
        return TAKEN[use.kind](picture)

    def _open(self, path: Path) -> Any:
        import diffusers

        config = read_json(path / "config.json") if (path / "config.json").is_file() else {}
        if config.get("_class_name") != "ControlNetModel":
            raise Refused(
                f"{path.name} is not a ControlNet as diffusers reads it.",
                "Put its whole folder there, with config.json and safetensors.",
            )
        network = getattr(self.pipe, self.family.backbone)
        for key in ("cross_attention_dim", "block_out_channels"):
            mine, theirs = network.config.get(key), config.get(key)
            if list(_listed(mine)) != list(_listed(theirs)):
                raise Refused(
                    f"The ControlNet {path.name} was made for another kind of model than "
                    f"{self.title} ({key} {theirs}, here {mine}).",
                    ANOTHER,
                )
        net = diffusers.ControlNetModel.from_pretrained(
            path, dtype=network.dtype, local_files_only=True, use_safetensors=True
        )
        return net.to(self.device)


def _listed(value: Any) -> Any:
    return value if isinstance(value, list | tuple) else [value]
