// What the components with plots share; it stands before their own code.

const PLOTLY = "/vendor/plotly.js";

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

