"""The pictures on the page: what is drawn, what waits, and the gallery.

What is shown comes from `/api/pictures` (assets/pictures.js); only what fills the form comes here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

ASSETS = Path(__file__).resolve().parents[2] / "assets"
TEMPLATE = """
<div class="pictures">
  <p class="offline line bad" role="alert" hidden>Werkbank does not answer. What is drawn goes on
    without this page; it is asked again.</p>
  <section class="now" aria-label="Being drawn" hidden>
    <div class="preview"><img alt="" hidden></div>
    <div class="text"><div class="what"></div><div class="how" aria-live="off"></div>
      <div class="why" role="status"></div>
      <div class="bar" role="progressbar" aria-label="Drawn" aria-valuemin="0" aria-valuemax="100">
        <i></i></div></div>
    <button type="button" class="act" data-act="cancel">Stop</button>
  </section>
  <section class="waiting" aria-label="The queue" hidden>
    <header><span class="title"></span><button type="button" class="hold act"></button></header>
    <ol></ol>
  </section>
  <div class="find" role="search">
    <input type="search" class="words" placeholder="Search the prompts"
      aria-label="Search pictures">
    <select class="of" aria-label="Model"><option value="">All models</option></select>
    <label><input type="checkbox" class="liked"> Favourites</label>
    <span class="count"></span>
  </div>
  <p class="said line" role="status" hidden></p>
  <div class="grid" role="group" aria-label="Pictures"></div>
  <p class="empty" hidden></p>
  <button type="button" class="more" hidden>Show more</button>
  <dialog class="large" aria-label="Picture">
    <div class="page">
      <div class="frame"><img alt=""></div>
      <div class="side">
        <button type="button" class="close" aria-label="Close">×</button>
        <p class="prompt"></p>
        <dl></dl>
        <div class="buttons">
          <button type="button" data-act="use">Use its settings</button>
          <button type="button" data-act="vary">Draw variations</button>
          <button type="button" data-act="begin">Begin with it</button>
          <button type="button" data-act="favourite">☆ Favourite</button>
          <a class="save" download>Save</a>
          <button type="button" data-act="delete">Delete</button>
        </div>
        <div class="buttons">
          <button type="button" class="step" data-by="-1" aria-label="Newer picture">←</button>
          <button type="button" class="step" data-by="1" aria-label="Older picture">→</button>
        </div>
      </div>
    </div>
  </dialog>
</div>
"""


def build_pictures() -> Any:
    """The component. Its `act` event has {"act": "use" | "vary" | "begin", "id": a picture's}."""
    return gr.HTML(
        html_template=TEMPLATE,
        css_template=(ASSETS / "pictures.css").read_text("utf-8"),
        js_on_load=(ASSETS / "pictures.js").read_text("utf-8"),
        apply_default_css=False,
        elem_id="image-pictures",
    )
