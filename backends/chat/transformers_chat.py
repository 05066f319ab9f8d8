"""Chat with a safetensors model through transformers, on the CPU or on an NVIDIA GPU."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from backends.base import Backend, Card, ModelRef, Refused
from backends.card import offload
from backends.card.offload import PCIE_BANDWIDTH, Size, Weights
from backends.card.parked import Parked
from backends.card.plan import LoadPlan
from backends.chat import layers, logprobs, tool_calls, usage
from backends.chat.json_answer import JsonAnswer, Vocabulary, schema_of
from backends.chat.params import ChatParams
from backends.chat.peft_adapters import PeftAdapters
from backends.chat.special_tokens import SpecialTokens, pieces
from backends.chat.template import PLAIN_NOTE, ChatTemplate
from backends.chat.text_stream import TextStream
from backends.chat.token_loop import TokenLoop
from backends.events import Done, Event, Notice, Progress
from backends.models import library
from backends.models.facts import read_facts
from backends.models.opening import open_model
from backends.params import Params, setting

# Bytes of a weight in memory; NF4 with the scales of its blocks, themselves quantised.
PLAIN_BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}
QUANTISED_BYTES = {"nf4": 0.52, "int8": 1.0}
CPU_CHUNK, GPU_CHUNK = 64, 512  # prompt tokens between two looks at Stop


@dataclass(frozen=True)
class TransformersOptions(Params):
    """How a safetensors model is loaded."""

    quantisation: str = setting(
        "auto", "Quantisation",
        choices=(
            ("auto", "Automatic (NF4 on a GPU, fp32 on a CPU)"), ("nf4", "NF4: 4 bits"),
            ("int8", "INT8: 8 bits"), ("bf16", "bf16"), ("fp16", "fp16"), ("fp32", "fp32"),
        ),
        help="How exactly the weights are kept. NF4 takes a quarter of the memory of bf16.",
    )  # fmt: skip
    device: str = setting(
        "auto", "Device", choices=(("auto", "Automatic"), ("cuda", "GPU"), ("cpu", "CPU"))
    )
    context_length: int = usage.context_length_setting()
    gpu_layers: int = setting(
        -1, "Layers on the GPU", min=-1, max=1000, advanced=True,
        help="-1: all. With fewer a larger model fits: the others wait in the computer's memory, "
        "in 16 bits even with NF4 and INT8, and each word takes as long as moving them.",
    )  # fmt: skip


class TransformersChat(Backend):
    """One causal language model in transformers."""

    card = Card(
        name="transformers",
        task="chat",
        params=ChatParams,
        load_options=TransformersOptions,
        formats=("safetensors",),
        label="transformers",
        preload=(
            "torch",
            "transformers.modeling_utils",
            "transformers.models.auto.modeling_auto",
            "transformers.models.auto.tokenization_auto",
            "transformers.models.llama.modeling_llama",
        ),
        memory_factor=1.2,
        memory_base=785_000_000,  # torch and transformers
        weights=lambda options, size, device: weights_of(options, size, device),
        plan=lambda options, device, trained: plan_of(options, device, trained),
        on_gpu=lambda options: options.device != "cpu",
        less=lambda options, on_gpu: less_of(options, on_gpu),
        parkable=True,
    )
    parked: Parked | None = None

    def load(self, model: ModelRef, options: TransformersOptions) -> None:
        path = library.prepare(model, self.report, self.cancelled)
        if not (path / "config.json").is_file():
            raise Refused(
                f"{model} is not a safetensors model with its config.json.",
                "Load GGUF files with llama.cpp, or put the whole model folder there.",
            )
        if (path / "adapter_config.json").is_file():
            raise Refused(  # transformers would go and open whatever base the file names
                f"{model} is an adapter, not a whole model.", "Load the model it was made for."
            )
        import torch

        torch.set_num_threads(usage.threads())
        # cuDNN's attention makes a new plan for every length that it has not seen: on an H100 an
        # answer came at 10 to 15 tokens/s with it, and at 31 to 46 with the flash kernels.
        torch.backends.cuda.enable_cudnn_sdp(False)
        device, quantisation = choose(options, torch.cuda.is_available())
        self.context_length = usage.context_length(
            options.context_length, read_facts(path).context_length
        )
        self.report(Progress(0, 0, f"opening {model.name} as {quantisation} on the {device}"))
        places = self._places(path, device, options.gpu_layers)
        self.tokenizer, self.model = open_model(path, places, quantisation)
        layers.pin(self.model)
        chunk = CPU_CHUNK if device == "cpu" else GPU_CHUNK
        self.adapters = PeftAdapters(self.model, model.name)
        self.loop = TokenLoop(self.model, end_tokens(self.tokenizer, self.model), chunk)
        self.control = control_tokens(self.tokenizer)
        self.special = SpecialTokens(self.control.values())
        self.loop.warm_up()  # else the first answer waits for it, and memory is measured too low
        self.template = ChatTemplate(template_of(self.tokenizer), special_tokens(self.tokenizer))

    def _places(self, path: Path, device: str, gpu_layers: int) -> dict[str, Any]:
        """Which part of the model goes where; said where it is divided."""
        count = read_facts(path).layers
        if device == "cpu" or offload.share(gpu_layers, count) == 1:
            return {"": device}
        self.report(
            Notice(
                f"{count - gpu_layers} of {count} layers wait in the computer's memory. Each word "
                "takes as long as moving them to the GPU."
            )
        )
        return layers.device_map(path, gpu_layers)

    def run(self, params: ChatParams) -> Iterator[Event]:
        meter = usage.Meter(usage.draw_seed(params.seed), self.context_length)
        window = params.window(
            lambda turns: len(self.prompt_of(turns, params)), self.context_length
        )
        if params.count_only:
            yield Done(usage=meter.usage(window.tokens, 0, "count"))
            return
        plain = self.template.plain and not params.prompt
        for note in (PLAIN_NOTE if plain else "", window.notice):
            if note:
                yield Notice(note)
        prompt = self.prompt_of(window.turns, params)
        if (yield from self.adapters.use(params.adapters)):
            self.loop.kept = None  # what was read was read with other weights
        limit = min(params.max_new_tokens, self.context_length - len(prompt))
        stream, written, reason = TextStream(self.decoder(params), params.stop), 0, "length"
        speech, told = tool_calls.of(params), list[logprobs.Entry]()
        tokens = self.loop.tokens(
            prompt, params, meter.seed, limit, self.cancelled, self.json_answer(params)
        )
        with closing(tokens):  # type: ignore[type-var]
            for token in tokens:
                if isinstance(token, Progress):
                    yield token
                    continue
                meter.token()
                written += 1
                delta = stream.push(token)
                if params.top_logprobs >= 0 and token not in self.loop.ends:
                    told.append(self.logprob_of(token, params.top_logprobs))
                if delta:
                    yield from [*logprobs.items(told), *speech.push(delta)]
                if stream.stopped or token in self.loop.ends:
                    reason = "stop"
                    break
        rest = "" if stream.stopped else stream.end()
        if rest:
            yield from logprobs.items(told)
        yield from [*speech.push(rest), *speech.end()]
        stopped = self.cancelled() and reason == "length"
        ended = "stop" if stopped else speech.reason(reason)
        yield Done(stopped, meter.usage(len(prompt), written, ended, window.dropped))

    def prompt_of(self, turns: list[dict[str, Any]], params: ChatParams) -> list[int]:
        """The tokens that the model reads."""
        if params.prompt:
            return list(self.tokenizer.encode(params.prompt))
        turns, mark = self.special.marked(turns)
        text = self.template.render(turns, params.tools)
        return [
            token
            for piece in pieces(text, mark)
            for token in self.tokenizer.encode(piece, add_special_tokens=False)
        ]

    def decoder(self, params: ChatParams) -> Callable[[list[int]], str]:
        """From tokens to text, control tokens left out but for the marks of tool calls."""
        marks = tool_calls.MARKS if params.tools else ()
        hidden = {token for token, name in self.control.items() if name not in marks}

        def decode(tokens: list[int]) -> str:
            shown = [token for token in tokens if token not in hidden]
            return str(self.tokenizer.decode(shown, clean_up_tokenization_spaces=False))

        return decode

    @functools.cached_property
    def vocabulary(self) -> Vocabulary:
        size = self.model.config.get_text_config().vocab_size
        return Vocabulary(self.tokenizer, self.loop.ends, size)

    def json_answer(self, params: ChatParams) -> JsonAnswer | None:
        schema = schema_of(params)
        return None if schema is None else JsonAnswer(self.vocabulary, schema)

    def logprob_of(self, token: int, top: int) -> logprobs.Entry:
        return logprobs.of_scores(self.loop.scores, token, top, self.vocabulary.bytes_of)

    def unload(self) -> None:
        self.template.close()
        self.parked = None
        del self.model, self.loop, self.adapters, self.tokenizer
        vars(self).pop("vocabulary", None)

    def park(self) -> None:
        self.loop.forget()
        if self.parked is None:
            self.parked = Parked(self.model, device=self.model.device.type)

    def unpark(self) -> None:
        if self.parked:
            self.parked.restore()
        self.parked = None

    def memory(self) -> dict[str, int]:
        import torch

        parked = {"parked_bytes": self.parked.bytes} if self.parked else {}
        if not torch.cuda.is_initialized():
            return parked
        return parked | {
            "cuda_allocated_bytes": torch.cuda.memory_allocated(),
            "cuda_peak_bytes": torch.cuda.max_memory_reserved(),
        }


def choose(options: TransformersOptions, has_gpu: bool) -> tuple[str, str]:
    """Device and quantisation, with the automatic ones decided. Raises Refused without a GPU."""
    device = options.device
    if device == "auto":
        device = "cuda" if has_gpu else "cpu"
    if device == "cuda" and not has_gpu:
        raise Refused(
            "PyTorch finds no NVIDIA GPU on this computer.",
            "Choose the CPU, or run `python launch.py doctor` to see what is missing.",
        )
    quantisation = options.quantisation
    if quantisation == "auto":
        quantisation = "nf4" if device == "cuda" else "fp32"
    return device, quantisation


def less_of(options: TransformersOptions, on_gpu: bool) -> dict[str, tuple[Any, str]]:
    """What to choose for what is automatic where memory has run out."""
    less: dict[str, tuple[Any, str]] = {}
    if options.quantisation == "auto" and not on_gpu:  # on a GPU it is NF4 already
        less["quantisation"] = "bf16", "16-bit weights"
    if options.context_length == 0:
        less["context_length"] = usage.SMALL_CONTEXT, usage.SMALL_CONTEXT_WORDS
    return less


def weights_of(options: TransformersOptions, size: Size, device: str) -> Weights:
    """What the weights will take: the quantisation decides, and not what the file has.

    NF4 and INT8 leave embeddings and head in 16 bits (fp32 on a CPU): about a quarter billion
    weights, and more in larger models.
    """
    _, quantisation = choose(replace(options, device="auto"), has_gpu=device != "cpu")
    count = size.parameters or size.file_bytes // 2
    if quantisation in PLAIN_BYTES:
        held = waiting = count * PLAIN_BYTES[quantisation]
    else:
        kept = min(count, 250_000_000 + count * 6 // 100)
        held = kept * (4 if device == "cpu" else 2)
        held += int((count - kept) * QUANTISED_BYTES[quantisation])
        waiting = held if device == "cpu" else count * 2
    return Weights(held, waiting, PCIE_BANDWIDTH, options.gpu_layers)


def plan_of(options: TransformersOptions, device: str, trained: int) -> LoadPlan:
    """The load that these options mean, for a prediction of its memory."""
    _, quantisation = choose(replace(options, device="auto"), has_gpu=device != "cpu")
    chunk = CPU_CHUNK if device == "cpu" else GPU_CHUNK
    context = options.context_length or usage.context_length(0, trained)
    return LoadPlan("transformers", quantisation, device, context, chunk, options.gpu_layers)


def template_of(tokenizer: Any) -> str:
    """The model's chat template, of several the one named default; "" where it has none."""
    template = tokenizer.chat_template
    if isinstance(template, dict):
        template = template.get("default", "")
    return template or ""


def special_tokens(tokenizer: Any) -> dict[str, str]:
    """The tokens that a template may name, such as `bos_token`."""
    return {k: str(v) for k, v in tokenizer.special_tokens_map.items() if isinstance(v, str)}


def control_tokens(tokenizer: Any) -> dict[int, str]:
    """The tokens that are no text, such as the end of a turn, with their names."""
    added = {i: str(t) for i, t in tokenizer.added_tokens_decoder.items() if t.special}
    named = zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=True)
    return {**added, **{i: str(name) for i, name in named}}


def end_tokens(tokenizer: Any, model: Any) -> set[int]:
    """Every token that ends an answer."""
    ends = model.generation_config.eos_token_id if model.generation_config else None
    known = ends if isinstance(ends, list) else [ends]
    return {int(i) for i in (*known, tokenizer.eos_token_id) if i is not None}
