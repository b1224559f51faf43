// Elements whose texts are only ever texts: nothing in the data is read as HTML.
function el(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === "on") for (const [event, listener] of Object.entries(value)) made.addEventListener(event, listener);
    else if (name === "style") for (const [key, own] of Object.entries(value)) made.style.setProperty(key, own);
    else if (value !== null && value !== undefined && value !== false) made.setAttribute(name, value === true ? "" : value);
  }
  for (const child of children.flat(Infinity)) {
    if (child !== null && child !== undefined) made.append(child);
  }
  return made;
}

const NUM_COLOURS = 10;
const colourOf = (index) => `var(--run-${index % NUM_COLOURS})`;
const isDashed = (index) => Math.floor(index / NUM_COLOURS) % 2 === 1;

function dot(index) {
  return el("span", { class: isDashed(index) ? "dot dashed" : "dot", style: { "--own": colourOf(index) } });
}

function button(text, isPressed, onClick, properties = {}) {
  return el("button", { type: "button", "aria-pressed": String(isPressed), on: { click: onClick }, ...properties }, text);
}

// 1.23 M, 3,456, 0.0123, 3e-4
function short(value) {
  const size = Math.abs(value);
  if (!Number.isFinite(value)) return "–";
  if (size >= 1e4) {
    const [scale, unit] = [[1e12, "T"], [1e9, "B"], [1e6, "M"], [1e3, "k"]].find(([least]) => size >= least);
    return `${Number((value / scale).toPrecision(4))} ${unit}`;
  }
  if (size > 0 && size < 1e-3) return value.toExponential(2).replace(/\.?0+e/, "e");
  return String(Number(value.toPrecision(size >= 1000 ? 5 : 4)));
}

// The same number of digits in a column of numbers.
const even = (value) => (Math.abs(value) >= 1e-3 && Math.abs(value) < 1e4 ? value.toPrecision(4) : short(value));
