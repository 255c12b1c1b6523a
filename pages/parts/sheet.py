"""A layer's maps of one picture as one component: a click chooses a map, or one value of the map that is large."""

from collections.abc import Callable
from typing import Any

import streamlit as st

from pages.parts.scripts import script

HTML = """
<div class="sheet">
  <div>
    <div class="maps" role="group" aria-label="Maps, the one with the largest value first"></div>
    <p class="rest"></p>
  </div>
  <div class="whole">
    <div class="frame">
      <canvas tabindex="0" aria-label="The chosen map; a click or the arrow keys choose one of its values"></canvas>
      <span class="mark"></span>
    </div>
    <p class="told"></p>
  </div>
</div>
"""
CSS = """
.sheet { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 19rem), 1fr)); gap: 1.2rem;
  color: var(--st-text-color); font-family: var(--st-font); font-variant-numeric: tabular-nums; }
.sheet p { margin: 0.4rem 0 0; font-size: 0.9rem; min-height: 1.4em; }
.sheet .rest:empty { display: none; }
.sheet .maps { display: grid; grid-template-columns: repeat(auto-fill, minmax(3.9rem, 1fr)); gap: 0.35rem; }
.sheet button { padding: 0; border: 1px solid color-mix(in srgb, currentColor 25%, transparent); border-radius: 4px;
  background: none; color: inherit; font: inherit; font-size: 0.65rem; cursor: pointer; overflow: hidden;
  min-width: 0; }
.sheet button canvas { width: 100%; aspect-ratio: 1; display: block; }
.sheet button span { display: block; white-space: nowrap; overflow: hidden; text-overflow: ellipsis; padding: 0 2px; }
.sheet .maps.values { grid-template-columns: repeat(auto-fill, minmax(8rem, 1fr)); }
.sheet .maps.values canvas { aspect-ratio: 8; }
.sheet canvas { image-rendering: pixelated; }
.sheet button[aria-pressed=true], .sheet button:focus-visible, .sheet .frame canvas:focus-visible
  { outline: 3px solid var(--st-primary-color); outline-offset: -1px; }
.sheet .frame { position: relative; max-width: 26rem; line-height: 0; }
.sheet .frame canvas { width: 100%; cursor: crosshair; touch-action: manipulation; border-radius: 4px;
  border: 1px solid color-mix(in srgb, currentColor 25%, transparent); box-sizing: border-box; }
.sheet .mark { position: absolute; box-sizing: border-box; min-width: 7px; min-height: 7px; pointer-events: none;
  outline: 2px solid #cc79a7; }
"""

_component = st.components.v2.component("dlkit_sheet", html=HTML, css=CSS, js=script("sheet.js"), isolate_styles=False)


def show(sheet: bytes, *, key: str, on_choose: Callable[[int, int, int], None]) -> None:
    """Draw what `figures.layers.sheet` has made; `on_choose` gets the map, row and column of the chosen value."""

    def chosen() -> None:
        found: Any = st.session_state[key]
        if found.chosen is not None:
            on_choose(*(int(found.chosen[name]) for name in ("number", "row", "column")))

    _component(data=sheet, key=key, height="content", on_chosen_change=chosen)
