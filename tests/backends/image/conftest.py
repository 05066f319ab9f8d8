"""Image models of the tests, each made once, and how a test draws with one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from backends.base import ModelRef
from backends.events import Event
from backends.image.diffusers_image import DiffusersImage
from backends.image.options import ImageOptions
from backends.image.params import ImageParams
from backends.params import read
from tests.backends.image import made_pipelines

Made = Callable[[str], Path]
# torch's tensors do not know two habits of NumPy 2, which diffusers' schedulers run into.
KNOWN = (
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning",
    "ignore:__array_wrap__ must accept context:DeprecationWarning",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.filterwarnings(*KNOWN))


@pytest.fixture(scope="module", autouse=True)  # not longer: other tests share this process
def _one_thread() -> Iterator[None]:
    """So small a network is slower with more, above all beside other processes."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def _own_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("Bilder") / "models"
    folder.mkdir()
    return folder


@pytest.fixture(scope="module", autouse=True)
def _home_of_models(_own_models: Path) -> Iterator[None]:
    """A home whose models are those of these tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WERKBANK_HOME", str(_own_models.parent))
        yield


@pytest.fixture(scope="session")
def made(_own_models: Path) -> Made:
    """The folder of a model by the name of the function that makes it."""

    def folder(name: str) -> Path:
        path = _own_models / name
        if not path.exists():
            getattr(made_pipelines, name)(path)
        return path

    return folder


@pytest.fixture(scope="session")
def loaded(made: Made) -> Callable[[str], DiffusersImage]:
    """A model loaded once for all tests that only draw with it."""
    known: dict[str, DiffusersImage] = {}

    def of(name: str) -> DiffusersImage:
        if name not in known:
            made(name)
            backend = DiffusersImage()
            backend.load(ModelRef("folder", name), ImageOptions(device="cpu"))
            known[name] = backend
        return known[name]

    return of


class Drawn:
    """What a run said."""

    def __init__(self, events: list[Event]) -> None:
        self.events = events

    def of(self, kind: type[Any]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]

    @property
    def notices(self) -> str:
        from backends.events import Notice

        return " ".join(notice.message for notice in self.of(Notice))

    @property
    def files(self) -> list[Path]:
        from backends.events import Artifact

        return [Path(a.path) for a in self.of(Artifact) if a.kind == "image"]

    @property
    def pixels(self) -> list[Any]:
        import numpy
        from PIL import Image

        return [numpy.asarray(Image.open(file)) for file in self.files]


@pytest.fixture
def draw(tmp_path: Path) -> Callable[..., Drawn]:
    """`draw(backend, prompt="a cat", …)`: four steps of 64 x 64 where nothing else is asked."""
    count = 0

    def drawn(backend: DiffusersImage, **asked: Any) -> Drawn:
        nonlocal count
        count += 1
        folder = tmp_path / f"run {count}"
        folder.mkdir()
        plain = {"prompt": "a cat", "steps": 4, "width": 64, "height": 64, "seed": 7,
                 "folder": str(folder)}  # fmt: skip
        return Drawn(list(backend.run(read(ImageParams, plain | asked))))

    return drawn
