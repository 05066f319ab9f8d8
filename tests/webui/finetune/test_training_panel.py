"""From what stands on the page to a job's spec."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from backends.base import ModelRef
from backends.finetune.sft_params import SftOptions, SftParams
from backends.models.library import Listed
from backends.params import read
from backends.runtime.job_spec import understand, with_hashes, with_places
from webui.finetune.datasets import How, Kept
from webui.finetune.plan import Plan, TrainForecast
from webui.finetune.training_panel import TrainingPanel, foretold, spec_of
from webui.form import Form


def panel() -> TrainingPanel:
    """Without its components, which want a page around them."""
    one = TrainingPanel(None, None)  # type: ignore[arg-type]
    one.params = Form(SftParams, ("learning_rate", "lora_rank"), ())
    one.options = Form(SftOptions, ("quantisation", "device"), ())
    return one


def test_what_is_set_by_hand_is_kept_by_its_name_until_it_is_emptied() -> None:
    given = panel().set("learning_rate", 1e-4, {})
    given = panel().set("quantisation", "int8", given)
    given = panel().set("lora_rank", 8.0, given)
    assert given == {"learning_rate": 1e-4, "quantisation": "int8", "lora_rank": 8}
    assert panel().set("learning_rate", None, given) == {"quantisation": "int8", "lora_rank": 8}
    read(SftParams, {"learning_rate": 1e-4, "lora_rank": 8}), read(SftOptions, {"device": "cpu"})


def kept(tmp_path: Path) -> Kept:
    file = tmp_path / "data.jsonl"
    file.write_text("{}")
    how = How({"encoding": "utf-8"}, {}, ({"do": "drop_duplicates"},))
    return Kept("id", "mein Satz.jsonl", str(file), True, 0.0, how)


def plan(**params: Any) -> Plan:
    base = Listed("x", "X", "chat", ModelRef("starter", "x"), "transformers")
    return Plan(base, {"device": "cpu"}, {"epochs": 2.0, "prompts": ["chosen?"], **params})


def test_a_spec_says_all_that_the_job_needs(tmp_path: Path) -> None:
    spec = spec_of(kept(tmp_path), plan(), " Who are you?\n\n Why? ", "")
    assert spec["name"] == "mein Satz" and spec["base"] == "starter:x"
    assert spec["params"]["prompts"] == ["Who are you?", "Why?"]
    assert spec["params"]["data"]["steps"] == [{"do": "drop_duplicates"}]
    beside = {"path": kept(tmp_path).path, "allowed": ["/x"], "reading": {}, "steps": []}
    validated = spec_of(kept(tmp_path), plan(early_stop=2), "", "", beside)
    made = with_hashes(with_places(validated, tmp_path))
    read_set = understand(made, tmp_path).params.validation_set
    assert len(read_set["sha256"]) == 64 and "allowed" not in read_set
    asked = understand(spec, tmp_path)
    assert asked.params.epochs == 2.0 and asked.params.folder == str(tmp_path)
    assert spec_of(kept(tmp_path), plan(), " \n", "eigen")["params"]["prompts"] == ["chosen?"]
    assert spec_of(kept(tmp_path), plan(), "", " eigen ")["name"] == "eigen"


def test_what_the_length_cuts_is_said() -> None:
    cut = replace(plan(max_length=512), cut=0.0004)
    assert "0.1 % of the tokens are cut at the length 512." in foretold(cut, {})
    assert "are cut" not in foretold(plan(max_length=512), {})


def test_a_forecast_shows_what_fits_and_why(tmp_path: Path) -> None:
    forecast = TrainForecast(6 * 10**9, 10**10, fits=True, text="Needs <6 GB>.")
    one = Plan(plan().base, {}, {}, ("Length 64: <b>",), forecast)
    told = foretold(one, {"epochs": 1})
    assert "Needs &lt;6 GB&gt;." in told and "width:60%" in told and "1 set by you" in told
    assert "&lt;b&gt;" in told and "<b>" not in told
    assert "over" in foretold(Plan(one.base, {}, {}, (), TrainForecast(2, 1, fits=False)), {})
