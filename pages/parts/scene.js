// A surface in three dimensions and from above, paths on it, and one step with its numbers. All steps are here: moving
// through them asks the server nothing. Camera and zoom stay as they are when new paths come.

const FRAME_MILLISECONDS = 60, DIGITS = 5;  // of a number in a formula
const UNDEFINED = "#9aa0a6";  // grey: there the loss is not defined

export default function ({ data, parentElement }) {
  const root = parentElement.querySelector(".scene");
  const state = root.state ?? (root.state = { tick: 0, playing: false, coordinate: 0 });
  const wasAtEnd = !state.data || state.tick >= state.data.ticks;
  state.data = read(decoded(data));
  state.tick = wasAtEnd ? state.data.ticks : Math.min(state.tick, state.data.ticks);
  loadPlotly().then(() => {
    wire(root, state);
    draw(root, state);
  }, () => (root.querySelector(".fault").textContent = "The plots could not be loaded. Reload the page."));
  return () => stop(root, state);
}

function read(data) {
  const { count } = data, [low, high] = data.heights;
  const bits = data.surface, undefinedBits = 0xffff;
  let begin = 0;
  const paths = data.counts.map((count, place) => {
    const of = Math.floor(place / data.starts), { cost } = data.competitors[of], last = data.steps[place];
    const columns = [[], [], []];
    data.points.subarray(3 * begin, 3 * (begin + count)).forEach((number, at) => columns[at % 3].push(number));
    begin += count;
    const [x, y, values] = columns, steps = x.map((_, at) => (at === count - 1 ? last : at * data.stride));
    return { ...data.competitors[of], of, x, y, values, steps, evaluations: steps.map((step) => step * cost) };
  });
  const most = Math.max(...paths.map((path) => path.evaluations.at(-1))), ticks = Math.ceil(most / data.unit - 1e-9);
  const height = data.logarithmic ? (value) => Math.log10(1 + Math.max(0, value - data.lowest)) : (value) => value;
  const line = ([first, last]) => Array.from({ length: count }, (_, at) => first + ((last - first) * at) / (count - 1));
  const rows = Array.from({ length: count }, (_, row) =>
    Array.from(bits.subarray(row * count, (row + 1) * count), (value) =>
      value === undefinedBits ? null : low + ((high - low) * value) / (undefinedBits - 1)));
  const isInside = (x, y) => x >= data.across[0] && x <= data.across[1] && y >= data.up[0] && y <= data.up[1];
  for (const path of paths)  // what is outside is not drawn in space: it would stretch the axes
    path.heights = path.values.map((value, at) => (isInside(path.x[at], path.y[at]) ? height(value) : null));
  return { ...data, paths, most, ticks, rows, across: line(data.across), up: line(data.up) };
}

// The place among a path's points where it is after so many ticks.
function placeOf(path, tick, data) {
  const evaluations = tick * data.unit, last = path.x.length - 1;
  if (evaluations >= path.evaluations[last] - 1e-9) return last;
  return Math.floor(evaluations / (path.cost * data.stride) + 1e-9);
}

function traces(data, tick, spatial) {
  const line = spatial ? { type: "scatter3d" } : { type: "scatter" };
  const columns = spatial ? { x: "x", y: "y", z: "heights" } : { x: "x", y: "y" };
  return data.competitors.flatMap(({ name, colour }, place) => {  // all paths of one are one line, with gaps between
    const way = {}, head = {};
    for (const [axis, column] of Object.entries(columns)) {
      const paths = data.paths.filter((path) => path.of === place);
      way[axis] = paths.flatMap((path) => [...path[column].slice(0, placeOf(path, tick, data) + 1), null]);
      head[axis] = paths.map((path) => path[column][placeOf(path, tick, data)]);
    }
    const shared = { ...line, name, hoverinfo: "name", showlegend: false };
    return [
      { ...shared, ...way, mode: "lines", line: { color: colour, width: spatial ? 5 : 2 } },
      { ...shared, ...head, mode: "markers", marker: { color: colour, size: spatial ? 5 : 9 } },
    ];
  });
}

// What the Hessian says at the point of the path that is looked into: the axes of its ellipse, the steeper the shorter.
function cross(data, tick) {
  const { path, step, small, large, angle } = looked(data, tick);
  const long = 0.1 * Math.abs(data.across[data.count - 1] - data.across[0]);
  const short = long * Math.max(0.15, Math.sqrt(Math.min(Math.abs(small), Math.abs(large)) / Math.max(Math.abs(small), Math.abs(large))));
  const sides = Math.abs(large) >= Math.abs(small) ? [[angle, short], [angle + Math.PI / 2, long]] : [[angle, long], [angle + Math.PI / 2, short]];
  const x = path.x[step], y = path.y[step], ends = [];
  for (const [turned, size] of Number.isFinite(angle) ? sides : [])
    for (const sign of [-1, 1, 0])
      ends.push(sign ? [x + sign * size * Math.cos(turned), y + sign * size * Math.sin(turned)] : [null, null]);
  return { type: "scatter", mode: "lines", x: ends.map(([at]) => at), y: ends.map(([, at]) => at), showlegend: false,
           line: { color: "#fff", width: 2 }, name: "axes of the curvature", hoverinfo: "name" };
}

function looked(data, tick) {
  const glass = data.microscope, path = data.paths[glass.path], step = Math.max(0, placeOf(path, tick, data) - 1);
  const [small, large, angle] = glass.curvatures.subarray(3 * step, 3 * step + 3);
  return { glass, path, step, small, large, angle };
}

function draw(root, state) {
  const { data, tick } = state, { text, back, soft } = colours(root);
  const font = { color: text, family: getComputedStyle(root).fontFamily }, paper = { paper_bgcolor: back, font };
  const plain = { ...paper, plot_bgcolor: soft, margin: { l: 60, r: 10, t: 10, b: 40 }, uirevision: "keep", showlegend: false };
  const options = { displayModeBar: false, responsive: true };
  const scale = { colorscale: "Viridis", showscale: false };
  const heightTitle = data.logarithmic ? "log₁₀(1 + loss − lowest)" : "loss";
  const axis = { color: text, gridcolor: soft, backgroundcolor: back }, [across, up] = data.axes;
  const show = (name, drawn, layout) => Plotly.react(root.querySelector(`.${name}`), drawn, layout, options);
  const surface = { type: "surface", x: data.across, y: data.up, z: data.rows, ...scale, opacity: 0.85, hoverinfo: "skip" };
  // Plotly keeps the camera as it was when the mouse was let go, and it glides on: so it is told where it is
  const camera = root.querySelector(".space")._fullLayout?.scene?._scene?.getCamera() ?? { eye: { x: 1.5, y: -1.6, z: 1.1 } };
  show("space", [surface, ...traces(data, tick, true)], {
    ...paper, margin: { l: 0, r: 0, t: 0, b: 0 }, uirevision: "keep", showlegend: false,
    scene: { uirevision: JSON.stringify(camera), camera, xaxis: { ...axis, title: { text: across }, range: ends(data.across) },
             yaxis: { ...axis, title: { text: up }, range: ends(data.up) },
             zaxis: { ...axis, title: { text: heightTitle }, range: data.heights } } });
  const contour = { type: "contour", x: data.across, y: data.up, z: data.rows, ...scale, ncontours: 25, hoverinfo: "skip" };
  const minima = { type: "scatter", mode: "markers", x: data.minima.map(([x]) => x), y: data.minima.map(([, y]) => y),
                   marker: { symbol: "star", size: 12, color: "#fff", line: { color: "#000", width: 1 } },
                   name: "minimum", hoverinfo: "name" };
  show("plane", [contour, minima, cross(data, tick), ...traces(data, tick, false)], {
    ...plain, plot_bgcolor: UNDEFINED, xaxis: { title: { text: across }, range: ends(data.across), gridcolor: back, zeroline: false },
    yaxis: { title: { text: up }, range: ends(data.up), gridcolor: back, zeroline: false } });
  const curves = (of) => data.paths.map((path) => ({
    type: "scatter", mode: "lines", name: path.name, line: { color: path.colour, width: 1.5 },
    x: path.evaluations, y: of(path) }));
  const now = { type: "line", x0: tick * data.unit, x1: tick * data.unit, y0: 0, y1: 1, yref: "paper", line: { color: text, width: 1 } };
  const below = (title, log) => ({ ...plain, shapes: [now], xaxis: { title: { text: "gradient evaluations" }, gridcolor: back },
    yaxis: { title: { text: title }, type: log ? "log" : "linear", gridcolor: back, exponentformat: "power" } });
  const seen = data.paths.reduce((least, path) => path.values.reduce((low, value) => (value < low ? value : low), least), data.lowest);
  const lowest = data.best ?? seen;
  const above = (path) => path.values.map((value) => value - lowest);
  show("loss", curves((path) => above(path).map((value) => (value > 0 ? value : null))), below("loss − lowest", true));
  const lengths = (path) => path.x.map((x, at) => at ? Math.hypot(x - path.x[at - 1], path.y[at] - path.y[at - 1]) || null : null);
  show("length", curves(lengths), below(data.stride > 1 ? `distance of ${data.stride} steps` : "length of a step", true));
  root.querySelector(".tick").max = data.ticks;
  legend(root, data);
  follow(root, state);
}

function ends(line) {
  return [line[0], line[line.length - 1]];
}

function legend(root, data) {
  const list = root.querySelector(".legend");
  const entries = data.competitors.map(({ name, colour, ended }) => [colour, `${unescaped(name)}: ${ended}`]);
  if (data.undefined) entries.push([UNDEFINED, "not defined"]);
  if (data.logarithmic) entries.push(["transparent", "Heights and colours are logarithmic: log₁₀(1 + loss − lowest)"]);
  list.replaceChildren(...entries.map(([colour, text]) => {
    const item = document.createElement("li"), dot = document.createElement("span");
    dot.style.background = colour;
    item.append(dot, text);
    return item;
  }));
}

function unescaped(text) {
  const area = document.createElement("textarea");
  area.innerHTML = text;
  return area.value;
}

// What changes with the step alone: the paths so far, the line in the curves, the numbers.
function move(root, state) {
  const { data, tick } = state;
  for (const [name, spatial, first] of [["space", true, 1], ["plane", false, 2]]) {
    const drawn = [...(spatial ? [] : [cross(data, tick)]), ...traces(data, tick, spatial)], keys = spatial ? ["x", "y", "z"] : ["x", "y"];
    const update = Object.fromEntries(keys.map((key) => [key, drawn.map((trace) => trace[key])]));
    Plotly.restyle(root.querySelector(`.${name}`), update, drawn.map((_, place) => place + first));
  }
  for (const name of ["loss", "length"])
    Plotly.relayout(root.querySelector(`.${name}`), { "shapes[0].x0": tick * data.unit, "shapes[0].x1": tick * data.unit });
  follow(root, state);
}

function follow(root, state) {
  const { data, tick } = state;
  root.querySelector(".tick").value = tick;
  root.querySelector(".place").textContent = `${Math.round(Math.min(tick * data.unit, data.most))} of ${Math.round(data.most)}`;
  explain(root, state);
}

function explain(root, state) {
  const { data, tick, coordinate } = state, box = root.querySelector(".microscope");
  const { glass, path, step, small, large, angle } = looked(data, tick);
  box.hidden = !Object.keys(glass.values).length;
  if (box.hidden) return;
  if (box.glass !== glass) {
    box.glass = glass;
    box.querySelector(".lines").innerHTML = glass.lines.map((line) =>
      `<math display="block"><mrow>${line.name}<mo>=</mo>${line.formula}<mo>=</mo>${line.numbers}<mo>=</mo>` +
      `<mn class="result" data-slot="${line.slot}"></mn></mrow></math>`).join("");
  }
  const letter = data.axes[coordinate];
  root.querySelectorAll(".coordinate").forEach((button, place) => (button.textContent = data.axes[place]));
  const before = (coordinate ? path.y : path.x)[step], after = before + numberOf(glass.values, "delta", step, coordinate);
  box.querySelector(".title").textContent =
    `${unescaped(path.name)}, step ${step * data.stride + 1}, coordinate ${letter}: ` +
    `${letter} = ${exact(before)}, after it ${exact(after)}`;
  for (const slot of box.querySelectorAll("[data-slot]")) {
    const text = exact(numberOf(glass.values, slot.dataset.slot, step, coordinate));
    slot.textContent = slot.classList.contains("result") || !/[−·]/.test(text) ? text : `(${text})`;
  }
  const most = Math.max(Math.abs(small), Math.abs(large)), least = Math.min(Math.abs(small), Math.abs(large));
  const along = (turned) => `(${exact(rounded(Math.cos(turned)))}, ${exact(rounded(Math.sin(turned)))})`;
  box.querySelector(".curvature").textContent = Number.isFinite(angle)
    ? `Curvature where the step begins: ${exact(large)} along ${along(angle)}, ${exact(small)} along ` +
      `${along(angle + Math.PI / 2)}; condition number ${exact(most / least)}. ` +
      `Learning rate × largest curvature: ${exact(glass.rates[step] * most)}.`
    : "";
}

function rounded(value) {
  return Math.round(value * 1000) / 1000 + 0;
}

function numberOf(values, slot, step, coordinate) {
  const { of, first, width, numbers } = values[slot];
  if (of) return step ? numberOf(values, of, step - 1, coordinate) : first;
  return width === 0 ? numbers[0] : numbers[step * width + Math.min(coordinate, width - 1)];
}

function exact(value) {
  return written(value, DIGITS);
}

function wire(root, state) {
  if (root.isWired) return;
  root.isWired = true;
  const go = (tick) => {
    state.tick = Math.max(0, Math.min(state.data.ticks, tick));
    state.pending ??= requestAnimationFrame(() => { state.pending = null; move(root, state); });
  };
  const slider = root.querySelector(".tick");
  slider.addEventListener("input", () => { stop(root, state); go(Number(slider.value)); });
  root.querySelector(".back").addEventListener("click", () => { stop(root, state); go(state.tick - 1); });
  root.querySelector(".on").addEventListener("click", () => { stop(root, state); go(state.tick + 1); });
  root.querySelector(".play").addEventListener("click", () => {
    if (state.playing) return stop(root, state);
    if (state.tick >= state.data.ticks) state.tick = 0;
    const begun = performance.now(), from = state.tick, pace = Math.max(1, Math.round(state.data.ticks / 200));
    root.querySelector(".play").textContent = "Pause";
    state.playing = setInterval(() => {  // by the clock: a slow machine draws fewer steps, not a longer film
      if (state.tick >= state.data.ticks) return stop(root, state);
      go(from + pace * Math.max(1, Math.floor((performance.now() - begun) / FRAME_MILLISECONDS)));
    }, FRAME_MILLISECONDS);
  });
  for (const button of root.querySelectorAll(".coordinate")) button.addEventListener("click", () => {
    state.coordinate = Number(button.value);
    explain(root, state);
  });
}

function stop(root, state) {
  clearInterval(state.playing);
  state.playing = false;
  root.querySelector(".play").textContent = "Play";
}
