// A small network as it learns: drawn anew with each message, some times a second. Looking at a unit asks the server
// nothing; a changed weight and a drawn point are sent.

const SUREST = 255, WEAKEST_POWER = -8;  // of a byte; of the gradients that are told apart
const UNIT_REMS = 2.3, TITLE_REMS = 2.2, NEAR = 0.02;

export default function ({ data, parentElement, setTriggerValue }) {
  const root = parentElement.querySelector(".net");
  const state = root.state ?? (root.state = { unit: null, brush: 0, showsGradients: false });
  state.data = decoded(data);
  state.send = setTriggerValue;
  if (!root.isWired) wire(root, state);
  const { layers } = state.data;
  if (state.unit && state.unit.row >= (layers[state.unit.layer]?.drawn ?? 0)) state.unit = null;
  const shape = layers.map(({ units }) => units).join();
  if (state.shape !== shape) build(root, state);
  state.shape = shape;
  draw(root, state);
  loadPlotly().then(() => curves(root, state),
    () => (root.querySelector(".fault").textContent = "The curves could not be drawn. Reload the page."));
}

function wire(root, state) {
  root.isWired = true;
  root.querySelector(".gradients").addEventListener("change", (event) => {
    state.showsGradients = event.target.checked;
    edges(root, state);
  });
  root.querySelector(".plane").addEventListener("click", (event) => {
    if (state.data.canDraw) dab(event, root, state);
  });
  new ResizeObserver(() => edges(root, state)).observe(root.querySelector(".drawing"));
}

function dab(event, root, state) {  // a click on a point takes it away
  const { data } = state, { places, labels, classes, domain: [low, high] } = data, box = event.target.getBoundingClientRect();
  const x = low + ((event.clientX - box.left) / box.width) * (high - low);
  const y = high - ((event.clientY - box.top) / box.height) * (high - low);
  const kept = Array.from(labels, (label, at) => [places[2 * at], places[2 * at + 1], classes[label]]);
  const hit = kept.findIndex(([across, up]) => Math.hypot(across - x, up - y) < NEAR * (high - low));
  if (hit < 0) kept.push([x, y, brushes(state)[state.brush]]);
  else kept.splice(hit, 1);
  state.send("drawn", kept.map(([across, up, name]) => `${across.toFixed(2)},${up.toFixed(2)},${name}`).join("; ") || ";");
  const known = [...new Set([...classes, ...kept.map(([, , name]) => name)])], nobody = kept.map(() => 0);
  const added = known.slice(classes.length).map(() => "#8a8f98");
  Object.assign(data, {  // drawn at once: the next click may come before the answer
    places: kept.flatMap(([across, up]) => [across, up]), labels: kept.map(([, , name]) => known.indexOf(name)),
    isTest: nobody, isLearnt: nobody, classes: known, colours: [...data.colours, ...added] });
  plane(root, state, colours(root).back);
  palette(root, state);
}

function brushes({ data: { classes } }) {  // one more than there are, for a new class
  const free = Array.from({ length: classes.length + 1 }, (_, number) => String(number)).find((name) => !classes.includes(name));
  return classes.length < 10 ? [...classes, free] : classes;
}

// The columns of the drawing: the two inputs, then the layers.
function columns({ layers }) {
  return [{ drawn: 2, units: 2 }, ...layers];
}

function placeOf(all, column, row) {
  const most = Math.max(...all.map(({ drawn }) => drawn)), { drawn } = all[column];
  const share = (row + 0.5 + (most - drawn) / 2) / most;
  return { across: (column + 0.5) / all.length, share };
}

function build(root, state) {
  const all = columns(state.data), box = root.querySelector(".units"), drawing = root.querySelector(".drawing");
  const most = Math.max(...all.map(({ drawn }) => drawn));
  drawing.style.height = `${Math.max(10, most * UNIT_REMS) + TITLE_REMS}rem`;
  const made = [];
  all.forEach(({ drawn, units }, column) => {
    const title = document.createElement("span"), last = column === all.length - 1;
    title.className = "title";
    title.style.left = `${100 * placeOf(all, column, 0).across}%`;
    title.textContent = (column === 0 ? "in" : last ? "out" : `${column}`) + (units > drawn ? `\n+${units - drawn}` : "");
    made.push(title);
    for (let row = 0; row < drawn; row += 1) made.push(unitButton(root, state, all, column, row));
  });
  box.replaceChildren(...made);
}

function unitButton(root, state, all, column, row) {
  const button = document.createElement("button"), canvas = document.createElement("canvas");
  const { across, share } = placeOf(all, column, row);
  Object.assign(button.style, {
    left: `${100 * across}%`, top: `calc(${TITLE_REMS}rem + (100% - ${TITLE_REMS}rem) * ${share})`,
    width: `min(2.1rem, ${80 / all.length}%)` });
  Object.assign(button.dataset, { layer: column - 1, row });
  button.append(canvas);
  button.addEventListener("click", () => {
    const isSame = state.unit && state.unit.layer === column - 1 && state.unit.row === row;
    state.unit = isSame ? null : { layer: column - 1, row };
    draw(root, state);
  });
  return button;
}

// One unit's map as bytes from -127 to 127, row by row from the lowest y; an input's is the input itself.
function sheetOf({ layers, side }, layer, row) {
  const wide = side / 2;
  if (layer < 0) return Int8Array.from({ length: wide * wide }, (_, at) =>
    LARGEST * (2 * (row ? Math.floor(at / wide) : at % wide) / (wide - 1) - 1));
  return layers[layer].maps.subarray(row * wide * wide, (row + 1) * wide * wide);
}

function paint(canvas, wide, colourOf) {
  canvas.width = canvas.height = wide;
  const context = canvas.getContext("2d"), image = context.createImageData(wide, wide);
  for (let at = 0; at < wide * wide; at += 1) {
    const from = (wide - 1 - Math.floor(at / wide)) * wide + (at % wide);  // pictures begin at the top
    image.data.set([...colourOf(from), 255], 4 * at);
  }
  context.putImageData(image, 0, 0);
}

function draw(root, state) {
  const { data } = state, { back } = colours(root);
  root.querySelector(".worth").textContent = `Step ${data.step}, epoch ${data.epoch.toFixed(1)}. ` +
    data.worth.map(({ name, loss, accuracy }) => `${name}: loss ${written(loss)}, ${(100 * accuracy).toFixed(0)} % right`).join("; ") +
    (data.count > data.labels.length ? `. ${data.labels.length} of ${data.count} points are drawn.` : ".");
  root.querySelector(".flow").textContent = data.flow;
  for (const button of root.querySelectorAll(".units button")) {
    const layer = Number(button.dataset.layer), row = Number(button.dataset.row), isDead = data.layers[layer]?.dead[row];
    paint(button.firstChild, data.side / 2, signed(sheetOf(data, layer, row), back));
    button.classList.toggle("dead", Boolean(isDead));
    button.setAttribute("aria-pressed", Boolean(state.unit && state.unit.layer === layer && state.unit.row === row));
    button.setAttribute("aria-label", nameOf(data, layer, row) + (isDead ? ", dead" : ""));
  }
  edges(root, state);
  plane(root, state, back);
  palette(root, state);
  fields(root, state);
  table(root, state);
}

function nameOf({ layers, classes }, layer, row) {
  if (layer < 0) return `Input ${"xy"[row]}`;
  return layer === layers.length - 1 ? `Class ${classes[row]}` : `Unit ${row + 1} of layer ${layer + 1}`;
}

function edges(root, state) {
  const canvas = root.querySelector(".edges"), { width, height } = canvas.getBoundingClientRect(), { data } = state;
  if (!width) return;
  const ratio = window.devicePixelRatio || 1, all = columns(data), rem = parseFloat(getComputedStyle(document.documentElement).fontSize);
  canvas.width = width * ratio;
  canvas.height = height * ratio;
  const context = canvas.getContext("2d"), top = TITLE_REMS * rem;
  context.scale(ratio, ratio);
  const at = (column, row) => {
    const { across, share } = placeOf(all, column, row);
    return [across * width, top + (height - top) * share];
  };
  const largest = Math.max(1e-9, ...data.layers.map(({ weights }) => weights.reduce((most, one) => Math.max(most, Math.abs(one)), 0)));
  const share = state.showsGradients ? (value) => Math.max(0, Math.min(1, 1 - Math.log10(Math.abs(value) || 1e-30) / WEAKEST_POWER))
    : (value) => Math.abs(value) / largest;
  data.layers.forEach((layer, column) => {
    const values = state.showsGradients ? layer.gradients : layer.weights;
    if (!values) return;
    for (let row = 0; row < layer.drawn; row += 1) for (let from = 0; from < layer.inputs; from += 1) {
      const value = values[row * layer.inputs + from], part = Number.isFinite(value) ? share(value) : 1;
      if (!part) continue;
      const [x, y] = at(column, from), [toX, toY] = at(column + 1, row), middle = (x + toX) / 2;
      context.beginPath();
      context.moveTo(x, y);
      context.bezierCurveTo(middle, y, middle, toY, toX, toY);
      Object.assign(context, { strokeStyle: value > 0 ? POSITIVE : NEGATIVE, lineWidth: 0.4 + 4 * part, globalAlpha: 0.25 + 0.75 * part });
      context.stroke();
    }
  });
}

function plane(root, state, back) {
  const { data, unit } = state, canvas = root.querySelector(".plane"), small = plane.small ??= document.createElement("canvas");
  const ground = rgb(back), classes = data.colours.map(rgb), { side, winner, sure, places, labels, isTest, isLearnt } = data;
  if (unit) paint(small, side / 2, signed(sheetOf(data, unit.layer, unit.row), back));
  else paint(small, side, (at) => ground.map((value, channel) => value + (0.7 * sure[at] / SUREST) * (classes[winner[at]][channel] - value)));
  const context = canvas.getContext("2d"), wide = canvas.width, [low, high] = data.domain;
  context.imageSmoothingEnabled = true;
  context.drawImage(small, 0, 0, wide, wide);
  const learnt = isLearnt.reduce((sum, one) => sum + one, 0), marks = learnt < labels.length / 2, radius = labels.length > 200 ? 5 : 8;
  labels.forEach((label, at) => {
    const x = ((places[2 * at] - low) / (high - low)) * wide, y = ((high - places[2 * at + 1]) / (high - low)) * wide;
    context.beginPath();
    context.arc(x, y, marks && isLearnt[at] ? radius + 3 : radius, 0, 2 * Math.PI);
    context.fillStyle = isTest[at] ? back : data.colours[label];
    context.strokeStyle = isTest[at] ? data.colours[label] : marks && isLearnt[at] ? colours(root).text : back;
    context.lineWidth = isTest[at] || (marks && isLearnt[at]) ? 3 : 1.5;
    context.fill();
    context.stroke();
  });
  canvas.style.cursor = data.canDraw ? "crosshair" : "default";
  const shown = unit ? `${nameOf(data, unit.layer, unit.row)}: blue is above zero, orange below`
    : "Decision: the likeliest class, the paler the less sure";
  canvas.setAttribute("aria-label", shown);
  root.querySelector(".shown").textContent = `${shown}. Filled: learnt from; rings: test` +
    (marks && learnt ? "; outlined: the last batch." : ".") + (data.canDraw ? " Click to add a point, or on one to remove it." : "");
}

function palette(root, state) {
  const box = root.querySelector(".brushes"), { data } = state, names = data.canDraw ? brushes(state) : data.classes;
  if (box.names !== names.join()) {
    box.names = names.join();
    state.brush = Math.min(state.brush, names.length - 1);
  }
  box.replaceChildren(...names.map((name, place) => {
    const item = document.createElement(data.canDraw ? "button" : "span"), dot = document.createElement("span");
    dot.className = "dot";
    dot.style.background = data.colours[place] ?? "currentColor";
    item.append(dot, place < data.classes.length ? `class ${name}` : `new class ${name}`);
    if (data.canDraw) {
      item.setAttribute("aria-pressed", place === state.brush);
      item.addEventListener("click", () => { state.brush = place; palette(root, state); });
    }
    return item;
  }));
}

function fields(root, state) {
  const { data, unit } = state, box = root.querySelector(".unit"), layer = unit && data.layers[unit.layer];
  box.hidden = !layer;
  if (!layer) return (box.shown = null);
  const number = unit.layer + 1, list = box.querySelector(".fields"), shown = `${state.shape}/${unit.layer}/${unit.row}/${data.isEditable}`;
  box.querySelector("legend").textContent = nameOf(data, unit.layer, unit.row) + (layer.dead[unit.row] ? ": dead, its slope is zero at every point" : "");
  if (box.shown !== shown) {
    box.shown = shown;
    const entries = [["bias", `${number}.bias`, [unit.row], 0], ...Array.from({ length: layer.inputs }, (_, from) =>
      [nameOf(data, unit.layer - 1, from), `${number}.weight`, [unit.row, from], from])];
    list.replaceChildren(...entries.map(([text, name, place, from]) => {
      const label = document.createElement("label"), field = document.createElement("input");
      Object.assign(field, { type: "text", inputMode: "decimal", disabled: !data.isEditable });
      Object.assign(field.dataset, { kind: name.endsWith("bias") ? "biases" : "weights", from });
      field.addEventListener("change", () => state.send("edited", { name, place, value: field.value.replace("−", "-") }));
      label.append(`${text} `, field);
      return label;
    }));
  }
  for (const field of list.querySelectorAll("input")) {
    const value = field.dataset.kind === "biases" ? layer.biases[unit.row] : layer.weights[unit.row * layer.inputs + Number(field.dataset.from)];
    if (document.activeElement !== field) field.value = written(value);
  }
}

function table(root, { data: { rows } }) {
  root.querySelector(".table").hidden = !rows.length;
  root.querySelector(".health tbody").replaceChildren(...rows.map((row, place) => {
    const line = document.createElement("tr"), cells = [place === rows.length - 1 ? "out" : row.number, row.units, row.dead,
      `${(100 * row.resting).toFixed(0)} %`, null, written(row.signal), written(row.gradient), written(row.ratio)];
    line.append(...cells.map((text) => {
      const cell = document.createElement("td");
      if (text !== null) cell.textContent = text;
      else {
        const bar = document.createElement("span"), size = Math.max(row.signal ?? 0, 1e-30);
        cell.className = "bar";
        bar.style.width = `${100 * Math.max(0, Math.min(1, 1 - (Math.log10(size) - 1) / (WEAKEST_POWER - 1)))}%`;
        cell.append(bar);
      }
      return cell;
    }));
    return line;
  }));
}

function curves(root, { data }) {
  const { text, back, soft } = colours(root), plot = root.querySelector(".curves");
  const drawn = data.curves.map(({ name, colour, values }) => ({
    type: "scatter", mode: "lines", name, x: data.steps, y: values, line: { color: colour, width: 2 } }));
  Plotly.react(plot, drawn, {
    paper_bgcolor: back, plot_bgcolor: soft, font: { color: text, family: getComputedStyle(root).fontFamily },
    margin: { l: 50, r: 10, t: 10, b: 40 }, legend: { orientation: "h", x: 1, xanchor: "right", y: 1 }, showlegend: true,
    xaxis: { title: { text: "steps" }, gridcolor: back, rangemode: "tozero" },
    yaxis: { title: { text: "loss" }, gridcolor: back, rangemode: "tozero" } }, { displayModeBar: false, responsive: true });
}
