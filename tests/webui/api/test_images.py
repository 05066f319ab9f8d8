"""Pictures through /v1, with the real `openai` client and a small model of random weights."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from PIL import Image

from tests.backends.image import made_pipelines
from tests.served import Served, serving

MODEL = "folder:small-diffusion"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    home = tmp_path_factory.mktemp("v1-images") / "home"
    made_pipelines.stable_diffusion(home / "models" / "small-diffusion")
    (home / "models" / "broken").mkdir()
    (home / "models" / "broken" / "model_index.json").write_text('{"_class_name": "Nobody"}')
    with serving(home, spare=False) as one:
        yield one


@pytest.fixture(scope="module")
def client(served: Served) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(
        base_url=f"{served.base}/v1", api_key=served.token, max_retries=0,
        http_client=httpx.Client(trust_env=False, timeout=300),
    ) as client:  # fmt: skip
        yield client


def pictures(answer: Any) -> list[Image.Image]:
    return [Image.open(io.BytesIO(base64.b64decode(one.b64_json))) for one in answer.data]


def test_a_prompt_becomes_pictures_that_a_seed_draws_again(
    client: openai.OpenAI, served: Served
) -> None:
    def ask() -> Any:
        return client.images.generate(
            model=MODEL, prompt="a red fox", n=2, size="64x96",  # type: ignore[arg-type]
            response_format="b64_json", extra_body={"seed": 7, "steps": 2},
        )  # fmt: skip

    first, second = ask(), ask()
    assert [p.size for p in pictures(first)] == [(64, 96)] * 2
    assert [one.b64_json for one in first.data] == [one.b64_json for one in second.data]
    assert first.data[0].b64_json != first.data[1].b64_json
    assert pictures(first)[0].info["parameters"].startswith("a red fox")
    left = served.home / "werkbank-tmp" / "api-pictures"
    assert list(left.iterdir()) == []
    assert client.models.retrieve(MODEL).id == MODEL
    assert MODEL in [model.id for model in client.models.list()]


def test_without_a_model_and_a_size_the_first_draws_as_it_was_made_for(
    served: Served,
) -> None:
    with served.client() as plain:
        answer = plain.post("/v1/images/generations", json={"prompt": "a fox", "steps": 1})
    assert answer.status_code == 200 and answer.json()["size"] == "64x64"


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [({"prompt": ""}, 400, "Write what is to be seen."),
     ({"prompt": "x", "n": 11}, 400, "no number from 1 to 10"),
     ({"prompt": "x", "size": "big"}, 400, "Write it as 512x512"),
     ({"prompt": "x", "size": "63x64"}, 400, "multiple of 8"),
     ({"prompt": "x", "response_format": "url"}, 400, "b64_json"),
     ({"prompt": "x", "image": "/etc/passwd"}, 400, "'image' is not known"),
     ({"prompt": "x", "folder": "/tmp"}, 400, "'folder' is not known"),
     ({"prompt": "x", "steps": 0}, 400, "between 1 and 150"),
     ({"prompt": "x", "model": "no-such"}, 404, "Pick one"),
     ({"prompt": "x", "model": "echo"}, 400, "not an image model"),
     ({"prompt": "x", "model": "folder:broken"}, 400, "holds no model")],
)  # fmt: skip
def test_what_is_wrong_is_said_in_openais_shape(
    served: Served, body: dict[str, Any], status: int, said: str
) -> None:
    with served.client() as plain:
        answer = plain.post("/v1/images/generations", json={"steps": 1, **body})
    assert answer.status_code == status, answer.text
    assert said in answer.json()["error"]["message"]


def test_a_chat_with_an_image_model_is_refused(client: openai.OpenAI) -> None:
    for name in (MODEL, "folder:broken"):
        with pytest.raises(openai.BadRequestError, match="not a chat model"):
            client.chat.completions.create(
                model=name, messages=[{"role": "user", "content": "hello"}]
            )


def test_the_folder_of_a_request_is_inside_the_homes_temporary_one(tmp_path: Path) -> None:
    from webui.api.images import encoded

    (tmp_path / "a.png").write_bytes(b"abc")
    assert encoded(tmp_path / "a.png") == "YWJj"
