"""A model's chat template is a stranger's code: it renders, or it is refused, and nothing else."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from backends.base import Refused
from backends.chat import template
from backends.chat.template import ChatTemplate

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{{ message['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
HELLO = [{"role": "user", "content": "Grüße, مرحبا 😀"}]


@pytest.fixture
def make() -> Iterator[type[ChatTemplate]]:
    """ChatTemplate, with every one that was made closed afterwards."""
    made: list[ChatTemplate] = []

    class Made(ChatTemplate):
        def __init__(self, *args: object) -> None:
            super().__init__(*args)  # type: ignore[arg-type]
            made.append(self)

    yield Made
    for one in made:
        one.close()


def test_messages_become_the_text_that_the_model_continues(make: type[ChatTemplate]) -> None:
    text = make(CHATML).render([{"role": "system", "content": "Be brief."}, *HELLO])
    assert text == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nGrüße, مرحبا 😀<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_the_second_rendering_takes_milliseconds(make: type[ChatTemplate]) -> None:
    one = make(CHATML)
    one.render(HELLO)
    started = time.monotonic()
    for _ in range(20):
        assert one.render(HELLO * 20)
    assert time.monotonic() - started < 1


def test_an_unfinished_answer_is_continued(make: type[ChatTemplate]) -> None:
    text = make(CHATML).render([*HELLO, {"role": "assistant", "content": "The capital is "}])
    assert text.endswith("<|im_start|>assistant\nThe capital is")


def test_special_tokens_and_the_tags_of_training_are_known(make: type[ChatTemplate]) -> None:
    source = "{{ bos_token }}{% generation %}{{ messages[0].content }}{% endgeneration %}"
    assert make(source, {"bos_token": "<s>"}).render([{"role": "user", "content": "a"}]) == "<s>a"


def test_the_surroundings_are_those_of_transformers(make: type[ChatTemplate]) -> None:
    source = (
        "{%- for m in messages -%}{% if loop.index > 1 %}{% break %}{% endif %}"
        "{{ {'a<': 'ü'} | tojson }} {{ strftime_now('%Y') | length }} {{ tools is none }}"
        "{%- endfor -%}"
    )
    assert make(source).render(HELLO * 2) == '{"a<": "ü"} 4 True'


def test_where_the_model_knows_no_system_role_it_opens_the_first_message(
    make: type[ChatTemplate],
) -> None:
    source = (
        "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
        "{{ messages[0].content }}"
    )
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    assert make(source).render(messages) == "Be brief.\n\nHi"


def test_what_a_template_complains_of_is_the_sentence(make: type[ChatTemplate]) -> None:
    with pytest.raises(Refused) as caught:
        make("{{ raise_exception('Conversation roles must alternate.') }}").render(HELLO)
    assert caught.value.message == (
        "The model's chat template failed: Conversation roles must alternate."
    )


def test_a_model_without_a_template_gets_plain_text(make: type[ChatTemplate]) -> None:
    one = make("")
    assert one.plain and one.render([{"role": "user", "content": "Hi"}]) == "User: Hi\n\nAssistant:"


def test_a_huge_template_is_refused() -> None:
    with pytest.raises(Refused, match="500,001 characters long"):
        ChatTemplate("x" * 500_001)


HOSTILE = {
    "subclasses": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "popen": "{{ cycler.__init__.__globals__.os.popen('touch CANARY').read() }}",
    "namespace": "{{ namespace.__init__.__globals__.__builtins__.open('CANARY', 'w') }}",
    "attr": "{{ messages | attr('__class__') | attr('__base__') | attr('__subclasses__')() }}",
    "format": "{{ '{0.__class__.__init__.__globals__}'.format(raise_exception) }}",
    "import": "{% import 'os' as os %}",
    "mutate": "{{ messages.clear() }}",
    "times": "{{ 'a' * 10000000000 }}",
    "center": "{{ 'x' | center(5000000000) }}",
    "percent": "{{ '%5000000000d' | format(1) }}",
    "doubling": "{% set ns = namespace(x='aaaaaaaaaaaaaaaa') %}{% for i in range(60) %}"
    "{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
    "recursion": "{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}",
    "nesting": "{% if true %}" * 5000 + "{% endif %}" * 5000,
    "brackets": "{{ " + "(" * 100_000 + ")" * 100_000 + " }}",
    "flood": "{% for i in range(99999) %}{{ 'abcdefgh' * 100 }}{% endfor %}",
    "syntax": "{% for %}",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_template_is_a_sentence_and_nothing_runs(
    make: type[ChatTemplate], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(template, "SECONDS", 2.0)
    before = psutil.Process().memory_info().rss
    started = time.monotonic()
    with pytest.raises(Refused) as caught:
        make(HOSTILE[name]).render(HELLO)
    assert time.monotonic() - started < 5
    assert caught.value.message.startswith("The model's chat template")
    assert not list(tmp_path.iterdir())
    assert psutil.Process().memory_info().rss < before + 300 * 2**20


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux keeps a limit on memory")
@pytest.mark.parametrize("name", ["times", "center", "percent", "doubling"])
def test_a_template_that_fills_the_memory_is_refused_it(
    make: type[ChatTemplate], name: str
) -> None:
    with pytest.raises(Refused, match="needs more memory than a chat template may take"):
        make(HOSTILE[name]).render(HELLO)


def test_a_template_that_loops_for_ever_is_ended_and_the_next_one_works(
    make: type[ChatTemplate], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(template, "SECONDS", 1.0)
    endless = "{% for a in range(99999) %}" * 3 + "x" + "{% endfor %}" * 3
    one = make("{% if messages | length > 1 %}" + endless + "{% else %}fine{% endif %}")
    started = time.monotonic()
    with pytest.raises(Refused, match="did not finish within 1 s"):
        one.render(HELLO * 2)
    assert time.monotonic() - started < 3
    assert one.render(HELLO) == "fine"  # its process was started again


def test_its_process_is_gone_after_close_and_holds_no_secrets(make: type[ChatTemplate]) -> None:
    one = make("{{ messages[0].content }}")
    one.render(HELLO)
    process = psutil.Process(one.process.pid)
    assert set(process.environ()) <= {"PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "LC_CTYPE"}
    assert process.memory_info().rss < 60 * 2**20
    assert "backends" not in " ".join(process.cmdline()[1:])  # so that nobody takes it for a worker
    one.close()
    assert not process.is_running()


KILLED = """
import time
from backends.chat.template import ChatTemplate
one = ChatTemplate("{{ messages[0].content }}")
print(one.process.pid, one.render([{"role": "user", "content": "x"}]), flush=True)
time.sleep(60)
"""


def test_its_process_ends_with_the_one_that_started_it() -> None:
    with subprocess.Popen([sys.executable, "-c", KILLED], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline().split()[0]))
        parent.kill()
    deadline = time.monotonic() + 1
    while is_there(child) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not is_there(child)


def is_there(process: psutil.Process) -> bool:
    """A zombie is not: the system takes its time to bury an orphan."""
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
