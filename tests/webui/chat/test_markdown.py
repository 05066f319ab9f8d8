"""Messages as Markdown: nothing that was said vanishes, and what was left open is closed."""

from __future__ import annotations

import time

import pytest

from webui.chat.markdown import closed, colourable, literal


@pytest.mark.parametrize(
    ("text", "ended"),
    [
        ("plain", "plain"),
        ("```py\nx = 1\n```\nafter", "```py\nx = 1\n```\nafter"),
        ("```py\nx = 1", "```py\nx = 1\n```"),
        ("~~~\na ``` b", "~~~\na ``` b\n~~~"),
        ("~~~\n```\n", "~~~\n```\n\n~~~"),
        ("  ```\nindented", "  ```\nindented\n  ```"),
        ("````\n```\ninner\n````\nafter", "````\n```\ninner\n````\nafter"),
        ("````md\n```py\nx\n```", "````md\n```py\nx\n```\n````"),
        ("```\na\n```py\nb", "```\na\n```py\nb\n```"),
        ("```inline``` code", "```inline``` code"),
        ("1. so:\n   ```py\n   x", "1. so:\n   ```py\n   x\n   ```"),
        ("- ```py\n  x", "- ```py\n  x\n  ```"),
        ("> ```\n> x", "> ```\n> x\n> ```"),
        ("<think>hm", "<think>hm\n</think>\n\n"),
        ("<think>hm</think>yes", "<think>hm</think>yes"),
    ],
)
def test_what_was_left_open_is_closed(text: str, ended: str) -> None:
    assert closed(text) == ended


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("if a<b && c>d", "if a&#60;b && c>d"),
        ("1 < 2 <3", "1 < 2 <3"),
        ("<!-- x --> </p> <?php", "&#60;!-- x --> &#60;/p> &#60;?php"),
        ("`<b>` and <b>", "`<b>` and &#60;b>"),
        ("``a ` <b>`` <b>", "``a ` <b>`` &#60;b>"),
        ("one ` alone <b>\n\nand ` here", "one ` alone &#60;b>\n\nand ` here"),
        ("```html\n<div>\n```\n<div>", "```html\n<div>\n```\n&#60;div>"),
        ("````\n```\n<i>\n````\n<i>", "````\n```\n<i>\n````\n&#60;i>"),
        ("so:\n\n    <div>\n    <p>\n<b>", "so:\n\n    <div>\n    <p>\n&#60;b>"),
        ("- item\n\n    <div>", "- item\n\n    &#60;div>"),
        ("$$a<b$$ \\(c<d\\) \\[e<f\\]", "$$a<b$$ \\(c<d\\) \\[e<f\\]"),
        ("<https://example.org/a>", "<https://example.org/a>"),
        ("a<br>b", "a&#60;br>b"),
        ("<think>no thought of a model", "&#60;think>no thought of a model"),
    ],
)
def test_what_could_be_html_is_shown_as_it_was_written(text: str, shown: str) -> None:
    assert literal(text) == shown


def test_a_model_thinks_and_breaks_lines_but_draws_nothing_else() -> None:
    answer = "<think>a<b</think>x<sub>1</sub><br><img src=x> <br onclick=y>"
    shown = "<think>a&#60;b</think>x<sub>1</sub><br>&#60;img src=x> &#60;br onclick=y>"
    assert literal(answer, answer=True) == shown


@pytest.mark.parametrize(
    "text", ["``<`" * 2_000, "`<" * 20_000, "<a" * 40_000, "$$<a" * 20_000, "\\(<a" * 10_000]
)
def test_a_long_odd_text_takes_no_time(text: str) -> None:
    began = time.perf_counter()
    literal(text)
    closed(text)
    assert time.perf_counter() - began < 1


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("```cpp\nint x;\n```", "```c\nint x;\n```"),
        ("1. so:\n   ~~~ CPP\n   x\n   ~~~", "1. so:\n   ~~~ c\n   x\n   ~~~"),
        ("````md\n```cpp\n```\n````", "````md\n```cpp\n```\n````"),
        ("cpp ```cpp``` cppreference", "cpp ```cpp``` cppreference"),
        ("```cppx\n```", "```cppx\n```"),
    ],
)
def test_cpp_is_coloured_as_c(text: str, shown: str) -> None:
    assert colourable(text) == shown
