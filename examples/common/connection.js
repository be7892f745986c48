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
const LONGEST_SILENCE = 40000; // ms; the servers send an empty message every 15 s
const MOST_LINES = 500;

const $ = (id) => document.getElementById(id);

/* A network that dies tells nobody: browsers keep such a connection "open" for minutes, and
   they do not show a page the server's pings. So the servers send an empty message every
   15 s, and a connection on which none comes any more is given up.

   Connect to a path. `onOpen()`, `onMessage(text)` and `onClose()` are called each time.
   Returns an object with `send(text)`. */
function connect(path, { onOpen = () => {}, onMessage, onClose = () => {} }) {
  const scheme = location.protocol === "https:" ? "wss" : "ws";
  let socket = null;
  let failures = 0;
  let watchdog = 0;

  function open() {
    let openedAt = 0;
    showState("connecting");
    const mine = socket = new WebSocket(`${scheme}://${location.host}${path}`);
    watch();
    mine.onopen = () => {
      openedAt = Date.now();
      showState("connected");
      onOpen();
    };
    mine.onmessage = ({ data }) => {
      watch();
      if (data !== "" && data !== '""') onMessage(data);         // empty, plain or as JSON
    };
    mine.onclose = ended;

    function watch() {
      clearTimeout(watchdog);
      watchdog = setTimeout(lose, LONGEST_SILENCE);
    }

    function lose() {
      mine.onmessage = mine.onclose = null;             // its close would come minutes later
      mine.close();
      ended({ code: 1006, reason: "no sign of life" });
    }

    function ended({ code, reason }) {
      clearTimeout(watchdog);
      if (openedAt && Date.now() - openedAt > LONG_ENOUGH) failures = 0;
      // With jitter, so that not all pages reconnect to a restarted server at once.
      const longest = Math.min(LONGEST_WAIT, FIRST_WAIT * 2 ** failures);
      const wait = longest * (0.5 + Math.random() / 2);
      failures += 1;
      showState("offline", `${reason || `code ${code}`}; trying again in ${Math.ceil(wait / 1000)} s`);
      setTimeout(open, wait);
      onClose();
    }
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
