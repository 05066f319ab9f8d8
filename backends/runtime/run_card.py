"""A job as a page of Markdown: what was asked, on what, how it went, and its spec to run again."""

from __future__ import annotations

import json
import platform
import time
import tomllib
from importlib import metadata
from pathlib import Path
from typing import Any

from backends.runtime import job_dataset
from backends.runtime.disk import read_json, read_lines, write_json
from backends.runtime.process import CHECKOUT

VERSIONS = "versions.json"
PACKAGES = ("torch", "transformers", "peft", "trl", "accelerate", "bitsandbytes")
OURS = ("dataset_sha256", "key", "created")  # in spec.json beside what was asked
POINTS = 12  # rows of the curve
COLUMNS = ("loss", "validation_loss", "learning_rate", "grad_norm", "tokens_per_second")


def note_versions(folder: Path) -> None:
    """Write down what the job in `folder` runs with. By the job, when it begins."""
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text("utf-8"))["project"]
    found = {"werkbank": project["version"], "python": platform.python_version(),
             "system": platform.platform()}  # fmt: skip
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    write_json(folder / VERSIONS, found)


def written(folder: Path, name: str, status: str) -> str:
    """The card of the job in `folder`, called `name`. Reads its whole curve: for a thread."""
    spec = job_dataset.pinned(read_json(folder / "spec.json"), folder)
    state, end = read_json(folder / "state.json"), read_json(folder / "exit.json")
    curve, samples = _curve(folder), read_lines(folder / "samples.jsonl")[0]
    asked = {key: value for key, value in spec.items() if key not in OURS}
    parts = [f"# {_plain(name)}\n", _facts(spec, state, status, curve)]
    if end.get("message"):
        parts.append(f"{end['message']} {end.get('hint', '')}".strip() + "\n")
    if curve:
        parts.append("## Curve\n\n" + _table(_thinned(curve)))
    if samples:
        parts.append("## Answers\n\n" + _answers(samples))
    versions = read_json(folder / VERSIONS)
    if versions:
        lines = "\n".join(f"| {key} | {value} |" for key, value in versions.items())
        parts.append(f"## Versions\n\n| what | version |\n|---|---|\n{lines}\n")
    text = json.dumps(asked, indent=2, ensure_ascii=False)
    fence = _fence(text)
    parts.append(
        "## Run it again\n\nSave this as `spec.json`, then `python launch.py train spec.json`.\n\n"
        f"{fence}json\n{text}\n{fence}\n"
    )
    return "\n".join(parts)


def spec_of(card: str) -> dict[str, Any]:
    """The spec in a card. Raises ValueError in sentences where there is none."""
    head, _, rest = card.rpartition("## Run it again")
    lines = rest.splitlines() if head else []
    begins = [n for n, line in enumerate(lines) if line.endswith("json") and line[:3] == "```"]
    if begins:
        fence = lines[begins[0]].removesuffix("json")
        body = lines[begins[0] + 1 :]
        if fence in body:
            found = json.loads("\n".join(body[: body.index(fence)]))
            if isinstance(found, dict):
                return found
    raise ValueError("This is no run card. Take one that a job exported.")


def _facts(
    spec: dict[str, Any], state: dict[str, Any], status: str, curve: list[dict[str, Any]]
) -> str:
    dataset = str(spec.get("dataset", ""))
    called = dataset if dataset.startswith("hub:") else Path(dataset).name
    sha256 = spec.get("dataset_sha256")
    rows = [
        ("Method", f"{spec.get('task', '')}, {spec.get('method', '')}"),
        ("Base", f"`{spec.get('base', '')}`"),
        ("Dataset", f"{called}, sha256 `{sha256}`" if sha256 else dataset),
        ("Status", f"{status}, {state.get('step', 0):g} of {state.get('total', 0):g} steps"),
        ("Time", _clock(float(state.get("worked") or 0))),
    ]
    energy = state.get("energy_wh")
    rows.append(("Energy", f"{energy:.3f} Wh" if isinstance(energy, int | float) else "not known"))
    if isinstance(state.get("resumed"), int) and state["resumed"]:
        rows.append(("Resumed", f"{state['resumed']} times"))
    for name in ("loss", "validation_loss"):
        values = [line[name] for line in curve if line.get(name) is not None]
        if values:
            rows.append((f"Final {name.replace('_', ' ')}", f"{values[-1]:.4f}"))
    if isinstance(spec.get("created"), int | float):
        made = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(spec["created"]))
        rows.insert(0, ("Made", made))
    lines = "\n".join(f"| {key} | {_plain(value)} |" for key, value in rows)
    return f"| what | |\n|---|---|\n{lines}\n"


def _curve(folder: Path) -> list[dict[str, Any]]:
    """A line a step, of those written twice the later one."""
    by_step: dict[int, dict[str, Any]] = {}
    for line in read_lines(folder / "metrics.jsonl")[0]:
        if isinstance(line.get("step"), int):
            by_step[line["step"]] = line
    return [by_step[step] for step in sorted(by_step)]


def _thinned(curve: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The first, the last, and some between them at even distances."""
    if len(curve) <= POINTS:
        return curve
    last = len(curve) - 1
    return [curve[round(n * last / (POINTS - 1))] for n in range(POINTS)]


def _table(curve: list[dict[str, Any]]) -> str:
    names = [name for name in COLUMNS if any(line.get(name) is not None for line in curve)]
    head = " | ".join(["step", *(name.replace("_", " ") for name in names)])
    lines = [f"| {head} |", "|---" * (len(names) + 1) + "|"]
    for line in curve:
        cells = [f"{line[name]:.4g}" if line.get(name) is not None else "" for name in names]
        lines.append("| " + " | ".join([str(line["step"]), *cells]) + " |")
    return "\n".join(lines) + "\n"


def _answers(samples: list[dict[str, Any]]) -> str:
    """What each pinned question was answered at first and at last."""
    by_prompt: dict[str, list[dict[str, Any]]] = {}
    for sample in samples:
        by_prompt.setdefault(str(sample.get("prompt", "")), []).append(sample)
    told = []
    for prompt, found in by_prompt.items():
        told.append(f"**{_plain(prompt)}**\n")
        for sample in found if len(found) < 2 else (found[0], found[-1]):
            said = _plain(str(sample.get("answer", sample.get("text", ""))))
            told.append(f"- step {sample.get('step', 0)}: {said}")
        told.append("")
    return "\n".join(told)


def _plain(text: str) -> str:
    """In one line, and no Markdown or HTML of its own."""
    line = " ".join(text.split())
    for mark in "\\|<>*_[]":
        line = line.replace(mark, f"\\{mark}")
    return line.replace("\\_", "_")


def _fence(text: str) -> str:
    longest = 3
    while "`" * longest in text:
        longest += 1
    return "`" * longest


def _clock(seconds: float) -> str:
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02} h"
