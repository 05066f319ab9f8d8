"""What follows a training: talk to its result, set it beside its base, keep it, delete it.

`step` is that of a snapshot; None is the result, or the newest snapshot where there is none yet.
All raise Refused. What `open_in_chat` and `compare_in_chat` return goes, as its text, into a box of
`build_go` (webui/hand_over.py): Chat takes it, and the page turns there.
"""

from __future__ import annotations

import asyncio
import re
import secrets
import unicodedata
from collections.abc import AsyncGenerator
from dataclasses import replace
from html import escape

from backends.base import ModelRef, Refused
from backends.events import Progress
from backends.models import adapter_copy, adapters, library, trained
from backends.models.catalogue import base_of, base_title
from backends.models.library import Listed
from webui.bench import Bench, sentences
from webui.downloads import exports
from webui.hand_over import Handed, attached
from webui.model_picker import gigabytes, line, problem, progress_bar


def reference(bench: Bench, job_id: str, step: int | None = None) -> ModelRef:
    """What is meant, found on the disk."""
    job = bench.jobs.path(job_id)
    done = any((job / part).is_dir() for part in (trained.ADAPTER, trained.WHOLE))
    if step is None and not done:
        steps = trained.steps_of(job)
        if not steps:
            raise Refused("This training has made nothing yet.", "Wait for its first snapshot.")
        step = steps[-1]
    ref = ModelRef("job", job_id, "" if step is None else str(step))
    library.locate(ref)
    return ref


def base(bench: Bench, job_id: str) -> Listed:
    """The model that the training began with."""
    text = trained.base_of(bench.jobs.folder, ModelRef("job", job_id))
    ref = base_of(text)
    listed = next((m for m in bench.models("chat") if m.ref == ref), None)
    if listed is None:
        raise Refused(
            f"The base of this training, {base_title(text)}, is not on this machine any more.",
            "Get it again on the Models tab.",
        )
    if listed.problem:
        raise Refused(*sentences(listed.problem))
    return listed


def open_in_chat(bench: Bench, job_id: str, step: int | None = None) -> Handed:
    """Chat opens with a new conversation: the base with the adapter at weight 1, or the model that
    was trained whole."""
    ref = reference(bench, job_id, step)
    if is_whole(ref):
        return Handed(sound(bench, ref).id, fresh=True)
    return Handed(base(bench, job_id).id, fresh=True, adapters=attached(str(ref)))


def compare_in_chat(bench: Bench, job_id: str, step: int | None = None) -> Handed:
    """Chat opens with two answers to each message, of one seed: on the left the base, on the right
    what was trained."""
    ref = reference(bench, job_id, step)
    left = base(bench, job_id).id
    if is_whole(ref):
        return Handed(left, fresh=True, beside=sound(bench, ref).id)
    return Handed(left, fresh=True, beside=left, right=attached(str(ref)))


def is_whole(ref: ModelRef) -> bool:
    """Whether it is a model of its own; an adapter that is broken is refused here."""
    path = library.locate(ref)
    if not adapters.is_adapter(path):
        return True
    adapters.read_adapter(path)
    return False


def sound(bench: Bench, ref: ModelRef) -> Listed:
    """A model that a training made, as the list has it."""
    listed = bench.find(str(ref))
    if listed.problem:
        raise Refused(*sentences(listed.problem))
    return listed


def save_adapter(bench: Bench, job_id: str, name: str, step: int | None = None) -> ModelRef:
    """Keep it in HOME/models, where deleting the training does not reach it. For a thread."""
    ref = reference(bench, job_id, step)
    return adapter_copy.save(ref, name.strip() or trained.title_of(bench.jobs.folder, ref))


def zip_adapter(bench: Bench, job_id: str, step: int | None = None) -> str:
    """Make the .zip and return its address on this server; it stays until the next start. For a
    thread."""
    ref = reference(bench, job_id, step)
    title = unicodedata.normalize("NFKD", trained.title_of(bench.jobs.folder, ref))
    plain = re.sub(r"[^a-z0-9]+", "-", title.encode("ascii", "ignore").decode().lower())
    name = f"adapter-{plain.strip('-')[:60] or 'trained'}-{secrets.token_hex(16)}.zip"
    adapter_copy.zip_into(ref, exports(bench) / name)
    return f"/export/{name}"


async def merge(
    bench: Bench, job_id: str, name: str, step: int | None = None
) -> AsyncGenerator[str, None]:
    """Merge the adapter into its base: HTML to be shown meanwhile. A second call joins the first.

    It goes on when this generator is closed; `cancel_merge` ends it.
    """
    try:
        ref = await asyncio.to_thread(reference, bench, job_id, step)
        title = f"{trained.title_of(bench.jobs.folder, ref)}, merged"
        async for told in bench.merges.begin(ref, name.strip() or title).watch():
            if isinstance(told, Progress):
                yield progress_bar(replace(told, note=f"Merging {told.note}"), "Merging")
            else:
                where = "It is in the list of models, and Chat can use it."
                yield line(f"Merged: {told.ref.name}, {gigabytes(told.bytes)}. {where}", "good")
    except Refused as refused:
        yield problem(str(refused), refused.detail)


def cancel_merge(bench: Bench, job_id: str) -> None:
    """End what is being merged of this training. In the event loop."""
    for ref in bench.merges.running_refs():
        if ref.name == job_id:
            bench.merges.cancel(ref)


def link(address: str) -> str:
    """A finished .zip as HTML."""
    return f'<div class="line good"><a href="{escape(address)}" download>Save the file</a></div>'
