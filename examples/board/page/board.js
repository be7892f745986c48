import { $, make, notify, onSubmit, open, store } from "./common.js";

const COLUMNS = ["todo", "doing", "done"];
const items = new Map();  // by the id of a card: its element
let cards = new Map(), people = new Set(), me, topic, live, dragged, begun = 0;

/** Ask the server for something: what it does, it publishes; if it refuses, we are told. */
const call = (method, data) => live.rpc(method, { board: topic, ...data })
  .catch(({ message }) => notify(message));

// ---- Cards ---------------------------------------------------------------------------

const inside = (column) => [...cards.values()].filter((card) => card.column === column)
  .sort((a, b) => a.place - b.place);

/** Put a card into a column: above another card, or at the end. */
function move(card, column, above) {
  const others = inside(column).filter((other) => other.id !== card.id);
  const index = above ? others.indexOf(above) : others.length;
  const before = others[index - 1]?.place, after = others[index]?.place;
  const place = others.length ? ((before ?? after - 2) + (after ?? before + 2)) / 2 : 0;
  return call("put", { ...card, column, place });
}

function edit(card) {
  [$("draft").value, $("where").value, $("editor").returnValue] = [card.text, card.column, ""];
  $("editor").onclose = () => {
    const column = { save: $("where").value, remove: "bin" }[$("editor").returnValue];
    const changed = { ...card, text: $("draft").value };
    if (column === card.column) call("put", changed);
    else if (column) move(changed, column);
  };
  $("editor").showModal();
}

function press(event, card) {
  const others = inside(card.column), at = others.indexOf(card), { key } = event;
  const to = COLUMNS[COLUMNS.indexOf(card.column) + { ArrowLeft: -1, ArrowRight: 1 }[key]];
  if (to) move(card, to);
  else if (key === "Enter" || key === " ") edit(card);
  else if (key === "ArrowUp" && at > 0) move(card, card.column, others[at - 1]);
  else if (key === "ArrowDown" && others[at + 1]) move(card, card.column, others[at + 2]);
  else return;
  event.preventDefault();
}

function itemOf(card) {
  const item = items.get(card.id) ?? make("li", "", { draggable: true });
  if (item.card === card) return item;
  const face = item.firstChild ?? item.appendChild(make("div"));
  const does = { onclick: () => edit(card), onkeydown: (event) => press(event, card) };
  Object.assign(face, { role: "button", tabIndex: 0, textContent: card.text, ...does });
  items.set(card.id, Object.assign(item, { card }));
  return item;
}

function show() {
  const focused = document.activeElement;
  for (const section of document.querySelectorAll("section")) {
    const found = inside(section.id);
    section.querySelector("ol").replaceChildren(...found.map(itemOf));
    section.querySelector("h2 span").textContent = found.length;
  }
  focused?.focus({ preventScroll: true });
}

document.ondragstart = ({ target }) => { dragged = target.card; };
document.ondragover = (event) => { if (event.target.closest("section")) event.preventDefault(); };
document.ondrop = (event) => {
  const column = event.target.closest("section"), above = event.target.closest("li")?.card;
  if (column && dragged) event.preventDefault();
  if (column && dragged && above !== dragged) move(dragged, column.id, above);
};

// ---- What is said and done, and who is here ------------------------------------------

function note({ by, text, at, said, to }, missed) {
  const className = `${said ? "said" : ""} ${missed ? "missed" : ""} ${to ? "private" : ""}`;
  const time = new Date(at * 1000).toLocaleTimeString([], { timeStyle: "short" });
  const line = make("li", "", { className });
  line.append(make("b", by), to ? ` to ${to}: ` : " ", text, make("time", time));
  $("log").append(line);
  if ($("log").children.length > 200) $("log").firstChild.remove();
  $("log").scrollTop = $("log").scrollHeight;
}

function receive(event) {
  const missed = event.number <= begun;  // then the cards that we began with have it
  note(event, missed);
  if (!event.card || missed) return;
  cards.set(event.card.id, event.card);  // in "bin" it is not shown
  show();
  items.get(event.card.id)?.classList.toggle("others", event.by !== me);
}

function showPeople() {
  const names = [...people].sort(), to = $("to").value;  // who has gone is not "everybody"
  const others = [...new Set([...names, to])].filter((name) => name && name !== me);
  $("people").replaceChildren(...names.map((name) => make("li", name, { title: name })));
  $("to").length = 1;
  $("to").append(...others.map((name) => new Option(`to ${name}`, name)));
  $("to").value = to;
}

// ---- Coming and going ----------------------------------------------------------------

function leave({ code, reason }) {
  if (!code) return;  // we have left by ourselves
  live.disconnect();
  $("room").hidden = !($("entrance").hidden = false);
  notify(code === 2000 ? "This board was closed" : reason);
}

function enter(name, board) {
  [me, topic, store.name] = [name, `board:${board}`, name];
  store.secret ??= crypto.getRandomValues(new Uint32Array(4)).join("-");
  history.replaceState({ name }, "", `#${encodeURIComponent(board)}`);
  $("room").hidden = !($("entrance").hidden = true);
  document.title = $("title").textContent = board;
  live = open({ name, key: store.secret });
  live.on("disconnected", leave);
  live.on("message", ({ data }) => note(data));
  live.on("publication", ({ data }) => { note(data); notify(`${data.by}: ${data.text}`); });
  const room = live.newSubscription(topic, { joinLeave: true, recoverable: true });
  room.on("publication", ({ data }) => receive(data));
  room.on("join", ({ info }) => { people.add(info.client); showPeople(); });
  room.on("leave", ({ info }) => { people.delete(info.client); showPeople(); });
  room.on("unsubscribed", leave);
  room.on("subscribed", async ({ data, recovered }) => {
    begun = data.number;
    if (!recovered) $("log").replaceChildren();
    for (const event of recovered ? [] : data.log) note(event);
    cards = new Map(data.cards.map((card) => [card.id, card]));
    show();
    people = new Set(Object.keys((await room.presence()).clients));
    showPeople();
  });
  room.subscribe();
  live.connect();
}

onSubmit("new", "text", (text) => move({ text }, "todo"));
onSubmit("say", "words", (text) => call("say", { text, to: $("to").value }));
onSubmit("entrance", "name", (name) => enter(name.trim(), $("board").value.trim()));
$("name").value = store.name ?? "";
$("board").value = decodeURIComponent(location.hash.slice(1)) || "garden";
if (history.state?.name) enter(history.state.name, $("board").value);
