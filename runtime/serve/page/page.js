// The page: which view the address names, and the way in.
//
//   #/                  all cameras
//   #/camera/sequence   one frame

import { showCameras } from "./cameras.js";
import { element } from "./dom.js";
import { showFrame } from "./frame.js";
import { login } from "./server.js";

const place = document.getElementById("content");
const summary = document.getElementById("summary");
const link = document.getElementById("link");
let leave = () => {};
let share = null; // where the slider stands, kept from frame to frame

function askForToken() {
  leave();
  leave = () => {};
  summary.textContent = "";
  const token = element("input", { type: "password", id: "token", required: true, autocomplete: "current-password" });
  const fault = element("p", { class: "fault", role: "alert" });
  const form = element("form", { class: "login" }, element("h2", {}, "This server asks for a token"),
    element("label", { for: "token" }, "Viewer's token"), token, element("button", {}, "Enter"), fault);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    try {
      await login(token.value);
      show();
    } catch (reason) {
      fault.textContent = reason.message;
      token.select();
    }
  });
  place.replaceChildren(form);
  token.focus();
}

function show() {
  leave();
  const [, camera, sequence] = location.hash.split("/");
  if (camera && /^\d+$/.test(sequence ?? "")) {
    const name = decodeURIComponent(camera);
    document.title = `${name}, frame ${sequence} – cutoff`;
    summary.textContent = "";
    leave = showFrame(place, name, sequence, share, {
      unauthorized: askForToken,
      go: (where, number, at) => {
        share = at;
        location.hash = `#/${encodeURIComponent(where)}/${number}`;
      },
    });
  } else {
    share = null;
    document.title = "cutoff";
    leave = showCameras(place, { summary, link, unauthorized: askForToken });
  }
}

addEventListener("hashchange", () => {
  if (!location.hash.startsWith("#/")) return; // "Skip to the pictures"
  show();
  scrollTo(0, 0);
});
show();
