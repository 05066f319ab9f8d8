"""What a worker does on a real GPU: memory taken, told and given back; a poisoned context; a kill.

    python -m benchmarks.gpu_worker

Random weights (no quality), made on the spot. Needs a CUDA GPU, torch and transformers.
Prints a line per check and exits 1 where one does not hold.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from backends.card.gpu import Machine
from backends.events import Done, Event, Failed, Text
from backends.runtime.resident import Resident
from backends.runtime.supervisor import Supervisor

SLACK_BYTES = 300 * 2**20  # what may still be missing five seconds after
BACK_SECONDS = 5.0


def make_model(folder: Path, vocabulary: int, layers: int) -> None:
    """A random Llama of 2,048 wide with a byte-level tokenizer of 258 entries."""
    import tokenizers
    import torch
    import transformers

    folder.mkdir(parents=True)
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    vocab = {c: i for i, c in enumerate(["<s>", "</s>", *alphabet])}
    bare = tokenizers.Tokenizer(tokenizers.models.BPE(vocab, [], unk_token=None))
    bare.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    bare.decoder = tokenizers.decoders.ByteLevel()
    template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=bare, bos_token="<s>", eos_token="</s>", chat_template=template
    )
    fast.save_pretrained(folder)
    config = transformers.LlamaConfig(
        vocab_size=vocabulary, hidden_size=2048, intermediate_size=5632, num_hidden_layers=layers,
        num_attention_heads=16, num_key_value_heads=16, max_position_embeddings=4096,
        bos_token_id=0, eos_token_id=min(1, vocabulary - 1), tie_word_embeddings=True,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(config).to(torch.bfloat16)
    model.generation_config.eos_token_id = None
    model.save_pretrained(folder)


async def collect(events: Any) -> list[Event]:
    return [event async for event in events]


class Checks:
    def __init__(self) -> None:
        self.failed = 0

    def say(self, what: str, holds: bool, figure: str) -> None:
        self.failed += not holds
        print(f"{'holds' if holds else 'FAILS':6} {what}: {figure}", flush=True)


def question(text: str, **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], "temperature": 0, "seed": 1, **more}


async def used_bytes(machine: Machine) -> int:
    return machine.read().gpus[0].used_bytes or 0


async def wait_back(machine: Machine, before: int) -> tuple[float, int]:
    """Seconds until the memory was back within the slack, and what is still missing."""
    started = time.monotonic()
    while time.monotonic() - started < BACK_SECONDS:
        missing = await used_bytes(machine) - before
        if missing < SLACK_BYTES:
            return time.monotonic() - started, missing
        await asyncio.sleep(0.1)
    return BACK_SECONDS, await used_bytes(machine) - before


async def load(supervisor: Supervisor, name: str) -> tuple[Resident, Event]:
    options = {"quantisation": "bf16", "device": "cuda"}
    resident = supervisor.admit("transformers", f"folder:{name}", options, name)
    return resident, (await collect(supervisor.load(resident)))[-1]


async def run(home: Path, checks: Checks) -> None:
    machine = Machine()
    print(json.dumps({"gpu": machine.read().gpus[0].name}))
    supervisor = Supervisor(home, spare=False)
    before = await used_bytes(machine)
    for end in ("unload", "kill"):
        resident, done = await load(supervisor, "sound")
        checks.say("load", isinstance(done, Done), str(getattr(done, "usage", done)))
        answer = await collect(supervisor.run(resident, question("Hello", max_new_tokens=64)))
        words = sum(isinstance(e, Text) for e in answer)
        checks.say("answer", isinstance(answer[-1], Done) and words > 1, f"{words} pieces")
        await asyncio.sleep(1.2)
        assert resident.child
        told = resident.child.memory.get("cuda_bytes", 0)
        taken = await used_bytes(machine) - before
        context = taken - told
        checks.say(
            "the worker's own figure is the card's, less the CUDA context",
            0 <= context < 900 * 2**20, f"told {told / 1e6:.0f} MB, card {taken / 1e6:.0f} MB",
        )  # fmt: skip
        if end == "unload":
            await supervisor.unload(resident)
        else:
            os.kill(resident.child.pid, signal.SIGKILL)
        seconds, missing = await wait_back(machine, before)
        checks.say(f"memory is back after {end}", missing < SLACK_BYTES,
                   f"{seconds:.1f} s, {missing / 1e6:.0f} MB missing")  # fmt: skip
    await poisoned(supervisor, machine, before, checks)
    await supervisor.stop()


async def poisoned(supervisor: Supervisor, machine: Machine, before: int, checks: Checks) -> None:
    """Ids beyond the vocabulary: a device-side assert, after which the context is unusable."""
    resident, done = await load(supervisor, "lying")
    if isinstance(done, Failed):
        checks.say("a poisoned context is told", "GPU" in done.message, str(done))
    else:
        answer = await collect(supervisor.run(resident, question("zzz", max_new_tokens=4)))
        last = answer[-1]
        checks.say("a poisoned context is told", "GPU" in str(last), str(last)[:200])
        assert resident.child
        await asyncio.wait_for(resident.child.gone.wait(), 10)
        code = resident.child.death.detail.splitlines()[0] if resident.child.death else ""
        checks.say("and its process ends", code == "exit code 87", code)
    seconds, missing = await wait_back(machine, before)
    checks.say("memory is back after that", missing < SLACK_BYTES,
               f"{seconds:.1f} s, {missing / 1e6:.0f} MB missing")  # fmt: skip


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        os.environ["WERKBANK_HOME"] = str(home)
        make_model(home / "models" / "sound", vocabulary=512, layers=16)
        make_model(home / "models" / "lying", vocabulary=64, layers=2)
        checks = Checks()
        asyncio.run(run(home, checks))
    return 1 if checks.failed else 0


if __name__ == "__main__":
    sys.exit(main())
