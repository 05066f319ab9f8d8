"""What one step of training takes on the card: LoRA over a frozen base, or all of a model.

The formulas follow PEFT 0.21 and transformers 5.23 under autocast to bf16: which tensors autograd
keeps for the way back. They were held against a run of every operation with nothing computed
(`tests/backends/card/test_fit_train.py` does it again).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from backends.card.fit import Prediction
from backends.card.fit_load import CUBLAS, CUBLAS_LT, CUDA_CONTEXT, MB, UNKNOWN, weight_bytes
from backends.card.shapes import Shape, linears
from backends.card.source import Source

HALF, FULL = 2, 4  # bytes of a number in bf16 and in fp32
# What the allocator keeps between the tensors of a step, and the share of these that it loses in
# pieces: a 7B in NF4 at 14,848 tokens ran out where all but that was 0.2 % under the limit.
BETWEEN, PIECES = 130 * MB, 0.05
# TRL makes the scores of all words piece by piece, so many tokens and words at once.
TILE = 4096, 32_768
# Of RAM, on a CPU: a process with PyTorch, TRL and PEFT until its first step, weights apart; and
# what the allocator keeps between a step's tensors. Peaks of the starter, 312 and 1,028 tokens in a
# pass: 3.56 and 5.43 GB.
LIBRARIES, SLACK_RAM = 2_100_000_000, 1.25
EIGHT_BIT_BLOCK = 256  # numbers of an 8-bit optimizer's state that share a scale


@dataclass(frozen=True, slots=True)
class TrainPlan:
    """One training, as far as memory depends on it.

    method         lora (on a base in `quantisation`: QLoRA with nf4) or full
    targets        the linear layers that get LoRA, by the names of `shapes.linears`; empty: all
    micro_batch    sequences in one pass, each of `length` tokens
    checkpointing  activations of a layer are computed again on the way back
    optimizer      adamw (two numbers in fp32 for each weight) or adamw_8bit
    """

    method: Literal["lora", "full"] = "lora"
    quantisation: str = "bf16"
    rank: int = 16
    targets: tuple[str, ...] = ()
    micro_batch: int = 1
    length: int = 2048
    checkpointing: bool = True
    optimizer: Literal["adamw", "adamw_8bit"] = "adamw"

    @property
    def tokens(self) -> int:
        return self.micro_batch * self.length

    @property
    def packed(self) -> bool:
        return self.quantisation in ("nf4", "int8")

    def adapts(self, name: str) -> bool:
        return self.method == "lora" and (not self.targets or name in self.targets)


def predict(source: Source, plan: TrainPlan) -> Prediction:
    """The peak of a step on one GPU, the loss and the optimizer included."""
    shape = source.shape
    weights = weight_bytes(source.tensors, plan.quantisation, on_gpu=True)
    if shape is None:
        note = "Its config does not say how large its layers are: only its weights are counted."
        return Prediction((("weights", weights), ("CUDA context", CUDA_CONTEXT)), 0, 0, True, note)
    trained = trained_count(source, shape, plan)
    # TRL keeps LoRA over a packed base in bf16; all weights are as they were opened.
    size = HALF if plan.packed or (plan.method == "full" and plan.quantisation != "fp32") else FULL
    states = optimizer_bytes(trained, size, plan)
    parts = [
        ("weights", weights),
        ("LoRA", trained * size if plan.method == "lora" else 0),
        ("gradients", trained * size),
        ("optimizer", states),
        *(step := pass_parts(shape, plan, trained, size)),
        ("CUDA context", CUDA_CONTEXT + CUBLAS_LT),
        ("matrix products", CUBLAS),
    ]
    parts.append(("allocator", BETWEEN + int(PIECES * sum(bytes for _, bytes in step))))
    note = "" if shape.known else UNKNOWN
    return Prediction(tuple(p for p in parts if p[1]), 0, 0, bool(note), note)


def predict_ram(source: Source, plan: TrainPlan, libraries: int = LIBRARIES) -> Prediction:
    """The same on a CPU, in RAM: nothing is cast, and the process brings its libraries."""
    shape, found = source.shape, predict(source, plan)
    weights = weight_bytes(source.tensors, plan.quantisation, on_gpu=False)
    kept = [part for part in found.parts if part[0] in ("LoRA", "gradients", "optimizer")]
    parts = [("libraries", libraries), ("weights", weights), *kept]
    if shape is not None:
        trained = trained_count(source, shape, plan)
        step = pass_parts(shape, plan, trained, FULL)
        parts += [(name, int(SLACK_RAM * size)) for name, size in step]
    return replace(found, parts=tuple(parts))


def trained_count(source: Source, shape: Shape, plan: TrainPlan) -> int:
    """How many numbers are trained."""
    if plan.method == "full":
        return sum(tensor.count for tensor in source.tensors)
    adapted = [(rows, columns) for name, rows, columns, _ in linears(shape) if plan.adapts(name)]
    return shape.layers * plan.rank * sum(rows + columns for rows, columns in adapted)


def optimizer_bytes(trained: int, size: int, plan: TrainPlan) -> int:
    """AdamW keeps two numbers like the weight's own, its 8-bit kind a byte each and scales."""
    if plan.optimizer == "adamw_8bit":
        return 2 * trained + 2 * 4 * trained // EIGHT_BIT_BLOCK
    return 2 * trained * size


def pass_parts(shape: Shape, plan: TrainPlan, trained: int, size: int) -> list[tuple[str, int]]:
    """Activations, scores and workspace at the worst moment of a step, of these two:

    the loss on its way back, and the way back through one layer.
    """
    tokens, number = plan.tokens, FULL if plan.quantisation == "fp32" else HALF
    layer = tokens * layer_bytes(shape, plan)
    kept = shape.layers * (tokens * shape.hidden * number if plan.checkpointing else layer)
    casts = trained * HALF if size == FULL and number == HALF else 0  # made by autocast
    always = 0 if plan.checkpointing else casts  # autograd keeps them, too
    # On a CPU what a GPU's kernel does in place is done in copies.
    cell = number if number == HALF else 4 * FULL
    tile = min(tokens, TILE[0]) * min(shape.vocab, TILE[1]) * cell
    words = shape.vocab * shape.hidden * FULL if plan.method == "full" else 0  # their gradient
    # Of the last norm and of the tokens that count: what they are, and their gradients.
    loss = tile + words + tokens * shape.hidden * (2 * FULL + 3 * number)
    inside = (layer if plan.checkpointing else 0) + _way_back(shape, plan)
    worst = max(loss, inside)
    parts = [("activations", kept + always)]
    parts.append(("recomputed layer" if worst == inside else "scores of all words", worst))
    return parts


def layer_bytes(shape: Shape, plan: TrainPlan) -> int:
    """What autograd keeps of one decoder layer for one token."""
    form, width, queries = shape.form, shape.hidden, shape.queries
    number = FULL if plan.quantisation == "fp32" else HALF
    full = plan.method == "full"
    norms = form.norms * width * FULL
    if form.norm_bias:  # a LayerNorm gives fp32 under autocast, which is cast for what follows
        norms += form.norms * width * HALF
    elif full:  # its own weight is trained
        norms += form.norms * width * number
    if form.qk_norm:
        norms += (queries + shape.key_size) * FULL
    attention = (2 * queries + shape.key_size + shape.value_size) * number + 4 * shape.heads
    if shape.eager:
        attention += shape.heads * plan.length * (number + FULL)
    if form.fused:  # the values are a view of what gave q, k and v, which stays whole
        attention += (queries + shape.key_size) * number
    mlp = (3 if form.gated else 4 if shape.long_gelu else 1) * shape.intermediate * number
    return norms + attention + mlp + _inputs(shape, plan, number)


def _inputs(shape: Shape, plan: TrainPlan, number: int) -> int:
    """The inputs of linear layers that are trained or have LoRA. Over a packed base PEFT takes the
    input as it is, so that q, k and v keep one; over a plain one each casts its own."""
    shared: dict[str, int] = {}
    ranks = 0
    for name, _, columns, _ in linears(shape):
        if not (plan.method == "full" or plan.adapts(name)):
            continue
        ranks += plan.rank * number if plan.method == "lora" else 0
        place = {"q": "qkv", "k": "qkv", "v": "qkv", "gate": "mlp", "up": "mlp"}.get(name, name)
        own = plan.method == "lora" and not plan.packed
        if name == "o" and not own:
            continue  # what attention gave, which it keeps itself
        shared[name if own else place] = columns * number
    return sum(shared.values()) + ranks


def _way_back(shape: Shape, plan: TrainPlan) -> int:
    """Beside a layer's activations: gradients on their way, and a packed matrix unpacked."""
    number = FULL if plan.quantisation == "fp32" else HALF
    if plan.packed:
        gradients = shape.hidden * number + shape.intermediate * number
        return plan.tokens * gradients + shape.intermediate * shape.hidden * HALF
    gradients = 2 * shape.hidden * number + shape.intermediate * (2 * number + FULL)
    return plan.tokens * gradients
