import { Centrifuge } from "/live/client.js";

export const $ = (id) => document.getElementById(id);
export let store = {};
try { store = localStorage; } catch { /* a browser that lets nothing be stored */ }

/** An element; what others wrote is text in it, and never HTML. */
export function make(tag, text = "", more = {}) {
  return Object.assign(document.createElement(tag), { textContent: text }, more);
}

/** Tell something that the style sheet hides again after some seconds. */
export function notify(text) {
  $("notice").replaceChildren(make("p", text));
}

/** When a form is sent do something with a field, and empty that if it was accepted. */
export function onSubmit(form, field, action) {
  $(form).onsubmit = async (event) => {
    event.preventDefault();
    if (await action($(field).value)) $(field).value = "";
  };
}

/** A client of the server: who it is, it says when it connects. */
export function open(data) {
  const live = new Centrifuge("/live/websocket", { data });
  live.on("state", ({ newState }) => {
    $("status").dataset.state = $("status").textContent = newState;
  });
  return live;
}
