"""What is trained and how: one button, a few settings, or every one of them.

Whatever nobody sets is chosen by `webui/finetune/plan.py` from the data and the card, and shown
with its reason; what was set by hand stays.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from backends.base import Refused
from backends.finetune.sft_params import SftOptions, SftParams
from backends.models.library import Listed
from webui.bench import Bench
from webui.finetune import plan as plans
from webui.finetune.dataset_panel import DatasetPanel
from webui.finetune.datasets import Kept
from webui.finetune.job_panel import begin
from webui.finetune.looking import counted, look
from webui.form import build_form
from webui.model_picker import choice_label, gigabytes, line, problem, progress_bar, tab_of

QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
NOW: dict[str, Any] = {"queue": False, **QUIET}
SAID_AGAIN = 3.0  # seconds that the button waits after a start: a second click is the same one
FEW = 20_000  # rows, of which the tokens are counted before a start, however quick one clicks
OWN = ("prompts",)  # they have a place of their own
NO_DATA = "Choose a dataset first: drop a file above, or use the example."
NO_BASE = "There is no model here that can be trained. Get one on the Models tab."
WAITS = "It can be trained once every row is checked, and what its columns mean is known."


class TrainingPanel:
    """The handlers. `given` holds what was set by hand, by the setting's name."""

    def __init__(self, bench: Bench, dataset: DatasetPanel) -> None:
        self.bench, self.dataset = bench, dataset
        self.starting: set[asyncio.Task[str]] = set()

    def place(self) -> None:
        with gr.Group(elem_classes="panel"):
            self.base = gr.Dropdown(
                [], label="Model that learns", interactive=True, elem_id="finetune-base"
            )
            self.prompts = gr.Textbox(
                label="Questions to watch", lines=2, max_lines=6, elem_id="finetune-prompts",
                info="Answered before the training and at each snapshot. One on each line.",
            )  # fmt: skip
            self.name = gr.Textbox(
                label="Name", max_lines=1, max_length=80, elem_id="finetune-name",
                placeholder="As the dataset is called",
            )  # fmt: skip
            # Under the button, so that it does not move away from a press when they grow.
            self.start = gr.Button("Train", variant="primary", elem_id="finetune-train")
            self.said = gr.HTML(elem_id="finetune-train-said")
            self.forecast = gr.HTML(elem_id="finetune-forecast")
            self.counting = gr.HTML(elem_id="finetune-counting")
            with gr.Accordion("Settings", open=False, elem_id="finetune-settings"):
                self.automatic = gr.Button(
                    "Choose all by itself again", size="sm", elem_id="finetune-automatic"
                )
                self.params = build_form(SftParams, prefix="finetune", skip=OWN)
                self.options = build_form(SftOptions, prefix="finetune")
        self.given = gr.State({})

    @property
    def _names(self) -> list[str]:
        return [*self.params.names, *self.options.names]

    @property
    def _components(self) -> list[Any]:
        return [*self.params.components, *self.options.components]

    def component(self, name: str) -> Any:
        """Of the params' form."""
        return self.params.components[self.params.names.index(name)]

    def wire(self) -> None:
        chosen = self.dataset.chosen
        asked = [chosen, self.base, self.given]
        shown = [self.forecast, self.start, self.prompts, *self._components]
        newest: dict[str, Any] = {"trigger_mode": "always_last", **NOW}
        if tab := tab_of(gr.context.Context.block):
            tab.select(self.refresh, self.base, self.base, **NOW).then(
                self.reckon, asked, shown, **NOW
            )
        more: dict[str, Any] = {"trigger_mode": "multiple", **QUIET}
        for looked in [*self.dataset.looked, self.base.input(self.reckon, asked, shown, **newest)]:
            looked.then(self.reckon, asked, shown, **NOW).then(
                self.count, [chosen, self.base], self.counting, **more
            ).then(self.reckon, asked, shown, **NOW)
        for name, component in zip(self._names, self._components, strict=True):
            component.input(
                lambda value, given, name=name: self.set(name, value, given),
                [component, self.given], self.given, **newest,
            ).then(self.reckon, asked, shown, **NOW)  # fmt: skip
        self.automatic.click(lambda: {}, None, self.given, **NOW).then(
            self.reckon, asked, shown, **NOW
        )
        self.start.click(
            self.train, [*asked, self.prompts, self.name], [self.start, self.said],
            trigger_mode="once", **QUIET,
        )  # fmt: skip

    # What would be trained

    def refresh(self, ref: str | None) -> Any:
        bases = plans.bases(self.bench)
        known = [str(base.ref) for base in bases]
        value = ref if ref in known else known[0] if known else None
        choices = [(choice_label(base), str(base.ref)) for base in bases]
        return gr.Dropdown(choices=choices, value=value)

    def set(self, name: str, value: Any, given: dict[str, Any]) -> dict[str, Any]:
        """With one setting more made by hand; an empty one is automatic again."""
        form = self.params if name in self.params.names else self.options
        n = form.names.index(name)
        values = [value if n == m else None for m in range(len(form.names))]
        found = form.read(values)
        rest = {k: v for k, v in given.items() if k != name}
        return {**rest, **found} if value not in (None, "") else rest

    async def count(self, id: str | None, ref: str | None) -> AsyncGenerator[Any, None]:
        """Count the rows' tokens as this base reads them, where that is not known yet."""
        yield gr.skip()
        try:
            kept = self._kept(id)
            async for found in counted(self.bench, self.dataset.datasets, kept, ref or ""):
                yield progress_bar(found, "Counting tokens") if found else ""
        except Refused:  # there is no dataset, or it went away: the forecast says so
            yield ""

    async def reckon(self, id: str | None, ref: str | None, given: dict[str, Any]) -> list[Any]:
        return await asyncio.to_thread(self._reckon, id, ref, given)

    def _reckon(self, id: str | None, ref: str | None, given: dict[str, Any]) -> list[Any]:
        still = [gr.skip()] * (1 + len(self._components))
        try:
            plan = self._plan(id, ref, given)
        except Refused as refused:
            return [f'<div class="line note">{escape(str(refused))}</div>', gr.skip(), *still]
        whole = {**plan.params, **plan.options}
        fill = [*self.params.fill(plan.params), *self.options.fill(plan.options)]
        values = [
            gr.skip() if name in given or name not in whole else value
            for name, value in zip(self._names, fill, strict=True)
        ]
        questions = gr.Textbox(placeholder="\n".join(plan.params.get("prompts", ())))
        return [foretold(plan, given), gr.skip(), questions, *values]

    def _plan(self, id: str | None, ref: str | None, given: dict[str, Any]) -> plans.Plan:
        kept, base = self._kept(id), self._base(ref)
        said = kept.said
        if not {"dataset", "report", "lengths"} <= said.keys():
            raise Refused(WAITS, "")
        aside = 0
        if beside := self.dataset.datasets.validation(kept):  # measured in place of a share
            given = {**given, "validation": 0.0, "validation_set": beside}
            other = self.dataset.datasets.get(kept.how.validation).said
            aside = int(other.get("lengths", {}).get("total") or 0)
        return plans.defaults(
            self.bench, base, said["dataset"], said["lengths"], said["report"], given, aside
        )

    def _kept(self, id: str | None) -> Kept:
        if not id:
            raise Refused(NO_DATA, "")
        return self.dataset.datasets.get(id)

    def _base(self, ref: str | None) -> Listed:
        bases = plans.bases(self.bench)
        for base in bases:
            if str(base.ref) == ref:
                return base
        raise Refused(*(("This model is not here any more.", "Choose another one.") if bases
                        else (NO_BASE, "")))  # fmt: skip

    # Training

    async def train(
        self, id: str | None, ref: str | None, given: dict[str, Any], prompts: str, name: str
    ) -> AsyncGenerator[list[Any], None]:
        """Make the job and start it, or queue it. The button rests a moment: two clicks are one."""
        yield [gr.Button(interactive=False), line("Starting.", "note")]
        # A task of its own: whoever presses and leaves the page has pressed all the same.
        starting = asyncio.create_task(self._start(id, ref, given, prompts, name))
        self.starting.add(starting)
        starting.add_done_callback(self.starting.discard)
        said = await asyncio.shield(starting)
        yield [gr.skip(), said]
        await asyncio.sleep(SAID_AGAIN)
        yield [gr.Button(interactive=True), gr.skip()]

    async def _start(
        self, id: str | None, ref: str | None, given: dict[str, Any], prompts: str, name: str
    ) -> str:
        """Check and count what is not yet, make the job, begin it. Returns what to say."""
        job = ""
        try:
            datasets = self.dataset.datasets
            async for found in look(self.bench, datasets, self._kept(id)):
                if found.problem:
                    return problem(found.problem, found.detail)
            async for _ in counted(self.bench, datasets, self._kept(id), ref or "", FEW):
                pass
            job = await asyncio.to_thread(self._create, id, ref, given, prompts, name)
            return await begin(self.bench, job)
        except Refused as refused:
            if job:  # it does not fit: it has never run, and the next press makes another
                await asyncio.to_thread(self.bench.jobs.delete, job)
            return problem(str(refused), refused.detail)
        except (ValueError, OSError) as error:
            return problem(str(error))

    def _create(
        self, id: str | None, ref: str | None, given: dict[str, Any], prompts: str, name: str
    ) -> str:
        kept, plan = self._kept(id), self._plan(id, ref, given)
        beside = self.dataset.datasets.validation(kept)
        return self.bench.jobs.create(spec_of(kept, plan, prompts, name, beside))


def spec_of(
    kept: Kept, plan: plans.Plan, prompts: str, name: str, beside: dict[str, Any] | None = None
) -> dict[str, Any]:
    """The job's spec: the least form of `launch.py train`, with everything said.

    beside: the set to validate with, of `Datasets.validation`.
    """
    params = dict(plan.params)
    if questions := [question.strip() for question in prompts.splitlines() if question.strip()]:
        params["prompts"] = questions
    params["data"] = kept.how.as_params()
    if beside:
        params["validation_set"] = {k: v for k, v in beside.items() if k != "allowed"}
    return {
        "task": "finetune",
        "method": "sft",
        "base": str(plan.base.ref),
        "dataset": kept.path,
        "name": name.strip() or Path(kept.name).stem,
        "params": params,
        "options": plan.options,
        "forecast": plan.forecast.to_json(),
    }


def foretold(plan: plans.Plan, given: dict[str, Any]) -> str:
    """What it will take, as a bar and a sentence; why it is set so, folded."""
    forecast = plan.forecast
    told = f'<div class="line {"note" if forecast.fits else "bad"}">{escape(forecast.text)}</div>'
    if forecast.had_bytes:
        share = min(1.0, forecast.memory_bytes / forecast.had_bytes)
        label = f"{gigabytes(forecast.memory_bytes)} of {gigabytes(forecast.had_bytes)}"
        told += (
            f'<div class="bar fit{"" if forecast.fits else " over"}" role="img" '
            f'aria-label="{label}" title="{label}"><i style="width:{100 * share:.0f}%"></i></div>'
        )
    if plan.cut:
        share, length = max(0.1, 100 * plan.cut), plan.params["max_length"]
        told += line(f"{share:.1f} % of the tokens are cut at the length {length:,}.", "note")
    if plan.reasons:
        items = "".join(f"<li>{escape(reason)}</li>" for reason in plan.reasons)
        own = f" · {len(given)} set by you" if given else ""
        told += f'<details class="reasons"><summary>Why so{own}</summary><ul>{items}</ul></details>'
    return told
