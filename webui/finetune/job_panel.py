"""The trainings on the page: the list, the chosen one's curve and answers, and its buttons.

What is shown comes from `/api/jobs` (assets/jobs.js); here is only what the buttons do.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import gradio as gr

from backends.base import Refused
from backends.runtime import job_dataset
from webui.bench import Bench
from webui.finetune import after, in_use
from webui.hand_over import build_go
from webui.model_picker import line, problem

ASSETS = Path(__file__).parent.parent.parent / "assets"
QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
TEMPLATE = """
<div class="jobs">
  <p class="offline line bad" role="alert" hidden>Werkbank does not answer. The training goes on
    without this page; it is asked again.</p>
  <div class="gone line note" role="status" hidden></div>
  <div class="list" role="group" aria-label="Trainings"></div>
  <details class="trash" hidden><summary></summary><ul></ul></details>
  <section class="chosen" aria-label="Training" hidden>
    <header><h3 class="name"></h3><span class="status"></span><span class="buttons"></span></header>
    <div class="about"></div><div class="words line"></div>
    <details class="detail" hidden><summary>Details</summary><pre></pre></details>
    <div class="progress"><i></i></div>
    <dl class="figures"></dl>
    <div class="chart">
      <div class="pick"><label>Curve <select class="what"></select></label>
        <label class="beside">beside <select class="against"></select></label>
        <span class="under" aria-live="off"></span></div>
      <svg class="curve" viewBox="0 0 640 200" role="img"></svg>
    </div>
    <ul class="notices"></ul>
    <div class="watch">
      <div class="top"><h4>What it answers</h4>
        <input class="step" type="range" min="0" step="1" aria-label="Snapshot">
        <span class="where"></span><span class="snapshot"></span></div>
      <div class="answers"></div>
    </div>
  </section>
</div>
"""
COPIED = ("task", "method", "base", "dataset", "name", "params", "options", "forecast")


class JobPanel:
    """The handlers. A job is named by its id, which `Jobs` checks."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench

    def place(self) -> None:
        self.said = gr.HTML(elem_id="finetune-job-said")
        self.jobs = gr.HTML(
            html_template=TEMPLATE,
            css_template=(ASSETS / "jobs.css").read_text("utf-8"),
            js_on_load=(ASSETS / "jobs.js").read_text("utf-8"),
            apply_default_css=False,
            elem_id="finetune-jobs",
        )
        self.go = build_go("finetune-go")

    def wire(self) -> None:
        shown = [self.said, self.go]
        self.jobs.act(self.act, None, shown, trigger_mode="multiple", queue=False, **QUIET)
        self.jobs.merge(self.merge, None, self.said, trigger_mode="multiple", **QUIET)

    async def act(self, event: gr.EventData) -> list[Any]:
        """One button. What the browser sends is looked through: nothing of it is a path."""
        sent: dict[str, Any] = event._data if isinstance(event._data, dict) else {}
        act, id = str(sent.get("act", "")), str(sent.get("id", ""))
        step, text = _number(sent.get("step")), str(sent.get("text", ""))[:200]
        try:
            if act in ("chat", "snapshot-chat"):
                handed = await asyncio.to_thread(after.open_in_chat, self.bench, id, step)
                return ["", handed.as_text()]
            if act in ("compare", "snapshot-compare"):
                handed = await asyncio.to_thread(after.compare_in_chat, self.bench, id, step)
                return ["", handed.as_text()]
            if act == "start":
                await self.bench.job_ledger.start(id)
            elif act == "resume":
                return [await begin(self.bench, id), gr.skip()]
            elif act == "again":
                return [
                    await begin(self.bench, await asyncio.to_thread(self._again, id, text)),
                    gr.skip(),
                ]
            elif act == "unmerge":
                after.cancel_merge(self.bench, id)
            else:
                return [await asyncio.to_thread(self._do, act, id, step, sent), gr.skip()]
            return ["", gr.skip()]
        except Refused as refused:
            return [problem(str(refused), refused.detail), gr.skip()]
        except ValueError as error:  # a spec of another version
            return [problem(str(error)), gr.skip()]
        except OSError as error:
            said = f"The disk refused it ({error.strerror}). Free some space, then try again."
            return [problem(said), gr.skip()]

    def _do(self, act: str, id: str, step: int | None, sent: dict[str, Any]) -> str:
        """In a thread. Returns what to say."""
        jobs, text = self.bench.jobs, str(sent.get("text", ""))[:200]
        if act == "pause":
            jobs.pause(id)
        elif act == "stop":
            jobs.stop(id)
        elif act == "move":
            jobs.move(id, _number(sent.get("to")) or 1)
        elif act == "rename":
            jobs.rename(id, text)
        elif act == "keep" and step is not None:
            jobs.keep_snapshot(id, step, bool(sent.get("keep")))
        elif act == "delete":
            in_use.delete_job(self.bench, id)
        elif act == "undo":
            jobs.undo_delete(id)
        elif act == "save":
            ref = after.save_adapter(self.bench, id, text)
            return line(f"{ref.name} is among your adapters now: Chat offers it.", "good")
        elif act == "zip":
            return after.link(after.zip_adapter(self.bench, id))
        return ""

    def _again(self, id: str, click: str) -> str:
        """A new job of the same spec; the same one for the same `click`. Returns its id."""
        jobs = self.bench.jobs
        spec = job_dataset.pinned(jobs.spec(id), jobs.path(id))
        spec = {key: spec[key] for key in COPIED if key in spec} | {"name": jobs.state(id).name}
        return jobs.create(spec, key=f"again-{id}-{click}" if click else "")

    async def merge(self, event: gr.EventData) -> AsyncGenerator[Any, None]:
        """A whole model of the base and what it learned. It goes on when nobody watches."""
        sent: dict[str, Any] = event._data if isinstance(event._data, dict) else {}
        id, text = str(sent.get("id", "")), str(sent.get("text", ""))[:200]
        yield gr.skip()
        async for told in after.merge(self.bench, id, text):
            yield told


def _number(text: Any) -> int | None:
    digits = str(text or "")
    return int(digits) if digits.isdecimal() and len(digits) < 10 else None


async def begin(bench: Bench, id: str) -> str:
    """Start a job, or queue it behind those that run or wait. Returns what to say. Raises Refused
    where it does not fit; it can be started later then."""
    async with bench.job_ledger.beginning:
        running = await asyncio.to_thread(lambda: [s for s in bench.jobs.listed() if s.live])
        if running or bench.jobs.queue():
            await asyncio.to_thread(bench.jobs.enqueue, id)
            before = running[0].name if running else "those before it"
            return line(f"It waits for the end of {before}.", "note")
        await bench.job_ledger.start(id)
    return ""
