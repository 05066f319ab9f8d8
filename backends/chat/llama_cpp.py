"""Chat with a GGUF model through llama.cpp (the wheel `xllamacpp`). The default on a CPU."""

from __future__ import annotations

import functools
import os
import queue
import secrets
import shutil
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from backends.base import Backend, Card, ModelRef, Refused
from backends.card.offload import Weights
from backends.card.plan import LoadPlan
from backends.chat import logprobs, tool_calls, usage
from backends.chat.json_answer import Watch, schema_of
from backends.chat.llama_adapters import LlamaServer
from backends.chat.params import ChatParams
from backends.chat.special_tokens import SpecialTokens, pieces
from backends.chat.template import PLAIN_NOTE, ChatTemplate
from backends.chat.tool_calls import ToolCalls
from backends.events import Done, Event, Notice, Progress
from backends.models import library
from backends.models.gguf_header import read_header
from backends.params import Params, setting

CPU_BATCH = 64  # prompt tokens between two looks at Stop: 0.3 s for a small model, 5 % slower
GPU_BATCH = 512
# What a conversation had before is not read again, where reading it would be felt. A part that is
# kept changes the rounding of what follows, and with it a close choice of words: a short prompt, or
# one with a seed, is read whole, so that it gets the same answer whatever was asked before.
REUSE_CHARACTERS = 2000
SOCKET_PATH_BYTES = 100  # the system takes 107 at most, macOS 103
Chunk = dict[str, Any]
Prompt = list[str | int]  # texts and numbers of tokens


@dataclass(frozen=True)
class LlamaCppOptions(Params):
    """How a GGUF model is loaded."""

    context_length: int = usage.context_length_setting()
    gpu_layers: int = setting(
        -1, "Layers on the GPU", min=-1, max=1000, advanced=True,
        help="-1: as many as fit. Does nothing in a build of llama.cpp that runs on the CPU only.",
    )  # fmt: skip
    threads: int = setting(
        0, "Threads", min=0, max=512, advanced=True,
        help="0: automatic, one less than the processor has cores.",
    )  # fmt: skip


class LlamaCpp(Backend):
    """One GGUF model in llama.cpp's server object, asked in process."""

    card = Card(
        name="llama_cpp",
        task="chat",
        params=ChatParams,
        load_options=LlamaCppOptions,
        formats=("gguf",),
        label="llama.cpp",
        memory_factor=1.5,
        weights=lambda options, size, device: Weights(
            size.file_bytes, size.file_bytes, gpu_layers=options.gpu_layers
        ),
        plan=lambda options, device, trained: LoadPlan(
            "llama_cpp",
            "file",
            device,
            options.context_length or usage.context_length(0, trained),
            CPU_BATCH if device == "cpu" else GPU_BATCH,
            options.gpu_layers,
        ),
        less=lambda options, on_gpu: (
            {}
            if options.context_length
            else {"context_length": (usage.SMALL_CONTEXT, usage.SMALL_CONTEXT_WORDS)}
        ),
        on_gpu=lambda options: options.gpu_layers != 0 and built_for_gpu(),
    )

    def load(self, model: ModelRef, options: LlamaCppOptions) -> None:
        path = library.prepare(model)
        if path.suffix != ".gguf":
            raise Refused(f"{model} is not a GGUF file.", "Load it with the transformers backend.")
        header = read_header(path)
        if header.values.get("general.type") == "adapter":
            raise Refused(
                f"{model} is an adapter, not a whole model.", "Load the model it was made for."
            )
        trained = header.of_architecture("context_length", 0)
        # llama.cpp rounds up to whole 256s; the number that the user sees is the one that holds.
        context = usage.context_length(options.context_length, trained)
        self.context_length = -(-context // 256) * 256
        self.bos = header.token("bos")
        self.report(Progress(0, 0, f"opening {path.name}"))
        opened = functools.partial(open_server, str(path), self.context_length, options)
        self.llama = LlamaServer(path, model.name, opened)
        warm_up(self.server)
        self.adds_bos = self.bos and self.count_tokens(self.bos) == 2
        tokens = {"bos_token": self.bos, "eos_token": header.token("eos")}
        source = header.values.get("tokenizer.chat_template", "")
        self.template = ChatTemplate(str(source), tokens)
        control = header.control_tokens()
        self.letters = header.token_ids({name[0] for name in control if name})
        self.special = SpecialTokens(name for name in control if name[:1] in self.letters)

    def run(self, params: ChatParams) -> Iterator[Event]:
        meter = usage.Meter(usage.draw_seed(params.seed), self.context_length)
        window = params.window(
            lambda turns: self.count_tokens(*self.prompt_of(turns, params)), self.context_length
        )
        if params.count_only:
            yield Done(usage=meter.usage(window.tokens, 0, "count"))
            return
        for note in (self.plain_note(params), window.notice):
            if note:
                yield Notice(note)
        applied = yield from self.llama.use(params.adapters)
        prompt, last = self.prompt_of(window.turns, params), Chunk()
        speech, told = tool_calls.of(params), list[logprobs.Entry]()
        request = request_of(prompt, params, meter.seed, self.context_length) | applied
        watch = Watch(request.get("json_schema"))
        with closing(Completion(self.server, request, self.cancelled)) as completion:
            for chunk in completion:
                if "error" in chunk:
                    raise _as_refused(chunk["error"])
                last = chunk
                progress = chunk.get("prompt_progress")
                if progress and progress["total"] > CPU_BATCH:
                    yield Progress(progress["processed"], progress["total"], "reading the prompt")
                choice = chunk["choices"][0]
                told += logprobs.of_chunk(choice, params.top_logprobs)
                if choice["text"]:
                    meter.token()
                    watch.take(choice["text"])
                    yield from [*logprobs.items(told), *speech.push(choice["text"])]
        yield from speech.end()
        yield self._done(meter, last, window.dropped, speech)

    def _done(self, meter: usage.Meter, last: Chunk, dropped: int, speech: ToolCalls) -> Done:
        timings = last.get("timings") or {}
        reason = (last.get("choices") or [{}])[0].get("finish_reason")
        read = timings.get("cache_n", 0) + timings.get("prompt_n", 0)
        written = timings.get("predicted_n", 0)
        return Done(
            cancelled=reason is None,
            usage=meter.usage(read, written, speech.reason(reason or "stop"), dropped),
        )

    def plain_note(self, params: ChatParams) -> str:
        return PLAIN_NOTE if self.template.plain and not params.prompt else ""

    def prompt_of(self, turns: list[dict[str, Any]], params: ChatParams) -> Prompt:
        """What the model reads: one text, mostly, or pieces that are tokenised apart.

        Of several texts llama.cpp makes several answers, unless there are numbers of tokens among
        them: so the character before each cut is given by its number.
        """
        if params.prompt:
            return [params.prompt]
        turns, mark = self.special.marked(turns)
        prompt = self.template.render(turns, params.tools)
        # llama.cpp writes the first token itself, and most templates do, too
        found, text = Prompt(), ""
        *cut, last = pieces(prompt.removeprefix(self.bos) if self.adds_bos else prompt, mark)
        for piece in cut:
            text += piece
            if piece[-1] in self.letters:  # otherwise the template has changed what was there
                found += [text[:-1]] if text[:-1] else []
                found.append(self.letters[piece[-1]])
                text = ""
        return [*found, text + last]

    def count_tokens(self, *text: str | int) -> int:
        """How many tokens the pieces make, the first token that llama.cpp adds included.

        The server has no call for that. But it refuses a prompt that is too long before it reads
        any of it, and says how long it is; so the text goes there with a context of other tokens.
        """
        filler = [0] * self.context_length
        request = {"prompt": [*text, *filler], "n_predict": 0}
        with closing(Completion(self.server, request)) as asked:
            error = next(iter(asked)).get("error", {})
        if "n_prompt_tokens" not in error:
            raise _as_refused(error)
        return int(error["n_prompt_tokens"]) - self.context_length

    def unload(self) -> None:
        self.template.close()
        del self.llama

    @property
    def server(self) -> Any:
        return self.llama.server


def request_of(prompt: Prompt, params: ChatParams, seed: int, context: int) -> Chunk:
    """One completion as llama.cpp's server takes it (tools/server/README.md, /completion)."""
    long = sum(len(piece) for piece in prompt if isinstance(piece, str))
    request: Chunk = {
        "prompt": prompt if len(prompt) > 1 else prompt[0],
        "stream": True,
        "n_predict": params.max_new_tokens,
        "temperature": params.temperature,
        "top_p": params.top_p,
        "top_k": params.top_k,
        "min_p": params.min_p,
        "repeat_penalty": params.repetition_penalty,
        "frequency_penalty": params.frequency_penalty,
        "presence_penalty": params.presence_penalty,
        "repeat_last_n": context,  # all that came before, as transformers counts it
        "logit_bias": [[int(token), bias] for token, bias in params.logit_bias.items()],
        "seed": seed,
        "stop": list(params.stop),
        "cache_prompt": params.seed < 0 and long > REUSE_CHARACTERS,
        "return_progress": True,  # the callback, and so Stop, is also asked while reading
        "timings_per_token": True,  # so that a stopped answer knows its tokens
    }
    if params.top_logprobs >= 0:
        request["n_probs"] = max(1, params.top_logprobs)
    if params.tools:
        request["preserved_tokens"] = list(tool_calls.MARKS)
    if (schema := schema_of(params)) is not None:
        request["json_schema"] = schema
    return request


def open_server(
    path: str, context: int, options: LlamaCppOptions, adapters: Sequence[Path] = ()
) -> Any:
    """llama.cpp's server object, with nothing to be reached from outside."""
    import xllamacpp

    given = xllamacpp.CommonParams()
    given.model.path = path
    # At 0, so that an adapter is applied by the requests that name it and by no other.
    given.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(str(a), 0.0) for a in adapters]
    given.n_ctx = context
    given.n_parallel = 1
    given.n_gpu_layers = options.gpu_layers
    given.fit_params = options.gpu_layers < 0
    given.n_batch = given.n_ubatch = GPU_BATCH if _has_gpu(xllamacpp) else CPU_BATCH
    count = usage.threads(options.threads)
    given.cpuparams.n_threads = given.cpuparams_batch.n_threads = count
    given.n_threads_http = 1
    given.cache_ram_mib = 0  # it would keep up to 8 GB of old conversations
    given.warmup = False  # see `warm_up`
    # Templates are rendered by us, apart. Any one given here keeps llama.cpp from parsing the
    # model's own, which a template nested 20,000 deep answers with a segmentation fault.
    given.chat_template = "chatml"
    given.offline = True
    given.ui = given.endpoint_slots = given.endpoint_props = False
    given.verbosity = 1  # errors only, to stderr
    with private_address(given):
        try:
            return xllamacpp.Server(given)
        except RuntimeError as error:
            raise Refused(
                f"llama.cpp could not open {os.path.basename(path)}.",
                "It may need more memory than is free, or a newer build of xllamacpp; the "
                "worker's log says more.",
                str(error),
            ) from error


def warm_up(server: Any) -> None:
    """Read one token: the weights come off the disk, and memory is measured with them."""
    with closing(Completion(server, {"prompt": "a", "n_predict": 0})) as completion:
        for _ in completion:
            pass


def built_for_gpu() -> bool:
    """Whether the installed llama.cpp can use a GPU, told from its version ("…+cu128") alone."""
    try:
        return "+" in version("xllamacpp")
    except PackageNotFoundError:
        return False


def _has_gpu(xllamacpp: Any) -> bool:
    return any("GPU" in str(device["type"]) for device in xllamacpp.get_device_info())


@contextmanager
def private_address(given: Any) -> Iterator[None]:
    """Where the server listens: it insists on doing so, with no password.

    A socket file in a folder of our own, gone as soon as the server stands: nobody can reach it
    then. Windows gets a loopback port with a random key.
    """
    given.api_keys = [secrets.token_urlsafe(32)]
    if sys.platform == "win32":
        yield
        return
    folder = tempfile.mkdtemp(prefix="llama-")  # mode 0700
    if len(os.fsencode(folder)) + len("/x.sock") > SOCKET_PATH_BYTES:
        os.rmdir(folder)
        folder = tempfile.mkdtemp(prefix="llama-", dir="/tmp")
    given.hostnames = [f"{folder}/x.sock"]
    try:
        yield
    finally:
        shutil.rmtree(folder)


class Completion:
    """One request, worked on by a thread of its own. Iterate over its chunks; `close` stops it."""

    def __init__(
        self, server: Any, request: Chunk, cancelled: Callable[[], bool] = lambda: False
    ) -> None:
        self.chunks: queue.SimpleQueue[Chunk | Exception | None] = queue.SimpleQueue()
        self.stopped = threading.Event()
        self.cancelled = cancelled
        self.thread = threading.Thread(target=self._work, args=(server, request), daemon=True)
        self.thread.start()

    def __iter__(self) -> Iterator[Chunk]:
        while (chunk := self.chunks.get()) is not None:
            if isinstance(chunk, Exception):
                raise chunk
            yield chunk

    def close(self) -> None:
        """Returns when llama.cpp has stopped, after one token or one batch of the prompt."""
        self.stopped.set()
        self.thread.join()

    def _work(self, server: Any, request: Chunk) -> None:
        try:
            server.handle_completions(request, self._hear)
        except Exception as error:  # handed to the thread that asked
            self.chunks.put(error)
        finally:
            self.chunks.put(None)

    def _hear(self, chunk: Chunk) -> bool:
        """Called for each token; true stops. An exception in here would be lost without a word."""
        self.chunks.put(chunk)
        return self.stopped.is_set() or self.cancelled()


def _as_refused(error: Chunk) -> Refused:
    if error.get("type") == "exceed_context_size_error":
        try:
            usage.check_prompt(error["n_prompt_tokens"], error["n_ctx"])
        except Refused as refused:
            return refused
    return Refused(
        f"llama.cpp refused the request: {error.get('message', error)}.",
        "Change the settings, or load the model again.",
    )
