"""What a loaded language model takes: weights, cache, and what one pass of it computes with.

Sources of the figures: transformers 5.23 (what bitsandbytes leaves as it is, the cache, attention),
bitsandbytes 0.50 (`functional.py`: blocks of 64, their scales in blocks of 256), PyTorch's caching
allocator (rounds to 512 bytes), llama.cpp (`llama-kv-cache`, buffers of one batch).
"""

from __future__ import annotations

from collections.abc import Iterable

from backends.card.fit import Prediction
from backends.card.offload import share
from backends.card.plan import LoadPlan
from backends.card.shapes import Shape, Tensor
from backends.card.source import Source

MB = 2**20
PLAIN = {"fp32": 4, "bf16": 2, "fp16": 2}  # bytes of a number
# Of one process with PyTorch's kernels and bitsandbytes, beside what its allocator holds: measured
# on an H100. Cards of one generation differ little, cards with fewer multiprocessors take less.
CUDA_CONTEXT = 690 * MB
CUBLAS_LT = 64 * MB  # what integer products and the way back of a training add to it
CUBLAS = 32 * MB  # the workspace of matrix products; 8 MB on cards before Hopper
# What the allocator keeps between the tensors, with expandable segments: a cache that grows leaves
# pieces behind that its next, longer tensors do not fit into. Measured, as shares of each.
SLACK_WEIGHTS, SLACK_CACHE, SLACK_REPEATED = 0.003, 0.10, 1.5
BLOCK, NESTED = 64, 256  # bitsandbytes: weights for a scale, and scales for a scale of scales
CODES = 16 * 4, 256 * 4, 4  # the tables that each NF4 matrix has: its code, the scales', the offset
LLAMA_CPP = 52 * MB  # of RAM for the process with llama.cpp
UNKNOWN = "Its family is not known here: the weights are exact, the rest is as for Llama."


def predict(source: Source, plan: LoadPlan, base: int = 0) -> Prediction:
    """The peak of a load and of what is done with it, with a context that is full.

    base: bytes of RAM that the libraries take, for a load on the CPU.
    """
    if plan.engine == "llama_cpp":
        return _llama_cpp(source, plan, base or LLAMA_CPP)
    return _transformers(source, plan, base)


# Weights


def tensor_bytes(tensor: Tensor, quantisation: str, on_gpu: bool) -> int:
    """What one weight takes in memory, its scales included. (Scalars of it rounded as the card
    does, to 512 bytes.)"""

    def held(*sizes: int) -> int:
        return sum(-(-size // 512) * 512 for size in sizes) if on_gpu else sum(sizes)

    count = tensor.count
    if tensor.kind == "linear" and quantisation == "nf4":
        scales = -(-count // BLOCK)
        return held((count + 1) // 2, scales, 4 * -(-scales // NESTED), *CODES)
    if tensor.kind == "linear" and quantisation == "int8":
        return held(count, 4 * tensor.shape[0])
    return held(count * plain_bytes(quantisation, on_gpu))


def plain_bytes(quantisation: str, on_gpu: bool) -> int:
    """Of a number that stays as it is: INT8 computes in fp16, NF4 on a CPU in fp32."""
    if quantisation == "int8":
        return 2
    return PLAIN.get(quantisation, 2 if on_gpu else 4)


def weight_bytes(tensors: Iterable[Tensor], quantisation: str, on_gpu: bool) -> int:
    return sum(tensor_bytes(tensor, quantisation, on_gpu) for tensor in tensors)


# Cache


def cache_bytes(shape: Shape, tokens: int, number: int = 2, batch: int = 1, chunk: int = 0) -> int:
    """Keys and values of so many tokens. Sliding layers remember their window, and the chunk that
    was read last: the window is a view of both."""
    window = min(tokens, shape.window + chunk) if shape.window else tokens
    lengths = (shape.layers - shape.sliding) * tokens + shape.sliding * window
    return batch * lengths * (shape.key_size + shape.value_size) * number


# What one pass computes with


def pass_bytes(shape: Shape, plan: LoadPlan) -> int:
    """The peak of reading one chunk at the end of a full context, beside weights and cache."""
    number = 2 if plan.on_gpu or plan.quantisation in ("bf16", "fp16", "int8") else 4
    tokens = min(plan.chunk, plan.context)
    width, queries, keys = shape.hidden, shape.queries, shape.key_size
    # One layer's new keys or values stand beside the old ones while they are put together.
    longest = _longest(shape, plan)
    growing = longest * max(shape.key_size, shape.value_size) * number
    repeated = repeated_bytes(shape, plan)
    mask = tokens * longest * (1 + number)
    scores = shape.heads * tokens * longest * (4 + number) if shape.eager or not plan.on_gpu else 0
    attention = tokens * (2 * width + 3 * queries + 2 * keys) * number + growing + repeated + scores
    parts = 4 if shape.form.fused else 3
    mlp = tokens * (2 * width + parts * shape.intermediate * shape.experts) * number
    norm = tokens * width * (2 * number + 2 * 4)
    logits = shape.vocab * (number + 6 * 4)  # of the last token, in fp32 and sorted
    return mask + max(attention, mlp + _unpacked(shape, plan), norm, logits)


def repeated_bytes(shape: Shape, plan: LoadPlan) -> int:
    """A chunk is read with a mask, so that keys and values are repeated for every head."""
    number = 2 if plan.on_gpu or plan.quantisation in ("bf16", "fp16", "int8") else 4
    many = shape.heads > shape.kv_heads
    return 2 * _longest(shape, plan) * shape.queries * number if many else 0


def _longest(shape: Shape, plan: LoadPlan) -> int:
    """Tokens that the layer with the longest memory looks back at."""
    return plan.context if shape.sliding < shape.layers else min(plan.context, shape.window)


def _unpacked(shape: Shape, plan: LoadPlan) -> int:
    """A packed matrix is unpacked for products with many rows: the largest one of a layer."""
    if plan.quantisation not in ("nf4", "int8"):
        return 0
    largest = max(shape.intermediate * (2 if shape.form.fused else 1), shape.queries) * shape.hidden
    if plan.quantisation == "int8":  # products come out as int32
        tokens = min(plan.chunk, plan.context)
        return tokens * (max(shape.intermediate, shape.hidden) * 4 + shape.intermediate)
    return largest * (2 if plan.on_gpu else 4)


# The two libraries


def _transformers(source: Source, plan: LoadPlan, base: int) -> Prediction:
    shape = source.shape
    on_gpu = plan.on_gpu
    note = "" if shape and shape.known else UNKNOWN
    if source.prequantised:
        weights = source.file_bytes
        note = "The file holds weights that are quantised already; they are counted as they are."
    else:
        weights = weight_bytes(source.tensors, plan.quantisation, on_gpu)
    waiting = ram = 0
    if on_gpu and shape and share(plan.gpu_layers, shape.layers) < 1 and not source.prequantised:
        weights, waiting, ram = _divided(source, shape, plan)
    parts = [("weights", weights)]
    later = []
    if waiting:
        parts.append(("a layer on its way", waiting))
    if on_gpu:
        context = CUDA_CONTEXT + (CUBLAS_LT if plan.quantisation == "int8" else 0)
        parts += [("CUDA context", context), ("matrix products", CUBLAS)]
    else:
        parts.append(("libraries", base))
        if kept_open := _kept_open(source, plan.quantisation):
            parts.append(("file kept open", kept_open))
    if shape:
        number = 2 if on_gpu or plan.quantisation in ("bf16", "fp16", "int8") else 4
        later = [
            ("cache", cache_bytes(shape, plan.context, number, chunk=plan.chunk)),
            ("activations", pass_bytes(shape, plan)),
        ]
    if on_gpu:
        cache = dict(later).get("cache", 0)
        slack = SLACK_WEIGHTS * weights + SLACK_CACHE * cache
        slack += SLACK_REPEATED * repeated_bytes(shape, plan) if shape else 0
        later += [("graph pools", 0), ("allocator", int(slack))]
    held = sum(size for _, size in parts) - (context + waiting if on_gpu else 0)
    return Prediction((*parts, *later), held, ram, bool(note), note)


def _kept_open(source: Source, quantisation: str) -> int:
    """On a CPU weights that are used as the file has them lie in the mapped file, of which then
    all counts as held: also the part that was read to be quantised."""
    if quantisation in PLAIN or source.prequantised:
        return 0
    count = sum(t.count for t in source.tensors)
    number = plain_bytes(quantisation, on_gpu=False)
    if round(source.file_bytes / max(1, count)) != number:
        return 0
    return number * sum(t.count for t in source.tensors if t.kind == "linear")


def _divided(source: Source, shape: Shape, plan: LoadPlan) -> tuple[int, int, int]:
    """Bytes of weights on the GPU, of one layer on its way there, and in RAM.

    All layers count as equally large. What waits is in 16 bits, with NF4 and INT8 too.
    """
    plain = PLAIN.get(plan.quantisation, 2)
    layers = [t for t in source.tensors if _of_layer(t)]
    rest = weight_bytes(
        (t for t in source.tensors if not _of_layer(t)), plan.quantisation, on_gpu=True
    )
    near = min(plan.gpu_layers, shape.layers)
    packed = weight_bytes(layers, plan.quantisation, on_gpu=True) * near // shape.layers
    whole = sum(t.count for t in layers) * plain
    one = whole // shape.layers
    return rest + packed, one, one * (shape.layers - near)


def _of_layer(tensor: Tensor) -> bool:
    """Whether its name has a number: "model.layers.7.mlp.up_proj.weight"."""
    return any(part.isdigit() for part in tensor.name.split("."))


def _llama_cpp(source: Source, plan: LoadPlan, base: int) -> Prediction:
    """The file is mapped: what lies in RAM is the file. The cache is in 16 bits, in whole 256s,
    and there from the start; so are the buffers for one batch."""
    shape = source.shape
    if shape is None:
        note = "The file says too little of its sizes: its cache is not counted."
        parts: tuple[tuple[str, int], ...] = (("weights", source.file_bytes), ("libraries", base))
        return Prediction(parts, source.file_bytes + base, 0, True, note)
    on_gpu = share(plan.gpu_layers, shape.layers) if plan.on_gpu else 1.0
    context = -(-plan.context // 256) * 256
    if shape.latent:
        cache = shape.layers * context * shape.latent * 2
    else:
        window = -(-(shape.window + plan.chunk) // 256) * 256 if shape.window else context
        lengths = (shape.layers - shape.sliding) * context + shape.sliding * min(window, context)
        cache = lengths * (shape.key_size + shape.value_size) * 2
    buffers = _llama_buffers(shape, plan.chunk, context)
    weights = int(source.file_bytes * on_gpu)
    parts = (("weights", weights), ("cache", int(cache * on_gpu)), ("buffers", buffers))
    parts += (("CUDA context", CUDA_CONTEXT),) if plan.on_gpu else (("libraries", base),)
    held = sum(size for _, size in parts) - (CUDA_CONTEXT if plan.on_gpu else 0)
    ram = source.file_bytes - weights + int(cache * (1 - on_gpu))
    note = "" if shape.known else UNKNOWN
    return Prediction(parts, held, ram if plan.on_gpu else 0, bool(note), note)


def _llama_buffers(shape: Shape, batch: int, context: int) -> int:
    """In fp32: the scores of a batch of tokens, or what a layer computes with, and its mask."""
    layer = 2 * (shape.intermediate * shape.experts + shape.hidden + shape.queries)
    return 4 * (batch * max(shape.vocab, layer) + shape.vocab) + 2 * batch * context
