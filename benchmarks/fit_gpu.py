"""Foretold against measured memory on a real GPU: models of real shapes, random weights.

    python -m benchmarks.fit_gpu [--cells drawn|rest|others|all|NAME,NAME] [--seed 1] [--seconds S]
                                 [--out FOLDER] [--learn results.jsonl] [--plain] [--tiny]

Predictions of all cells are written before the first load (FOLDER/predictions.json). Each cell runs
in a process of its own, a fork that is the first to touch CUDA, so that what it held is gone with
it. `--cells drawn` takes 20 by the seed, `rest` the others; cells that do not fit into the time
are named at the end, for the next call. Needs a CUDA GPU, torch, transformers, peft, trl,
bitsandbytes and nvidia-ml-py; `--tiny` runs small shapes on a CPU, where nothing is measured.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import json
import multiprocessing
import os
import random
import statistics
import sys
import time
import traceback
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from backends.card import fit, fit_load, fit_media, fit_train
from backends.card.fit import Prediction
from backends.card.fit_train import TrainPlan
from backends.card.plan import LoadPlan
from backends.card.shapes import Tensor, kind_of
from backends.card.source import Source, of_config
from benchmarks import fit_pictures

GB = 2**30
DRAWN = 20
CELL_SECONDS = 120
# With weights as large as usual most columns of an untrained model would be what LLM.int8 calls
# outliers and computes in 16 bits; in a trained one less than one in a hundred is.
LLAMA: dict[str, Any] = {"model_type": "llama", "tie_word_embeddings": False, "rms_norm_eps": 1e-5,
                         "initializer_range": 0.005}  # fmt: skip
SHAPES: dict[str, dict[str, Any]] = {
    "7b": LLAMA | {"vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008,
        "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 32},
    "8b": LLAMA | {"vocab_size": 128256, "hidden_size": 4096, "intermediate_size": 14336,
        "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8},
    "13b": LLAMA | {"vocab_size": 32000, "hidden_size": 5120, "intermediate_size": 13824,
        "num_hidden_layers": 40, "num_attention_heads": 40, "num_key_value_heads": 40},
}  # fmt: skip
# Families that no constant was set from.
OTHERS: dict[str, dict[str, Any]] = {
    "qwen3-4b": {"model_type": "qwen3", "vocab_size": 151936, "hidden_size": 2560,
        "intermediate_size": 9728, "num_hidden_layers": 36, "num_attention_heads": 32,
        "num_key_value_heads": 8, "head_dim": 128, "tie_word_embeddings": True},
    "mistral-7b": {"model_type": "mistral", "vocab_size": 32768, "hidden_size": 4096,
        "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
        "num_key_value_heads": 8, "head_dim": 128, "sliding_window": None,
        "tie_word_embeddings": False},
    "gemma2-2b": {"model_type": "gemma2", "vocab_size": 256000, "hidden_size": 2304,
        "intermediate_size": 9216, "num_hidden_layers": 26, "num_attention_heads": 8,
        "num_key_value_heads": 4, "head_dim": 256, "tie_word_embeddings": True},
    "phi3-mini": {"model_type": "phi3", "vocab_size": 32064, "hidden_size": 3072,
        "intermediate_size": 8192, "num_hidden_layers": 32, "num_attention_heads": 32,
        "num_key_value_heads": 32, "tie_word_embeddings": False, "pad_token_id": 0,
        "bos_token_id": 1, "eos_token_id": 2},
}  # fmt: skip
OTHERS = {name: shape | {"initializer_range": 0.005} for name, shape in OTHERS.items()}
TINY = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "vocab_size": 512,
        "num_attention_heads": 4, "num_key_value_heads": 4}  # fmt: skip
WHISPER = {  # large-v3
    "model_type": "whisper", "vocab_size": 51866, "d_model": 1280, "num_mel_bins": 128,
    "encoder_layers": 32, "decoder_layers": 32, "encoder_attention_heads": 20,
    "decoder_attention_heads": 20, "encoder_ffn_dim": 5120, "decoder_ffn_dim": 5120,
    "max_source_positions": 1500, "max_target_positions": 448, "pad_token_id": 0,
}  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """One measurement. `kind` is chat, train, whisper or picture; `context` is also the
    sequence's length, or a picture's side in pixels."""

    name: str
    kind: str
    shape: str
    quantisation: str
    context: int
    batch: int = 1
    checkpointing: bool = True
    optimizer: str = "adamw"


def all_cells() -> list[Cell]:
    return first_cells() + other_cells()


def first_cells() -> list[Cell]:
    cells = [
        Cell(f"chat-{shape}-{q}-{context}", "chat", shape, q, context)
        for shape in SHAPES
        for q in ("bf16", "int8", "nf4")
        for context in (1024, 4096, 8192)
    ]
    trainings = {
        ("7b", "bf16"): [(1, 512, True), (1, 2048, True), (4, 512, True), (1, 512, False)],
        ("8b", "bf16"): [(1, 1024, True), (1, 512, False)],
        ("7b", "nf4"): [(1, 512, True), (1, 2048, True), (4, 1024, True), (1, 512, False)],
        ("8b", "nf4"): [(1, 1024, True), (2, 2048, True), (1, 512, False)],
        ("13b", "nf4"): [(1, 1024, True), (1, 512, False)],
    }
    for (shape, q), plans in trainings.items():
        for batch, length, checkpointing in plans:
            way = "ckpt" if checkpointing else "kept"
            name = f"{'qlora' if q == 'nf4' else 'lora'}-{shape}-{batch}x{length}-{way}"
            cells.append(Cell(name, "train", shape, q, length, batch, checkpointing))
    more = Cell("qlora-7b-1x1024-ckpt-adam8", "train", "7b", "nf4", 1024, optimizer="adamw_8bit")
    cells.append(more)
    cells += [Cell(f"whisper-large-{n}", "whisper", "", "fp16", 0, n) for n in (1, 8)]
    cells += [
        Cell(f"{shape}-{side}", "picture", shape, "fp16", side)
        for shape, sides in (("sd15", (512, 768)), ("sdxl", (768, 1024)))
        for side in sides
    ]
    return cells


def other_cells() -> list[Cell]:
    """Of shapes that were not looked at when the constants were set."""
    cells = [
        Cell(f"chat-{shape}-{q}-{context}", "chat", shape, q, context)
        for shape in OTHERS
        for q, context in (("bf16", 1024), ("bf16", 4096), ("nf4", 1024), ("nf4", 4096),
                           ("int8", 2048))
    ]  # fmt: skip
    cells += [
        Cell(f"qlora-{shape}-1x{n}-{way}", "train", shape, "nf4", n, 1, way == "ckpt")
        for shape in OTHERS
        for n, way in ((1024, "ckpt"), (512, "kept"))
    ]
    return cells


def config_of(cell: Cell, tiny: bool) -> dict[str, Any]:
    if cell.kind == "whisper":
        return WHISPER | ({"encoder_layers": 2, "decoder_layers": 2} if tiny else {})
    return (
        (SHAPES | OTHERS)[cell.shape] | {"max_position_embeddings": 8192} | (TINY if tiny else {})
    )


def smaller(cell: Cell) -> Cell:
    return replace(cell, context=min(cell.context, 64))


# Foretold


def foretell(cell: Cell, tiny: bool) -> Prediction:
    if cell.kind == "picture":
        source = fit_pictures.source(cell.shape, tiny)
        return fit_media.predict_pictures(source, fit_pictures.plan(cell.context, cell.batch))
    config = config_of(cell, tiny)
    if cell.kind == "whisper":
        source = _whisper_source(config)
        return fit_media.predict_speech(source, "fp16", "cuda:0", batch=cell.batch)
    source_of = of_config(config)
    assert source_of
    if cell.kind == "chat":
        plan = LoadPlan("transformers", cell.quantisation, "cuda:0", cell.context)
        return fit_load.predict(source_of, plan)
    return fit_train.predict(source_of, train_plan(cell))


def foretell_all(tiny: bool, learn: Path | None) -> dict[str, Prediction]:
    """By the cell's name, for all cells, whichever are measured."""
    said = {}
    learned = learned_from(learn) if learn else {}
    for cell in all_cells():
        plain = foretell(smaller(cell) if tiny else cell, tiny)
        taught = learned.get(cell.kind, fit.Learned())
        said[cell.name] = taught.correct(replace(plain, held=plain.total))
    return said


def accelerate_all(cells: list[Cell], tiny: bool) -> dict[str, int]:
    return {cell.name: accelerates(cell, tiny) for cell in cells}


def train_plan(cell: Cell) -> TrainPlan:
    return TrainPlan(
        quantisation=cell.quantisation, micro_batch=cell.batch, length=cell.context,
        checkpointing=cell.checkpointing, optimizer=cell.optimizer,  # type: ignore[arg-type]
    )  # fmt: skip


def _whisper_source(config: dict[str, Any]) -> Source:
    import torch
    import transformers

    with torch.device("meta"):
        model = transformers.WhisperForConditionalGeneration(
            transformers.AutoConfig.for_model(**config)
        )
    tensors = tuple(
        Tensor(n, tuple(p.shape), kind_of(n, tuple(p.shape))) for n, p in model.named_parameters()
    )
    return Source("speech", 0, tensors, None, config=tuple(config.items()))


def accelerates(cell: Cell, tiny: bool) -> int:
    """What `accelerate estimate-memory` gives: the weights of the meta model, all of them scaled
    to the bits that were chosen. 0 where it covers nothing."""
    if cell.kind != "chat":
        return 0
    import torch
    import transformers
    from accelerate.utils import calculate_maximum_sizes

    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(
            transformers.AutoConfig.for_model(**config_of(cell, tiny)), dtype=torch.float32
        )
    total, _ = calculate_maximum_sizes(model)
    return int(total) // {"bf16": 2, "int8": 4, "nf4": 8}[cell.quantisation]


# Measured, in a process of the cell's own


def measure(cell: Cell, tiny: bool, pipe: Any) -> None:
    """Sends {"reserved", "allocated", "built", "used", "seconds"} or {"error"} into the pipe."""
    try:
        pipe.send(_measure(cell, tiny))
    except Exception as error:  # told by the parent, which goes on with the next cell
        traceback.print_exc()
        pipe.send({"error": f"{type(error).__name__}: {error}"[:300]})


def _measure(cell: Cell, tiny: bool) -> dict[str, Any]:
    import torch

    cuda = torch.cuda.is_available()
    assert cuda or tiny, "no CUDA GPU: --tiny runs small shapes on the CPU"
    device = "cuda" if cuda else "cpu"
    torch.backends.cuda.enable_cudnn_sdp(False)  # as the chat backend does
    torch.manual_seed(0)
    began = time.monotonic()
    kinds = {"chat": chat, "train": train, "whisper": whisper, "picture": picture}
    work = kinds[cell.kind](cell, tiny, device)
    next(work)  # built
    found: dict[str, Any] = {}
    if cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        found["built"] = torch.cuda.memory_allocated()
    for _ in work:
        pass
    if cuda:
        torch.cuda.synchronize()
        found |= {
            "reserved": torch.cuda.max_memory_reserved(),
            "allocated": torch.cuda.max_memory_allocated(),
            "used": used_bytes(),
        }
    return found | {"seconds": round(time.monotonic() - began, 1)}


def built_model(cell: Cell, tiny: bool, device: str) -> Any:
    """The model on the device, its linear layers packed one by one where that is asked for."""
    import torch
    import transformers

    config = transformers.AutoConfig.for_model(**config_of(cell, tiny))
    dtype = torch.float16 if cell.quantisation == "int8" else torch.bfloat16
    with torch.device(device):
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=dtype)
    if cell.quantisation in ("nf4", "int8"):
        for name, module in list(model.named_modules()):
            if type(module) is torch.nn.Linear and not name.endswith("lm_head"):
                model.set_submodule(name, packed(module, cell.quantisation, dtype))
    model.is_loaded_in_4bit = cell.quantisation == "nf4"
    model.is_loaded_in_8bit = cell.quantisation == "int8"
    return model


def packed(linear: Any, quantisation: str, dtype: Any) -> Any:
    import bitsandbytes as bnb
    import torch

    sizes, weight = (linear.in_features, linear.out_features), linear.weight.data
    with torch.device("meta"):
        if quantisation == "nf4":
            new: Any = bnb.nn.Linear4bit(*sizes, bias=False, compute_dtype=dtype, quant_type="nf4")
        else:
            new = bnb.nn.Linear8bitLt(*sizes, bias=False, has_fp16_weights=False, threshold=6.0)
    if quantisation == "nf4":
        four = bnb.nn.Params4bit(
            weight, requires_grad=False, quant_type="nf4", compress_statistics=True, module=new
        )
        new.weight = four.to(weight.device)
    else:
        values, scales, _ = bnb.functional.int8_vectorwise_quant(weight.half())
        new.weight = bnb.nn.Int8Params(
            values, requires_grad=False, has_fp16_weights=False, CB=values, SCB=scales
        )
    return new


def chat(cell: Cell, tiny: bool, device: str) -> Iterator[None]:
    """Reads a prompt that fills the context but for eight tokens, and writes those."""
    import torch

    from backends.chat.params import ChatParams, Message
    from backends.chat.token_loop import TokenLoop

    model = built_model(cell, tiny, device).eval()
    yield
    loop = TokenLoop(model, set(), 512)
    words = model.config.vocab_size
    prompt = torch.randint(0, words, (cell.context - 8,)).tolist()
    params = ChatParams((Message("user", "unused"),), temperature=0.8, max_new_tokens=8)
    written = [t for t in loop.tokens(prompt, params, 1, 8, lambda: False) if isinstance(t, int)]
    assert len(written) == 8
    yield


def train(cell: Cell, tiny: bool, device: str) -> Iterator[None]:
    """Two steps of two micro-batches, so that gradients and optimizer are there in the last.

    As TRL takes them: the scores of all words piece by piece, LoRA over a packed base in bf16.
    """
    import peft
    import torch
    from trl.trainer.utils import add_fused_lm_head

    model = built_model(cell, tiny, device)
    model.config.use_cache = False
    if cell.checkpointing:
        how = {"use_reentrant": False}
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=how)
        model.enable_input_require_grads()
    add_fused_lm_head(model, outputs=("log_probs", "entropy", "is_top1"))
    lora = peft.LoraConfig(task_type="CAUSAL_LM", r=16, target_modules="all-linear")
    wrapped: Any = peft.get_peft_model(model, lora).train()
    trained = [p for p in wrapped.parameters() if p.requires_grad]
    for parameter in trained if cell.quantisation in ("nf4", "int8") else ():
        parameter.data = parameter.data.to(torch.bfloat16)
    if cell.optimizer == "adamw_8bit":
        import bitsandbytes as bnb

        optimizer: Any = bnb.optim.AdamW8bit(trained, lr=1e-4)
    else:
        optimizer = torch.optim.AdamW(trained, lr=1e-4)
    yield
    size = (cell.batch, cell.context)
    for _ in range(2):
        for _ in range(2):
            ids = torch.randint(0, model.config.vocab_size, size, device=device)
            with torch.autocast(device, torch.bfloat16):
                made = wrapped(input_ids=ids, labels=ids, use_cache=False, fused_lm_head=True)
                loss = -made.log_probs.mean()
            loss.backward()
            del loss, made
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    yield


def whisper(cell: Cell, tiny: bool, device: str) -> Iterator[None]:
    import torch
    import transformers

    config = transformers.AutoConfig.for_model(**config_of(cell, tiny))
    dtype = torch.float16 if device == "cuda" else torch.float32
    with torch.device(device):
        model = transformers.WhisperForConditionalGeneration(config).to(dtype).eval()
    yield
    with torch.inference_mode():
        sound = torch.randn(cell.batch, 128, 3000, device=device, dtype=dtype)
        encoded = model.model.encoder(sound)
        ids = torch.ones(cell.batch, 1, dtype=torch.long, device=device)
        past = None
        for _ in range(8 if tiny else 440):
            out = model(
                decoder_input_ids=ids, encoder_outputs=encoded, past_key_values=past, use_cache=True
            )
            past, ids = out.past_key_values, out.logits[:, -1:].argmax(-1)
    yield


def picture(cell: Cell, tiny: bool, device: str) -> Iterator[None]:
    return fit_pictures.paint(cell.shape, cell.context, cell.batch, tiny, device)


def used_bytes() -> int:
    """Of the whole card, as the driver tells; 0 where it cannot be asked."""
    try:
        import pynvml

        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByIndex(0)
        return int(pynvml.nvmlDeviceGetMemoryInfo(handle).used)
    except Exception as error:
        print(f"NVML: {error}", file=sys.stderr)
        return 0


# The run


def run_cell(cell: Cell, tiny: bool, spawn: bool) -> dict[str, Any]:
    context = multiprocessing.get_context("spawn" if spawn else "fork")
    here, there = context.Pipe(duplex=False)
    before = used_bytes() if not tiny else 0
    child = context.Process(target=measure, args=(cell, tiny, there))
    child.start()
    there.close()
    try:
        found = here.recv() if here.poll(CELL_SECONDS) else {"error": "took too long"}
    except EOFError:
        found = {"error": "its process died"}
    child.join(5)
    if child.is_alive():
        child.kill()
        child.join()
    if found.get("used"):
        found["taken"] = found["used"] - before
    return dict(found)


def learned_from(path: Path) -> dict[str, fit.Learned]:
    """By kind of cell, from what an earlier run measured, held against what is foretold now."""
    cells = {cell.name: cell for cell in all_cells()}
    records = []
    for line in path.read_text().splitlines():
        row = json.loads(line)
        records.append({
            "backend": row["kind"], "device": "cuda:0",
            "fit_bytes": foretell(cells[row["name"]], tiny=False).total,
            "measured_bytes": row.get("measured", 0),
        })  # fmt: skip
    kinds = ("chat", "train", "whisper", "picture")
    return {kind: fit.learn(records, kind, "cuda:0") for kind in kinds}


def chosen(which: str, seed: int) -> list[Cell]:
    cells, first = all_cells(), first_cells()
    drawn = set(random.Random(seed).sample([cell.name for cell in first], DRAWN))
    if which == "all":
        return cells
    if which == "others":
        return other_cells()
    if which in ("drawn", "rest"):
        return [cell for cell in first if (cell.name in drawn) == (which == "drawn")]
    names = which.split(",")
    unknown = set(names) - {cell.name for cell in cells}
    if unknown:
        raise SystemExit(f"no such cells: {', '.join(sorted(unknown))}")
    return [cell for cell in cells if cell.name in names]


def row_of(cell: Cell, said: Prediction, found: dict[str, Any], peer: int) -> dict[str, Any]:
    """Measured is what the driver says was taken, else what PyTorch reserved and a context."""
    measured = found.get("taken") or 0
    if not measured and found.get("reserved"):
        measured = found["reserved"] + fit_load.CUDA_CONTEXT
    row = {**asdict(cell), **found, "foretold": said.total, "measured": measured, "peer": peer}
    if measured:
        row["error"] = said.total / measured - 1
        row["peer_error"] = peer / measured - 1 if peer else None
    return row | {"parts": said.parts}


def show(row: dict[str, Any]) -> str:
    if "error" in row and isinstance(row["error"], str):
        return f"{row['name']:28} FAILED {row['error']}"

    def gb(name: str) -> str:
        return f"{row.get(name, 0) / GB:7.2f}"

    error, peer = row.get("error"), row.get("peer_error")
    return (
        f"{row['name']:28} foretold {gb('foretold')} measured {gb('measured')} reserved "
        f"{gb('reserved')} allocated {gb('allocated')} built {gb('built')} GB  "
        + (f"error {100 * error:+6.1f} %" if error is not None else "not measured")
        + (f"  accelerate {100 * peer:+6.1f} %" if peer is not None else "")
        + f"  {row.get('seconds', 0):5.1f} s"
    )


def summary(rows: list[dict[str, Any]]) -> str:
    errors = [row["error"] for row in rows if isinstance(row.get("error"), float)]
    if not errors:
        return "nothing was measured"
    text = (
        f"{len(errors)} cells: mean error {100 * statistics.mean(map(abs, errors)):.1f} %, most "
        f"{100 * max(map(abs, errors)):.1f} %, lowest {100 * min(errors):+.1f} %"
    )
    both = [(r["error"], r["peer_error"]) for r in rows if isinstance(r.get("peer_error"), float)]
    if both:
        ours, theirs = (statistics.mean(abs(pair[n]) for pair in both) for n in (0, 1))
        text += (
            f"; where accelerate says something: {100 * ours:.1f} % against {100 * theirs:.1f} %"
        )
    return text


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cells", default="drawn")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=480)
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT", "fit_gpu")))
    parser.add_argument("--learn", type=Path, help="results.jsonl of an earlier run")
    parser.add_argument("--plain", action="store_true", help="without expandable segments")
    parser.add_argument("--spawn", action="store_true", help="where a fork cannot use CUDA")
    parser.add_argument("--tiny", action="store_true")
    given = parser.parse_args()
    began = time.monotonic()
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"  # else a look for a GPU spoils the forks
    if not given.plain and not given.tiny:
        os.environ["PYTORCH_CUDA_ALLOC_CONF"] = "expandable_segments:True"
    given.out.mkdir(parents=True, exist_ok=True)
    cells = [smaller(c) if given.tiny else c for c in chosen(given.cells, given.seed)]
    # In a process of its own: diffusers and accelerate initialise CUDA.
    with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as pool:
        said = pool.submit(foretell_all, given.tiny, given.learn).result()
        peers = pool.submit(accelerate_all, cells, given.tiny).result()
    written = {name: {"total": p.total, "parts": p.parts} for name, p in said.items()}
    (given.out / "predictions.json").write_text(json.dumps(written, indent=1))
    import torch
    import transformers

    # bitsandbytes and peft ask for CUDA when they are imported, so that is left to the cells.
    assert not torch.cuda.is_initialized(), "no cell could use CUDA after a fork of this"
    print(f"torch {torch.__version__}, transformers {transformers.__version__}", flush=True)
    rows: list[dict[str, Any]] = []
    left: list[str] = []
    for cell in cells:
        if time.monotonic() - began > given.seconds:
            left.append(cell.name)
            continue
        row = row_of(
            cell, said[cell.name], run_cell(cell, given.tiny, given.spawn), peers[cell.name]
        )
        rows.append(row)
        print(show(row), flush=True)
        with (given.out / "results.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")
    print(summary(rows))
    if left:
        print(f"no time for: --cells {','.join(left)}")
    failed = [row["name"] for row in rows if isinstance(row.get("error"), str)]
    return 1 if failed or (not given.tiny and not rows) else 0


if __name__ == "__main__":
    sys.exit(main())
