// Around the document: elements, drawings, and how figures are written.

/** Return an element with attributes and children; an attribute that begins with "on" is a listener. */
export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value === true) made.setAttribute(name, "");
    else if (value !== false && value != null) made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

/** Return an element of a drawing. */
export function shape(tag, attributes = {}, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

/** Change a text only if it differs, so that nothing is drawn or read out anew. */
export function write(target, text) {
  if (target.textContent !== text) target.textContent = text;
}

export function writeBytes(count) {
  if (count == null) return "–";
  if (count < 1000) return `${count} B`;
  if (count < 1e6) return `${(count / 1000).toFixed(count < 1e5 ? 1 : 0)} kB`;
  return `${(count / 1e6).toFixed(1)} MB`;
}

/** Return a part of a whole; the unit once, if it is the same. */
export function writePart(part, whole) {
  const [one, other] = [writeBytes(part), writeBytes(whole)];
  const unit = other.split(" ")[1];
  return `${one.endsWith(` ${unit}`) ? one.split(" ")[0] : one} of ${other}`;
}

export function writeRate(bitsPerSecond) {
  if (bitsPerSecond < 1e6) return `${Math.round(bitsPerSecond / 1000)} kbit/s`;
  return `${(bitsPerSecond / 1e6).toFixed(1)} Mbit/s`;
}

export function writePercent(share) {
  return share == null ? "" : `${Math.round(100 * share)} %`;
}

/** Return the margin in words: what is left before the deadline, or by how much it was missed. */
export function writeMargin(milliseconds) {
  if (milliseconds == null) return "no deadline";
  const size = Math.abs(milliseconds);
  const text = size < 9.95 ? `${size.toFixed(1)} ms` : size < 1e4 ? `${size.toFixed(0)} ms` : `${(size / 1000).toFixed(0)} s`;
  return `${text} ${milliseconds < 0 ? "late" : "left"}`;
}

/** Return how a frame's answer stood to its deadline; nothing if there is no answer. */
export function writeOutcome(one) {
  if (!one.status) return "–";
  if (one.status === "unusable") return "no picture";
  return one.status === "missed" && !(one.margin_ms < 0) ? "missed" : writeMargin(one.margin_ms);
}

/** Return a label as people write it; lists of classes join words by underscores. */
export const writeLabel = (label) => label?.replaceAll("_", " ");

/** Return the time of day of an instant, with its date if that is not today. */
export function writeClock(unixSeconds) {
  const instant = new Date(1000 * unixSeconds);
  const clock = instant.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: "2-digit" });
  return instant.toDateString() === new Date().toDateString() ? clock : `${instant.toLocaleDateString()} ${clock}`;
}

/** Return how long ago an instant was. */
export function writeAge(unixSeconds, now = Date.now() / 1000) {
  const seconds = Math.max(0, now - unixSeconds);
  if (seconds < 90) return `${Math.round(seconds)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  return seconds < 172800 ? `${Math.round(seconds / 3600)} h` : `${Math.round(seconds / 86400)} days`;
}

export const STATUS_WORDS = {
  ok: "in time", preview: "by the preview network", missed: "missed its deadline", damaged: "damaged",
  unusable: "too little for a picture",
};

/** Draw a picture's bytes into a canvas; what it shows stays until the new picture is there. */
export async function draw(canvas, blob) {
  const picture = await createImageBitmap(blob);
  if (canvas.width !== picture.width || canvas.height !== picture.height) {
    canvas.width = picture.width;
    canvas.height = picture.height;
  }
  canvas.getContext("2d").drawImage(picture, 0, 0);
  picture.close();
}
