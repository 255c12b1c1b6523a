"""A pad to draw a picture on, in white on black, with a finger, a pen or a mouse."""

from collections.abc import Callable
from typing import Any

import streamlit as st

HTML = """
<div class="drawing">
  <canvas width="280" height="280" role="img" aria-label="A black square to draw on"></canvas>
  <div><button type="button" class="clear">Clear</button><button type="button" class="keep"></button></div>
</div>
"""
CSS = """
.drawing { width: 280px; max-width: 100%; }
.drawing canvas { width: 100%; background: black; border: 1px solid var(--st-border-color); border-radius: 6px;
  cursor: crosshair; touch-action: none; }
.drawing button { font: 0.875rem var(--st-font); margin: 0.3rem 0.5rem 0 0; padding: 0.25rem 0.8rem; border-radius: 6px;
  border: 1px solid var(--st-border-color); background: var(--st-background-color); color: var(--st-text-color); }
.drawing button:disabled { opacity: 0.4; }
"""
JS = """
const THICKNESS = 22, EMPTY = "";

export default function ({ data, parentElement, setTriggerValue }) {
  const canvas = parentElement.querySelector("canvas"), pen = canvas.getContext("2d");
  const clear = parentElement.querySelector(".clear"), keep = parentElement.querySelector(".keep");
  let last = null;
  const place = (event) => {
    const box = canvas.getBoundingClientRect();
    const scale = canvas.width / box.width;
    return [(event.clientX - box.left) * scale, (event.clientY - box.top) * scale];
  };
  const wipe = () => {
    pen.fillStyle = "black";
    pen.fillRect(0, 0, canvas.width, canvas.height);
    canvas.isDrawn = false;
    keep.disabled = true;
  };
  const send = () => setTriggerValue("drawn", canvas.toDataURL("image/png"));
  const line = (to) => {
    pen.lineWidth = THICKNESS;
    pen.lineCap = pen.lineJoin = "round";
    pen.strokeStyle = "white";
    pen.beginPath();
    pen.moveTo(...last);
    pen.lineTo(...to);
    pen.stroke();
    last = to;
  };
  if (canvas.isDrawn === undefined) wipe();
  keep.hidden = !data.button;
  keep.textContent = data.button;
  keep.disabled = !canvas.isDrawn;
  canvas.onpointerdown = (event) => {
    if (event.button) return;
    canvas.setPointerCapture(event.pointerId);
    last = place(event);
    line(last);
  };
  canvas.onpointermove = (event) => {
    if (last) for (const part of event.getCoalescedEvents?.() ?? [event]) line(place(part));
  };
  canvas.onpointerup = canvas.onpointercancel = () => {
    if (!last) return;
    last = null;
    canvas.isDrawn = true;
    keep.disabled = false;
    if (!data.button) send();
  };
  clear.onclick = () => {
    wipe();
    if (!data.button) setTriggerValue("drawn", EMPTY);
  };
  keep.onclick = () => {
    send();
    wipe();
  };
}
"""

_component = st.components.v2.component("dlkit_drawing", html=HTML, css=CSS, js=JS)


def show(*, key: str, on_draw: Callable[[str], None], button: str = "") -> None:
    """Show the pad; `on_draw` gets the data address of a PNG, 280 × 280, white on black.

    With a `button` it is called when that is pressed, and the pad is empty again. Without one it is called after each
    stroke, and with "" when all was wiped away.
    """

    def drawn() -> None:
        found: Any = st.session_state[key]
        on_draw(found.drawn or "")

    _component(data={"button": button}, key=key, on_drawn_change=drawn)
