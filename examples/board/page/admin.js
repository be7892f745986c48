import { $, make, notify, onSubmit, open } from "./common.js";

const live = open({ admin: decodeURIComponent(location.hash.slice(1)) });
const call = (method, data) => live.rpc(method, data).catch(({ message }) => notify(message));
let shown = "";

function rowOf([board, people]) {
  const row = make("li"), name = board.replace("board:", ""), names = people.join(", ");
  const more = { ariaLabel: `Close ${name}`, onclick: () => call("close", { board }) };
  row.append(make("b", name), make("span", names || "nobody"), make("button", "Close", more));
  return row;
}

live.on("publication", ({ channel, data }) => {
  if (channel === "news") notify(`You said: ${data.text}`);
  else if (shown !== (shown = JSON.stringify(data)))  // what has the focus keeps it
    $("boards").replaceChildren(...Object.entries(data).map(rowOf));
});
live.on("disconnected", ({ reason }) => notify(reason));
onSubmit("announce", "text", (text) => call("announce", { text }));
live.connect();
