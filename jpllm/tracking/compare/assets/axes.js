// Numbers of curves: what the page was given, where a step lies on an axis, smoothing, ticks.
function decoded(run) {
  const clock = { step: summed(run.clock.step || []) };
  for (const place of ["tokens", "epoch", "hours"]) clock[place] = numbers(run.clock[place] || []);
  const curves = {};
  for (const [key, curve] of Object.entries(run.curves)) {
    const step = summed(curve.step);
    curves[key] = { mean: numbers(curve.mean), x: { step } };
    for (const place of ["tokens", "epoch", "hours"]) curves[key].x[place] = Float64Array.from(step, (at) => placeAt(clock, place, at));
    if (curve.low) Object.assign(curves[key], { low: numbers(curve.low), high: numbers(curve.high) });
  }
  return curves;
}

const numbers = (values) => Float64Array.from(values, (value) => (value === null ? NaN : value));

function summed(differences) {
  let sum = 0;
  return Float64Array.from(differences, (by) => (sum += by));
}

// Between two rows of the clock the places are taken to grow evenly.
function placeAt(clock, place, step) {
  const steps = clock.step;
  const values = clock[place];
  if (!steps.length) return NaN;
  const after = Math.min(lowerBound(steps, step), steps.length - 1);
  if (steps[after] <= step || after === 0) return values[after];
  const share = (step - steps[after - 1]) / (steps[after] - steps[after - 1]);
  return values[after - 1] + share * (values[after] - values[after - 1]);
}

// Index of the first value that is not below the wanted one.
function lowerBound(values, wanted) {
  let [low, high] = [0, values.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (values[middle] < wanted) low = middle + 1;
    else high = middle;
  }
  return low;
}

function nearest(values, wanted) {
  const after = lowerBound(values, wanted);
  if (after === 0) return 0;
  if (after === values.length) return after - 1;
  return wanted - values[after - 1] <= values[after] - wanted ? after - 1 : after;
}

// Mean of what came before, older points counting less by their distance on the axis, whatever the number of points.
function smoothed(x, y, strength, span) {
  if (!strength || !(span > 0)) return y;
  const keep = Math.sqrt(strength);
  let [sum, weight, before] = [0, 0, x[0]];
  return y.map((value, index) => {
    if (!Number.isFinite(value)) return NaN;
    const fade = Math.pow(keep, (1000 * (x[index] - before)) / span);
    before = x[index];
    sum = sum * fade + value;
    weight = weight * fade + 1;
    return sum / weight;
  });
}

function ticks(low, high, wanted) {
  const rough = (high - low) / wanted;
  const power = Math.pow(10, Math.floor(Math.log10(rough)));
  const step = [1, 2, 2.5, 5, 10].find((factor) => factor * power >= rough * 0.999) * power;
  const found = [];
  for (let index = Math.ceil(low / step - 1e-9); index * step <= high + step * 1e-9; index++) found.push(index * step);
  return found;
}

function logTicks(low, high) {
  for (const factors of [[1], [1, 3], [1, 2, 5]]) {
    const found = [];
    for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power++) {
      for (const factor of factors) found.push(factor * Math.pow(10, power));
    }
    const inside = found.filter((value) => value >= low && value <= high);
    if (inside.length >= 3) return inside;
  }
  return ticks(low, high, 4);
}
