// What the components that draw share; it stands before their own code.

const PLOTLY = "/vendor/plotly.js";
const POSITIVE = "#0072b2", NEGATIVE = "#e07020", LARGEST = 127;  // of a signed byte

function loadPlotly() {
  if (window.Plotly) return Promise.resolve();
  window.dlkitPlotly ??= new Promise((resolve, reject) => {
    const script = document.createElement("script");
    Object.assign(script, { src: PLOTLY, onload: resolve, onerror: reject });
    document.head.append(script);
  });
  return window.dlkitPlotly;
}

// The bytes of `figures.message.message`: the length of the JSON, the JSON, and the arrays that it points to.
function decoded(bytes) {
  const { buffer } = bytes.slice(), word = 4, length = new DataView(buffer).getUint32(0, true), body = word + length;
  const kinds = { f4: Float32Array, u2: Uint16Array, u1: Uint8Array, i1: Int8Array };
  return JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, word, length)), (_, value) => {
    if (!value?.array) return value;
    const [kind, start, count] = value.array;
    return new kinds[kind](buffer, body + start, count);
  });
}

function colours(root) {
  const style = getComputedStyle(root);
  const of = (name, otherwise) => style.getPropertyValue(name).trim() || otherwise;
  return { text: of("--st-text-color", "#1b1f24"), back: of("--st-background-color", "#fff"),
           soft: of("--st-secondary-background-color", "#f3f6f9") };
}

function rgb(colour) {
  const context = rgb.context ??= document.createElement("canvas").getContext("2d");
  context.fillStyle = colour;
  return [1, 3, 5].map((at) => parseInt(context.fillStyle.slice(at, at + 2), 16));
}

// The colour of a place of some signed bytes: the farther from zero, the less of the ground.
function signed(sheet, back) {
  const sides = [rgb(NEGATIVE), rgb(POSITIVE)], ground = rgb(back);
  return (at) => {
    const share = Math.abs(sheet[at]) / LARGEST, full = sides[Number(sheet[at] > 0)];
    return ground.map((value, channel) => value + share * (full[channel] - value));
  };
}

function written(value, digits = 3) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  if (!Number.isFinite(value)) return value > 0 ? "∞" : "−∞";
  const size = Math.abs(value);
  if (!size || (size >= 1e-3 && size < 1e5)) return String(Number(value.toPrecision(digits))).replace("-", "−");
  const [front, power] = value.toExponential(digits - 2).split("e");
  return `${front.replace("-", "−")}·10${power.replace("+", "").replace(/./g, (letter) => "⁰¹²³⁴⁵⁶⁷⁸⁹"[letter] ?? "⁻")}`;
}
