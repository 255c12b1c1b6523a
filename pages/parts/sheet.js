// A layer's maps of one picture: the strongest small, one of them large. A click chooses a map, or a value of it.

const PATIENCE_MILLISECONDS = 3000;
const MOVES = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };

export default function ({ data, parentElement, setTriggerValue }) {
  const root = parentElement.querySelector(".sheet"), state = root.state ??= {};
  Object.assign(state, { data: decoded(data), send: setTriggerValue });
  const { sent } = state, { chosen } = state.data, isSame = sent && text(sent.chosen) === text(chosen);
  const isStale = sent && !isSame && sent.chosen.number === chosen.number && performance.now() < sent.until;
  if (isStale) state.data.chosen = sent.chosen;  // what was sent since is on its way
  else state.sent = null;
  small(root, state);
  large(root, state);
}

function text({ number, row, column }) {
  return [number, row, column].join();
}

function small(root, { data, send }) {
  const { shown, small: { rows, columns, bits }, chosen } = data, ground = colours(root).back;
  const focused = root.contains(document.activeElement) ? document.activeElement.dataset.number : undefined;
  root.querySelector(".maps").classList.toggle("values", rows * columns === 1);
  root.querySelector(".maps").replaceChildren(...shown.map(({ number, name, largest }, place) => {
    const button = document.createElement("button"), canvas = document.createElement("canvas"), label = document.createElement("span");
    paintRows(canvas, rows, columns, signed(bits.subarray(place * rows * columns, (place + 1) * rows * columns), ground));
    label.textContent = `${name}: ${written(largest)}`;
    button.dataset.number = number;
    button.title = `Map ${name}, at most ${written(largest)}`;
    button.setAttribute("aria-pressed", number === chosen.number);
    button.append(canvas, label);
    button.addEventListener("click", () => send("chosen", { ...chosen, number }));
    return button;
  }));
  if (focused !== undefined) root.querySelector(`[data-number="${focused}"]`)?.focus({ preventScroll: true });
  root.querySelector(".rest").textContent = data.count > shown.length ? `The ${shown.length} of ${data.count} maps with the largest values.` : "";
}

function large(root, state) {
  const { data } = state, { whole: { rows, columns, values }, chosen } = data, box = root.querySelector(".whole"), canvas = box.querySelector("canvas");
  box.hidden = rows * columns === 1;
  if (box.hidden) return;
  const largest = values.reduce((most, one) => Math.max(most, Math.abs(one)), 0) || 1;
  paintRows(canvas, rows, columns, signed(values.map((value) => (value / largest) * LARGEST), colours(root).back));
  canvas.style.aspectRatio = `${columns} / ${rows}`;
  const mark = box.querySelector(".mark");
  Object.assign(mark.style, { left: `${(100 * chosen.column) / columns}%`, top: `${(100 * chosen.row) / rows}%`,
    width: `${100 / columns}%`, height: `${100 / rows}%` });
  const choose = (row, column) => {  // shown at once: the next key may come before the answer
    data.chosen = { ...chosen, row, column };
    state.sent = { chosen: data.chosen, until: performance.now() + PATIENCE_MILLISECONDS };
    state.send("chosen", data.chosen);
    large(root, state);
  };
  const tell = (row, column) => (box.querySelector(".told").textContent =
    `Map ${chosen.number}, row ${row}, column ${column}: ${written(values[row * columns + column])}`);
  const at = (event) => {
    const frame = canvas.getBoundingClientRect(), inside = (share, most) => Math.max(0, Math.min(most - 1, Math.floor(share * most)));
    return [inside((event.clientY - frame.top) / frame.height, rows), inside((event.clientX - frame.left) / frame.width, columns)];
  };
  tell(chosen.row, chosen.column);
  canvas.onpointermove = (event) => tell(...at(event));
  canvas.onpointerleave = () => tell(chosen.row, chosen.column);
  canvas.onclick = (event) => choose(...at(event));
  canvas.onkeydown = (event) => {
    const move = MOVES[event.key];
    if (!move) return;
    event.preventDefault();
    choose(Math.max(0, Math.min(rows - 1, chosen.row + move[0])), Math.max(0, Math.min(columns - 1, chosen.column + move[1])));
  };
}

function paintRows(canvas, rows, columns, colourOf) {
  Object.assign(canvas, { width: columns, height: rows });
  const context = canvas.getContext("2d"), image = context.createImageData(columns, rows);
  for (let at = 0; at < rows * columns; at += 1) image.data.set([...colourOf(at), 255], 4 * at);
  context.putImageData(image, 0, 0);
}
