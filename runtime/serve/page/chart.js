// A camera's deadline record: a mark for each frame, above the line when it was in time, below it when late,
// and behind the marks how many bytes arrived.

import { shape } from "./dom.js";

export const MOST = 60; // frames drawn
const HEIGHT = 64, LINE = 46, RATE_SECONDS = 10;
const LEGEND = "Each mark is a frame: dots above the line were in time (hollow: the preview network answered), "
  + "crosses below it were late or without a picture. Bars: bytes that arrived.";

const arrived = (one) => one.held ?? one.bytes;
/** Return whether a frame that was due had no picture in time. */
export const isLate = (one) =>
  one.status === "missed" || (one.margin_ms != null && (one.margin_ms < 0 || one.status === "unusable"));

/** Return bits per second of what arrived over the last seconds of the record. */
export function rateOf(record, now = Date.now() / 1000) {
  const recent = record.filter((one) => one.received > now - RATE_SECONDS);
  if (!recent.length) return 0;
  return 8 * recent.reduce((sum, one) => sum + arrived(one), 0) / RATE_SECONDS;
}

/** Return the record in a sentence. */
export function summaryOf(record) {
  const due = record.filter((one) => one.margin_ms != null || one.status === "missed");
  if (!due.length) return "no deadlines yet";
  return `${due.length - due.filter(isLate).length} of ${due.length} in time`;
}

/** Draw `record`, oldest first, into the SVG element `chart`. */
export function drawRecord(chart, record) {
  const shown = record.slice(-MOST);
  const width = chart.clientWidth || 300; // its own pixels, so that marks keep their shape
  const widest = Math.max(1, ...shown.map((one) => one.margin_ms ?? 0));
  const most = Math.max(1, ...shown.map((one) => arrived(one)));
  const step = width / MOST;
  const marks = [];
  shown.forEach((one, index) => {
    const x = width - (shown.length - index - 0.5) * step;
    const height = arrived(one) / most * (HEIGHT - 6);
    marks.push(shape("rect", { class: "rate", x: x - step / 2 + 0.4, y: HEIGHT - height, width: step - 0.8, height }));
  });
  marks.push(shape("line", { class: "zero", x1: 0, x2: width, y1: LINE, y2: LINE }));
  shown.forEach((one, index) => {
    const x = width - (shown.length - index - 0.5) * step;
    if (isLate(one)) {
      marks.push(shape("path", { class: "tardy", d: `M${x - 3} ${LINE + 5}l6 6m0 -6l-6 6` }));
    } else if (one.margin_ms != null) {
      const y = LINE - 4 - Math.sqrt(one.margin_ms / widest) * (LINE - 10);
      marks.push(shape("circle", { class: one.status === "preview" ? "preview" : "timely", cx: x, cy: y, r: 2.1 }));
    }
  });
  chart.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
  chart.setAttribute("aria-label", `Deadline record of the last ${shown.length} frames: ${summaryOf(shown)}`);
  chart.replaceChildren(shape("title", {}, LEGEND), ...marks);
}
