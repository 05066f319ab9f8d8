"""What pyproject.toml asks for: read, compared with what is installed, digested."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from webui.setup import pins
from webui.setup.pins import fits, name_of, normal, read_pins, specifier_of, unmet


@pytest.mark.parametrize(
    ("version", "specifier", "expected"),
    [
        ("2.14.1", "==2.14.1", True),
        ("2.14.1+cu130", "==2.14.1", True),  # a build of the same version
        ("2.14.0", "==2.14.1", False),
        ("6.31.0", "==6.31.*", True),
        ("6.3.1", "==6.31.*", False),
        ("6.310.0", "==6.31.*", False),
        ("6", "==6.0.*", True),
        ("1.0", ">=1.0.0", True),
        ("1.0rc1", ">=1.0", False),
        ("3.9.9", ">=3,<4", True),
        ("4.0", ">=3,<4", False),
        ("0.10", ">=0.9", True),  # numbers, not text
        ("1.4.5", "~=1.4.2", True),
        ("1.5", "~=1.4.2", False),
        ("2.0", "!=2.*", False),
        ("2.0", "!=2.1", True),
        ("20250625", "==20250625", True),
        ("1.0", "", True),
    ],
)
def test_a_version_fits_as_pip_would_say(version: str, specifier: str, expected: bool) -> None:
    assert fits(version, specifier) is expected


def test_our_answers_are_those_of_the_package_packaging() -> None:
    packaging = pytest.importorskip("packaging.specifiers")
    for requirement in (*read_pins().dependencies, *read_pins().test):
        wanted = packaging.SpecifierSet(specifier_of(requirement))
        for version in ("0.1", "0.8.0", "0.27", "1.15.3", "3.0", "4", "6.31.2", "13.5", "20250625"):
            assert fits(version, str(wanted)) == wanted.contains(version), (requirement, version)


def test_an_unknown_operator_is_refused() -> None:
    with pytest.raises(ValueError, match="'===1' is not understood. Use ==, >="):
        fits("1", "===1")


def test_requirements_are_taken_apart() -> None:
    assert name_of("Tiny_Lib[extra] >=1,<2 ; python_version<'3'") == "tiny-lib"
    assert specifier_of("Tiny_Lib[extra] >=1,<2 ; python_version<'3'") == ">=1,<2"
    assert specifier_of("types-psutil") == ""
    assert normal("A.b-_c") == "a-b-c"
    with pytest.raises(ValueError, match="is not a requirement"):
        name_of("==2")


def test_what_is_missing_or_old_is_unmet(monkeypatch: pytest.MonkeyPatch) -> None:
    have = {"a": "1.0", "b": "1.0"}
    monkeypatch.setattr(pins, "installed", lambda requirement: have.get(name_of(requirement)))
    asked = ("a==1.*", "b>=2", "c", "d>=1; sys_platform == 'win32'")
    assert unmet(asked) == ("b>=2", "c")  # only pip knows whether d is wanted here


def write(root: Path, dependencies: str = '["a==1"]', constraints: str = "a==1\n") -> Path:
    (root / "assets").mkdir(exist_ok=True)
    (root / "assets" / "constraints.txt").write_text(constraints)
    (root / "pyproject.toml").write_text(
        f"[project]\ndependencies = {dependencies}\n[project.optional-dependencies]\n"
        'test = ["t"]\n[tool.werkbank]\nstarter-wheels = ["s==1"]\nsetup-bytes = 9\n'
    )
    return root


def test_a_digest_changes_with_what_has_to_be_installed_again(tmp_path: Path) -> None:
    parts = ("dependencies", "test", "starter")
    before = [read_pins(write(tmp_path)).digest(part) for part in parts]
    assert len(set(before)) == 3
    changed = [read_pins(write(tmp_path, '["a==2"]')).digest(part) for part in parts]
    assert [a == b for a, b in zip(before, changed, strict=True)] == [False, True, True]
    pinned = [read_pins(write(tmp_path, constraints="a==1.1\n")).digest(part) for part in parts]
    assert [a == b for a, b in zip(before, pinned, strict=True)] == [False, False, True]


def test_our_own_pins_are_whole() -> None:
    ours = read_pins()
    lines = ours.constraints.read_text("utf-8").splitlines()
    pinned = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    assert all(re.fullmatch(r"[\w.+-]+", version) for version in pinned.values())
    versions = {normal(name): version for name, version in pinned.items()}
    for requirement in (*ours.dependencies, *ours.test):
        assert fits(versions[name_of(requirement)], specifier_of(requirement)), requirement
    platform_bound = [n for n in versions if re.match(r"nvidia-(?!ml-py)|cuda-|triton", n)]
    assert platform_bound == []
    assert {normal(name) for name in ours.first} <= {name_of(r) for r in ours.dependencies}
    assert ours.setup_bytes > ours.download_bytes > 10**8
