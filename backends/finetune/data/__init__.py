"""The dataset doctor: reads any file, checks every row, repairs into a new file.

    source.py        the parts of a file, a folder or a ZIP, as streams of bytes; what is refused
    encoding.py      bytes -> text: which encoding, how sure, lines of it
    reading.py       what a part is (by its bytes first), and its rows, numbered
      json_rows.py     JSON Lines; one JSON document, entry by entry
      table_rows.py    CSV and TSV, Parquet
      text_rows.py     plain text and Markdown, in blocks of paragraphs
    rows.py          one row and where it stands; what is wrong with one (`Fault`, `Finding`)
    forms.py         a row -> an Example (chat, text, preference, label), by a `Mapping`
    recognise.py     which Mapping: decided from many rows, told with the evidence
    fingerprints.py  duplicates and near-duplicates, in 8 and 64 bytes a row
    checks.py        every row is kept or reported
    fixes.py         steps with undo; the cleaned set as a new file with a manifest
    lengths.py       tokens: estimated at once, exact in the background
    doctor.py        `open_dataset(path) -> Dataset`: all of the above in one object

    dataset = open_dataset(path)                # < 1 s, whatever its size; raises Refused
    dataset.recognised.title                    # "Alpaca"; .evidence says why
    dataset.preview(20)                         # rows, and Examples of them
    report = dataset.examine(cancel, progress)  # every row; rows == kept + left_out
    dataset = dataset.fix(Fill({"name": "Ada", "author": "me"}))      # .undo() takes it back
    dataset.write(folder / "clean.jsonl")       # the source is never changed

Rows stream: nothing here holds a whole file. No torch, no tokenizer: `lengths` is handed a function
that counts. Calls block; the page runs them in a thread or a process.
"""

from backends.finetune.data.checks import CheckOptions, Finding, Report
from backends.finetune.data.doctor import Dataset, open_dataset
from backends.finetune.data.fixes import (
    Drop,
    DropDuplicates,
    DropRows,
    Fill,
    Step,
    Take,
    Trim,
    Written,
    safe_name,
    step_of,
)
from backends.finetune.data.forms import Example, Mapping
from backends.finetune.data.lengths import Count, Lengths
from backends.finetune.data.reading import ReadOptions
from backends.finetune.data.recognise import Recognised
from backends.finetune.data.rows import KINDS, Fault, Row

__all__ = [
    "KINDS", "CheckOptions", "Count", "Dataset", "Drop", "DropDuplicates", "DropRows", "Example",
    "Fault", "Fill", "Finding", "Lengths", "Mapping", "ReadOptions", "Recognised", "Report", "Row",
    "Step", "Take", "Trim", "Written", "open_dataset", "safe_name", "step_of",
]  # fmt: skip
