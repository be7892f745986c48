"use strict";

/* What every example page needs: a connection to the page's server that reconnects
   automatically, and a place to show what happens. The page has elements with these
   ids:

     status, state, why   whether it is connected, and why not
     problem              what went wrong
     log                  what was said, line by line
     controls             a fieldset that only works while connected */

const FIRST_WAIT = 500;        // ms before reconnecting; doubles each time …
const LONGEST_WAIT = 10000;    // … up to this
const LONG_ENOUGH = 5000;      // ms; a connection that lasted this long resets the delay
const MOST_LINES = 500;

const $ = (id) => document.getElementById(id);

/* Connect to a path. `onOpen()`, `onMessage(text)` and `onClose()` are called each time.
   Returns an object with `send(text)`. */
function connect(path, { onOpen = () => {}, onMessage, onClose = () => {} }) {
  const scheme = location.protocol === "https:" ? "wss" : "ws";
  let socket = null;
  let failures = 0;

  function open() {
    let openedAt = 0;
    showState("connecting");
    socket = new WebSocket(`${scheme}://${location.host}${path}`);
    socket.onopen = () => {
      openedAt = Date.now();
      showState("connected");
      onOpen();
    };
    socket.onmessage = ({ data }) => onMessage(data);
    socket.onclose = ({ code, reason }) => {
      if (openedAt && Date.now() - openedAt > LONG_ENOUGH) failures = 0;
      // With jitter, so that not all pages reconnect to a restarted server at once.
      const longest = Math.min(LONGEST_WAIT, FIRST_WAIT * 2 ** failures);
      const wait = longest * (0.5 + Math.random() / 2);
      failures += 1;
      showState("offline", `${reason || `code ${code}`}; trying again in ${Math.ceil(wait / 1000)} s`);
      setTimeout(open, wait);
      onClose();
    };
  }

  open();
  return {
    send(text) {
      if (socket.readyState === WebSocket.OPEN) socket.send(text);
      else showProblem("Not sent: there is no connection.");
    },
  };
}

function showState(state, why = "") {
  const words = { connecting: "Connecting…", connected: "Connected", offline: "Not connected" };
  $("status").dataset.state = state;
  $("state").textContent = words[state];
  $("why").textContent = why;
  $("controls").disabled = state !== "connected";
}

function showProblem(text) {
  $("problem").textContent = text;
}

/* Add a line to the log: of ours, or of the server's. */
function addLine(text, ours = false) {
  const line = document.createElement("li");
  line.textContent = text;       // as text: what others write is never interpreted as HTML
  line.className = ours ? "ours" : "";
  $("log").append(line);
  while ($("log").childElementCount > MOST_LINES) $("log").firstElementChild.remove();
  $("log").scrollTop = $("log").scrollHeight;
}

/* Call `send(...)` instead of loading another page when a form is sent. */
function onSubmit(form, send) {
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    showProblem("");
    send();
  });
}
