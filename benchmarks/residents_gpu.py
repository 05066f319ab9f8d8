"""Two models that do not fit together, on a real GPU of which 11.3 GiB count: parked, back, gone.

    python -m benchmarks.residents_gpu [--gib 11.3] [--rounds 20] [--tiny]

(a) a chat model of 7B in NF4, then 8 GB of a picture model, chat again, and once more: nothing is
unloaded by hand, and how long the parked one takes to be back. (b) what the driver still shows 5 s
after an unload or a `kill -9`. (c) our reading against nvidia-smi's, in the same second.

Random weights (no quality), made on the spot: the chat model already quantised, layer by layer. The
picture model is a stand-in of torch tensors, which no worker knows but these. Needs a CUDA GPU,
torch, transformers, bitsandbytes, accelerate and nvidia-ml-py; `--tiny` runs all of it on a CPU,
where the card is pretended. Prints a line per check and exits 1 where one does not hold.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psutil

import backends
from backends.base import Backend, Card, ModelRef
from backends.card import fit_load, vram
from backends.card.gpu import Machine
from backends.card.ledger import Entry, Ledger
from backends.card.parked import Parked
from backends.card.reading import Gpu, Reading
from backends.card.source import read_source
from backends.chat.params import ChatParams
from backends.chat.transformers_chat import TransformersOptions, plan_of
from backends.events import Done, Event, Notice, Progress, Text
from backends.models import library
from backends.params import Params, setting
from backends.runtime.residency import Need, Residency
from backends.runtime.resident import Resident

GIB, MIB = 2**30, 2**20
DEVICE = "cuda:0"
BACK_BAR = 2.0  # seconds
LLAMA_7B = {
    "model_type": "llama", "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008,
    "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 32,
    "max_position_embeddings": 4096, "tie_word_embeddings": False, "rms_norm_eps": 1e-5,
    "bos_token_id": 0, "eos_token_id": 1,
}  # fmt: skip
TINY = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "vocab_size": 512,
        "num_attention_heads": 4, "num_key_value_heads": 4}  # fmt: skip


# The picture model: one that this benchmark alone knows


@dataclass(frozen=True)
class StandInOptions(Params):
    mib: int = setting(8000, "Weights", min=1, max=80_000)


@dataclass(frozen=True)
class StandInParams(Params):
    steps: int = setting(20, "Steps", min=1, max=1000)


class StandIn(Backend):
    """As much memory as a picture model takes, in matrices of a UNet's size, and products."""

    card = Card(
        name="stand_in", task="image", params=StandInParams, load_options=StandInOptions,
        label="Stand-in", preload=("torch",), parkable=True, on_gpu=lambda options: True,
    )  # fmt: skip
    parked: Parked | None = None

    def load(self, model: ModelRef, options: StandInOptions) -> None:
        import torch

        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        shape = (options.mib * MIB // 2 // 2560 // 16, 2560)  # sixteen in 16 bits
        torch.manual_seed(0)
        self.weights = [
            torch.randn(shape, device=self.device, dtype=torch.float16) for _ in range(16)
        ]
        self.sum = self.checksum()

    def checksum(self) -> float:
        return sum(float(w[:64].float().sum() + w[-64:].float().sum()) for w in self.weights)

    def run(self, params: StandInParams) -> Iterator[Event]:
        import torch

        assert self.checksum() == self.sum, "the weights are not what they were"
        for step in range(params.steps):
            sound = torch.ones(64, 2560, device=self.device, dtype=torch.float16)
            for weight in self.weights:
                (sound @ weight[:2560].T).sum().item()
            yield Progress(step + 1, params.steps)
        yield Done()

    def unload(self) -> None:
        self.weights = []

    def park(self) -> None:
        self.parked = Parked(self.weights, device=self.device)

    def unpark(self) -> None:
        assert self.parked
        self.parked.restore()
        self.parked = None

    def memory(self) -> dict[str, int]:
        return {"parked_bytes": self.parked.bytes} if self.parked else {}


def register() -> None:
    """Called in the workers too, by a sitecustomize on their path."""
    backends.BACKENDS[StandIn.card.name] = StandIn


# The chat model's folder


def write_chat(folder: Path, shape: dict[str, Any]) -> None:
    """Random weights in NF4 as transformers keeps them, a layer at a time."""
    import bitsandbytes as bnb
    import torch
    import transformers
    from safetensors.torch import save_file

    from benchmarks.gpu_worker import make_model

    make_model(folder.parent / "tokens", 258, 1)  # its byte-level tokenizer
    for file in (folder.parent / "tokens").glob("*token*"):
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, folder)
    template = folder.parent / "tokens" / "chat_template.jinja"
    if template.exists():
        shutil.copy(template, folder)
    shutil.rmtree(folder.parent / "tokens")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    config = transformers.AutoConfig.for_model(**shape)
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    torch.manual_seed(0)
    tensors: dict[str, Any] = {}
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:
            tensors[name] = torch.ones(parameter.shape, dtype=torch.bfloat16)
            continue
        weight = torch.empty(parameter.shape, dtype=torch.bfloat16, device=device).normal_(0, 0.02)
        if ".layers." not in name:
            tensors[name] = weight.cpu()
            continue
        packed, state = bnb.functional.quantize_4bit(
            weight, blocksize=64, compress_statistics=True, quant_type="nf4"
        )
        tensors[name] = packed.cpu()
        for key, value in state.as_dict(packed=True).items():
            tensors[f"{name}.{key}"] = value.cpu()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    quantised = {
        "quant_method": "bitsandbytes", "load_in_4bit": True, "load_in_8bit": False,
        "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True,
        "bnb_4bit_compute_dtype": "bfloat16", "bnb_4bit_quant_storage": "uint8",
    }  # fmt: skip
    more = {"architectures": [type(model).__name__], "dtype": "bfloat16"}
    whole = {**config.to_dict(), **more, "quantization_config": quantised}
    (folder / "config.json").write_text(json.dumps(whole, indent=1, default=str))


# Who says what is free, and what a load takes


class Capped:
    """The residency's adviser: of the card only so many bytes count, from what it had at first."""

    def __init__(self, gib: float, tiny: bool) -> None:
        self.cap, self.tiny = int(gib * GIB), tiny
        self.machine = Machine()
        self.ledger = Ledger(self.free, {"cuda": 0, "cpu": GIB})
        self.latest = self.machine.read()
        self.before = self.used()

    def used(self) -> int:
        if self.tiny:
            return sum(entry.held_bytes for entry in self.ledger.entries(DEVICE))
        gpu = vram.gpu_of(self.latest, DEVICE)
        assert gpu and gpu.used_bytes is not None, "no NVIDIA GPU can be read: --tiny pretends one"
        return gpu.used_bytes

    def free(self, device: str) -> int:
        if device == "cpu":
            return int(psutil.virtual_memory().available)
        return self.cap - (self.used() - self.before)

    def read(self) -> Reading:
        self.machine.watch_processes()
        found = self.machine.read()
        if self.tiny:
            found = replace(found, gpus=(Gpu(0, used_bytes=self.used()),))
        return found

    async def watched_reading(self) -> Reading:
        self.latest = await asyncio.to_thread(self.read)
        return self.latest

    def device_of(self, backend: str, options: dict[str, Any]) -> str:
        return DEVICE

    def need(self, resident: Resident, device: str) -> Need:
        if self.tiny:
            return Need(2 * GIB, 0)
        if resident.backend == "stand_in":
            weights = int(resident.options["mib"]) * MIB
            work = weights // 50 + fit_load.CUBLAS
            return Need(weights + work + fit_load.CUDA_CONTEXT, fit_load.CUDA_CONTEXT)
        source = read_source(library.locate(ModelRef.parse(resident.model)))
        plan = plan_of(TransformersOptions(**resident.options), device, 4096)
        found = fit_load.predict(source, plan)
        return Need(found.total, found.part("CUDA context"), found.ram)

    def advice(self, resident: Resident, device: str, hint: str) -> str:
        return hint

    def loaded(self, resident: Resident, entry: Entry) -> None:
        print(f"       {resident.label}: foretold {entry.predicted_bytes / GIB:.2f} GiB, "
              f"its process says {resident.held_bytes / GIB:.2f}", flush=True)  # fmt: skip

    def changed(self, resident: Resident) -> None:
        """Nobody watches."""


class Checks:
    def __init__(self) -> None:
        self.failed = 0

    def say(self, what: str, holds: bool, figure: str) -> None:
        self.failed += not holds
        print(f"{'holds' if holds else 'FAILS':6} {what}: {figure}", flush=True)


async def collect(events: Any) -> list[Event]:
    return [event async for event in events]


@dataclass
class Run:
    """Everything that a check needs."""

    residency: Residency
    card: Capped
    checks: Checks
    tiny: bool
    said: dict[str, str] = field(default_factory=dict)  # the first answer of each

    async def load(self, backend: str, model: str, label: str, **options: Any) -> Resident:
        supervisor = self.residency.supervisor
        resident = supervisor.admit(backend, model, options, label)
        began = time.monotonic()
        events = await collect(supervisor.load(resident))
        for notice in (e.message for e in events if isinstance(e, Notice)):
            print(f"       {notice}")
        seconds = f"{time.monotonic() - began:.1f} s"
        self.checks.say(f"{label} loads", isinstance(events[-1], Done),
                        seconds if isinstance(events[-1], Done) else str(events[-1]))  # fmt: skip
        return resident

    async def ask(self, resident: Resident) -> tuple[float, bool]:
        """Seconds from the question until its model is at work, and whether all went well: the
        answer too is the one that it gave the first time."""
        params: dict[str, Any] = {"steps": 5}
        if issubclass(resident.card.params, ChatParams):
            params = {"messages": [{"role": "user", "content": "Hello"}], "max_new_tokens": 16,
                      "temperature": 0}  # fmt: skip
        began, at_work = time.monotonic(), 0.0

        def begun(call: Any) -> None:
            nonlocal at_work
            at_work = time.monotonic()

        events = await collect(self.residency.supervisor.run(resident, params, begun))
        for notice in (e.message for e in events if isinstance(e, Notice)):
            print(f"       {notice}")
        if not isinstance(events[-1], Done):
            print(f"       {events[-1]}\n{getattr(events[-1], 'detail', '')}")
        said = "".join(e.delta for e in events if isinstance(e, Text))
        same = said == self.said.setdefault(resident.id, said)
        if not same:
            print(f"       {resident.label} says {said!r}, and at first {self.said[resident.id]!r}")
        return at_work - began, same and isinstance(events[-1], Done)

    def inside(self) -> str:
        used = self.card.used() - self.card.before
        return f"{used / GIB:.2f} of {self.card.cap / GIB:.1f} GiB used"


async def take_turns(run: Run) -> None:
    """(a) Chat, pictures, chat again, each in the place of the other."""
    chat = await run.load("transformers", "folder:chat", "chat 7B NF4",
                          device="auto" if not run.tiny else "cpu",
                          quantisation="nf4", context_length=4096)  # fmt: skip
    _, well = await run.ask(chat)
    run.checks.say("chat answers", well, run.inside())
    pictures = await run.load("stand_in", "none:", "pictures", mib=8000 if not run.tiny else 64)
    run.checks.say("chat is parked, not unloaded", chat.state == "parked",
                   f"{chat.state}, {chat.parked_bytes / GIB:.2f} GiB in RAM")  # fmt: skip
    _, well = await run.ask(pictures)
    run.checks.say("pictures work", well, run.inside())
    for number in (1, 2):
        for one, other in ((chat, pictures), (pictures, chat)):
            whole, well = await run.ask(one)
            run.checks.say(f"{one.label} answers again, turn {number}",
                           well and other.state == "parked", run.inside())  # fmt: skip
            back = one.return_seconds
            figure = f"{back:.2f} s from RAM; {whole:.2f} s with parking {other.label}"
            run.checks.say(f"{one.label} is back in {BACK_BAR} s", back <= BACK_BAR, figure)
            size = run.card.used() - run.card.before
            run.checks.say("inside the limit", size <= run.card.cap, run.inside())
    began = time.monotonic()
    for resident in (chat, pictures):
        await run.residency.unload(resident)
    print(f"       both unloaded in {time.monotonic() - began:.1f} s")


async def come_back(run: Run, rounds: int) -> None:
    """(b) What is missing 5 s after an unload or a kill."""
    worst, within = 0, 0
    for number in range(rounds):
        await run.card.watched_reading()
        before = run.card.used()
        resident = run.residency.supervisor.admit(
            "stand_in", "none:", {"mib": 2000 if not run.tiny else 16}, f"round {number + 1}"
        )
        events = await collect(run.residency.supervisor.load(resident))
        if not isinstance(events[-1], Done) or not resident.child:
            run.checks.say("a load", False, str(events[-1]))
            return
        began = time.monotonic()
        if number % 2:
            os.kill(resident.child.pid, signal.SIGKILL)
            await asyncio.wait_for(resident.child.gone.wait(), 5)
        else:
            await run.residency.unload(resident)
        while time.monotonic() - began < vram.BACK_SECONDS:
            await run.card.watched_reading()
            missing = run.card.used() - before
            if missing < vram.SLACK_BYTES:
                break
            await asyncio.sleep(0.1)
        worst, within = max(worst, missing), within + (missing < vram.SLACK_BYTES)
        run.residency.supervisor.drop(resident)
    figure = f"{within} of {rounds} within 300 MB, at most {worst / MIB:.0f} MiB missing"
    run.checks.say("memory is back 5 s after unload or kill -9", within == rounds, figure)


ASKED = {
    "memory.used": lambda gpu: None if gpu.used_bytes is None else gpu.used_bytes / MIB,
    "temperature.gpu": lambda gpu: gpu.temperature_c,
    "power.draw": lambda gpu: gpu.power_w,
    "clocks.sm": lambda gpu: gpu.sm_clock_mhz,
    "clocks.mem": lambda gpu: gpu.memory_clock_mhz,
}
ROUNDING = {"memory.used": 1.0, "temperature.gpu": 1.0, "power.draw": 15.0, "clocks.sm": 30.0,
            "clocks.mem": 1.0}  # fmt: skip


def against_nvidia_smi(checks: Checks) -> None:
    """(c) Both in the same second; what moves by itself (watts, clock) may move meanwhile."""
    command = ["nvidia-smi", f"--query-gpu={','.join(ASKED)}", "--format=csv,noheader,nounits",
               "--id=0"]  # fmt: skip
    machine = Machine()
    machine.read()
    for _ in range(3):
        began = time.monotonic()
        line = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        gpu = machine.read().gpus[0]
        seconds = time.monotonic() - began
        theirs = dict(zip(ASKED, (part.strip() for part in line.split(",")), strict=True))
        for name, ours in ((name, ask(gpu)) for name, ask in ASKED.items()):
            if ours is None or not theirs[name].replace(".", "").isdigit():
                checks.say(f"{name}: neither says a number", ours is None, theirs[name])
                continue
            near = abs(ours - float(theirs[name])) <= ROUNDING[name]
            checks.say(f"{name} is nvidia-smi's", near and seconds < 1,
                       f"{ours:.1f}, {theirs[name]} in {seconds:.2f} s")  # fmt: skip


async def run_all(home: Path, given: argparse.Namespace, checks: Checks) -> None:
    card = Capped(given.gib if not given.tiny else 3.0, given.tiny)
    residency = Residency(home, card.ledger, card, spare=False)
    await residency.start()
    try:
        run = Run(residency, card, checks, given.tiny)
        for part in (take_turns(run), come_back(run, given.rounds)):
            began = time.monotonic()
            await part
            print(f"       {time.monotonic() - began:.0f} s for this part", flush=True)
    finally:
        await residency.stop()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--gib", type=float, default=11.3, help="of the card that count")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--tiny", action="store_true", help="small shapes on a CPU")
    parser.add_argument("--make", type=Path, help=argparse.SUPPRESS)  # in a process of its own
    given = parser.parse_args()
    shape = LLAMA_7B | (TINY if given.tiny else {})
    if given.make:
        write_chat(given.make, shape)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        (home / "sitecustomize.py").write_text(
            "from benchmarks import residents_gpu\nresidents_gpu.register()\n"
        )
        os.environ["WERKBANK_HOME"] = str(home)
        began = time.monotonic()
        words = ["-m", "benchmarks.residents_gpu", "--make", str(library.models_folder() / "chat")]
        words += ["--tiny"] if given.tiny else []
        subprocess.run([sys.executable, *words], check=True)
        print(f"       the chat model was made in {time.monotonic() - began:.1f} s", flush=True)
        register()
        paths = (str(home), os.environ.get("PYTHONPATH", ""))  # for the workers from here on
        os.environ["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
        checks = Checks()
        if not given.tiny:
            against_nvidia_smi(checks)
        asyncio.run(run_all(home, given, checks))
    return 1 if checks.failed else 0


if __name__ == "__main__":
    sys.exit(main())
