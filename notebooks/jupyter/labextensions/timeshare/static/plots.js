/** Plots of the last hour. A gap in what is known is a gap in the line. */

import { h } from "./dom.js";

const WIDTH = 300;
const HEIGHT = 70;
const LEFT = 34;
const BOTTOM = 14;
const HOUR = 3600;

/** Pieces of a line: points that follow each other without a gap. */
export function pieces(history, name) {
  const found = [];
  let piece = [];
  let last = null;
  for (const point of history) {
    const gap = last !== null && last.ago_s - point.ago_s > 200;
    if ((point[name] === null || gap) && piece.length) {
      found.push(piece);
      piece = [];
    }
    if (point[name] !== null) piece.push([point.ago_s, point[name]]);
    last = point;
  }
  if (piece.length) found.push(piece);
  return found;
}

/** What the plot shows, in words. */
export function summary(history, name, unit) {
  const values = history.map((point) => point[name]).filter((value) => value !== null);
  if (!values.length) return "nothing is known of the last hour";
  const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
  return `on average ${format(mean)} ${unit}, at most ${format(Math.max(...values))} ${unit}`;
}

function format(value) {
  return value >= 10 ? Math.round(value).toString() : value.toFixed(1);
}

/** One plot. `top`: what the upper edge stands for; it grows with the values. */
export function plot(title, history, name, unit, top) {
  const most = Math.max(top, ...history.map((point) => point[name] ?? 0));
  const x = (ago) => LEFT + (WIDTH - LEFT - 4) * (1 - Math.min(ago, HOUR) / HOUR);
  const y = (value) => 6 + (HEIGHT - BOTTOM - 6) * (1 - value / most);
  const lines = pieces(history, name).map((piece) =>
    piece.length > 1
      ? h("path", { class: "ts-line", d: `M${piece.map(([ago, value]) => `${x(ago)},${y(value)}`).join("L")}` })
      : h("circle", { class: "ts-dot", cx: x(piece[0][0]), cy: y(piece[0][1]), r: 1.5 }),
  );
  const label = (text, at, anchor, row) => h("text", { x: at, y: row, "text-anchor": anchor, class: "ts-tick" }, text);
  return h(
    "figure",
    { class: "ts-plot" },
    h("figcaption", {}, title),
    h(
      "svg",
      { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": `${title}: ${summary(history, name, unit)}` },
      h("line", { class: "ts-axis", x1: LEFT, y1: y(0), x2: WIDTH - 4, y2: y(0) }),
      h("line", { class: "ts-axis", x1: LEFT, y1: y(0), x2: LEFT, y2: y(most) }),
      label(`${format(most)} ${unit}`, LEFT - 3, "end", y(most) + 6),
      label("0", LEFT - 3, "end", y(0)),
      label("1 h ago", LEFT, "start", HEIGHT - 3),
      label("now", WIDTH - 4, "end", HEIGHT - 3),
      lines,
    ),
  );
}
