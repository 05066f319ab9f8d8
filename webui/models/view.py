"""The Models tab as HTML: a row for each model with what fits, its state and what can be done."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from backends.card.badges import SLOWLY, Badge, Budget, best
from backends.card.fit import gigabytes
from backends.models.hub_http import TOKENS, endpoint
from backends.models.repo import Choice, Repo
from backends.runtime.conversion import Converted
from backends.runtime.downloads import Download
from webui.model_picker import details, line
from webui.models.entries import Entry

TASKS = {"chat": "Chat", "image": "Images", "multimodal": "Multimodal", "speech": "Speech"}
QUALITY = {
    "16-bit": "all of its quality",
    "32-bit": "all of its quality",
    "8-bit": "hardly any difference to 16-bit, at half the memory",
    "4-bit": "a little worse, at a quarter of the memory",
    "part in RAM": "all of its quality, slowly",
    "as it is": "as the file has it",
}
CODED = (
    "transformers knows this family by itself: “Make it usable” puts a copy without the setting "
    "into your models, which takes no room of its own where the disk can link files."
)
NO_TAB = "No tab opens it: it does not say what it is for."
SHORT = {"part in RAM": "+ RAM"}
LEGEND = (
    '<span class="badge good">fits</span> <span class="badge tight">just fits, or slow</span> '
    '<span class="badge bad">does not fit</span> 16-bit is the model as it was made, 8-bit hardly '
    "worse at half the memory, 4-bit a little worse at a quarter. Take the framed one."
)


def head(budget: Budget, card: str, here_bytes: int, free_bytes: int) -> str:
    """What the numbers are about: the card, and the disk."""
    what = f"{card} with {gigabytes(budget.bytes)}" if card else f"{gigabytes(budget.bytes)} of RAM"
    no_card = "" if card else " (there is no NVIDIA card)"
    return (
        f'<p class="about">What fits is reckoned for <b>{escape(what)}</b>{no_card}. Models take '
        f"<b>{size(here_bytes)}</b> of the disk, {size(free_bytes)} are free.</p>"
        f'<p class="legend">{LEGEND}</p>'
    )


def model_list(found: Sequence[Entry], empty: str) -> str:
    """Grouped: what is here or coming first, then what can be downloaded."""
    here = [e for e in found if e.here or e.download]
    there = [e for e in found if not (e.here or e.download) and not e.popular]
    hits = [e for e in found if not (e.here or e.download) and e.popular]
    parts = []
    for title, group in (("On this machine", here), ("To download", there), ("On the hub", hits)):
        if group:
            rows = "".join(row(entry) for entry in group)
            parts.append(f"<h4>{title} <small>{len(group)}</small></h4>{rows}")
    return "".join(parts) or f'<p class="empty">{empty}</p>'


def row(entry: Entry) -> str:
    key, title = escape(entry.ref), escape(entry.title)
    task = f'<span class="tag">{TASKS[entry.task]}</span>' if entry.task in TASKS else ""
    facts = [escape(entry.licence)] if entry.licence else []
    if entry.gated and not entry.here:
        hint = "Its owner wants you to accept terms on the hub first; a token shows that you did."
        facts.append(f'<span class="lock" title="{hint}">terms to accept</span>')
    if entry.starter:
        facts.append("comes with Werkbank")
    if entry.popular:
        facts.append(f"{entry.popular:,} downloads a month")
    facts += [escape(entry.note)] if entry.note else []
    about = f'<div class="about">{" · ".join(facts)}</div>' if facts else ""
    if entry.problem and not entry.download:
        problem = f"{entry.problem} {CODED}" if entry.coded else entry.problem
        about += f'<div class="about bad">{escape(problem)}</div>'
    return (
        f'<article class="model" data-key="{key}" data-name="{escape(entry.name)}" '
        f'data-title="{title}" aria-label="{title}"><div class="what"><b>{title}</b>{task}{about}'
        f'</div><div class="fit">{fit(entry.badges)}</div>'
        f'<div class="state">{state(entry)}</div></article>'
    )


# What fits


def fit(found: Sequence[Badge]) -> str:
    """The verdict in words, and the numbers that it comes from."""
    if not found:
        return ""
    chosen = best(tuple(found))
    chips = "".join(chip(badge, badge is chosen) for badge in found)
    return f'<span class="verdict {verdict(chosen)[1]}">{verdict(chosen)[0]}</span>{chips}'


def chip(badge: Badge, chosen: bool) -> str:
    kind, name = f"{badge.level}{' best' if chosen else ''}", SHORT.get(badge.name, badge.name)
    title = escape(f"{badge.says} ({QUALITY[badge.name]})")
    return f'<span class="badge {kind}" title="{title}"><i>{name}</i> {badge.size}</span>'


def verdict(chosen: Badge | None) -> tuple[str, str]:
    if chosen is None:
        return "Too large here", "bad"
    if chosen.name == "part in RAM":
        return "Slow: a part in RAM", "tight"
    slow = chosen.says.endswith(SLOWLY)
    word = "Fits" if chosen.level == "good" else "Slow, but fits" if slow else "Just fits"
    whole = chosen.name in ("16-bit", "32-bit", "as it is")
    return (word if whole else f"{word} in {chosen.name}"), chosen.level


# State and buttons


def state(entry: Entry) -> str:
    if entry.download:
        return download_state(entry.download)
    if not entry.here:
        text = size(entry.bytes) if entry.bytes else "size not known"
        return f'<span class="size">{text}</span>{button("download", "Download", entry.title)}'
    facts = ["loaded"] if entry.loaded else []
    facts += [size(entry.bytes)] if entry.bytes else []
    buttons = ""
    if entry.task == "chat" and entry.usable and not entry.problem:
        buttons += button("chat", "Chat with it", entry.title, "primary")
    if not entry.usable and not entry.problem:
        known = entry.task in TASKS
        later = f"The {TASKS[entry.task]} tab comes in a later version." if known else NO_TAB
        buttons += f'<span class="later">{later}</span>'
    if entry.convertible:
        buttons += button("convert", "Convert", entry.title, "primary")
    if entry.coded:
        buttons += button("plain", "Make it usable", entry.title, "primary")
    if not entry.starter and not entry.ref.startswith("job:"):  # those go with their training
        buttons += button("delete", "Delete", entry.title)
    return f'<span class="size">{" · ".join(facts)}</span>{buttons}'


def download_state(download: Download) -> str:
    """How far, how fast and how long yet; or why it does not go on, and what to do."""
    share = download.done / download.bytes if download.bytes else 0.0
    bar = (
        f'<div class="bar{"" if download.bytes else " unknown"}" role="progressbar" '
        f'aria-valuenow="{100 * share:.0f}" aria-label="Download of {escape(download.title)}">'
        f'<i style="width:{100 * share:.1f}%"></i></div>'
    )
    cancel = button("cancel", "Cancel", download.title, id=download.id)
    if download.state == "waiting":
        return f'<span class="size">Waits for its turn</span>{cancel}'
    if download.state == "running":
        parts = [f"{100 * share:.0f} %" if download.bytes else "Asking the hub"]
        parts += [f"{size(download.speed)}/s"] if download.speed else []
        parts += [left(download.seconds_left)] if download.seconds_left is not None else []
        note = f'<span class="about">{escape(download.note)}</span>' if download.note else ""
        text = f'<span class="size">{" · ".join(parts)}</span>{note}'
        return f"{bar}{text}{button('pause', 'Pause', download.title, id=download.id)}{cancel}"
    said = f"{download.message} {download.hint}".strip()
    if download.state == "paused":
        so_far = f"Paused at {100 * share:.0f} %" if download.bytes else "Paused"
        why = f'<span class="about">{escape(said)}</span>' if said else ""
        return (
            f'{bar}<span class="size">{so_far}</span>{why}'
            f"{button('resume', 'Resume', download.title, 'primary', download.id)}{cancel}"
        )
    page = link(page_of(download.name), "Open its page") if download.kind == "gated" else ""
    return (
        f'<span class="about bad" role="alert">{escape(said)}</span>{page}'
        f"{button('resume', 'Try again', download.title, 'primary', download.id)}{cancel}"
    )


def button(act: str, text: str, of: str = "", kind: str = "", id: str = "") -> str:
    """`of`: the model's title, which a screen reader says with it. `id`: of a download, since one
    model may have several."""
    said = f' aria-label="{text}: {escape(of)}"' if of else ""
    said += f' data-id="{escape(id)}"' if id else ""
    return f'<button type="button" data-act="{act}" class="do {kind}"{said}>{text}</button>'


def link(url: str, text: str) -> str:
    return f'<a href="{escape(url)}" target="_blank" rel="noopener noreferrer">{text}</a>'


def page_of(name: str) -> str:
    return f"{endpoint()}/{name}"


# Panels over the list


def choices(repo: Repo, sizes: Sequence[tuple[Choice, Badge | None]]) -> str:
    """Several forms of one model: which one to take."""
    rows = "".join(
        f'<li><button type="button" class="do" data-act="take" data-choice="{escape(c.id)}">'
        f"Download</button><b>{escape(c.title)}</b> {size(c.bytes)} "
        + (f'<span class="badge {b.level}" title="{escape(b.says)}">{b.size}</span>' if b else "")
        + f' <span class="about">{escape(about_choice(c))}</span></li>'
        for c, b in sizes
    )
    return (
        f'<div class="ask" data-name="{escape(repo.name)}" role="dialog" aria-label="Which form">'
        f"<b>{escape(repo.name)} comes in {len(repo.choices)} forms.</b> One is enough."
        f"<ul>{rows}</ul>{button('dismiss', 'Close')}</div>"
    )


LOSSES = {
    "Q8": "hardly any loss", "Q6": "hardly any loss", "Q5": "a small loss",
    "Q4": "a little worse, what most people take", "Q3": "clearly worse", "Q2": "much worse",
    "Q1": "much worse", "16": "as it was made",
}  # fmt: skip


def about_choice(choice: Choice) -> str:
    """In plain words what a form is for, and what was lost in it."""
    title = choice.title.upper()
    if "GGUF" not in title:
        return "for PyTorch: loads in 16, 8 or 4 bits, and can be fine-tuned"
    loss = next((text for mark, text in LOSSES.items() if mark in title), "")
    return f"for llama.cpp: {loss}" if loss else "for llama.cpp"


def terms(name: str, title: str) -> str:
    """What has to be done before a gated model can be downloaded."""
    return (
        f'<div class="ask" data-name="{escape(name)}" role="dialog" aria-label="Terms to accept">'
        f"<b>{escape(title)} is given only to people who accepted its terms.</b><ol>"
        f"<li>{link(page_of(name), 'Open its page')}, sign in, and accept them.</li>"
        f"<li>{link(TOKENS, 'Make a token')} of the kind “Read”.</li>"
        "<li>Put it into the field “Hub token” on this page, then press Download again.</li></ol>"
        f"{button('dismiss', 'Close')}</div>"
    )


def converted(made: Converted) -> str:
    """What came out of a conversion, in a sentence and with the details folded."""
    types = ", ".join(f"{count:,} in {kind}" for kind, count in made.types.items())
    text = (
        f"{made.ref.name} is in the list now: {made.tensors:,} tensors ({types}), "
        f"{size(made.bytes)} out of {size(made.before)}. Nothing of the file was run."
    )
    more = [f"{name}  {' x '.join(map(str, shape))}  {kind}" for name, shape, kind in made.largest]
    more += [f"{name} is {kept}, kept once" for name, kept in made.dropped.items()]
    if made.left_out:
        more.append(f"{made.left_out:,} entries were no weights and were left out")
    return line(text, "good") + details("What is in it", "\n".join(more))


def size(count: float) -> str:
    """Of files, in 10^6 and 10^9 bytes, as the disk's own programs tell them."""
    for unit, name in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB")):
        if count >= unit:
            number = count / unit
            return (
                f"{number:.1f} {name}" if number < 100 and name != "MB" else f"{number:.0f} {name}"
            )
    return f"{count / 1e3:.0f} kB" if count >= 1e3 else f"{count:.0f} bytes"


def left(seconds: float) -> str:
    """About how long yet."""
    if seconds < 60:
        return f"{max(1, round(seconds))} s left"
    minutes = round(seconds / 60)
    return f"{minutes} min left" if minutes < 90 else f"{minutes / 60:.1f} h left"
