"""A training template marks what the model is to learn: its answers with the sign of their end."""

from __future__ import annotations

from typing import Any

import pytest

from backends.base import ModelRef
from backends.models import library
from backends.models.catalogue import FOLDER, find_row, read_rows, training_template

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]
TALK = [
    {"role": "user", "content": "One?"},
    {"role": "assistant", "content": "Uno."},
    {"role": "user", "content": "Two?"},
    {"role": "assistant", "content": "Dos."},
]
WHOLE = {  # of TALK after a system prompt, as each model's own template writes it
    "smollm2": "<|im_start|>system\nBe short.<|im_end|>\n<|im_start|>user\nOne?<|im_end|>\n"
    "<|im_start|>assistant\nUno.<|im_end|>\n<|im_start|>user\nTwo?<|im_end|>\n"
    "<|im_start|>assistant\nDos.<|im_end|>\n",
    "qwen3": "<|im_start|>system\nBe short.<|im_end|>\n<|im_start|>user\nOne?<|im_end|>\n"
    "<|im_start|>assistant\nUno.<|im_end|>\n<|im_start|>user\nTwo?<|im_end|>\n"
    "<|im_start|>assistant\n<think>\n\n</think>\n\nDos.<|im_end|>\n",
    "zephyr": "<|system|>\nBe short.</s>\n<|user|>\nOne?</s>\n<|assistant|>\nUno.</s>\n"
    "<|user|>\nTwo?</s>\n<|assistant|>\nDos.</s>\n",
    "llama-3": "<s><|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December "
    "2023\nToday Date: 26 Jul 2024\n\nBe short.<|eot_id|><|start_header_id|>user<|end_header_id|>"
    "\n\nOne?<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\nUno.<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nTwo?<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\nDos.<|eot_id|>",
    "llama-2": "<s>[INST] <<SYS>>\nBe short.\n<</SYS>>\n\nOne? [/INST] Uno. </s>"
    "<s>[INST] Two? [/INST] Dos. </s>",
    "mistral": "<s>[INST] One?[/INST] Uno.</s>[INST] Be short.\n\nTwo?[/INST] Dos.</s>",
    "gemma": "<s><start_of_turn>user\nBe short.\n\nOne?<end_of_turn>\n<start_of_turn>model\nUno."
    "<end_of_turn>\n<start_of_turn>user\nTwo?<end_of_turn>\n<start_of_turn>model\nDos."
    "<end_of_turn>\n",
    "phi-4-mini": "<|system|>Be short.<|end|><|user|>One?<|end|><|assistant|>Uno.<|end|>"
    "<|user|>Two?<|end|><|assistant|>Dos.<|end|></s>",
    "phi-2": "Be short.\nInstruct: One?\nOutput: Uno.</s>\nInstruct: Two?\nOutput: Dos.</s>\n",
}
NAMES = sorted(p.stem for p in (FOLDER / "training_templates").glob("*.jinja"))


def render(template: str, talk: list[dict[str, str]], **more: Any) -> tuple[str, list[str]]:
    """The text as the library writes it, and the pieces of it that are learned."""
    from transformers.utils.chat_template_utils import render_jinja_template

    (text,), marks = render_jinja_template(
        conversations=[talk], chat_template=template, return_assistant_tokens_mask=True,
        bos_token="<s>", eos_token="</s>", **more,
    )  # fmt: skip
    return text, [text[start:end] for start, end in marks[0]]


@pytest.mark.parametrize("name", NAMES)
def test_both_answers_and_nothing_else_are_learned(name: str) -> None:
    template = (FOLDER / "training_templates" / f"{name}.jinja").read_text("utf-8")
    text, learned = render(template, [{"role": "system", "content": "Be short."}, *TALK])
    assert text == WHOLE[name]
    for piece, answer in zip(learned, ("Uno.", "Dos."), strict=True):
        assert piece.startswith(answer)
        rest = piece.removeprefix(answer).strip()
        assert rest in ("<|im_end|>", "</s>", "<|eot_id|>", "<end_of_turn>", "<|end|>"), piece


@pytest.mark.parametrize("name", NAMES)
def test_it_ends_where_an_answer_is_to_begin(name: str) -> None:
    """What is learned follows what the model is shown when it is asked."""
    template = (FOLDER / "training_templates" / f"{name}.jinja").read_text("utf-8")
    asked, _ = render(template, TALK[:3], add_generation_prompt=True)
    whole, _ = render(template, TALK)
    assert whole.startswith(asked)
    assert whole.removeprefix(asked).lstrip(" ").startswith("Dos.")


@pytest.mark.model
def test_the_starters_own_template_writes_the_same_text() -> None:
    import transformers

    row = find_row(ModelRef.parse("starter:smollm2-135m-instruct-safetensors"))
    assert row
    own = transformers.AutoTokenizer.from_pretrained(library.prepare(row.ref)).chat_template
    assert render(training_template(row), TALK)[0] == render(own, TALK)[0]


def test_every_row_that_names_one_has_it_and_every_chat_model_for_training_names_one() -> None:
    for row in read_rows():
        assert bool(training_template(row)) == bool(row.training_template)
        if row.task == "chat" and row.backend == "transformers":
            assert row.training_template, row.id
    assert set(WHOLE) == set(NAMES) == {r.training_template for r in read_rows()} - {""}
