"""A kanban board for several people: run it, and open the address that it prints.

A board is a topic. Its cards are the server's: a page calls a method, and what it did
is published to everybody on the board. Of two changes of a card the second is refused,
with the reason. All is in the memory of this process, and ends with it.
"""

import argparse
import itertools
import secrets
import time
from pathlib import Path
from typing import Any, cast

from simple_ws import Server
from simple_ws.live import Connected, ConnectRequest, LiveClient, LiveError

COLUMNS = {"todo": "To do", "doing": "Doing", "done": "Done", "bin": "the bin"}

parser = argparse.ArgumentParser(description="A kanban board for several people.")
parser.add_argument("port", nargs="?", type=int, default=8080)
parser.add_argument("--host", default="127.0.0.1", help='"" for phones nearby, too')
args = parser.parse_args()
server = Server(args.host, args.port, origins=["same", None])
server.topic("board:*", history=200, keep=3600, presence=True)
server.topic("news", history=5, keep=600)
admin_key = secrets.token_urlsafe(9)
boards: dict[str, dict[int, Any]] = {}  # by name: its cards, by id
keys = {"Admin": admin_key}  # by name of a person: a secret of its browser
numbers = itertools.count(1)  # of all that happens: pages see which is newer


def text_of(data: Any, field: str, limit: int) -> str:
    """A text that a client has sent; it may have sent anything."""
    fields = cast("dict[str, Any]", data) if isinstance(data, dict) else {}
    text = fields.get(field)
    if not isinstance(text, str) or not 0 < len(text.strip()) <= limit:
        raise LiveError(400, f"{field} must be a text of 1 to {limit} characters")
    return text.strip()


def on_connect(client: LiveClient, request: ConnectRequest) -> Connected:
    data: Any = request.data
    if isinstance(data, dict) and "admin" in data:
        key = text_of(data, "admin", 99)
        if not secrets.compare_digest(key.encode(), admin_key.encode()):
            raise LiveError(401, "this is not the key that the program has printed")
        client.session["admin"] = True
        return Connected(topics=["news", "admin"])
    name, key = text_of(data, "name", 24), text_of(data, "key", 64)
    for gone in keys.keys() - {"Admin", *server.online()}:
        del keys[gone]
    if keys.setdefault(name, key) != key:
        raise LiveError(409, f"{name} is here already: choose another name")
    return Connected(user=name, topics=["news"])


def authorize(client: LiveClient, action: str, topic: str) -> bool:
    if action == "call":
        return ("admin" in client.session) is (topic in {"close", "announce"})
    return topic.startswith("board:") and action in {"subscribe", "presence"}


def on_subscribe(client: LiveClient, topic: str, data: Any) -> dict[str, Any]:
    """What a page begins with: the cards, and what was said and done last."""
    if len(topic) > 40:
        raise LiveError(400, "the name of a board has at most 34 characters")
    for empty in [b for b in boards if not boards[b] and not server.count(b)]:
        del boards[empty]
    if topic not in boards and len(boards) >= 50:
        raise LiveError(403, "there are 50 boards already")
    cards = list(boards.setdefault(topic, {}).values())
    log = [publication.msg for publication in server.history(topic, limit=50)]
    return {"cards": cards, "log": log, "number": next(numbers)}


live = server.live(
    "/live",
    authorize=authorize,
    on_connect=on_connect,
    on_subscribe=on_subscribe,
    command_rate=(20, 60),
    max_size=8192,
)


def event(by: Any, text: str, **more: Any) -> dict[str, Any]:
    return {"number": next(numbers), "at": time.time(), "by": by, "text": text, **more}


def board_of(client: LiveClient, data: Any) -> Any:
    """The topic of a board that the client is on, and its cards."""
    topic = text_of(data, "board", 40)
    if topic not in boards or topic not in client.topics:
        raise LiveError(404, "you are not on this board")
    return topic, boards[topic]


@live.method
def put(client: LiveClient, data: Any) -> None:
    """Add a card (it has no id yet), change it, or move it; the bin removes it."""
    topic, cards = board_of(client, data)
    text, column = text_of(data, "text", 200), text_of(data, "column", 10)
    place = data.get("place")  # among the cards of the column
    if type(place) not in {int, float} or not abs(place) < 1e6 or column not in COLUMNS:
        raise LiveError(400, "a card needs a column and a place there")
    if "id" not in data and len(cards) >= 100:
        raise LiveError(403, "there are 100 cards already")
    seen = next(numbers)
    key = str(data.get("id", seen))
    if "id" in data and (key not in cards or cards[key]["seen"] != data.get("seen")):
        raise LiveError(409, "somebody else was faster with this card")
    card = {"id": key, "text": text, "column": column, "place": place, "seen": seen}
    cards[key] = card
    if column == "bin":
        del cards[key]
    did = event(client.client_id, f"put “{text}” into {COLUMNS[column]}", card=card)
    server.publish(topic, did)


@live.method
def say(client: LiveClient, data: Any) -> None:
    """Something to everybody on the board, or to one person alone."""
    (topic, _), to = board_of(client, data), data.get("to") and text_of(data, "to", 24)
    message = event(client.client_id, text_of(data, "text", 500), said=True, to=to)
    if not to:
        server.publish(topic, message)
    elif not server.send_to(to, message):
        raise LiveError(404, f"{to} is not here any more")
    elif to != client.client_id:
        server.send_to(client.client_id, message)


@live.method
def announce(client: LiveClient, data: Any) -> None:
    server.publish("news", event("Admin", text_of(data, "text", 500), said=True))


@live.method
def close(client: LiveClient, data: Any) -> None:
    topic = text_of(data, "board", 40)
    if boards.pop(topic, None) is not None:
        server.publish(topic, event("Admin", "closed this board"))
        for member in server.members(topic):
            member.unsubscribe(topic)


def report() -> None:
    """Who is where, for the admin page."""
    server.publish("admin", {name: sorted(server.present(name)) for name in boards})


server.every(1, report)
server.static("/", Path(__file__).with_name("page"))
server.listen()
address = f"http://{args.host or 'localhost'}:{server.port}/"
print(f"Open {address} in a browser", flush=True)
print(f"The admin page: {address}admin.html#{admin_key}", flush=True)
server.run()
