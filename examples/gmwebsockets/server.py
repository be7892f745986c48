"""The JSON convention of GMWebSockets: identities, groups, sessions, heartbeat.

Replaces Server.py, Events.py, Utils.py, Api.py and Config.py of GMWebSockets. Run it,
then open the address it prints in two windows:

    python examples/gmwebsockets/server.py [port]

Every message is an object with `type` and `data`; the commands below are the types.

    -> {"type": "bind", "data": {"client_id": 1}}
    -> {"type": "send_to_all", "data": {"message": "hello all"}}

Clients that do not `bind` within --auth-timeout seconds are closed with 1008. Clients
silent for --heartbeat seconds are pinged, and closed after three times as long;
browsers answer these pings automatically. /status returns the number of connections.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from simple_ws import Client, JSONMessages, Request, Server, WebSocket

FOLDER = Path(__file__).resolve().parent

parser = argparse.ArgumentParser(description="The JSON convention of GMWebSockets.")
parser.add_argument("port", nargs="?", type=int, default=8080)
parser.add_argument("--heartbeat", type=float, default=15, help="seconds, times three")
parser.add_argument("--auth-timeout", type=float, default=15, help="seconds to bind in")
parser.add_argument("--every", type=float, default=5, help="seconds between two counts")
args = parser.parse_args()

server = Server(
    "127.0.0.1",
    args.port,
    ping_interval=args.heartbeat,
    ping_timeout=2 * args.heartbeat,  # counted from the ping
    auth_timeout=args.auth_timeout,
)


# ---- Commands of clients (Events.py, Utils.py) ---------------------------------------
#
# A socket is a connection and has a number. A client is a user with an identity, who
# can have several sockets.

BOUND = "bound"  # the topic of all sockets with an identity
MOST_GROUPS = 50  # of one client
MOST_VALUES = 20  # of one session

Command = Callable[[Client, Any], Any]
COMMANDS: dict[str, Command] = {}


def command(name: str) -> Callable[[Command], Command]:
    """Call the decorated function for messages of this type."""

    def note(function: Command) -> Command:
        COMMANDS[name] = function
        return function

    return note


class Mistake(Exception):
    """Something is wrong with a message; the text is for its sender."""


class GMWebSocket(WebSocket):
    authenticates = True  # unbound clients are closed after `auth_timeout`

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.sockets: dict[int, Client] = {}  # by their numbers

    def on_open(self, client: Client) -> None:
        self.sockets[client.id] = client

    def on_close(self, client: Client) -> None:
        del self.sockets[client.id]  # it has already left its identity and its groups

    def on_message(self, msg: Any, client: Client) -> Any:
        match msg:
            case {"type": str(name), "data": {**fields}} if name in COMMANDS:
                data = fields
            case {"type": str(name)} if name in COMMANDS:
                data = {}
            case _:
                return {"type": "not match"}
        try:
            return COMMANDS[name](client, data)
        except Mistake as mistake:
            return answer("error", {"type": name, "message": str(mistake)})


def answer(kind: Any, data: Any) -> dict[str, Any]:
    return {"type": kind, "data": data}


def name_in(data: Any, field: Any) -> Any:
    """A name or a number from `data`."""
    value = data.get(field)
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise Mistake(f"data needs {field}, a text or a whole number")
    return value


def message_in(data: Any, socket: Client) -> Any:
    """The message that the receivers get."""
    if "message" not in data:
        raise Mistake("data needs a message")
    sender = {"socket_id": socket.id, "client_id": socket.client_id}  # None: not bound
    return answer("message", {**sender, "message": data["message"]})


def group_in(data: Any) -> str:
    """The topic of a group; 1 and "1" are one group."""
    return f"group {name_in(data, 'group_id')}"


def sockets_of(socket: Client) -> list[Any]:
    """All sockets of the client that this socket belongs to."""
    if socket.client_id is None:
        raise Mistake("bind first")
    return [other for other in gm.clients if other.client_id == socket.client_id]


@command("ping")
def ping(socket: Client, data: Any) -> dict[str, Any]:
    return {"type": "pong"}


@command("pong")
def pong(socket: Client, data: Any) -> None:
    """Any message is a sign of life, so there is nothing to do."""


@command("bind")
def bind(socket: Client, data: Any) -> Any:
    socket.bind(name_in(data, "client_id"))
    socket.subscribe(BOUND)
    return answer("bind", {"client_id": socket.client_id, "socket_id": socket.id})


@command("send_to_all")
def send_to_all(socket: Client, data: Any) -> None:
    server.broadcast(message_in(data, socket))


@command("send_to_all_clients")
def send_to_all_clients(socket: Client, data: Any) -> None:
    server.publish(BOUND, message_in(data, socket))


@command("send_to_socket")
def send_to_socket(socket: Client, data: Any) -> None:
    other = gm.sockets.get(name_in(data, "socket_id"))
    if other is None or not other.write_message(message_in(data, socket)):
        raise Mistake(f"socket {data['socket_id']} is not online")


@command("send_to_client")
def send_to_client(socket: Client, data: Any) -> None:
    if not server.send_to(name_in(data, "client_id"), message_in(data, socket)):
        raise Mistake(f"client {data['client_id']} is not online")


@command("join")
def join_group(socket: Client, data: Any) -> Any:
    group = group_in(data)
    for each in sockets_of(socket):
        if len(each.topics) > MOST_GROUPS:
            raise Mistake(f"nobody can be in more than {MOST_GROUPS} groups")
        each.subscribe(group)
    return count_group(socket, data)


@command("leave")
def leave_group(socket: Client, data: Any) -> Any:
    group = group_in(data)
    for each in sockets_of(socket):
        each.unsubscribe(group)
    return count_group(socket, data)


@command("send_to_group")
def send_to_group(socket: Client, data: Any) -> None:
    server.publish(group_in(data), message_in(data, socket))


@command("count")
def count_group(socket: Client, data: Any) -> Any:
    # Clients, not sockets, which server.count() would count.
    clients = {member.client_id for member in server.members(group_in(data))}
    return answer("count", {"group_id": data["group_id"], "count": len(clients)})


@command("is_socket_id_online")
def is_socket_id_online(socket: Client, data: Any) -> Any:
    socket_id = name_in(data, "socket_id")
    return answer("online", {"socket_id": socket_id, "online": socket_id in gm.sockets})


@command("is_client_id_online")
def is_client_id_online(socket: Client, data: Any) -> Any:
    client_id = name_in(data, "client_id")
    is_online = server.is_online(client_id)
    return answer("online", {"client_id": client_id, "online": is_online})


@command("set_session")
def set_session(socket: Client, data: Any) -> Any:
    socket.session = {}
    return update_session(socket, data)


@command("update_session")
def update_session(socket: Client, data: Any) -> Any:
    session = {**socket.session, **data}
    if len(session) > MOST_VALUES:
        raise Mistake(f"a session holds {MOST_VALUES} values")
    socket.session = session
    return get_session(socket, data)


@command("get_session")
def get_session(socket: Client, data: Any) -> Any:
    return answer("session", socket.session)


# ---- What the server does on its own (Api.py, Server.py) -----------------------------


@server.http("/status")
def status(request: Request) -> dict[str, Any]:
    return {"online_num": len(server.clients)}


def show_status() -> None:
    server.broadcast(answer("status", {"online_num": len(server.clients)}))


server.use(JSONMessages())
gm = server.mount("/", GMWebSocket(max_size=16 * 1024))
server.every(args.every, show_status)
server.static("/", FOLDER / "pages")  # a page and a handler can share "/"
server.static("/common", FOLDER.parent / "common")
server.every(15, lambda: server.broadcast(""))  # pages see that the network is alive
server.listen()
silence = gm.ping_interval + gm.ping_timeout
print(f"Pings after {gm.ping_interval:g} s of silence, cuts off after {silence:g} s")
print(f"Open http://127.0.0.1:{server.port}/ in a browser", flush=True)
server.run()
