// All curves: one state, one chart for each metric that is chosen, and the tools above them.
const AXES = { step: "steps", tokens: "tokens", epoch: "epochs", hours: "hours" };

function curvesOf(runs, metrics, hidden) {
  const curvesOfRun = runs.map(decoded);
  const state = { axis: "tokens", smoothing: 0.5, isLog: false, skipsStart: false, zoom: null, hidden, hover: { x: null, chart: null, at: null } };
  state.spans = Object.fromEntries(Object.keys(AXES).map((axis) => [axis, spanOf(curvesOfRun, axis)]));
  if (!(state.spans.tokens > 0)) state.axis = "step";
  const panels = el("div", { class: "panels" });
  const charts = [];
  const draw = () => {
    state.unit = unitOf(state);
    for (const chart of charts) chart.draw();
  };
  const hover = (chart, x, at) => {
    state.hover = { x, chart, at };
    requestAnimationFrame(() => charts.forEach((other) => other.drawAbove()));
  };
  const zoom = (range) => {
    state.zoom = range;
    reset.hidden = !range;
    draw();
  };
  const linesOf = (metric) =>
    runs
      .map((run, index) => ({ index, name: run.name, curve: curvesOfRun[index][metric.key] }))
      .filter((line) => line.curve && line.curve.mean.length);
  const show = (metric, isShown) => {
    const place = charts.findIndex((chart) => chart.metric === metric);
    if (isShown && place < 0) charts.push(new Chart(metric, linesOf(metric), state, zoom, hover));
    if (!isShown && place >= 0) charts.splice(place, 1);
    charts.sort((a, b) => metrics.indexOf(a.metric) - metrics.indexOf(b.metric));
    panels.replaceChildren(...charts.map((chart) => chart.element));
    draw();
  };

  const axes = Object.entries(AXES).map(([axis, name]) => {
    const made = button(name, axis === state.axis, () => {
      state.axis = axis;
      for (const other of axes) other.setAttribute("aria-pressed", String(other === made));
      zoom(null);
    });
    made.disabled = !(state.spans[axis] > 0);
    return made;
  });
  const strength = el("output", {}, String(state.smoothing));
  const slider = el("input", { type: "range", min: 0, max: 0.99, step: 0.01, value: state.smoothing, class: "smoothing" });
  slider.addEventListener("input", () => {
    state.smoothing = Number(slider.value);
    strength.textContent = slider.value;
    requestAnimationFrame(draw);
  });
  const checkbox = (key) => {
    const made = el("input", { type: "checkbox", class: key });
    made.addEventListener("change", () => {
      state[key] = made.checked;
      draw();
    });
    return made;
  };
  const reset = button("whole range", false, () => zoom(null), { class: "chip", hidden: true });
  const chips = metrics.map((metric) => {
    const chip = button("", metric.isShown, () => {
      metric.isShown = !metric.isShown;
      chip.setAttribute("aria-pressed", String(metric.isShown));
      show(metric, metric.isShown);
    }, { class: "chip" });
    chip.append(el("span", {}, metric.title));
    return chip;
  });

  const colour = () => {
    const names = [...runs.map((_, index) => colourOf(index)), "var(--muted)", "var(--line)"];
    const probes = el("div", {}, names.map((name) => el("i", { style: { color: name } })));
    document.body.append(probes);
    const found = [...probes.children].map((probe) => getComputedStyle(probe).color);
    state.theme = { line: found.pop(), ink: found.pop(), font: `11px ${getComputedStyle(document.body).fontFamily}` };
    state.colours = found;
    probes.remove();
  };
  const redraw = () => {
    colour();
    draw();
  };
  colour();
  for (const metric of metrics) if (metric.isShown) show(metric, true);
  const tools = el("div", { class: "tools" }, el("span", { class: "choice" }, axes), el("label", {}, "smoothing", slider, strength), el("label", {}, checkbox("isLog"), "logarithmic"), el("label", {}, checkbox("skipsStart"), "scale without the first tenth"), reset, el("span", { class: "hint" }, "drag: zoom, double click: whole range"));
  return { elements: [tools, el("div", { class: "metrics" }, chips), panels], redraw };
}

function spanOf(curvesOfRun, axis) {
  let [low, high] = [Infinity, -Infinity];
  for (const curve of curvesOfRun.flatMap((curves) => Object.values(curves))) {
    const x = curve.x[axis];
    if (x.length && Number.isFinite(x[0])) low = Math.min(low, x[0]);
    if (x.length && Number.isFinite(x[x.length - 1])) high = Math.max(high, x[x.length - 1]);
  }
  return high - low;
}

function unitOf(state) {
  if (state.axis === "hours" && state.spans.hours < 1) return { name: "minutes", scale: 60 };
  return { name: AXES[state.axis], scale: 1 };
}
