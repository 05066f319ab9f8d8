"""What programs ask of /v1 beyond words, with the real `openai` client and the starter model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest

from backends.base import ModelRef
from backends.models import library
from tests.backends.chat import talk
from tests.backends.models import crafted
from tests.served import Served, serving

pytestmark = pytest.mark.model
GGUF, SAFETENSORS = "smollm2-135m-instruct", "smollm2-135m-instruct-safetensors"
BOTH = pytest.mark.parametrize("model", [GGUF, SAFETENSORS])
BOB: list[Any] = [{"role": "user", "content": "Describe Bob, who is 30, as JSON."}]
CAPITAL: list[Any] = [{"role": "user", "content": talk.CAPITAL}]
SCHEMA: Any = {
    "type": "json_schema",
    "json_schema": {"name": "person", "strict": True, "schema": talk.Person.model_json_schema()},
}
TOOLS: list[Any] = [talk.WEATHER]
CAN_CALL = "folder:with-tools.gguf"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server whose home has the starter model with a chat template that knows tools."""
    home = tmp_path_factory.mktemp("v1") / "home"
    (home / "models").mkdir(parents=True)
    source = library.locate(ModelRef.parse(f"starter:{GGUF}"))
    crafted.with_template(source, home / "models" / "with-tools.gguf", talk.WITH_TOOLS)
    with serving(home) as one:
        yield one


@pytest.fixture(scope="module")
def client(served: Served) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(
        base_url=f"{served.base}/v1", api_key=served.token, max_retries=0,
        http_client=httpx.Client(trust_env=False, timeout=300),
    ) as client:  # fmt: skip
        yield client


# JSON


@BOTH
def test_json_by_a_schema(client: openai.OpenAI, model: str) -> None:
    answer = client.chat.completions.create(
        model=model, messages=BOB, response_format=SCHEMA, max_tokens=300
    )
    talk.Person.model_validate_json(answer.choices[0].message.content or "")
    assert answer.choices[0].finish_reason == "stop"


def test_the_clients_own_way_to_a_typed_answer(client: openai.OpenAI) -> None:
    answer = client.chat.completions.parse(
        model=GGUF, messages=BOB, response_format=talk.Person, max_tokens=300, temperature=1.2
    )
    person = answer.choices[0].message.parsed
    assert person is not None and person.pets[0].legs == 4


def test_any_json_object_streamed(client: openai.OpenAI) -> None:
    chunks = client.chat.completions.create(
        model=GGUF, messages=BOB, response_format={"type": "json_object"}, max_tokens=400,
        stream=True, seed=1,
    )  # fmt: skip
    parts = [c.choices[0] for c in chunks]
    assert parts[-1].finish_reason == "stop" and len(parts) > 5
    assert isinstance(json.loads("".join(p.delta.content or "" for p in parts)), dict)


@BOTH
def test_json_cut_by_max_tokens_says_length(client: openai.OpenAI, model: str) -> None:
    answer = client.chat.completions.create(
        model=model, messages=BOB, response_format=SCHEMA, max_tokens=6
    )
    assert answer.choices[0].finish_reason == "length"
    assert (answer.choices[0].message.content or "").startswith("{")


@BOTH
@pytest.mark.parametrize(
    ("schema", "why"),
    [
        ({"type": "banana"}, "Invalid type: banana"),
        ({"not": {"type": "string"}}, "not"),
        ({"$ref": "http://127.0.0.1/x"}, "does not fetch"),
        ({"enum": ["x" * 300_000]}, "characters, more than"),
    ],
)
def test_a_schema_that_cannot_be_followed_is_a_400(
    client: openai.OpenAI, model: str, schema: dict[str, Any], why: str
) -> None:
    form: Any = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    with pytest.raises(openai.BadRequestError, match=why):
        client.chat.completions.create(model=model, messages=BOB, response_format=form)


# Log probabilities and the other numbers


@BOTH
def test_log_probabilities(client: openai.OpenAI, model: str) -> None:
    answer = client.chat.completions.create(
        model=model, messages=CAPITAL, max_tokens=20, logprobs=True, top_logprobs=3
    )
    told = answer.choices[0].logprobs
    assert told and told.content
    joined = b"".join(bytes(t.bytes or []) for t in told.content).decode()
    assert joined == answer.choices[0].message.content
    assert all(len(t.top_logprobs) == 3 and t.logprob <= 0 for t in told.content)
    streamed = client.chat.completions.create(
        model=model, messages=CAPITAL, max_tokens=20, logprobs=True, stream=True
    )
    pieces = [c.choices[0] for c in streamed]
    for piece in pieces[1:-1]:
        assert piece.logprobs and piece.logprobs.content
        assert "".join(t.token for t in piece.logprobs.content) == piece.delta.content
    plain = client.chat.completions.create(model=model, messages=CAPITAL, max_tokens=2)
    assert plain.choices[0].logprobs is None


def test_a_forbidden_token_is_not_said_and_penalties_are_taken(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model=GGUF, messages=CAPITAL, max_tokens=5, logit_bias={"504": -100},
        frequency_penalty=0.5, presence_penalty=-0.5,
    )  # fmt: skip
    assert not (answer.choices[0].message.content or "").startswith("The")


# Tools


def test_a_tool_that_must_be_called_is_called(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model=CAN_CALL, messages=CAPITAL, tools=TOOLS, tool_choice="required", max_tokens=60
    )
    choice = answer.choices[0]
    assert choice.finish_reason == "tool_calls" and choice.message.content is None
    [call] = choice.message.tool_calls or []
    assert call.type == "function" and call.function.name == "get_weather"
    assert json.loads(call.function.arguments)["city"] in ("Paris", "Rome")
    # The client sends it back with the result, and the model goes on with it in its prompt.
    turns = [*CAPITAL, choice.message.model_dump(exclude_none=True)]
    turns.append({"role": "tool", "tool_call_id": call.id, "content": "It rains."})
    with_result = client.chat.completions.create(
        model=CAN_CALL, messages=turns, tools=TOOLS, max_tokens=5
    )
    without = client.chat.completions.create(
        model=CAN_CALL, messages=CAPITAL, tools=TOOLS, max_tokens=5
    )
    assert with_result.usage and without.usage
    assert with_result.usage.prompt_tokens > without.usage.prompt_tokens + 20


def test_a_named_tool_is_called_in_a_stream(client: openai.OpenAI) -> None:
    named: Any = {"type": "function", "function": {"name": "get_weather"}}
    with client.chat.completions.stream(
        model=CAN_CALL, messages=CAPITAL, tools=TOOLS, tool_choice=named, max_tokens=60
    ) as stream:
        for _ in stream:
            continue
        choice = stream.get_final_completion().choices[0]
    assert choice.finish_reason == "tool_calls"
    [call] = choice.message.tool_calls or []
    assert call.function.name == "get_weather" and "city" in call.function.arguments


def test_a_call_that_the_model_writes_itself_is_found(client: openai.OpenAI) -> None:
    question = {"role": "user", "content": "How is the weather in Paris?"}
    function = {"name": "get_weather", "arguments": '{"city": "Paris"}'}
    calling = {"role": "assistant", "tool_calls": [
        {"id": "abcdefghi", "type": "function", "function": function}
    ]}  # fmt: skip
    result = {"role": "tool", "tool_call_id": "abcdefghi", "content": "Rain."}
    shown: list[Any] = [question, calling, result] * 4  # small as it is, it goes on like that
    answer = client.chat.completions.create(
        model=CAN_CALL, messages=[*shown, question], tools=TOOLS, max_tokens=60, temperature=0
    )
    [call] = answer.choices[0].message.tool_calls or []
    assert call.type == "function" and call.function.name == "get_weather"
    assert json.loads(call.function.arguments) == {"city": "Paris"}
    assert answer.choices[0].finish_reason == "tool_calls"


@pytest.mark.parametrize("choice", ["auto", "required"])
def test_a_template_without_tools_is_a_400(client: openai.OpenAI, choice: Any) -> None:
    with pytest.raises(openai.BadRequestError, match="chat template has no tools. Leave them out"):
        client.chat.completions.create(
            model=GGUF, messages=CAPITAL, tools=TOOLS, tool_choice=choice
        )
    none = client.chat.completions.create(
        model=GGUF, messages=CAPITAL, tools=TOOLS, tool_choice="none", max_tokens=20
    )
    assert "Paris" in (none.choices[0].message.content or "")


# Continue


@BOTH
def test_the_assistants_last_message_is_continued(client: openai.OpenAI, model: str) -> None:
    begun: list[Any] = [
        *CAPITAL, {"role": "assistant", "content": "The capital of France is the beautiful city of"}
    ]  # fmt: skip
    answer = client.chat.completions.create(model=model, messages=begun, max_tokens=10)
    assert (answer.choices[0].message.content or "").startswith(" Paris")


@BOTH
def test_an_end_token_in_a_message_ends_nothing(client: openai.OpenAI, model: str) -> None:
    def tokens(text: str) -> int:
        answer = client.chat.completions.create(
            model=model, messages=[{"role": "user", "content": text}], max_tokens=1
        )
        return answer.usage.prompt_tokens if answer.usage else 0

    # Six pieces of text and not one token that means something.
    assert tokens("x <|im_end|> x") - tokens("x x") >= 5


# Completions


@BOTH
def test_a_text_is_continued_without_a_template(client: openai.OpenAI, model: str) -> None:
    answer = client.completions.create(
        model=model, prompt="The capital of France is", max_tokens=2, logprobs=2
    )
    assert answer.object == "text_completion" and answer.choices[0].text == " Paris."
    assert answer.usage and answer.usage.prompt_tokens == 5
    told = answer.choices[0].logprobs
    assert told and told.tokens == [" Paris", "."] and told.text_offset == [0, 6]
    assert told.token_logprobs and told.top_logprobs
    assert told.top_logprobs[0][" Paris"] == told.token_logprobs[0]
    assert answer.choices[0].finish_reason == "length"


def test_a_completion_is_streamed_and_opens_with_its_prompt(client: openai.OpenAI) -> None:
    chunks = list(
        client.completions.create(
            model=GGUF,
            prompt=["The capital of France is"],
            echo=True,
            stream=True,
            stop=".",
            stream_options={"include_usage": True},
        )  # fmt: skip
    )
    text = "".join(c.choices[0].text for c in chunks if c.choices)
    assert text == "The capital of France is Paris"
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].usage and chunks[-1].usage.prompt_tokens == 5


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"prompt": ""}, "not one text"),
        ({"prompt": ["a", "b"]}, "not one text"),
        ({"prompt": [1, 2]}, "not one text"),
        ({"echo": True, "logprobs": 1}, "not known. Send"),
        ({"suffix": "x"}, "'suffix' is not supported"),
        ({"best_of": 2}, "'best_of' is not supported"),
        ({"logprobs": 30}, "no number from 0 to 20"),
        ({"messages": []}, "'messages' is not known"),
        ({"prompt": "word " * 20_000}, "tokens long"),
    ],
)
def test_a_wrong_completion_is_told(served: Served, change: dict[str, Any], sentence: str) -> None:
    with served.client() as client:
        answer = client.post("/v1/completions", json={"model": GGUF, "prompt": "x", **change})
    assert answer.status_code == 400 and sentence in answer.json()["error"]["message"]
