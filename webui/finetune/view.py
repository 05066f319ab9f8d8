"""A dataset as HTML: what it is, what is wrong with it, how long its rows are, some of them.

Everything that comes from the file is escaped. Numbers are those of `backends.finetune.dataset`.
"""

from __future__ import annotations

from html import escape
from typing import Any

from webui.model_picker import gigabytes, line

NOTHING_YET = (
    '<div class="empty"><h3>Drop a dataset</h3><p>JSON, JSONL, CSV, TSV, Parquet, text, Markdown, '
    "or a ZIP of these; or name one of the hub. Every row is checked before anything is trained, "
    "and your file is never changed. Without one at hand, use the example: it teaches a small "
    "model who it is. Then press Train: everything else is chosen from the rows and your card."
    "</p></div>"
)
ROLES = {"system": "System", "user": "User", "assistant": "Answer", "tool": "Tool"}
ROWS_NAMED = 8  # of one finding
CELLS = 40  # columns shown with their cells


def head(about: dict[str, Any], report: dict[str, Any] | None) -> str:
    """One line: what it was recognised as and how large it is; the evidence under it."""
    rows = f"{report['rows']:,} rows · " if report else ""
    title = escape(str(about["title"]))
    notes = " ".join(str(note) for note in about["notes"])
    told = (
        f'<div class="data-title"><b>{title}</b> · {rows}{_size(about["bytes"])}</div>'
        f'<div class="line note">{escape(about["evidence"])} {escape(notes)}</div>'
    )
    if about["missing"]:
        told += line(f"It is not known what its columns mean. {about['missing']}", "bad")
    return told


def verdict(report: dict[str, Any]) -> str:
    """How many rows will be trained on, and each finding with its rows."""
    kept, left_out = report["kept"], report["left_out"]
    if not report["complete"]:
        told = line(f"Stopped after {report['rows']:,} rows: the rest was not checked.", "bad")
    elif left_out:
        told = line(f"{_rows(kept)} can be trained on, {_rows(left_out)} left out.", "note")
    else:
        told = line(f"All {_rows(kept)} can be trained on.", "good")
    for note in report["notes"]:
        told += line(str(note), "note")
    return told + "".join(finding(f) for f in report["findings"])


def finding(found: dict[str, Any]) -> str:
    """One kind of fault, folded: its sentence, what to do, its first rows."""
    rows = found["rows"]
    items = "".join(
        f"<li><code>{escape(str(place))}</code> {escape(str(sentence))}</li>"
        for _, place, sentence in rows[:ROWS_NAMED]
    )
    more = found["count"] - min(len(rows), ROWS_NAMED)
    rest = f"<li>and {more:,} more</li>" if more > 0 else ""
    kind = "bad" if found["level"] == "error" else "note"
    return (
        f'<details class="finding {kind}"><summary>{escape(found["text"])}</summary>'
        f"<p>{escape(found['help'])}</p><ul>{items}{rest}</ul></details>"
    )


def lengths(told: dict[str, Any]) -> str:
    """Bars of how many rows have so many tokens, and what the usual lengths would cut. What the
    length of a training cuts is said with its forecast."""
    bars = told["histogram"]
    if not bars:
        return ""
    most = max(count for _, _, count in bars) or 1
    about = "" if told["exact"] else "about "
    drawn = "".join(
        f'<i style="height:{max(2, 100 * n / most):.0f}%" '
        f'title="{low:,} to {high - 1:,} tokens: {_rows(n)}"></i>'
        for low, high, n in bars
    )
    cuts = [(int(length), rows) for length, (rows, _) in told["cut"].items()]
    some = [f"{_rows(rows)} at {length:,} tokens" for length, rows in cuts if rows]
    whole = next((length for length, rows in cuts if not rows), None)
    cut = f"Would be cut: {', '.join([*some[-3:], *([f'none at {whole:,}'] if whole else [])])}."
    if not some:
        cut = f"No row is longer than {whole:,} tokens."
    summary = (
        f"{about}{told['total']:,} tokens in all; half of the rows have at most "
        f"{told['median']:,}, the longest {told['longest']:,}."
    )
    return (
        f'<div class="lengths" role="img" aria-label="{summary}">{drawn}</div>'
        f'<div class="line note">{summary[:1].upper()}{summary[1:]}</div>'
        f'<div class="line note">{cut}</div>'
    )


def rows(about: dict[str, Any]) -> str:
    """The first rows as the training sees them; what the loss is taken of is marked. None while
    it is not known what the columns mean: `columns` shows their cells."""
    if about["missing"]:
        return ""
    return "".join(_row(row) for row in about["rows"])


def _row(row: dict[str, Any]) -> str:
    where = f'<div class="where">{escape(str(row["place"]))}</div>'
    if "fault" in row:
        return f'<article class="data-row">{where}{line(str(row["fault"]), "bad")}</article>'
    if "text" in row:
        more = " …" if row["cut"] else ""
        said = f'<p class="trained">{escape(row["text"])}{more}</p>'
    else:
        said = "".join(
            f'<p class="{"trained" if turn["trained"] else ""}">'
            f"<b>{ROLES.get(turn['role'], escape(turn['role']))}</b> {escape(turn['text'])}</p>"
            for turn in row["turns"]
        )
    return f'<article class="data-row">{where}{said}</article>'


def columns(about: dict[str, Any]) -> str:
    """Each column with its first cells as the file has them: what to map is told by looking."""
    drawn = ""
    for name in about["columns"][:CELLS]:
        cells = "".join(f"<td>{escape(row.get(name, ''))}</td>" for row in about["cells"][:2])
        drawn += f"<tr><th>{escape(name)}</th>{cells}</tr>"
    more = len(about["columns"]) - CELLS
    rest = line(f"And {more:,} more columns.", "note") if more > 0 else ""
    return f'<div class="cells"><table>{drawn}</table></div>{rest}'


LINE_ENDS = {"\n": "\N{DOWNWARDS ARROW WITH TIP LEFTWARDS}", "\t": "\N{RIGHTWARDS ARROW TO BAR}"}


def tokens(row: dict[str, Any]) -> str:
    """One row token by token; what is learned, what is special and what the length cuts differ."""
    where = f'<div class="where">{escape(str(row["place"]))}</div>'
    if "fault" in row:
        return f'<article class="data-row">{where}{line(str(row["fault"]), "bad")}</article>'
    drawn = "".join(
        _token(text, mark, at < row["kept"])
        for at, (text, mark) in enumerate(zip(row["pieces"], row["marks"], strict=False))
    )
    hidden = row["tokens"] - len(row["pieces"])
    more = f'<span class="more"> … and {hidden:,} more tokens</span>' if hidden > 0 else ""
    told = f"{row['tokens']:,} tokens, {row['trained']:,} of them learned."
    lost = row["tokens"] - row["kept"]
    if lost:
        told += f" At {row['length']:,} tokens the last {lost:,} are cut, and {row['learned']:,} "
        told += "learned." if row["learned"] else "learned: the row is left out."
    kind = "bad" if lost or not row["trained"] else "note"
    legend = (
        '<div class="line note legend"><span class="t on">learned</span> '
        '<span class="t">read</span> <span class="t special">special</span> '
        '<span class="t cut">cut off</span></div>'
    )
    return (
        f'<article class="data-row">{where}{line(told, kind)}'
        f'<p class="tokens">{drawn}{more}</p>{legend}</article>'
    )


def _token(text: str, mark: str, kept: bool) -> str:
    """A line end is shown, and made. What belongs to the character before is a dot."""
    names = "t" + " on" * (mark in "13") + " special" * (mark in "23") + " cut" * (not kept)
    shown = escape(text) if text else "·"
    for end, sign in LINE_ENDS.items():
        shown = shown.replace(end, f"<i>{sign}</i>" + "\n" * (end == "\n"))
    return f'<span class="{names}">{shown}</span>'


def _rows(count: int) -> str:
    return f"{count:,} row{'' if count == 1 else 's'}"


def _size(size: int) -> str:
    return gigabytes(size) if size >= 1e6 else f"{max(1, round(size / 1000)):,} kB"
