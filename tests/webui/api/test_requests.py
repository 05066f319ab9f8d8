"""/v1 with the real `openai` client, against a real server."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest
from starlette.requests import Request

from tests.backends.chat import talk
from tests.served import Served
from webui.api.asked import BODY_BYTES, body_of
from webui.api.errors import ApiError

FRANCE: list[Any] = [{"role": "user", "content": "What is the capital of France?"}]


def said(text: str) -> list[Any]:
    return [{"role": "user", "content": text}]


@pytest.fixture(scope="module")
def client(server: Served) -> Iterator[openai.OpenAI]:
    import httpx

    with openai.OpenAI(
        base_url=f"{server.base}/v1", api_key=server.token, max_retries=0,
        http_client=httpx.Client(trust_env=False, timeout=120),
    ) as client:  # fmt: skip
        yield client


def test_the_models_are_listed_by_the_names_that_clients_use(client: openai.OpenAI) -> None:
    names = {m.id for m in client.models.list()}
    assert {"echo", "smollm2-135m-instruct", "smollm2-135m-instruct-safetensors"} <= names
    assert client.models.retrieve("echo").id == "echo"
    with pytest.raises(openai.NotFoundError, match="no model 'gpt-4'"):
        client.models.retrieve("gpt-4")


@pytest.mark.model
@pytest.mark.parametrize("temperature", [0, openai.omit])
def test_the_starter_model_knows_the_capital_of_france(
    client: openai.OpenAI, temperature: Any
) -> None:
    stream = client.chat.completions.create(
        model="smollm2-135m-instruct", messages=FRANCE, max_tokens=60, stream=True,
        temperature=temperature, stream_options={"include_usage": True},
    )  # fmt: skip
    chunks = list(stream)
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert "Paris" in text
    assert len([c for c in chunks if c.choices and c.choices[0].delta.content]) > 3
    assert chunks[-1].usage and chunks[-1].usage.completion_tokens > 3
    assert chunks[-1].usage.prompt_tokens > 10
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] in ("stop", "length")


def test_an_answer_comes_whole_too(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="echo", messages=said("Grüße 👩🏽‍🚀 مرحبا"))
    assert answer.choices[0].message.content == "Grüße 👩🏽‍🚀 مرحبا"
    assert answer.choices[0].finish_reason == "stop" and answer.object == "chat.completion"
    assert answer.usage and answer.usage.total_tokens >= 3


def test_content_in_parts_and_the_developer_role_are_understood(client: openai.OpenAI) -> None:
    parts: list[Any] = [
        {"role": "developer", "content": "Be kind."},
        {
            "role": "user",
            "content": [{"type": "text", "text": "a "}, {"type": "text", "text": "b"}],
        },
    ]
    answer = client.chat.completions.create(model="echo", messages=parts)
    assert answer.choices[0].message.content == "a b"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"model": "nope"}, "There is no model 'nope'"),
        ({"model": "/etc/passwd"}, "There is no model"),
        ({"model": "folder:../../etc"}, "There is no model"),
        ({"messages": []}, "missing or empty"),
        ({"messages": said("  ")}, "The message is empty"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "role 'robot'"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "not text"),
        ({"messages": "hello"}, "missing or empty"),
        ({"temperature": 3}, "Temperature is 3"),
        ({"temperature": "hot"}, "must be a number"),
        ({"max_tokens": 0}, "Max new tokens is 0"),
        ({"n": 2}, "'n' is not supported"),
        ({"tools": [{"type": "function"}]}, "Tool 1 is not a function"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "has no usable name"),
        ({"tools": [talk.WEATHER], "tool_choice": "always"}, "'tool_choice' is not known"),
        (
            {"tools": [talk.WEATHER], "tool_choice": {"function": {"name": "x"}}},
            "none of the tools",
        ),
        ({"tool_choice": "required"}, "there are no tools"),
        ({"tools": [talk.WEATHER]}, "Echo is no model"),
        ({"messages": [{"role": "tool", "content": "x", "tool_call_id": "1"}]}, "answers no call"),
        ({"messages": [{"role": "assistant", "tool_calls": [{"id": "1"}]}]}, "cannot be read"),
        ({"response_format": {"type": "xml"}}, "'response_format' is not understood"),
        ({"response_format": {"type": "json_schema"}}, "'response_format' is not understood"),
        (
            {"response_format": {"type": "json_object"}, "tools": [talk.WEATHER]},
            "do not go together",
        ),
        ({"top_logprobs": 3}, "'top_logprobs' needs logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "no number from 0 to 20"),
        ({"logprobs": 2}, "'logprobs' is not true or false"),
        ({"logit_bias": {"a": 1}}, "Logit bias cannot be 'a': 1"),
        ({"logit_bias": {"9" * 20: 1}}, "Logit bias cannot be '999"),
        ({"json_schema": {}}, "'json_schema' is not known"),
        ({"prompt": "x"}, "'prompt' is not known"),
        ({"trust_remote_code": True}, "'trust_remote_code' is not known"),
        ({"stream_options": 7}, "stream_options"),
    ],
)
def test_a_wrong_request_is_told_in_two_sentences_in_openai_s_shape(
    server: Served, change: dict[str, Any], sentence: str
) -> None:
    body = {"model": "echo", "messages": said("x"), **change}
    with server.client() as client:
        answer = client.post("/v1/chat/completions", json=body)
    assert answer.status_code == (404 if "model" in change else 400)
    error = answer.json()["error"]
    assert sentence in error["message"] and error["message"].count(". ") >= 1
    assert {"message", "type", "param", "code"} <= set(error)


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff\xfe", b'"x"'])
def test_what_is_not_json_is_told(server: Served, body: bytes) -> None:
    with server.client() as client:
        answer = client.post("/v1/chat/completions", content=body)
    assert answer.status_code == 400 and "JSON" in answer.json()["error"]["message"]


def test_a_wrong_token_is_an_authentication_error(server: Served) -> None:
    import httpx

    with httpx.Client(trust_env=False) as http:
        client = openai.OpenAI(
            base_url=f"{server.base}/v1", api_key="wrong", max_retries=0, http_client=http
        )
        with pytest.raises(openai.AuthenticationError, match="locked"):
            client.models.list()


@pytest.mark.model
def test_a_prompt_longer_than_the_context_is_refused(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(
            model="smollm2-135m-instruct", messages=said("word " * 40_000), max_tokens=5
        )
    assert caught.value.code == "context_length_exceeded" and "tokens" in str(caught.value)


def test_a_crash_before_the_first_word_is_a_500(client: openai.OpenAI) -> None:
    with pytest.raises(openai.InternalServerError, match="killed"):
        client.chat.completions.create(
            model="echo", messages=said("a"), extra_body={"fault": "kill", "fault_at": 0}
        )
    again = client.chat.completions.create(model="echo", messages=said("back"))
    assert again.choices[0].message.content == "back"


def test_a_crash_in_the_middle_is_the_last_line_of_the_stream(server: Served) -> None:
    body = {"model": "echo", "messages": said("a b c d e f"), "stream": True, "fault": "segfault"}
    with server.client() as client, client.stream("POST", "/v1/chat/completions", json=body) as s:
        lines = [line.removeprefix("data: ") for line in s.iter_lines() if line]
    assert json.loads(lines[0])["choices"][0]["delta"]["role"] == "assistant"
    assert "native code" in json.loads(lines[-1])["error"]["message"]
    assert "[DONE]" not in lines


def test_a_client_that_hangs_up_frees_the_model(server: Served) -> None:
    body = {"model": "echo", "messages": said("x"), "words": 5000, "words_per_second": 20}
    for stream in (True, False):
        with server.client() as client:
            client.timeout = 1.0  # type: ignore[assignment]
            try:
                with client.stream(
                    "POST", "/v1/chat/completions", json={**body, "stream": stream}
                ) as answer:
                    for _, _ in zip(range(3), answer.iter_lines(), strict=False):
                        continue
            except OSError:
                pytest.fail("the server hung up first")
            except Exception as error:
                assert "timed out" in str(error)
        deadline = time.monotonic() + 5
        while server.health()["gate"]["running"] and time.monotonic() < deadline:
            time.sleep(0.1)
        assert server.health()["gate"] == {"running": 0, "waiting": 0}


def test_who_hangs_up_keeps_the_place_until_the_worker_is_free(server: Served) -> None:
    body = {"model": "echo", "messages": said("x"), "words": 9, "words_per_second": 0.5}
    with (
        server.client() as client,
        client.stream("POST", "/v1/chat/completions", json={**body, "stream": True}) as answer,
    ):
        assert any("x" in line for line in answer.iter_lines() if "content" in line)
    with ThreadPoolExecutor(1) as pool, server.client() as client:  # the worker sleeps for 2 s
        message = {"model": "echo", "messages": said("next")}
        second = pool.submit(client.post, "/v1/chat/completions", json=message)
        time.sleep(0.7)
        assert server.health()["gate"] == {"running": 1, "waiting": 1}
        assert second.result().json()["choices"][0]["message"]["content"] == "next"
    assert server.health()["gate"] == {"running": 0, "waiting": 0}


def test_a_body_is_read_only_up_to_a_limit(server: Served) -> None:
    with server.client() as client:
        answer = client.post("/v1/chat/completions", content=b" " * (BODY_BYTES + 1))
    assert answer.status_code == 413 and "Send less text" in answer.json()["error"]["message"]
    read = 0

    async def endless() -> dict[str, Any]:
        nonlocal read
        read += 1_000_000
        assert read < 10 * BODY_BYTES
        return {"type": "http.request", "body": b" " * 1_000_000, "more_body": True}

    with pytest.raises(ApiError, match="over 16000000 bytes"):
        asyncio.run(body_of(Request({"type": "http", "method": "POST", "headers": []}, endless)))
    assert read < 2 * BODY_BYTES


def test_a_crowd_is_served_in_turn_or_told_to_come_back(server: Served) -> None:
    body = {"model": "echo", "messages": said("one two three"), "words_per_second": 30}
    started = threading.Barrier(40)

    def ask(_: int) -> tuple[int, str]:
        with server.client() as client:
            started.wait()
            answer = client.post("/v1/chat/completions", json=body)
            return answer.status_code, answer.headers.get("retry-after", "")

    with ThreadPoolExecutor(40) as pool:
        answers = list(pool.map(ask, range(40)))
    served = [a for a in answers if a[0] == 200]
    refused = [a for a in answers if a[0] == 429]
    assert len(served) + len(refused) == 40 and len(served) >= 20 and refused
    assert all(int(retry) >= 1 for _, retry in refused)
    assert server.health()["gate"] == {"running": 0, "waiting": 0}


@pytest.mark.parametrize(
    "body",
    [b'{"model": "echo", "messages": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
     b'{"model": "echo", "messages": [{"role": ["x"], "content": "a"}]}',
     b'{"model": "echo", "\\udfff": 1, "messages": [{"role": "user", "content": "a"}]}'],
    ids=["deep", "role", "surrogate"],
)  # fmt: skip
def test_odd_json_is_the_client_s_fault(server: Served, body: bytes) -> None:
    with server.client() as client:
        answer = client.post("/v1/chat/completions", content=body)
    assert answer.status_code == 400 and answer.json()["error"]["message"].count(". ") >= 1


def test_an_unknown_route_answers_in_openai_s_shape(server: Served) -> None:
    with server.client() as client:
        answer = client.post("/v1/embeddings", json={})
    assert answer.status_code == 404 and "error" in answer.json()
