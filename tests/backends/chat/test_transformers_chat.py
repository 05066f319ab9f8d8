"""transformers with the starter's safetensors copy: answers, settings, Stop, quantisation."""

from __future__ import annotations

import gc
import importlib
import json
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from backends.base import ModelRef, Refused
from backends.chat.params import Message
from backends.chat.transformers_chat import TransformersChat, TransformersOptions, choose
from backends.events import Done, Progress, Text
from backends.models import library
from tests.backends.chat import talk
from tests.backends.models import crafted

pytestmark = [
    pytest.mark.model,
    # transformers and bitsandbytes warn about their own insides.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]
STARTER = ModelRef.parse("starter:smollm2-135m-instruct-safetensors")


def loaded(**options: Any) -> TransformersChat:
    backend = TransformersChat()
    backend.load(STARTER, TransformersOptions(device="cpu", **options))
    return backend


@pytest.fixture(scope="module")
def backend() -> Iterator[TransformersChat]:
    """The first one ever makes the copy, which takes about 20 seconds."""
    one = loaded()
    yield one
    one.unload()


# Answers


def test_it_knows_the_capital_of_france_and_says_so_in_pieces(backend: TransformersChat) -> None:
    found = talk.events(backend, talk.CAPITAL, temperature=0)
    pieces = [e.delta for e in found if isinstance(e, Text)]
    assert "Paris" in "".join(pieces) and len(pieces) > 3
    assert isinstance(found[-1], Done) and not found[-1].cancelled


def test_default_sampling_with_a_seed_says_paris_too_and_says_it_again(
    backend: TransformersChat,
) -> None:
    first, done = talk.answer(backend, talk.CAPITAL, seed=1)
    assert "Paris" in first and done.usage["seed"] == 1
    talk.answer(backend, talk.STORY, max_new_tokens=5)
    assert talk.answer(backend, talk.CAPITAL, seed=1)[0] == first


def test_usage_says_what_it_took(backend: TransformersChat) -> None:
    usage = talk.answer(backend, talk.CAPITAL, temperature=0)[1].usage
    assert set(usage) == talk.USAGE
    assert (usage["prompt_tokens"], usage["finish_reason"]) == (27, "stop")
    assert 5 < usage["completion_tokens"] < 20 and usage["context_length"] == 8192
    assert 0 < usage["first_token_seconds"] <= usage["seconds"] and usage["seed"] >= 0


def test_both_backends_are_sent_the_same_text(backend: TransformersChat) -> None:
    messages = talk.ask(talk.HARD).conversation()
    text = backend.tokenizer.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=True
    )
    assert backend.template.render(messages) == text


def test_the_settings_do_what_they_say(backend: TransformersChat) -> None:
    talk.check_settings(backend)


def test_stop_strings_end_the_answer(backend: TransformersChat) -> None:
    talk.check_stop_strings(backend)


def test_hard_characters_come_back_whole(backend: TransformersChat) -> None:
    text, _ = talk.answer(backend, talk.REPEAT, temperature=0, max_new_tokens=40)
    assert "Grüße" in text and "🎉" in text and "مرحبا" in text and "\ufffd" not in text
    assert talk.answer(backend, talk.HARD, max_new_tokens=2)[1].usage["prompt_tokens"] > 40


def test_the_next_turn_does_not_read_the_conversation_again(backend: TransformersChat) -> None:
    first = Message("user", talk.FOX * 20)
    said, _ = talk.answer(backend, (first,), max_new_tokens=5, temperature=0)
    turn = (first, Message("assistant", said), Message("user", "Go on."))
    found = talk.events(backend, turn, max_new_tokens=2, temperature=0)
    read = [e for e in found if isinstance(e, Progress)]
    assert read[0].step > 200 and len(read) <= 2


# What programs ask for


def test_special_tokens_in_a_message_are_text(
    backend: TransformersChat, monkeypatch: pytest.MonkeyPatch
) -> None:
    talk.check_special_tokens(backend, monkeypatch)


def test_json_fits_its_schema(backend: TransformersChat) -> None:
    talk.check_json(backend)


def test_log_probabilities_are_those_of_the_text(backend: TransformersChat) -> None:
    talk.check_logprobs(backend)


def test_penalties_change_the_answer(backend: TransformersChat) -> None:
    talk.check_penalties(backend)


def test_a_prompt_is_continued_without_a_template(backend: TransformersChat) -> None:
    talk.check_raw_prompt(backend)


def test_tools_are_called(backend: TransformersChat, monkeypatch: pytest.MonkeyPatch) -> None:
    talk.check_tools(backend, monkeypatch)


# Limits and Stop


def test_a_prompt_longer_than_the_context_is_refused_at_once(backend: TransformersChat) -> None:
    started = time.monotonic()
    with pytest.raises(Refused, match=r"is \d,\d\d\d tokens long, and the context takes 8,192"):
        talk.events(backend, talk.FOX * 900)
    assert time.monotonic() - started < 2


def test_an_answer_ends_where_the_context_is_full(backend: TransformersChat) -> None:
    backend.context_length = 40
    try:
        usage = talk.answer(backend, talk.STORY, max_new_tokens=1000, temperature=0)[1].usage
    finally:
        backend.context_length = 8192
    assert usage["finish_reason"] == "length"
    assert usage["prompt_tokens"] + usage["completion_tokens"] == 40


@pytest.mark.alone
def test_stop_is_heard_while_it_writes_and_while_it_reads(backend: TransformersChat) -> None:
    talk.check_stop_pressed(backend)


@pytest.mark.alone
def test_closing_the_run_ends_it_at_once(backend: TransformersChat) -> None:
    run = backend.run(talk.ask(talk.STORY, max_new_tokens=5000))
    assert talk.seconds_to_close(run, Text) < 0.5
    run = backend.run(talk.ask(talk.FOX * 150))
    assert talk.seconds_to_close(run, Progress) < 0.5


@pytest.mark.alone
def test_it_is_as_fast_as_generate(backend: TransformersChat) -> None:
    import torch

    count, ratios = 20, []
    prompt = backend.template.render(talk.ask(talk.STORY).conversation())
    ids = torch.tensor([backend.tokenizer.encode(prompt, add_special_tokens=False)])
    settings = {"temperature": 0.7, "top_k": 40, "top_p": 0.95, "min_p": 0.05}
    for _ in range(3):
        started = time.monotonic()
        backend.model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=True, max_new_tokens=count,
            min_new_tokens=count, **settings,
        )  # fmt: skip
        theirs = time.monotonic() - started
        backend.loop.kept = None
        started = time.monotonic()
        done = talk.answer(backend, talk.STORY, seed=1, max_new_tokens=count)[1]
        ours = (time.monotonic() - started) / done.usage["completion_tokens"]
        ratios.append(theirs / count / ours)
    assert statistics.median(ratios) > 0.9  # 1.07 on a quiet machine


# Loading


@pytest.mark.parametrize(("kind", "far"), [("nf4", 1.5), ("int8", 0.6), ("bf16", 0.05)])
def test_each_quantisation_predicts_alike_and_takes_less_memory(
    backend: TransformersChat, kind: str, far: float
) -> None:
    """Rounding decides between two close words, by the processor: so whole distributions."""
    one = loaded(quantisation=kind)
    exact, rounded = next_word(backend), next_word(one)
    assert float((exact.exp() * (exact - rounded)).sum()) < far  # nats; 0.9, 0.2, 0.004 measured
    assert talk.answer(one, talk.CAPITAL, temperature=0)[0].strip()
    check_parking(one, rounded)
    # The embeddings, a fifth of this small model, stay as they are.
    assert one.model.get_memory_footprint() < 0.51 * backend.model.get_memory_footprint()
    one.unload()
    gc.collect()


def check_parking(one: TransformersChat, words: Any) -> None:
    """Away and back twice: the same weights to the bit, and the conversation goes on."""
    import torch

    one.loop.forget()  # a prompt that is read in other pieces is rounded otherwise
    turn = talk.answer(one, talk.CAPITAL, temperature=0)[0]
    for _ in range(2):
        one.park()
        held = one.memory()["parked_bytes"]
        assert held > 0.2 * 135e6, "an eighth of what has no copy in the file would be less"
        left = sum(p.untyped_storage().nbytes() for p in one.model.parameters())
        assert one.loop.kept is None and left < 115e6  # embeddings lie in the file
        one.unpark()
        assert "parked_bytes" not in one.memory()
    assert torch.equal(next_word(one), words)
    assert talk.answer(one, talk.CAPITAL, temperature=0)[0] == turn


def test_only_what_was_left_to_werkbank_becomes_less_when_memory_runs_out() -> None:
    less = TransformersChat.card.less
    assert set(less(TransformersOptions(), False)) == {"quantisation", "context_length"}
    assert set(less(TransformersOptions(), True)) == {"context_length"}
    chosen = TransformersOptions(quantisation="fp32", context_length=8192)
    assert less(chosen, False) == less(chosen, True) == {}


def next_word(backend: TransformersChat) -> Any:
    """The logarithms of the probabilities of the first token of an answer."""
    import torch

    ids = backend.prompt_of([{"role": "user", "content": talk.CAPITAL}], talk.ask(talk.CAPITAL))
    with torch.inference_mode():
        logits = backend.model(input_ids=torch.tensor([ids]), logits_to_keep=1).logits
    return logits[0, -1].float().log_softmax(-1)


def test_attention_makes_no_plan_for_each_length(backend: TransformersChat) -> None:
    import torch

    assert backend.context_length and not torch.backends.cuda.cudnn_sdp_enabled()


def test_automatic_is_nf4_on_a_gpu_and_fp32_on_a_cpu() -> None:
    assert choose(TransformersOptions(), has_gpu=True) == ("cuda", "nf4")
    assert choose(TransformersOptions(), has_gpu=False) == ("cpu", "fp32")
    assert choose(TransformersOptions(device="cpu"), has_gpu=True) == ("cpu", "fp32")
    with pytest.raises(Refused, match="finds no NVIDIA GPU"):
        choose(TransformersOptions(device="cuda"), has_gpu=False)


PRELOADED = """
import importlib, json, sys, time
from backends.base import ModelRef
from backends.chat.transformers_chat import TransformersChat, TransformersOptions
for module in TransformersChat.card.preload:
    importlib.import_module(module)
import torch
touched, before = torch.cuda.is_initialized(), set(sys.modules)
started = time.monotonic()
backend = TransformersChat()
backend.load(ModelRef.parse(sys.argv[1]), TransformersOptions())
seconds = time.monotonic() - started
new = [m for m in set(sys.modules) - before if m.split(".")[0] in ("torch", "transformers")]
backend.unload()
print(json.dumps({"seconds": seconds, "touched": touched, "new": new,
                  "threads": torch.get_num_threads()}))
"""


@pytest.mark.alone
def test_after_the_warm_spares_imports_a_load_is_quick(backend: TransformersChat) -> None:
    out = subprocess.run(
        [sys.executable, "-c", PRELOADED, str(STARTER)], capture_output=True, text=True, timeout=90
    )
    assert out.returncode == 0, out.stderr[-2000:]
    found = json.loads(out.stdout.splitlines()[-1])
    assert found["seconds"] < 4  # 0.6 on a quiet machine
    assert len(found["new"]) < 30 and not found["touched"]
    assert found["threads"] >= 1


def test_the_preload_names_modules_that_are_there() -> None:
    for module in TransformersChat.card.preload:
        assert importlib.util.find_spec(module)


@pytest.fixture
def copy(backend: TransformersChat) -> Iterator[Path]:
    """A folder of the user's own: the starter's copy, its weights a hard link."""
    folder = library.models_folder() / "eigen"
    folder.mkdir(parents=True)
    for file in library.locate(STARTER).iterdir():
        if file.name != "model.safetensors":
            shutil.copy(file, folder)
    yield folder
    shutil.rmtree(folder)


def refused(name: str = "eigen") -> str:
    with pytest.raises(Refused) as caught:
        TransformersChat().load(ModelRef.parse(f"folder:{name}"), TransformersOptions())
    return caught.value.message


def test_hostile_and_broken_folders_are_sentences(copy: Path) -> None:
    weights = copy / "model.safetensors"
    assert "holds no model" in refused()
    words = {"model.embed_tokens.weight": ([49_152, 576], [0, 2 * 49_152 * 576])}
    weights.write_bytes(crafted.safetensors())
    assert "says 49,152 words" in refused()
    weights.write_bytes(crafted.safetensors(words, "F16"))
    assert "lacks 271 of its tensors" in refused()
    weights.write_bytes(crafted.safetensors()[:-4])
    assert "incomplete" in refused()
    weights.write_bytes(crafted.safetensors(words, "F16"))
    (copy / "adapter_config.json").write_text('{"base_model_name_or_path": "/somewhere"}')
    assert "is an adapter" in refused()
    (copy / "adapter_config.json").unlink()
    config = json.loads((copy / "config.json").read_text())
    for key in ("auto_map", "_attn_implementation_internal"):
        (copy / "config.json").write_text(json.dumps({**config, key: {"AutoModel": "x.Y"}}))
        assert key in refused()
    (copy / "config.json").write_text(json.dumps({**config, "model_type": "no-such-kind"}))
    assert "transformers could not open eigen" in refused()
    (copy / "config.json").unlink()
    assert "is not a safetensors model with its config.json" in refused()


def test_a_gguf_file_is_sent_to_the_other_backend() -> None:
    with pytest.raises(Refused, match="is not a safetensors model"):
        TransformersChat().load(
            ModelRef.parse("starter:smollm2-135m-instruct"), TransformersOptions()
        )
