"""The strip on top of the page, in a real browser against a scripted /api/gpu.

Run as a program this file is that page: it prints its port, POST /script says what /api/gpu answers
from then on, GET /asked lists the numbers it was asked for.
"""

import json
import os
import subprocess
import sys
import time
import urllib.request
from dataclasses import asdict
from pathlib import Path

import pytest

from backends.card.gpu import LOST, NO_GPU, Gpu, Host, Reading
from tests.served import find_chromium
from webui.gpu_panel import ASSETS, build_gpu_strip, resident

ROOT = Path(__file__).parents[2]
GB = 2**30
CHROMIUM = find_chromium()
ARGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
HOST = Host(37.0, 6 * GB, 24 * GB, 100 * GB)
EVIL = "<img src=x onerror=window.hacked=1>"
CPU_MODE = {"status": 200, "mode": "cpu", "message": NO_GPU, "gpus": [], "residents": []}


def test_the_assets_survive_the_two_template_engines_they_pass():
    css, js = ((ASSETS / name).read_text("utf-8") for name in ("gpu_strip.css", "gpu_strip.js"))
    assert "{{" not in css + js
    assert not set("`\\") & set(css)


def test_the_strip_is_a_quiet_status_with_a_name():
    strip = build_gpu_strip()
    for part in ('role="status"', 'aria-live="off"', 'aria-label="Graphics card and memory"'):
        assert part in strip.html_template
    assert "api/gpu?seq=" in strip.js_on_load


def test_a_resident_is_a_label_its_bytes_and_its_state():
    assert resident("SDXL", None, "loading") == {"label": "SDXL", "bytes": None, "state": "loading"}


class Server:
    """The page in a process of its own."""

    def __init__(self, temp):
        env = os.environ | {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_TEMP_DIR": str(temp)}
        command = [sys.executable, __file__]
        env["PYTHONPATH"] = str(ROOT)
        self.process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True)
        self.url = f"http://127.0.0.1:{int(self.process.stdout.readline())}/"

    def script(self, **state):
        data = json.dumps(CPU_MODE | state).encode()
        headers = {"content-type": "application/json"}
        request = urllib.request.Request(self.url + "script", data, headers)
        urllib.request.urlopen(request, timeout=10).close()

    def asked(self):
        with urllib.request.urlopen(self.url + "asked", timeout=10) as answer:
            return json.load(answer)

    def stop(self):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    if not CHROMIUM:
        pytest.skip("no Chromium on this machine")
    server = Server(tmp_path_factory.mktemp("gradio"))
    yield server
    server.stop()


@pytest.fixture(scope="module")
def page(server):
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGS)
        page = browser.new_page()
        page.errors = []
        page.on("pageerror", lambda error: page.errors.append(str(error)))
        page.goto(server.url)
        page.wait_for_selector(".strip .card", timeout=30_000)
        yield page
        browser.close()


def see(page, text):
    page.get_by_text(text, exact=False).first.wait_for(timeout=5000)
    return page.locator(".strip").inner_text()


@pytest.mark.browser
def test_without_a_card_the_strip_says_so_and_shows_cpu_and_ram(server, page):
    server.script()
    text = see(page, "37%")
    assert "No NVIDIA GPU found: CPU mode" in text
    assert "6.0 / 24.0 GB" in text
    assert page.locator(".card").get_attribute("aria-label").startswith("CPU: 37% busy, RAM 6.0")


@pytest.mark.browser
def test_two_cards_and_residents_are_shown_and_nothing_they_say_becomes_html(server, page):
    cards = [
        Gpu(0, f"NVIDIA {EVIL}", "u", 42, 5 * GB, 6 * GB, 12 * GB, 61, 123.4, 285.0),
        Gpu(1, "NVIDIA T4", error=LOST),
    ]
    residents = [resident(EVIL, 400_000_000, "ready"), resident("SDXL", None, "loading")]
    gpus = [asdict(card) for card in cards]
    server.script(mode="cuda", message="", gpus=gpus, residents=residents)
    text = see(page, LOST)
    for part in ("42%", "5.0 / 12.0 GB", "61 °C · 123 W"):
        assert part in text
    chips = page.locator(".chip").all_text_contents()
    assert chips == [f"{EVIL} · 0.4 GB · ready", "SDXL · loading"]
    assert page.locator(".strip img").count() == 0
    assert page.evaluate("window.hacked === undefined")


@pytest.mark.browser
def test_values_that_are_not_told_are_not_shown_as_zero(server, page):
    server.script(mode="cuda", message="", gpus=[asdict(Gpu(0, "NVIDIA GB10"))])
    text = see(page, "GB10")
    assert text.count("n/a") == 2
    assert "0%" not in text and "0.0" not in text


@pytest.mark.browser
def test_a_server_that_fails_is_said_and_comes_back_by_itself(server, page):
    server.script(status=503)
    assert "It is asked again" in see(page, "Offline")
    server.script()
    page.wait_for_selector(".strip:not(.offline)", timeout=5000)
    assert "Offline" not in page.locator(".strip").inner_text()


@pytest.mark.browser
def test_a_hidden_page_asks_nothing_and_goes_on_when_it_is_seen_again(server, page):
    hide = """(hidden) => { Object.defineProperty(document, "hidden",
        { configurable: true, get: () => hidden });
        document.dispatchEvent(new Event("visibilitychange")); }"""
    server.script()
    page.evaluate(hide, True)
    page.wait_for_timeout(300)
    before = len(server.asked())
    page.wait_for_timeout(2500)
    assert len(server.asked()) == before
    page.evaluate(hide, False)
    page.wait_for_timeout(2500)
    asked = server.asked()
    assert 2 <= len(asked) - before <= 4
    assert asked[-1] == len(asked) - 1 - asked.count("failed")  # only what is new
    assert page.errors == []


def serve() -> None:
    """The page with nothing but the strip, and an /api/gpu that says what the test wants."""
    import gradio as gr
    import uvicorn
    from fastapi import FastAPI, Response

    state, asked = dict(CPU_MODE), []
    app = FastAPI(openapi_url=None)

    @app.get("/api/gpu", response_model=None)
    async def gpu(seq: int):
        if state["status"] != 200:
            asked.append("failed")
            return Response(status_code=state["status"])
        asked.append(seq)
        number = sum(a != "failed" for a in asked)
        reading = Reading(time.monotonic(), state["mode"], state["message"], (), HOST, number)
        as_json = reading.to_json() | {"gpus": state["gpus"]}
        return {"seq": number, "readings": [as_json], "residents": state["residents"]}

    @app.post("/script")
    async def script(body: dict) -> None:
        state.update(body)

    @app.get("/asked")
    async def all_asked() -> list:
        return asked

    with gr.Blocks() as page:
        build_gpu_strip()
    gr.mount_gradio_app(app, page, path="/", run_history=False)
    config = uvicorn.Config(app, port=0, log_level="error")
    socket = config.bind_socket()
    print(socket.getsockname()[1], flush=True)
    uvicorn.Server(config).run(sockets=[socket])


if __name__ == "__main__":
    serve()
