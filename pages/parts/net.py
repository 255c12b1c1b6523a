"""A small network as one component: units with what they say of the plane, weights, the decision, curves."""

from collections.abc import Callable
from typing import Any

import streamlit as st

from pages.parts.scripts import script

HTML = """
<div class="net">
  <p class="fault" role="alert"></p>
  <p class="worth"></p>
  <div class="halves">
    <div>
      <div class="drawing"><canvas class="edges"></canvas><div class="units"></div></div>
      <label><input type="checkbox" class="gradients"> Edges show the last gradient, logarithmically</label>
      <p class="flow"></p>
      <div class="curves" role="img" aria-label="Loss of train and test by steps"></div>
    </div>
    <div>
      <div class="brushes" role="group" aria-label="Class of the points that you draw"></div>
      <canvas class="plane" width="640" height="640" role="img"></canvas>
      <p class="shown"></p>
    </div>
  </div>
  <fieldset class="unit" hidden><legend></legend><div class="fields"></div></fieldset>
  <div class="table"><table class="health"><thead><tr><th>Layer</th><th>Units</th><th>Dead</th><th>Resting</th>
    <th colspan="2">Gradient that came back</th><th>‖gradient‖</th><th>‖step‖ / ‖weights‖</th></tr></thead>
    <tbody></tbody></table></div>
</div>
"""
CSS = """
.net { color: var(--st-text-color); font-family: var(--st-font); }
.net .halves { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 20rem), 1fr)); gap: 1rem; }
.net .halves > div { min-width: 0; }
.net p { margin: 0.3rem 0; min-height: 1.5em; font-variant-numeric: tabular-nums; }
.net .fault:empty, .net .flow:empty, .net .brushes:empty { display: none; }
.net .drawing { position: relative; }
.net .edges { position: absolute; inset: 0; width: 100%; height: 100%; }
.net .units .title { position: absolute; top: 0; transform: translateX(-50%); font-size: 0.75rem; white-space: pre;
  text-align: center; line-height: 1.1; }
.net .units button { position: absolute; transform: translate(-50%, -50%); padding: 0; line-height: 0; cursor: pointer;
  border: 1px solid color-mix(in srgb, currentColor 50%, transparent); border-radius: 4px; overflow: hidden;
  background: var(--st-background-color); aspect-ratio: 1; }
.net .units button[aria-pressed=true], .net button:focus-visible, .net input:focus-visible
  { outline: 3px solid var(--st-primary-color); }
.net .units canvas { width: 100%; height: 100%; }
.net .units .dead canvas { opacity: 0.25; }
.net .units .dead::after { content: "✕"; position: absolute; inset: 0; display: grid; place-items: center;
  line-height: 1; color: var(--st-text-color); }
.net .plane { width: 100%; max-width: 30rem; aspect-ratio: 1; display: block; border-radius: var(--st-base-radius);
  touch-action: manipulation; }
.net .curves { height: 13rem; min-width: 0; }
.net .brushes { display: flex; flex-wrap: wrap; gap: 0.4rem; margin-bottom: 0.4rem; }
.net .brushes button { color: inherit; background: var(--st-secondary-background-color); font: inherit; cursor: pointer;
  border: 1px solid color-mix(in srgb, currentColor 40%, transparent); border-radius: var(--st-base-radius);
  padding: 0.2rem 0.7rem; min-height: 2.2rem; }
.net .brushes button[aria-pressed=true] { outline: 2px solid currentColor; }
.net .dot { display: inline-block; width: 0.8rem; height: 0.8rem; border-radius: 50%; margin-right: 0.35rem; }
.net .unit { border: 1px solid color-mix(in srgb, currentColor 40%, transparent); min-width: 0;
  border-radius: var(--st-base-radius); margin: 0.5rem 0; }
.net .fields { display: flex; flex-wrap: wrap; gap: 0.4rem 0.8rem; }
.net .fields input { width: 6.5rem; font: inherit; color: inherit; background: var(--st-secondary-background-color);
  border: 1px solid color-mix(in srgb, currentColor 40%, transparent); border-radius: var(--st-base-radius);
  padding: 0.2rem 0.4rem; }
.net .table { overflow-x: auto; }
.net table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 0.9rem; }
.net th, .net td { text-align: right; padding: 0.2rem 0.7rem; white-space: nowrap; font-weight: normal; }
.net th { opacity: 0.8; }
.net .bar { min-width: 8rem; padding: 0; }
.net .bar span { display: block; height: 0.7rem; background: var(--st-primary-color); }
"""

_component = st.components.v2.component(
    "dlkit_net",
    html=HTML,
    css=CSS,
    js=script("net.js"),
    isolate_styles=False,  # Plotly writes its own styles into the page
)


def show(
    picture: bytes, *, key: str, on_edit: Callable[[dict[str, Any]], None], on_draw: Callable[[str], None]
) -> None:
    """Draw what `figures.network.picture` has made.

    `on_edit` gets the weight that was changed: its "name", "place" and "value"; `on_draw` all points as text,
    "X,Y,CLASS; …", when one was added or removed.
    """

    def changed(name: str, tell: Callable[[Any], None]) -> Callable[[], None]:
        def told() -> None:
            found: Any = st.session_state[key]
            if found[name] is not None:
                tell(found[name])

        return told

    _component(
        data=picture,
        key=key,
        height="content",
        on_edited_change=changed("edited", on_edit),
        on_drawn_change=changed("drawn", on_draw),
    )
