// All cameras: a card for each, whose picture sharpens as bytes arrive.

import { MOST, drawRecord, isLate, rateOf, summaryOf } from "./chart.js";
import { draw, element, shape, write, writeAge, writeClock, writeLabel, writeOutcome, writePart, writePercent,
  writeRate }
  from "./dom.js";
import * as server from "./server.js";

const QUIET_SECONDS = 10; // a connected camera without news for so long is waiting
const WIDTH = 640; // of pictures asked for

class Card {
  constructor(camera) {
    this.camera = camera.camera;
    this.record = [];
    this.newest = -1; // sequence of the frame shown
    this.shown = 0; // bytes of it that the picture rests on
    this.drawing = Promise.resolve();
    const id = `camera-${this.camera}`;
    this.canvas = element("canvas", { role: "img", width: 3, height: 2 });
    this.absent = element("span", { class: "absent" }, "No picture yet");
    this.arrived = element("i");
    this.view = element("a", { class: "view", href: "#/", "aria-describedby": `${id}-label` }, this.canvas, this.absent);
    this.name = element("a", { href: "#/", tabindex: -1 }, this.camera);
    this.state = element("span", { class: "state" });
    this.label = element("b", { id: `${id}-label`, class: "soft" }, "nothing yet");
    this.confidence = element("span");
    this.sureness = element("i");
    this.bytes = element("dd", {}, "–");
    this.steps = element("dd", {}, "–");
    this.margin = element("dd", {}, "–");
    this.chart = shape("svg", { role: "img" });
    new ResizeObserver(() => drawRecord(this.chart, this.record)).observe(this.chart);
    this.kept = element("span");
    this.rate = element("span");
    this.root = element("li", { class: "camera", "data-camera": this.camera },
      this.view, element("div", { class: "arrival", "aria-hidden": "true" }, this.arrived),
      element("div", { class: "words" },
        element("div", { class: "top" }, element("h2", {}, this.name), this.state),
        element("div", { class: "label" }, this.label, this.confidence,
          element("div", { class: "bar", "aria-hidden": "true" }, this.sureness)),
        element("dl", { class: "facts" },
          element("div", {}, element("dt", {}, "Arrived"), this.bytes),
          element("div", {}, element("dt", {}, "Steps"), this.steps),
          element("div", {}, element("dt", {}, "Margin"), this.margin)),
        element("figure", { class: "chart" }, this.chart, element("figcaption", {}, this.kept, this.rate))));
    this.update(camera);
  }

  /** Take what the server says of the camera as a whole. */
  update(camera) {
    this.connected = camera.connected;
    this.since = camera.since;
    this.heard = Math.max(camera.heard ?? 0, this.heard ?? 0);
    if (camera.record) {
      this.record = camera.record.filter((one) => one.status).slice(-MOST);
      const last = this.record.at(-1);
      if (last) {
        this.tell(last);
        if (this.shown === 0) this.fetchPicture();
      }
      drawRecord(this.chart, this.record);
    }
    this.tick();
  }

  /** Fetch the last picture that there is: of a frame that was answered, or else of one that came too late. */
  async fetchPicture() {
    const one = this.record.findLast(({ bytes }) => bytes > 0) ?? this.record.findLast(({ held }) => held > 0);
    if (!one) return;
    write(this.absent, "Fetching the last picture");
    try {
      const blob = await server.picture(this.camera, one.sequence, one.bytes || one.held, WIDTH);
      if (this.shown === 0) this.show(blob);
    } catch { // too little for a picture, or no longer kept: the next frame will do
      write(this.absent, "No picture");
    }
  }

  show(blob) {
    this.drawing = this.drawing.then(() => draw(this.canvas, blob)).then(() => { this.absent.hidden = true; }, () => {});
  }

  /** Bytes of a frame arrived. */
  progress(event) {
    this.heard = Date.now() / 1000;
    if (event.sequence < this.newest) return;
    if (event.sequence > this.newest) { this.newest = event.sequence; this.shown = 0; }
    this.tell(event);
    if (event.picture && event.bytes >= this.shown) {
      this.shown = event.bytes;
      this.show(event.picture);
    }
    this.tick();
  }

  /** A frame was answered. */
  result(event) {
    this.record = [...this.record.filter((one) => one.sequence !== event.sequence), event].slice(-MOST);
    drawRecord(this.chart, this.record);
    this.progress(event);
  }

  tell(one) {
    this.newest = Math.max(this.newest, one.sequence);
    const where = `#/${encodeURIComponent(this.camera)}/${one.sequence}`;
    if (one.status) this.view.href = this.name.href = where; // answered: there is something to look into
    const arrived = one.held ?? one.bytes;
    this.arrived.style.width = `${100 * arrived / (one.size || 1)}%`;
    write(this.bytes, writePart(arrived, one.size));
    write(this.steps, one.steps_total ? `${(one.steps ?? 0).toFixed(1)} of ${one.steps_total}` : "–");
    if (one.status) {
      write(this.margin, writeOutcome(one));
      this.margin.classList.toggle("late", isLate(one));
    }
    if (one.label || one.status) {
      write(this.label, writeLabel(one.label) ?? (one.status === "unusable" ? "too little arrived" : "no label"));
      this.label.title = writeLabel(one.label) ?? "";
      this.label.classList.toggle("soft", !one.label);
      write(this.confidence, writePercent(one.confidence));
      this.sureness.style.width = `${100 * (one.confidence ?? 0)}%`;
    }
  }

  /** What changes by time alone. */
  tick(now = Date.now() / 1000) {
    const state = !this.connected ? "lost" : this.heard > now - QUIET_SECONDS ? "live" : "waiting";
    this.root.classList.remove("lost", "live", "waiting");
    this.root.classList.add(state);
    const words = {
      lost: `lost since ${writeClock(this.since)}`, live: "live",
      waiting: this.heard ? `waiting for ${writeAge(this.heard, now)}` : "waiting for its first frame",
    };
    write(this.state, words[state]);
    write(this.kept, summaryOf(this.record));
    write(this.rate, writeRate(rateOf(this.record, now)));
    this.canvas.setAttribute("aria-label", `Camera ${this.camera}, ${words[state]}`);
    return state;
  }
}

/** Show all cameras in `place`; return a function that ends it. */
export function showCameras(place, { summary, link, unauthorized }) {
  const cards = new Map();
  const list = element("ul", { class: "cameras" });
  const empty = element("p", { class: "notice" }, "No camera has connected yet.");
  place.replaceChildren(element("h2", { class: "hidden" }, "Cameras"), list, empty);
  let over = false;

  const tick = () => {
    const states = [...cards.values()].map((card) => card.tick());
    const lost = states.filter((state) => state === "lost").length;
    empty.hidden = states.length > 0;
    write(summary, states.length === 0 ? "" :
      `${states.length} camera${states.length === 1 ? "" : "s"}${lost ? `, ${lost} lost` : ""}`);
  };

  const update = (camera) => {
    const card = cards.get(camera.camera);
    if (card) { card.update(camera); return; }
    const made = new Card(camera);
    cards.set(camera.camera, made);
    const next = [...cards.keys()].sort().find((name) => name > camera.camera);
    list.insertBefore(made.root, next ? cards.get(next).root : null);
  };

  const refresh = async () => {
    try {
      const found = await server.cameras();
      if (over) return;
      found.forEach(update);
      tick();
    } catch (fault) {
      if (fault instanceof server.Unauthorized && !over) unauthorized();
    }
  };

  const stop = server.watch((event) => {
    if (event.type === "camera") { update(event); tick(); }
    else if (event.type === "progress") cards.get(event.camera)?.progress(event);
    else if (event.type === "result") cards.get(event.camera)?.result(event);
    else if (event.type === "missed") refresh();
  }, (state) => {
    link.classList.toggle("broken", state === "closed");
    write(link, state === "open" ? "connected" : "no connection to the server, trying again");
    refresh(); // tells after every attempt whether the way is barred, and what was missed
  });
  const timer = setInterval(tick, 1000);
  return () => { over = true; stop(); clearInterval(timer); write(link, ""); link.classList.remove("broken"); };
}
