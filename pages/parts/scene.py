"""The descent's plots as one component: steps are taken in the browser, and the camera stays where it is."""

import streamlit as st

from pages.parts.scripts import script

HTML = """
<div class="scene">
  <p class="fault" role="alert"></p>
  <div class="plots"><div class="space" role="img" aria-label="The surface in three dimensions"></div>
    <div class="plane" role="img" aria-label="The surface from above"></div></div>
  <div class="player">
    <button class="back" aria-label="One step back">◀</button>
    <button class="play">Play</button>
    <button class="on" aria-label="One step on">▶</button>
    <input class="tick" type="range" min="0" max="1" step="1" value="0" aria-label="Gradient evaluations so far">
    <span class="place" aria-live="off"></span>
  </div>
  <ul class="legend"></ul>
  <div class="plots low"><div class="loss" role="img" aria-label="Loss by gradient evaluations"></div>
    <div class="length" role="img" aria-label="Length of a step by gradient evaluations"></div></div>
  <div class="microscope" hidden>
    <p><strong class="title"></strong>
      <button class="coordinate" value="0">x</button> <button class="coordinate" value="1">y</button></p>
    <div class="lines"></div>
    <p class="curvature"></p>
  </div>
</div>
"""
CSS = """
.scene { color: var(--st-text-color); font-family: var(--st-font); }
.scene .plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 20rem), 1fr)); gap: 0.5rem; }
.scene .space, .scene .plane { height: 26rem; min-width: 0; }
.scene .loss, .scene .length { height: 14rem; min-width: 0; }
.scene .player { display: flex; gap: 0.5rem; align-items: center; margin: 0.5rem 0; flex-wrap: wrap; }
.scene .tick { flex: 1 1 10rem; accent-color: var(--st-primary-color); }
.scene .place { min-width: 7rem; font-variant-numeric: tabular-nums; }
.scene button { color: inherit; background: var(--st-secondary-background-color); border: 1px solid
  color-mix(in srgb, currentColor 40%, transparent); border-radius: var(--st-base-radius); padding: 0.3rem 0.8rem;
  min-height: 2.2rem; font: inherit; cursor: pointer; }
.scene button:focus-visible, .scene .tick:focus-visible { outline: 2px solid var(--st-primary-color); }
.scene .legend { list-style: none; display: flex; flex-wrap: wrap; gap: 0.3rem 1.2rem; padding: 0; margin: 0.5rem 0; }
.scene .legend span { display: inline-block; width: 0.8rem; height: 0.8rem; border-radius: 50%; margin-right: 0.4rem; }
.scene .lines { overflow-x: auto; }
.scene math { margin: 0.4rem 0; text-align: left; }
.scene .result { font-weight: bold; }
.scene .fault:empty { display: none; }
"""

_component = st.components.v2.component(
    "dlkit_scene",
    html=HTML,
    css=CSS,
    js=script("scene.js"),
    isolate_styles=False,  # Plotly writes its own styles into the page
)


def show(scene: bytes, *, key: str) -> None:
    """Draw what `figures.descent.scene` has made."""
    _component(data=scene, key=key, height="content")
