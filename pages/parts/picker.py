"""A grid of small pictures, of which any number are chosen: by a click, from one to another with Shift, or all."""

from collections.abc import Sequence
from typing import Any

import streamlit as st

HTML = """
<div class="picker">
  <div class="bar"><button type="button" class="all">All of these</button>
    <button type="button" class="none">None</button> <span class="count" aria-live="polite"></span></div>
  <div class="cells" role="group" aria-label="Pictures"></div>
</div>
"""
CSS = """
.picker { color: var(--st-text-color); font: 0.8rem var(--st-font); }
.picker .bar { display: flex; gap: 0.5rem; align-items: center; margin-bottom: 0.5rem; }
.picker button { color: inherit; font: inherit; cursor: pointer; background: var(--st-secondary-background-color);
  border: 1px solid color-mix(in srgb, currentColor 40%, transparent); border-radius: var(--st-base-radius); }
.picker .bar button { padding: 0.3rem 0.8rem; min-height: 2.2rem; }
.picker .cells { display: grid; grid-template-columns: repeat(auto-fill, minmax(5.5rem, 1fr)); gap: 0.4rem; }
.picker .cell { padding: 0.2rem; min-width: 0; text-align: left; border-color: transparent; }
.picker .cell img, .picker .cell .gone { width: 100%; aspect-ratio: 1; object-fit: contain; display: block; }
.picker .cell span { display: block; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.picker .cell .split { opacity: 0.7; }
.picker .cell[aria-pressed="true"] { outline: 3px solid var(--st-primary-color);
  background: color-mix(in srgb, var(--st-primary-color) 25%, var(--st-background-color)); }
.picker button:focus-visible { outline: 2px solid var(--st-text-color); }
.picker.fixed .bar { display: none; }
.picker.fixed .cell { cursor: default; }
"""
JS = """
export default function ({ data, parentElement, setStateValue }) {
  const root = parentElement.querySelector(".picker"), cells = root.querySelector(".cells");
  root.classList.toggle("fixed", data.fixed);
  if (root.mark === data.mark) return;  // drawn already: what is chosen here is newer than any answer
  root.mark = data.mark;
  const chosen = new Set(), buttons = [];
  let last = 0;
  const show = () => {
    buttons.forEach((button, place) => button.setAttribute("aria-pressed", chosen.has(place)));
    root.querySelector(".count").textContent = `${chosen.size} of ${buttons.length} chosen`;
  };
  const send = () => {
    show();
    setStateValue("chosen", { mark: data.mark, places: [...chosen].sort((a, b) => a - b) });
  };
  cells.replaceChildren(...data.pictures.map(({ source, label, note, name }, place) => {
    const button = document.createElement("button"), image = document.createElement(source ? "img" : "span");
    button.type = "button";
    button.className = "cell";
    button.title = name;
    if (source) { image.src = source; image.alt = name; }
    else { image.className = "gone"; image.textContent = "damaged"; }
    const lines = [[label, "label"], [note, "split"]].map(([text, kind]) => {
      const line = document.createElement("span");
      line.className = kind;
      line.textContent = text;  // a class may be called anything: it is text and never markup
      return line;
    });
    button.append(image, ...lines);
    if (!data.fixed) button.onclick = (event) => {
      const [from, to] = event.shiftKey ? [Math.min(last, place), Math.max(last, place)] : [place, place];
      const isOn = !chosen.has(place);
      for (let each = from; each <= to; each += 1) isOn ? chosen.add(each) : chosen.delete(each);
      last = place;
      send();
    };
    buttons.push(button);
    return button;
  }));
  root.querySelector(".all").onclick = () => { buttons.forEach((_, place) => chosen.add(place)); send(); };
  root.querySelector(".none").onclick = () => { chosen.clear(); send(); };
  show();
}
"""

_component = st.components.v2.component("dlkit_picker", html=HTML, css=CSS, js=JS)


def cell(source: str, label: str, note: str, name: str) -> dict[str, str]:
    """Return what is shown of one picture: an address that holds it, its class, a second line, and its name."""
    return {"source": source, "label": label, "note": note, "name": name}


def show(cells: Sequence[dict[str, str]], mark: str, *, key: str, fixed: bool = False) -> None:
    """Draw the pictures; `mark` tells these ones from others. Of `fixed` ones none can be chosen."""
    last, number = st.session_state.get(f"{key}_drawn", ("", 0))
    if mark != last:
        st.session_state[f"{key}_drawn"] = mark, number + 1
    data = {"pictures": list(cells), "mark": _drawing(key), "fixed": fixed}
    _component(data=data, key=key, on_chosen_change=lambda: None)


def chosen(*, key: str) -> list[int]:
    """Return the places of the chosen pictures, from 0; none where others have been drawn since they were chosen."""
    found: Any = getattr(st.session_state.get(key), "chosen", None)
    return list(found["places"]) if found and found["mark"] == _drawing(key) else []


def _drawing(key: str) -> str:
    """Return what tells this drawing from every other one: pictures that come back are drawn with none chosen."""
    mark, number = st.session_state[f"{key}_drawn"]
    return f"{number} {mark}"
