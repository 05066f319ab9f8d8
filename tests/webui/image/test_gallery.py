"""The gallery: what is kept, found, liked, deleted, and what is left of it when things break."""

from __future__ import annotations

import itertools
import json
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from backends.base import Refused
from tests.served import CHECKOUT
from webui.image.files import created_of
from webui.image.gallery import Gallery, Wanted

Make = Callable[..., Path]
DAY = 86_400.0


ALL = Wanted()


def prompts(gallery: Gallery, wanted: Wanted = ALL) -> list[str]:
    return [picture.prompt for picture in gallery.page(wanted)]


def index_gone(gallery: Gallery, home: Path) -> None:
    gallery.close()
    for file in home.glob("pictures.db*"):
        file.unlink()


# Keeping and finding


def test_a_picture_moves_in_under_an_id_with_its_recipe(gallery: Gallery, make: Make) -> None:
    made = make(prompt="a red fox", seed=7, model="hub:a/b@r", model_title="B", steps=20)
    kept = gallery.take(made)
    assert not made.exists()
    assert gallery.path(kept.id) == (
        gallery.files.folder / f"{kept.id[:4]}-{kept.id[4:6]}" / f"{kept.id}.png"
    )
    assert (kept.prompt, kept.seed, kept.model_title) == ("a red fox", 7, "B")
    assert (kept.width, kept.height, kept.created) == (16, 8, created_of(kept.id))
    assert gallery.get(kept.id) == kept
    assert gallery.recipe(kept.id)["steps"] == 20


def test_pages_go_on_where_the_last_one_ended(gallery: Gallery, make: Make) -> None:
    for number in range(5):
        gallery.take(make(prompt=f"p{number}"))
    first = gallery.page(limit=2)
    rest = gallery.page(Wanted(before=first[-1].id))
    assert [p.prompt for p in first + rest] == ["p4", "p3", "p2", "p1", "p0"]
    assert gallery.count() == gallery.count(Wanted(before=first[-1].id)) == 5


def test_ids_of_one_moment_keep_their_order(home: Path, make: Make) -> None:
    gallery = Gallery(home, home / "thumbs", lambda: 1_700_000_000.0)
    taken = [gallery.take(make(prompt=str(n))).id for n in range(20)]
    assert taken == sorted(taken) and len(set(taken)) == 20
    gallery.close()


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("fox", ["Öl: a fox 🦊", "a red fox"]),
        ("ol", ["Öl: a fox 🦊"]),
        ("re fo", []),
        ("red fo", ["a red fox"]),
        ("🦊", ["Öl: a fox 🦊"]),
        ('"red fox"', ["a red fox"]),
        ('"fox red"', []),
        ("fox AND (", []),
        ("   ", ["a cat", "Öl: a fox 🦊", "a red fox"]),
        ("(*", []),
        ("%", []),
        ("a\0fox", ["Öl: a fox 🦊", "a red fox"]),
    ],
)
def test_words_are_found_as_they_are_typed(
    words: str, found: list[str], gallery: Gallery, make: Make
) -> None:
    for prompt in ("a red fox", "Öl: a fox 🦊", "a cat"):
        gallery.take(make(prompt=prompt))
    assert prompts(gallery, Wanted(words)) == found
    assert gallery.count(Wanted(words)) == len(found)


def test_by_model_by_date_and_by_heart(gallery: Gallery, make: Make) -> None:
    taken = [
        gallery.take(make(prompt=p, model=m, model_title=m.upper()))
        for p, m in (("one", "x"), ("two", "y"), ("three", "y"))
    ]
    gallery.favourite(taken[1].id)
    assert prompts(gallery, Wanted(model="y")) == ["three", "two"]
    assert prompts(gallery, Wanted(since=taken[1].created)) == ["three", "two"]
    assert prompts(gallery, Wanted(until=taken[1].created)) == ["one"]
    assert prompts(gallery, Wanted(favourites=True)) == ["two"]
    assert prompts(gallery, Wanted("tw", "y", taken[0].created, favourites=True)) == ["two"]
    assert gallery.models() == [("y", "Y", 2), ("x", "X", 1)]
    gallery.favourite(taken[1].id, False)
    assert prompts(gallery, Wanted(favourites=True)) == []


def test_a_small_picture_is_made_once_and_again_when_it_is_gone(
    gallery: Gallery, make: Make
) -> None:
    kept = gallery.take(make((1000, 500)))
    small = gallery.thumb(kept.id)
    with Image.open(small) as picture:
        assert (picture.format, picture.size) == ("WEBP", (384, 192))
    before = small.stat().st_mtime_ns
    assert gallery.thumb(kept.id).stat().st_mtime_ns == before
    small.unlink()
    assert gallery.thumb(kept.id).is_file() and [f.name for f in small.parent.iterdir()] == [
        small.name
    ]


def test_a_torn_picture_has_no_small_one(gallery: Gallery, make: Make) -> None:
    kept = gallery.take(make((400, 400)))
    place = gallery.path(kept.id)
    place.write_bytes(place.read_bytes()[:-400])
    with pytest.raises(Refused, match="damaged"):
        gallery.thumb(kept.id)
    assert list(gallery.files.thumbs.iterdir()) == []


# Deleting


def test_what_was_deleted_comes_back_as_it_was(gallery: Gallery, make: Make) -> None:
    kept = gallery.take(make(prompt="fox"))
    gallery.favourite(kept.id)
    gallery.delete(kept.id)
    assert gallery.page() == [] and [p.id for p in gallery.deleted()] == [kept.id]
    assert gallery.thumb(kept.id).is_file()
    for look in (gallery.path, gallery.get):
        with pytest.raises(Refused, match="not there any more"):
            look(kept.id)
    gallery.restore(kept.id)
    assert [(p.id, p.favourite) for p in gallery.page()] == [(kept.id, True)]
    assert gallery.deleted() == []


def test_two_pages_may_delete_and_restore_the_same_picture(gallery: Gallery, make: Make) -> None:
    kept, problems = gallery.take(make(prompt="fox")), []

    def many(deed: Callable[[str], None]) -> None:
        def once() -> None:
            try:
                deed(kept.id)
            except Exception as error:
                problems.append(error)

        threads = [threading.Thread(target=once) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    many(gallery.delete)
    assert (problems, gallery.page(), len(gallery.deleted())) == ([], [], 1)
    many(gallery.restore)
    assert (problems, len(gallery.page()), gallery.deleted()) == ([], 1, [])


def test_a_day_later_it_is_gone_for_good(home: Path, make: Make) -> None:
    now = [1_700_000_000.0]
    gallery = Gallery(home, home / "thumbs", lambda: now[0])
    kept, other = gallery.take(make(prompt="fox")), gallery.take(make(prompt="cat"))
    gallery.delete(kept.id)
    small = gallery.thumb(kept.id)
    now[0] += DAY - 1
    assert gallery.empty_trash() == 0
    now[0] += 2
    assert gallery.empty_trash() == 1 and not small.exists()
    assert gallery.deleted() == [] and prompts(gallery) == ["cat"]
    with pytest.raises(Refused, match="gone for good"):
        gallery.restore(kept.id)
    assert gallery.path(other.id).is_file()
    gallery.close()


@pytest.mark.parametrize(
    "id", ["", "..", "../../token", "20260101-000000-000-a1b2/../x", "20260101-000000-000-A1B2",
           "20260101-000000-000-a1b2\n", "/etc/passwd", "20260101-000000-000-a1b2.png"]
)  # fmt: skip
def test_what_is_no_id_is_no_path(id: str, gallery: Gallery) -> None:
    for deed in (gallery.path, gallery.thumb, gallery.recipe, gallery.favourite, gallery.delete,
                 gallery.restore, gallery.get):  # fmt: skip
        with pytest.raises(Refused):
            deed(id)


def test_a_picture_from_elsewhere_is_not_taken(gallery: Gallery, tmp_path: Path) -> None:
    foreign = tmp_path / "x.png"
    Image.new("RGB", (8, 8)).save(foreign)
    with pytest.raises(Refused, match="not made here"):
        gallery.take(foreign)
    assert foreign.exists()


# The index is made again


def test_a_lost_index_is_made_from_the_pictures(
    home: Path, gallery: Gallery, make: Make, clock: Callable[[], float]
) -> None:
    kept = [gallery.take(make(prompt=p, seed=3, model="m")) for p in ("one", "two", "three")]
    gallery.favourite(kept[0].id)
    gallery.delete(kept[2].id)
    index_gone(gallery, home)
    again = Gallery(home, home / "thumbs", clock)
    assert again.rebuild() == 3 + 1  # three rows, and one of them deleted
    assert [(p.prompt, p.seed, p.model, p.favourite) for p in again.page()] == [
        ("two", 3, "m", False),
        ("one", 3, "m", True),
    ]
    assert [p.prompt for p in again.deleted()] == ["three"]
    assert prompts(again, Wanted("on")) == ["one"]
    assert again.rebuild() == 0
    again.close()


def test_a_damaged_index_is_set_aside_and_made_again(
    home: Path, gallery: Gallery, make: Make, clock: Callable[[], float]
) -> None:
    gallery.take(make(prompt="fox"))
    gallery.close()
    (home / "pictures.db").write_bytes(b"SQLite format 3\0" + b"rubbish" * 2000)
    again = Gallery(home, home / "thumbs", clock)
    again.settle()
    assert prompts(again) == ["fox"] and "set aside" in again.notice
    again.close()


def test_a_folder_tidied_up_by_hand_is_believed(gallery: Gallery, make: Make) -> None:
    kept = [gallery.take(make(prompt=p)) for p in ("one", "two", "three")]
    gallery.path(kept[0].id).unlink()
    gallery.delete(kept[1].id)
    shutil.move(gallery.files.trash / f"{kept[1].id}.png", gallery.files.place(kept[1].id))
    assert gallery.rebuild() == 2
    assert prompts(gallery) == ["three", "two"]


def test_files_that_are_no_pictures_of_ours_are_passed_over(gallery: Gallery, make: Make) -> None:
    kept = gallery.take(make(prompt="fox"))
    month, other = gallery.path(kept.id).parent, gallery.files.folder / "2026-01"
    other.mkdir()
    begun = gallery.path(kept.id).read_bytes()[:40]
    (month / "holiday.png").write_bytes(b"x")
    (month / "20260101-000000-000-a1b2.png").write_bytes(begun)  # another month's
    (other / "20260101-000000-000-a1b2.png").write_bytes(b"no PNG")
    (other / "20260199-999999-000-a1b2.png").write_bytes(begun)
    (gallery.files.folder / "2026-13").write_text("a file")
    assert gallery.rebuild() == 1
    assert prompts(gallery) == ["", "fox"]  # the torn one can be seen, and deleted
    for id in ("20260101-000000-000-a1b2", "20260199-999999-000-a1b2"):
        with pytest.raises(Refused, match="damaged"):
            gallery.thumb(id)


@pytest.mark.parametrize(
    "text",
    ['{"prompt": ["x"], "seed": "y", "model": null}', '{"seed": 1%s}' % ("0" * 30), "[1]", "{",
     '{"seed": true, "prompt": 3}', "[" * 100_000,
     '{"prompt": NaN, "seed": Infinity, "model": -Infinity}'],
)  # fmt: skip
def test_a_recipe_of_rubbish_is_no_trouble(text: str, gallery: Gallery, make: Make) -> None:
    path, info = make(), PngInfo()
    info.add_itxt("werkbank", text)
    Image.new("RGB", (8, 8)).save(path, pnginfo=info)
    kept = gallery.take(path)
    assert (kept.prompt, kept.seed, kept.model) == ("", None, "")
    assert gallery.page() == [kept]


def test_a_killed_page_loses_no_finished_picture(home: Path, make: Make) -> None:
    """Killed between the PNG's move and its row, with another one not even moved."""
    code = (
        "import os, signal, sys; from pathlib import Path\n"
        "from webui.image import gallery as module\n"
        "home = Path(sys.argv[1])\n"
        "made = module.Gallery(home, home / 'thumbs')\n"
        "made._read = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "made.take(Path(sys.argv[2]))"
    )
    first, second = make(prompt="moved"), make(prompt="not moved")
    (second.parent / "preview.png").write_bytes(b"half")
    done = subprocess.run(
        [sys.executable, "-c", code, str(home), str(first)], cwd=CHECKOUT, capture_output=True
    )
    assert done.returncode == -signal.SIGKILL and not first.exists()
    again = Gallery(home, home / "thumbs")
    assert again.page() == []
    again.settle()
    assert sorted(prompts(again)) == ["moved", "not moved"]
    assert not list((home / "pictures" / ".making").iterdir())
    again.close()


def test_a_full_disk_is_said_and_nothing_is_lost(
    gallery: Gallery, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make(prompt="fox")

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("webui.image.files.os.replace", full)
        with pytest.raises(Refused, match="is full. Free some space"):
            gallery.take(made)
    assert made.exists()
    kept = gallery.take(made)
    with monkeypatch.context() as patch:
        patch.setattr("webui.image.files.write_json", full)
        with pytest.raises(Refused, match="is full"):
            gallery.favourite(kept.id)
    assert not gallery.get(kept.id).favourite


def test_a_picture_whose_row_cannot_be_written_is_kept_and_found_later(
    gallery: Gallery, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make(prompt="fox")
    with monkeypatch.context() as patch:
        patch.setattr(gallery.database, "writing", lambda: (_ for _ in ()).throw(Refused("Full.")))
        kept = gallery.take(made)
    assert gallery.path(kept.id).is_file() and gallery.page() == [] and "Full." in gallery.notice
    assert gallery.rebuild() == 1 and prompts(gallery) == ["fox"]


def test_adding_goes_on_while_the_index_is_made(gallery: Gallery, make: Make) -> None:
    made, stop = [make(prompt=str(n)) for n in range(30)], threading.Event()
    problems: list[BaseException] = []

    def rebuild() -> None:
        try:
            while not stop.is_set():
                gallery.rebuild()
        except BaseException as error:
            problems.append(error)

    thread = threading.Thread(target=rebuild)
    thread.start()
    taken = [gallery.take(path) for path in made]
    for kept in taken[::3]:
        gallery.delete(kept.id)
    stop.set()
    thread.join()
    gallery.rebuild()
    assert problems == [] and gallery.count() == 20 and len(gallery.deleted(99)) == 10


def test_favourites_survive_in_a_file_of_their_own(gallery: Gallery, make: Make) -> None:
    taken = [gallery.take(make()) for _ in range(3)]
    for kept, on in itertools.product(taken, (True, True)):
        gallery.favourite(kept.id, on)
    gallery.favourite(taken[0].id, False)
    kept_file = json.loads((gallery.files.folder / "favourites.json").read_text())
    assert kept_file == {"favourites": [taken[1].id, taken[2].id]}


def test_what_the_disk_refuses_at_the_start_is_said_and_the_rest_is_done(
    gallery: Gallery, make: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def no() -> None:
        raise PermissionError(13, "Permission denied", "/somewhere")

    made = make(prompt="left behind")
    monkeypatch.setattr(gallery.files, "clear_making", no)
    gallery.settle()
    assert "/somewhere cannot be read or written (Permission denied)." in gallery.notice
    assert [p.prompt for p in gallery.page()] == ["left behind"] and not made.exists()
