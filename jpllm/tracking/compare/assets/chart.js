// One metric of all runs: a picture that is drawn anew when the state changes, and above it what follows the pointer.
const NUM_MARKED = 40; // an evaluated curve with fewer points shows each of them
const MAX_SPREADS = 5; // of more runs what lies behind the lines would hide them

class Chart {
  // lines: [{index, name, curve}]; state: what all charts share; onZoom(range or null), onHover(x or null)
  constructor(metric, lines, state, onZoom, onHover) {
    Object.assign(this, { metric, lines, state, onZoom, onHover, isWide: false, selection: null });
    this.base = el("canvas", { role: "img", "aria-label": metric.title });
    this.above = el("canvas", { "aria-hidden": "true" });
    this.readout = el("div", { class: "readout", hidden: true });
    this.plot = el("div", { class: "plot" }, this.base, this.above, this.readout);
    const wide = el("button", { type: "button", on: { click: () => this.widen(wide) } }, "enlarge");
    this.element = el("figure", { class: "panel", "data-metric": metric.key }, el("figcaption", {}, el("span", {}, metric.title), wide), this.plot);
    // Its size comes from here alone: asking for it would let the browser lay out the page for every chart.
    new ResizeObserver(([entry]) => {
      this.width = entry.contentRect.width;
      this.height = entry.contentRect.height;
      this.draw();
    }).observe(this.plot);
    this.listen();
  }

  widen(wide) {
    this.isWide = !this.isWide;
    this.element.classList.toggle("wide", this.isWide);
    wide.textContent = this.isWide ? "reduce" : "enlarge";
  }

  listen() {
    const at = (event) => event.clientX - this.plot.getBoundingClientRect().left;
    this.plot.addEventListener("pointermove", (event) => {
      if (this.selection) this.selection[1] = at(event);
      this.onHover(this, this.xAt(at(event)), [at(event), event.clientY - this.plot.getBoundingClientRect().top]);
    });
    this.plot.addEventListener("pointerleave", () => this.onHover(this, null, null));
    this.plot.addEventListener("pointerdown", (event) => {
      if (event.pointerType !== "mouse" || event.button !== 0) return;
      this.selection = [at(event), at(event)];
      this.plot.setPointerCapture(event.pointerId);
    });
    this.plot.addEventListener("pointerup", () => {
      const [from, to] = (this.selection || [0, 0]).slice().sort((a, b) => a - b);
      this.selection = null;
      if (to - from > 6) this.onZoom([this.xAt(from), this.xAt(to)]);
    });
    this.plot.addEventListener("dblclick", () => this.onZoom(null));
  }

  xAt(pixel) {
    const share = (pixel - MARGIN.left) / Math.max(1, this.width - MARGIN.left - MARGIN.right);
    return this.xRange[0] + Math.min(Math.max(share, 0), 1) * (this.xRange[1] - this.xRange[0]);
  }

  xPixel(x) {
    return MARGIN.left + ((x - this.xRange[0]) / (this.xRange[1] - this.xRange[0])) * (this.width - MARGIN.left - MARGIN.right);
  }

  yPixel(y) {
    const map = this.isLog ? Math.log : (value) => value;
    const share = (map(y) - map(this.yRange[0])) / (map(this.yRange[1]) - map(this.yRange[0]));
    return this.height - MARGIN.bottom - share * (this.height - MARGIN.top - MARGIN.bottom);
  }

  draw() {
    if (!this.width || !this.height) return;
    const context = this.context(this.base);
    this.shown = this.lines.filter((line) => !this.state.hidden.has(line.index)).map((line) => this.prepared(line));
    this.measure();
    drawAxes(this, context);
    context.save();
    context.beginPath();
    const [width, height] = [this.width - MARGIN.left - MARGIN.right, this.height - MARGIN.top - MARGIN.bottom];
    context.rect(MARGIN.left - 4, MARGIN.top - 4, width + 8, height + 8);
    context.clip();
    for (const level of this.metric.levels) drawLevel(this, context, level);
    for (const line of this.shown) this.drawLine(context, line);
    context.restore();
    this.drawAbove();
  }

  context(canvas) {
    const ratio = window.devicePixelRatio || 1;
    canvas.width = Math.round(this.width * ratio);
    canvas.height = Math.round(this.height * ratio);
    const context = canvas.getContext("2d");
    context.scale(ratio, ratio);
    return context;
  }

  prepared(line) {
    const x = line.curve.x[this.state.axis];
    const strength = this.metric.isNoisy ? this.state.smoothing : 0;
    const y = smoothed(x, line.curve.mean, strength, this.state.spans[this.state.axis]);
    return { ...line, x, y, isSmoothed: y !== line.curve.mean, colour: this.state.colours[line.index] };
  }

  measure() {
    const ends = this.shown.flatMap((line) => [line.x[0], line.x[line.x.length - 1]]).filter(Number.isFinite);
    this.xRange = this.state.zoom || (ends.length ? [Math.min(...ends), Math.max(...ends)] : [0, 1]);
    if (!(this.xRange[1] > this.xRange[0])) this.xRange = [this.xRange[0] - 1, this.xRange[0] + 1];
    const from = this.state.skipsStart && !this.state.zoom ? this.xRange[0] + (this.xRange[1] - this.xRange[0]) / 10 : this.xRange[0];
    let [low, high] = [Infinity, -Infinity];
    for (const line of this.shown) {
      for (let index = 0; index < line.x.length; index++) {
        if (line.x[index] < from || line.x[index] > this.xRange[1] || !Number.isFinite(line.y[index])) continue;
        low = Math.min(low, line.y[index]);
        high = Math.max(high, line.y[index]);
      }
    }
    if (low > high) [low, high] = [0, 1];
    this.isLog = this.state.isLog && low > 0;
    if (low === high) [low, high] = this.isLog ? [low / 2, high * 2] : [low - (Math.abs(low) || 1) / 10, high + (Math.abs(high) || 1) / 10];
    const pad = this.isLog ? Math.pow(high / low, 0.05) : (high - low) * 0.05;
    this.yRange = this.isLog ? [low / pad, high * pad] : [low - pad, high + pad];
  }

  drawLine(context, line) {
    context.fillStyle = context.strokeStyle = line.colour;
    context.lineJoin = "round";
    const isCrowded = this.shown.length > MAX_SPREADS;
    if (line.curve.low && !isCrowded) {
      context.globalAlpha = 0.12;
      context.beginPath();
      this.trace(context, line.x, line.curve.high, false);
      this.trace(context, line.x, line.curve.low, true);
      context.fill();
    }
    if (line.isSmoothed) {
      context.globalAlpha = isCrowded ? 0.12 : 0.25;
      context.lineWidth = 1;
      context.beginPath();
      this.trace(context, line.x, line.curve.mean, false);
      context.stroke();
    }
    context.globalAlpha = 1;
    context.lineWidth = 1.7;
    context.setLineDash(isDashed(line.index) ? [5, 3] : []);
    context.beginPath();
    this.trace(context, line.x, line.y, false);
    context.stroke();
    context.setLineDash([]);
    if (this.metric.isNoisy || line.x.length > NUM_MARKED) return;
    for (let index = 0; index < line.x.length; index++) this.drawPoint(context, line.x[index], line.y[index], 2.2);
  }

  drawPoint(context, x, y, radius) {
    if (!Number.isFinite(x) || !Number.isFinite(y) || (this.isLog && y <= 0)) return;
    context.beginPath();
    context.arc(this.xPixel(x), this.yPixel(y), radius, 0, 2 * Math.PI);
    context.fill();
  }

  // A gap where a value is not known; backwards it goes on where the path has ended.
  trace(context, x, y, isBackwards) {
    let isBegun = isBackwards;
    for (let count = 0; count < x.length; count++) {
      const index = isBackwards ? x.length - 1 - count : count;
      if (!Number.isFinite(x[index]) || !Number.isFinite(y[index]) || (this.isLog && y[index] <= 0)) {
        isBegun = isBackwards;
        continue;
      }
      if (isBegun) context.lineTo(this.xPixel(x[index]), this.yPixel(y[index]));
      else context.moveTo(this.xPixel(x[index]), this.yPixel(y[index]));
      isBegun = true;
    }
  }

  // The line of the pointer in all charts, and the numbers in the chart that it is in.
  drawAbove() {
    if (!this.width || !this.height) return;
    const context = this.context(this.above);
    const { x, chart, at } = this.state.hover;
    if (this.selection) {
      context.fillStyle = this.state.theme.ink;
      context.globalAlpha = 0.12;
      context.fillRect(this.selection[0], MARGIN.top, this.selection[1] - this.selection[0], this.height - MARGIN.top - MARGIN.bottom);
      context.globalAlpha = 1;
    }
    const isInside = x !== null && x >= this.xRange[0] && x <= this.xRange[1];
    this.readout.hidden = !(isInside && chart === this);
    if (!isInside) return;
    context.strokeStyle = this.state.theme.ink;
    context.globalAlpha = 0.5;
    context.beginPath();
    context.moveTo(this.xPixel(x), MARGIN.top);
    context.lineTo(this.xPixel(x), this.height - MARGIN.bottom);
    context.stroke();
    context.globalAlpha = 1;
    const found = this.pointsAt(x);
    for (const { line, index } of found) {
      context.fillStyle = line.colour;
      this.drawPoint(context, line.x[index], line.y[index], 3.5);
    }
    if (chart === this) this.read(x, found, at);
  }

  // The nearest point of each run that has got so far.
  pointsAt(x) {
    const slack = (this.xRange[1] - this.xRange[0]) * 0.02;
    return this.shown
      .filter((line) => x >= line.x[0] - slack && x <= line.x[line.x.length - 1] + slack)
      .map((line) => ({ line, index: nearest(line.x, x) }))
      .filter(({ line, index }) => Number.isFinite(line.y[index]));
  }

  read(x, found, at) {
    const rows = found
      .sort((a, b) => b.line.y[b.index] - a.line.y[a.index])
      .map(({ line, index }) => {
        const raw = line.isSmoothed ? el("span", { class: "raw" }, even(line.curve.mean[index])) : null;
        return el("div", {}, dot(line.index), el("span", { class: "name" }, line.name), el("span", {}, even(line.y[index])), raw);
      });
    const where = `${short(x * this.state.unit.scale)} ${this.state.unit.name}`;
    this.readout.replaceChildren(el("div", { class: "where" }, where), ...rows);
    const isRight = at[0] > this.width / 2;
    this.readout.style.left = isRight ? "auto" : `${at[0] + 14}px`;
    this.readout.style.right = isRight ? `${this.width - at[0] + 14}px` : "auto";
    this.readout.style.top = `${Math.min(at[1] + 10, this.height - 30)}px`;
  }
}
