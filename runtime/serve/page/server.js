// What the page asks of the server: answers over HTTP, and what happens, as it happens, over one WebSocket.

export class Unauthorized extends Error {}

async function get(path, signal) {
  const answer = await fetch(path, { signal, headers: { Accept: path.includes("/picture?") ? "image/jpeg" : "application/json" } });
  if (answer.status === 401) throw new Unauthorized();
  if (!answer.ok) {
    const content = await answer.json().catch(() => ({}));
    throw Object.assign(new Error(content.error || `the server answers ${answer.status}`),
      { status: answer.status, content });
  }
  return answer;
}

const one = (camera, sequence) => `/v1/frames/${encodeURIComponent(camera)}/${sequence}`;

export const cameras = async () => (await (await get("/v1/cameras")).json()).cameras;

export async function frames(camera, limit, before) {
  const more = before == null ? "" : `&before=${before}`;
  return (await get(`/v1/cameras/${encodeURIComponent(camera)}/frames?limit=${limit}${more}`)).json();
}

export async function frame(camera, sequence, bytes, signal) {
  return (await get(one(camera, sequence) + (bytes == null ? "" : `?bytes=${bytes}`), signal)).json();
}

export async function picture(camera, sequence, bytes, width, signal) {
  return (await get(`${one(camera, sequence)}/picture?bytes=${bytes}&width=${width}`, signal)).blob();
}

export async function login(token) {
  const answer = await fetch("/v1/login", {
    method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ token }),
  });
  if (!answer.ok) {
    throw new Error(answer.status === 401 ? "This token is not known." : `The server answers ${answer.status}.`);
  }
}

/** A picture's message: the length of its JSON (32 bits, big-endian), the JSON, and a JPEG file. */
function readPicture(buffer) {
  const length = new DataView(buffer).getUint32(0);
  const event = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  event.picture = new Blob([new Uint8Array(buffer, 4 + length)], { type: "image/jpeg" });
  return event;
}

/**
 * Call `onevent` with everything that happens; `onstate("open" | "closed")` when the connection comes and goes.
 * It is opened again until the function that is returned is called.
 */
export function watch(onevent, onstate) {
  let socket, timer, wait = 500, over = false;
  const open = () => {
    socket = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/v1/watch`);
    socket.binaryType = "arraybuffer";
    socket.onopen = () => { wait = 500; onstate("open"); };
    socket.onmessage = ({ data }) => onevent(typeof data === "string" ? JSON.parse(data) : readPicture(data));
    socket.onclose = () => {
      if (over) return;
      onstate("closed");
      timer = setTimeout(open, wait * (0.5 + Math.random()));
      wait = Math.min(2 * wait, 10000);
    };
  };
  open();
  return () => { over = true; clearTimeout(timer); socket.close(); };
}
