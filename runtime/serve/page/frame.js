// One frame: its picture, steps and label at any cut of its stream.

import { isLate } from "./chart.js";
import { STATUS_WORDS, draw, element, write, writeBytes, writeClock, writeLabel, writeOutcome, writePart, writePercent }
  from "./dom.js";
import * as server from "./server.js";

const POSITIONS = 200; // of the slider; quadratic, as the first bytes change most
const PAGE = 20; // frames listed at a time
const AGAIN_MS = 3000; // until the newest frame asks whether a later one has come

const bytesAt = (position, held) => Math.round(held * (position / POSITIONS) ** 2);
const positionOf = (bytes, held) => held ? POSITIONS * Math.sqrt(Math.min(1, bytes / held)) : 0;

function pairs(entries) {
  return element("dl", {}, ...entries.flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, value)]));
}

/** Show frame `sequence` of `camera` in `place`; return a function that ends it. */
export function showFrame(place, camera, sequence, share, { go, unauthorized }) {
  let over = false, held = 0, wanted = null, running = false, timer, abort = new AbortController();
  const earlier = element("button", { type: "button", disabled: true }, "‹ Earlier");
  const later = element("button", { type: "button", disabled: true }, "Later ›");
  const title = element("h2", {}, `${camera}, frame ${sequence}`);
  const canvas = element("canvas", { class: "blank", role: "img", width: 3, height: 2 });
  const absent = element("p", { class: "absent" }, "Decoding");
  const picture = element("div", { class: "picture" }, canvas, absent, element("div", { class: "busy" }));
  const slider = element("input", {
    type: "range", id: "cut", min: 0, max: POSITIONS, step: 1, value: POSITIONS, disabled: true,
  });
  const cut = element("output", { for: "cut" }, "–");
  const scale = element("div", { class: "scale", "aria-hidden": "true" });
  const marks = element("div", { class: "marks", "aria-hidden": "true" });
  const label = element("b", {}, "–"), confidence = element("span"), sureness = element("i");
  const bytes = element("dd"), bpp = element("dd"), steps = element("dd"), state = element("dd");
  const answer = element("section", { class: "panel" }, element("h3", {}, "The answer"));
  const record = element("section", { class: "record" });
  place.replaceChildren(
    element("div", { class: "trail" }, element("a", { href: "#/" }, "All cameras"), title,
      element("nav", { "aria-label": "Frames" }, earlier, later)),
    element("div", { class: "frame" },
      element("div", { class: "stage" }, picture,
        element("div", { class: "cut" },
          element("label", { for: "cut" }, "Cut after", cut),
          marks, slider, scale)),
      element("div", {},
        element("section", { class: "panel", "aria-live": "polite", "aria-label": "At this cut" },
          element("h3", {}, "At this cut"),
          element("div", { class: "label" }, label, confidence,
            element("div", { class: "bar", "aria-hidden": "true" }, sureness)),
          element("dl", {}, element("dt", {}, "Bytes"), bytes, element("dt", {}, "Bits per pixel"), bpp,
            element("dt", {}, "Steps"), steps, element("dt", {}, "Stream"), state)),
        answer)),
    record);

  const failed = (fault) => {
    if (over || fault.name === "AbortError") return;
    if (fault instanceof server.Unauthorized) unauthorized();
    else write(absent, fault.message);
    absent.hidden = false;
  };

  const tell = (one) => {
    write(label, writeLabel(one.label) ?? "no label");
    label.classList.toggle("soft", !one.label);
    write(confidence, writePercent(one.confidence));
    sureness.style.width = `${100 * (one.confidence ?? 0)}%`;
    write(bytes, writePart(one.bytes, one.size));
    write(bpp, one.width ? (8 * one.bytes / (one.width * one.height)).toFixed(3) : "–");
    write(steps, one.steps_total ? `${one.steps.toFixed(2)} of ${one.steps_total}` : "none");
    write(state, one.damaged ? "damaged" : one.complete ? "whole" : one.steps_total ? "a prefix" : "too short");
  };

  /** Show the cut that is wanted; while one is under way only the newest wish is kept. */
  const refresh = async () => {
    if (running) return;
    running = true;
    picture.classList.add("working");
    try {
      while (wanted !== null && !over) {
        const at = wanted;
        wanted = null;
        const width = Math.round(Math.min(picture.clientWidth * devicePixelRatio, 2048));
        const one = await server.frame(camera, sequence, at, abort.signal);
        if (one.decodable) {
          await draw(canvas, await server.picture(camera, sequence, at, width, abort.signal));
          canvas.setAttribute("aria-label", `The picture after ${writeBytes(at)}`);
        } else {
          write(absent, one.first_bytes
            ? `No picture yet: the first takes ${writeBytes(one.first_bytes)}` : "No picture yet");
        }
        canvas.classList.toggle("blank", !one.decodable);
        absent.hidden = one.decodable;
        tell(one);
      }
    } catch (fault) {
      failed(fault);
    } finally {
      running = false;
      picture.classList.remove("working");
    }
    if (wanted !== null && !over) refresh();
  };

  const moved = () => {
    wanted = bytesAt(Number(slider.value), held);
    const text = writePart(wanted, held);
    write(cut, text);
    slider.setAttribute("aria-valuetext", text);
    refresh();
  };
  slider.addEventListener("input", moved);

  const mark = (at, text, kind = "") => {
    const span = element("span", { class: kind }, text);
    span.style.left = `${100 * positionOf(at, held) / POSITIONS}%`;
    return span;
  };

  /** Lead to the frames before and after this one; a live camera's newest is that for a moment only. */
  const lead = (one) => {
    for (const [button, other] of [[earlier, one.earlier], [later, one.later]]) {
      button.disabled = other == null;
      button.onclick = () => go(camera, other, Number(slider.value) / POSITIONS);
    }
    if (one.later == null && !over) {
      timer = setTimeout(() => server.frame(camera, sequence, 0, abort.signal).then(lead, () => {}), AGAIN_MS);
    }
  };

  const begin = (one) => {
    lead(one);
    held = one.held;
    picture.style.aspectRatio = one.width ? `${one.width} / ${one.height}` : "";
    const answered = one.answer;
    scale.replaceChildren(
      mark(0, "0", "start"), ...[1, 2, 3].map((quarter) => mark(held * quarter ** 2 / 16, writeBytes(Math.round(held * quarter ** 2 / 16)),
        quarter === 2 ? "" : "spare")),
      mark(held, writeBytes(held), "finish"));
    if (answered?.bytes) {
      const at = positionOf(answered.bytes, held) / POSITIONS;
      marks.replaceChildren(mark(answered.bytes, "answered here", at > 0.85 ? "finish" : at < 0.15 ? "start" : ""));
    }
    const entries = [["Captured", writeClock(one.captured)]];
    if (!answered) entries.push(["Outcome", "not answered yet"]);
    else {
      entries.push(["Outcome", STATUS_WORDS[answered.status] ?? answered.status]);
      if (answered.margin_ms != null && answered.status !== "missed") entries.push(["Margin", writeOutcome(answered)]);
      if (answered.label) entries.push(["Label", `${writeLabel(answered.label)}, ${writePercent(answered.confidence)}`]);
      entries.push(["Used", writePart(answered.bytes, one.size)]);
    }
    entries.push(["Kept", held < one.size ? `${writeBytes(held)}, trimmed or cut off` : "all bytes"]);
    if (one.width) entries.push(["Picture", `${one.width} × ${one.height}`]);
    answer.append(pairs(entries), element("p", {},
      element("a", { href: `/v1/frames/${encodeURIComponent(camera)}/${sequence}/stream`, download: `${camera}-${sequence}.cut` },
        "Download the stream")));
    slider.disabled = false;
    slider.value = share == null ? POSITIONS : share * POSITIONS;
    moved();
  };

  const list = async () => {
    const rows = element("tbody");
    const more = element("button", { type: "button", hidden: true }, "Earlier frames");
    record.replaceChildren(element("h3", {}, "Frames of this camera"),
      element("table", {}, element("thead", {}, element("tr", {},
        element("th", { class: "text" }, "Frame"), element("th", { class: "text spare" }, "Captured"),
        element("th", {}, "Used"), element("th", {}, "Margin"), element("th", { class: "text" }, "Label"),
        element("th", { class: "spare" }, "Sure"))), rows), more);
    let before = null;
    const fetchPage = async () => {
      const page = await server.frames(camera, PAGE, before);
      rows.append(...page.frames.map((one) => element("tr",
        { "aria-current": String(one.sequence) === String(sequence) ? "true" : null },
        element("td", { class: "text" },
          element("a", { href: `#/${encodeURIComponent(camera)}/${one.sequence}` }, String(one.sequence))),
        element("td", { class: "text spare" }, writeClock(one.captured)),
        element("td", {}, one.status ? writeBytes(one.bytes) : "–"),
        element("td", { class: isLate(one) ? "late" : "" },
          writeOutcome(one)),
        element("td", { class: "text name", title: writeLabel(one.label) }, writeLabel(one.label) ?? "–"),
        element("td", { class: "spare" }, writePercent(one.confidence)))));
      before = page.before;
      more.hidden = before == null;
    };
    more.addEventListener("click", () => fetchPage().catch(failed));
    await fetchPage();
  };

  server.frame(camera, sequence, 0, abort.signal).then((one) => { if (!over) begin(one); }).catch(failed);
  list().catch(() => { record.hidden = true; });
  return () => { over = true; clearTimeout(timer); abort.abort(); };
}
