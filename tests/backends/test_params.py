from __future__ import annotations

import json
import re
from dataclasses import dataclass

import pytest

from backends.chat.params import ChatParams, Message, ToolCall
from backends.params import Params, read, schema, setting, to_dict

HELLO = {"messages": [{"role": "user", "content": "Hello"}]}


@dataclass(frozen=True)
class Steps(Params):
    steps: int = setting(20, "Steps", min=1, max=100)
    mode: str = setting("fast", "Mode", choices=("fast", ("slow", "Slow and fine")))


def test_params_survive_json() -> None:
    params = read(ChatParams, {**HELLO, "temperature": 1, "stop": ["\n"]})
    again = read(ChatParams, json.loads(json.dumps(to_dict(params))))
    assert again == params and params.temperature == 1.0 and params.stop == ("\n",)


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        ({"steps": 0}, "Steps is 0. Choose a value between 1 and 100."),
        ({"steps": 1.5}, "Steps is 1.5. It must be a whole number."),
        ({"steps": True}, "Steps is True. It must be a whole number."),
        ({"steps": float("nan")}, "Steps is nan. It must be a whole number."),
        ({"mode": "odd"}, "Mode cannot be 'odd'. Choose one of: fast, slow."),
        ({"stepz": 1}, "There is no setting 'stepz'. Known are: steps, mode."),
        ([], "Steps must be an object, not []. Send named settings."),
    ],
)
def test_what_does_not_fit_is_said_in_a_sentence(data: object, sentence: str) -> None:
    with pytest.raises(ValueError) as caught:
        read(Steps, data)
    assert str(caught.value) == sentence


def test_a_wrong_role_and_an_empty_message_are_refused() -> None:
    with pytest.raises(ValueError, match="role cannot be 'robot'"):
        read(ChatParams, {"messages": [{"role": "robot", "content": "x"}]})
    with pytest.raises(ValueError, match="The message is empty"):
        read(ChatParams, {"messages": [{"role": "user", "content": " \n"}]})


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"logit_bias": {"the": 1}}, "Logit bias cannot be 'the': 1. Give token ids"),
        ({"logit_bias": {"3": 101}}, "Logit bias cannot be '3': 101. Give token ids"),
        ({"logit_bias": {"3": True}}, "Logit bias cannot be '3': True. Give token ids"),
        ({"prompt": "x"}, "There are messages and a prompt. Send one"),
        ({"messages": [{"role": "assistant", "content": "",
                        "tool_calls": [{"name": "f", "arguments": {}}]}]},
         "The last message calls a tool. Send what the tool answered"),
    ],
)  # fmt: skip
def test_what_only_programs_send_is_checked_too(change: dict[str, object], sentence: str) -> None:
    with pytest.raises(ValueError, match=re.escape(sentence)):
        read(ChatParams, {**HELLO, **change})


def test_a_prompt_stands_alone_and_is_made_whole_characters() -> None:
    assert read(ChatParams, {"prompt": "a\0"}).prompt == "a\ufffd"


def test_tool_calls_become_what_templates_expect() -> None:
    call = ToolCall("add", {"a": 1}, "call_1")
    messages = (Message("user", "1+1"), Message("assistant", "", (call,)), Message("tool", "2"))
    turns = ChatParams(messages=messages).conversation()
    assert turns[1]["tool_calls"][0]["function"] == {"name": "add", "arguments": {"a": 1}}
    assert turns[2]["role"] == "tool" and "tool_calls" not in turns[0]


def test_the_system_prompt_comes_first_and_once() -> None:
    params = ChatParams(messages=(Message("user", "Hi"),), system="Be kind.")
    assert [m["role"] for m in params.conversation()] == ["system", "user"]
    own = ChatParams(messages=(Message("system", "Own."), Message("user", "Hi")), system="Be kind.")
    assert [m["content"] for m in own.conversation()] == ["Own.", "Hi"]


def test_nul_and_lone_surrogates_are_replaced() -> None:
    assert Message("user", "a\0b\ud800").content == "a\ufffdb?"


def test_the_schema_says_what_the_check_does() -> None:
    described = schema(Steps)["properties"]["steps"]
    assert described == {
        "type": "integer", "title": "Steps", "minimum": 1, "maximum": 100, "default": 20
    }  # fmt: skip
    assert schema(ChatParams)["properties"]["messages"]["items"]["properties"]["role"] == {
        "enum": ["system", "user", "assistant", "tool"]
    }
