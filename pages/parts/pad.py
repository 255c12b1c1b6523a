"""A pad to draw points on: a click adds one, a click on a point takes it away."""

from collections.abc import Callable, Sequence
from typing import Any

import streamlit as st

HTML = """
<svg class="pad" viewBox="0 0 400 240" role="img" aria-label="Points; click to add one, click a point to remove it">
  <rect width="400" height="240" rx="6"></rect><g class="lines"></g><g class="points"></g>
</svg>
"""
CSS = """
.pad { width: 100%; max-width: 36rem; cursor: crosshair; touch-action: manipulation; color: var(--st-text-color);
  font: 11px var(--st-font); }
.pad rect { fill: var(--st-secondary-background-color); }
.pad line { stroke: currentColor; opacity: 0.25; }
.pad text { fill: currentColor; }
.pad circle { fill: var(--st-primary-color); stroke: var(--st-background-color); stroke-width: 1.5; cursor: pointer; }
"""
JS = """
const WIDE = 400, HIGH = 240, NAMESPACE = "http://www.w3.org/2000/svg", DIGITS = 2, PATIENCE_MILLISECONDS = 3000;

export default function ({ data, parentElement, setTriggerValue }) {
  const pad = parentElement.querySelector(".pad"), { half, classes } = data;
  const low = classes ? -0.5 : -half, high = classes ? 1.5 : half;
  const across = (x) => ((x + half) / (2 * half)) * WIDE, up = (y) => HIGH - ((y - low) / (high - low)) * HIGH;
  const draw = (group, name, attributes, text = "") => {
    const made = document.createElementNS(NAMESPACE, name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.textContent = text;
    pad.querySelector(group).append(made);
    return made;
  };
  const text = (some) => some.map((point) => point.join(",")).join("; ");
  const send = (kept) => {  // what was sent is drawn at once: the next click may come before the answer
    pad.sent = { text: text(kept), points: kept, at: performance.now() };
    setTriggerValue("drawn", pad.sent.text || ";");
    render();
  };
  const sent = pad.sent;
  const isStale = sent && text(data.points) !== sent.text && performance.now() - sent.at < PATIENCE_MILLISECONDS;
  if (!isStale) pad.sent = null;
  const render = () => {
    pad.querySelectorAll("g").forEach((group) => group.replaceChildren());
    for (const x of [-half / 2, 0, half / 2]) {
      draw(".lines", "line", { x1: across(x), x2: across(x), y1: 0, y2: HIGH });
      draw(".lines", "text", { x: across(x) + 3, y: HIGH - 4 }, String(x));
    }
    for (const y of classes ? [0, 1] : [-half / 2, 0, half / 2]) {
      draw(".lines", "line", { x1: 0, x2: WIDE, y1: up(y), y2: up(y) });
      draw(".lines", "text", { x: 4, y: up(y) - 3 }, classes ? `class ${y}` : String(y));
    }
    const points = pad.sent?.points ?? data.points;
    points.forEach(([x, y], place) => {
      const dot = draw(".points", "circle", { cx: across(x), cy: up(y), r: 6 });
      dot.addEventListener("click", (event) => {
        event.stopPropagation();
        send(points.filter((_, other) => other !== place));
      });
    });
    pad.onclick = (event) => {
      const box = pad.getBoundingClientRect();
      const x = ((event.clientX - box.left) / box.width) * 2 * half - half;
      const y = high - ((event.clientY - box.top) / box.height) * (high - low);
      send([...points, [Number(x.toFixed(DIGITS)), classes ? Number(y > 0.5) : Number(y.toFixed(DIGITS))]]);
    };
  };
  render();
  return () => (pad.onclick = null);
}
"""

_component = st.components.v2.component("dlkit_pad", html=HTML, css=CSS, js=JS)


def show(points: Sequence[tuple[float, float]], *, has_classes: bool, key: str, on_draw: Callable[[str], None]) -> None:
    """Draw the points; `on_draw` gets all of them as text, "X,Y; X,Y", when one was added or removed."""
    half = max([4.0, *(1.1 * abs(x) for x, _ in points), *(0 if has_classes else 1.1 * abs(y) for _, y in points)])

    def drawn() -> None:
        found: Any = st.session_state[key]
        on_draw(found.drawn or "")

    _component(data={"half": half, "classes": has_classes, "points": list(points)}, key=key, on_drawn_change=drawn)
