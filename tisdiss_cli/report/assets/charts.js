// Histograms and curves as SVG, in the page's colours.

let chartWidth = 560; // of two charts side by side

/** Returns values at round distances that span low ... high in about `count` steps. */
function ticks(low, high, count) {
  const rough = (high - low || 1) / count, power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((factor) => factor * power >= rough * 0.999);
  const values = [];
  for (let k = Math.floor(low / step); k <= Math.ceil(high / step); k++) values.push(k * step);
  return { step, values, digits: Math.max(0, Math.min(6, -Math.floor(Math.log10(step) + 1e-9))) };
}

function chart(place, title, sentence, ...pictures) {
  const card = make("section", { className: "chart" }, make("h2", {}, title), make("p", {}, sentence));
  card.append(...pictures);
  place.append(card);
}

/** Draws the number of files by value; from 100 files on, the outermost bars also hold the extreme half percent. */
function histogram(place, title, values, unit, digits) {
  const sorted = values.filter((value) => value !== null && Number.isFinite(value)).sort((a, b) => a - b);
  if (!sorted.length) return;
  const n = sorted.length, far = n >= 100;
  const low = far ? quantile(sorted, 0.005) : sorted[0], high = far ? quantile(sorted, 0.995) : sorted[n - 1];
  const { step, values: edges, digits: shown } = ticks(low, high === low ? low + (Math.abs(low) || 1) : high, Math.min(24, Math.max(8, Math.ceil(2 * Math.sqrt(n)))));
  const bins = new Array(edges.length - 1).fill(0);
  for (const value of sorted) bins[Math.max(0, Math.min(bins.length - 1, Math.floor((value - edges[0]) / step)))]++;
  const W = narrow() ? 340 : chartWidth, H = narrow() ? 120 : 150, left = 34, bottom = 22, top = 8;
  const most = Math.max(...bins), x = (value) => left + ((value - edges[0]) / (step * bins.length)) * (W - left - 8);
  const y = (count) => H - bottom - (count / most) * (H - bottom - top);
  const svg = draw("svg", { viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": title });
  bins.forEach((count, k) => {
    const bar = draw("rect", { class: "bar", x: x(edges[k]) + 1, width: Math.max(1, x(edges[k + 1]) - x(edges[k]) - 2), y: y(count), height: H - bottom - y(count) });
    bar.append(draw("title", {}, `${fixed(edges[k], shown)} to ${fixed(edges[k + 1], shown)} ${unit}: ${count} files`));
    svg.append(bar);
  });
  svg.append(draw("line", { class: "axis", x1: left, x2: W - 8, y1: H - bottom, y2: H - bottom }));
  const each = Math.ceil(edges.length / (narrow() ? 6 : 9));
  edges.forEach((edge, k) => k % each || svg.append(draw("text", { x: x(edge), y: H - 6, "text-anchor": k < edges.length - 1 ? "middle" : "end" }, fixed(edge, shown))));
  svg.append(draw("text", { x: left - 6, y: top + 10, "text-anchor": "end" }, String(most)));
  svg.append(draw("text", { x: left - 6, y: H - bottom, "text-anchor": "end" }, "0"));
  const median = quantile(sorted, 0.5), at = Math.min(W - 8, Math.max(left, x(median)));
  svg.append(draw("line", { class: "median", x1: at, x2: at, y1: top, y2: H - bottom }));
  const space = unit ? " " + unit : "";
  const tail = n >= 20 ? `, a tenth below ${fixed(quantile(sorted, 0.1), digits)}${space}, a tenth above ${fixed(quantile(sorted, 0.9), digits)}${space}` : "";
  chart(place, title, `median ${fixed(median, digits)}${space}${tail}; ${n} files`, svg);
}

/** Draws quality against time: curves [{name, points: [{label, x, y}], marked}]. */
function qualityCurve(place, curves) {
  const points = curves.flatMap((curve) => curve.points);
  if (!points.length) return;
  const reach = points.map((p) => p.y); // without the intervals over files, which would flatten the curve
  const across = ticks(0, Math.max(...points.map((p) => p.x)), 6), up = ticks(Math.min(...reach), Math.max(...reach), 5);
  const W = narrow() ? 340 : chartWidth, H = narrow() ? 220 : 280, left = 46, right = 16, bottom = 40, top = 14;
  const x = (value) => left + (value / across.values.at(-1)) * (W - left - right);
  const y = (value) => H - bottom - ((value - up.values[0]) / (up.values.at(-1) - up.values[0] || 1)) * (H - bottom - top);
  const svg = draw("svg", { viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": "SI-SNRi against real-time factor" });
  for (const value of up.values) {
    svg.append(draw("line", { class: "axis", x1: left, x2: W - right, y1: y(value), y2: y(value) }));
    svg.append(draw("text", { x: left - 6, y: y(value) + 4, "text-anchor": "end" }, fixed(value, up.digits)));
  }
  for (const value of across.values) svg.append(draw("text", { x: x(value), y: H - bottom + 16, "text-anchor": "middle" }, fixed(value, across.digits)));
  svg.append(draw("text", { class: "title", x: (W + left) / 2, y: H - 6, "text-anchor": "middle" }, "network seconds per second of audio"));
  curves.forEach((curve, number) => {
    const kind = number % 2;
    svg.append(draw("polyline", { class: "line" + kind, points: curve.points.map((p) => `${x(p.x)},${y(p.y)}`).join(" ") }));
    for (const p of curve.points) {
      const dot = draw("circle", { class: "dot" + kind, cx: x(p.x), cy: y(p.y), r: 4 });
      dot.append(draw("title", {}, `${curve.name} ${p.label}: ${fixed(p.y, 2)} dB at ${fixed(p.x, 4)}`));
      svg.append(dot, draw("text", { class: "title", x: x(p.x) + 7, y: y(p.y) - 7 }, p.label));
      if (p.label === curve.marked) svg.append(draw("circle", { class: "ring", cx: x(p.x), cy: y(p.y), r: 9 }));
    }
  });
  const names = curves.map((curve) => `${curve.name ? curve.name + ": " : ""}the ring marks ${curve.marked}, the fewest repeats within 0.1 dB of the best`);
  chart(place, "SI-SNRi in dB against time, by repeats", names.join("; "), svg);
}
