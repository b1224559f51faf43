// What stands around the curves of a chart: grid, numbers, levels to compare with.
const MARGIN = { left: 48, right: 10, top: 8, bottom: 24 };

function drawAxes(chart, context) {
  const { theme, unit } = chart.state;
  const right = chart.width - MARGIN.right;
  context.font = theme.font;
  context.fillStyle = theme.ink;
  context.strokeStyle = theme.line;
  context.lineWidth = 1;
  context.textBaseline = "middle";
  context.textAlign = "right";
  for (const value of chart.isLog ? logTicks(...chart.yRange) : ticks(...chart.yRange, chart.height > 300 ? 8 : 5)) {
    const y = Math.round(chart.yPixel(value)) + 0.5;
    context.beginPath();
    context.moveTo(MARGIN.left, y);
    context.lineTo(right, y);
    context.stroke();
    context.fillText(short(value), MARGIN.left - 6, y);
  }
  const base = chart.height - 7;
  const room = right - context.measureText(unit.name).width - 14;
  context.textBaseline = "alphabetic";
  context.fillText(unit.name, right, base);
  context.textAlign = "center";
  for (const value of ticks(chart.xRange[0] * unit.scale, chart.xRange[1] * unit.scale, Math.max(2, Math.floor(chart.width / 75)))) {
    const x = chart.xPixel(value / unit.scale);
    if (x + context.measureText(short(value)).width / 2 < room) context.fillText(short(value), x, base);
  }
}

function drawLevel(chart, context, level) {
  const y = chart.yPixel(level.value);
  const isAtTop = y < MARGIN.top + 14;
  context.strokeStyle = context.fillStyle = chart.state.theme.ink;
  context.setLineDash([2, 3]);
  context.beginPath();
  context.moveTo(MARGIN.left, y);
  context.lineTo(chart.width - MARGIN.right, y);
  context.stroke();
  context.setLineDash([]);
  context.textAlign = "right";
  context.textBaseline = isAtTop ? "top" : "bottom";
  context.fillText(`${level.label} ${short(level.value)}`, chart.width - MARGIN.right - 2, isAtTop ? y + 3 : y - 1);
}
