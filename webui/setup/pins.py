"""What pyproject.toml asks for, and whether a Python has it. Standard library only."""

from __future__ import annotations

import hashlib
import re
import sys
import tomllib
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_REQUIREMENT = re.compile(r"\s*([A-Za-z0-9][A-Za-z0-9._-]*)\s*(?:\[[^\]]*\])?\s*([^;@]*)(.*)")
_CLAUSE = re.compile(r"\s*(==|!=|>=|<=|~=|<|>)\s*([^\s,=<>!~]+)\s*")
_PRE_RELEASE = re.compile(r"[.-]?(a|b|c|rc|alpha|beta|pre|preview|dev)")


@dataclass(frozen=True)
class Pins:
    """What a set-up installs. Sizes are in bytes, for this operating system; `packages` is about
    how many there are, 0 where nobody counted.

    `first` are the dependencies that are installed before the rest is fetched: their downloads
    are nine tenths of all, so the disk never holds them twice.
    """

    dependencies: tuple[str, ...]
    test: tuple[str, ...]
    starter: tuple[str, ...]
    first: tuple[str, ...]
    setup_bytes: int
    download_bytes: int
    packages: int
    constraints: Path

    def wanted(self, part: str) -> tuple[str, ...]:
        """The requirements of a part: dependencies, test or starter."""
        parts = {"dependencies": self.dependencies, "test": self.test, "starter": self.starter}
        return parts[part]

    def digest(self, part: str) -> str:
        """Changes when the part has to be installed again (32 hexadecimal digits).

        The starter models are data: the constraints do not matter to them.
        """
        text = "\n".join(self.wanted(part))
        if part != "starter" and self.constraints.is_file():
            text += "\n\n" + self.constraints.read_text("utf-8")
        return hashlib.sha256(text.encode()).hexdigest()[:32]


def read_pins(root: Path = ROOT) -> Pins:
    """The pins of the checkout at `root`. Raises OSError or ValueError where it is damaged."""
    data = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))
    project, own = data["project"], data["tool"]["werkbank"]
    sizes = own if sys.platform == "linux" else own | own.get("elsewhere", {})
    return Pins(
        dependencies=tuple(project["dependencies"]),
        test=tuple(project.get("optional-dependencies", {}).get("test", ())),
        starter=tuple(own.get("starter-wheels", ())),
        first=tuple(own.get("install-first", ())),
        setup_bytes=int(sizes["setup-bytes"]),
        download_bytes=int(sizes.get("download-bytes", 0)),
        packages=int(sizes.get("setup-packages", 0)),
        constraints=root / "assets" / "constraints.txt",
    )


def name_of(requirement: str) -> str:
    """The package that a requirement names, in the normal spelling (PEP 503)."""
    return _split(requirement)[0]


def specifier_of(requirement: str) -> str:
    """What a requirement says of the version, such as `>=3,<4`; empty where any will do."""
    return _split(requirement)[1]


def _split(requirement: str) -> tuple[str, str, str]:
    """Name, specifier, and what follows: an environment marker or an address."""
    match = _REQUIREMENT.fullmatch(requirement)
    if match is None:
        raise ValueError(f"{requirement!r} is not a requirement. Mend pyproject.toml.")
    return normal(match[1]), match[2].strip(), match[3]


def normal(name: str) -> str:
    """One spelling for every way to write a package's name (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def installed(requirement: str) -> str | None:
    """The version of a package (or of what a requirement names) here, None where it is missing."""
    try:
        version: str | None = metadata.version(name_of(requirement))
    except metadata.PackageNotFoundError:
        return None
    return version or None  # None or "": its folder was left half by a killed pip


def met(requirement: str) -> bool:
    """Whether this Python has what `requirement` asks for.

    One with an environment marker is taken as met where the package is missing: only pip knows
    whether the marker asks for it here.
    """
    _, specifier, rest = _split(requirement)
    version = installed(requirement)
    return ";" in rest if version is None else fits(version, specifier)


def unmet(requirements: tuple[str, ...]) -> tuple[str, ...]:
    """Those of the requirements that this Python does not meet."""
    return tuple(r for r in requirements if not met(r))


def fits(version: str, specifier: str) -> bool:
    """Whether a version satisfies a specifier such as `>=3,<4` or `==6.31.*` (PEP 440).

    What stands behind a `+` in the version (a build, such as cu130) does not count.
    """
    return all(_fits_one(version, clause) for clause in specifier.split(",") if clause.strip())


def _fits_one(version: str, clause: str) -> bool:
    match = _CLAUSE.fullmatch(clause)
    if match is None:
        raise ValueError(f"{clause.strip()!r} is not understood. Use ==, >=, <, != or ~=.")
    operator, wanted = match.groups()
    if wanted.endswith(".*") and operator in ("==", "!="):
        return _starts_with(version, _release(wanted[:-2])) == (operator == "==")
    ours, theirs = _key(version), _key(wanted)
    if operator == "~=":
        return ours >= theirs and _starts_with(version, _release(wanted)[:-1])
    return {
        "==": ours == theirs, "!=": ours != theirs, ">=": ours >= theirs,
        "<=": ours <= theirs, "<": ours < theirs, ">": ours > theirs,
    }[operator]  # fmt: skip


def _key(version: str) -> tuple[tuple[int, ...], bool]:
    """Versions compare as these do: 6.31 is 6.31.0, and a pre-release is less than its release."""
    public = version.partition("+")[0]
    numbers = list(_release(public))
    while len(numbers) > 1 and numbers[-1] == 0:
        numbers.pop()
    suffix = public.lower().lstrip("v0123456789.")
    return tuple(numbers), _PRE_RELEASE.match(suffix) is None


def _starts_with(version: str, head: tuple[int, ...]) -> bool:
    return (_release(version) + (0,) * len(head))[: len(head)] == head


def _release(version: str) -> tuple[int, ...]:
    match = re.match(r"v?(\d+(?:\.\d+)*)", version)
    return tuple(int(n) for n in match[1].split(".")) if match else (0,)
