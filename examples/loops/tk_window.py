"""A Tk window that shows what clients send, and sends them what you type.

    python examples/loops/tk_window.py [port]

In a browser (F12):

    ws = new WebSocket("ws://127.0.0.1:8080/");
    ws.onmessage = (event) => console.log(event.data);
    ws.onopen = () => ws.send("hello, window");

Callbacks run in the thread of the window, so they can use it. Closing the window stops
the server.
"""

import argparse
import signal
import tkinter
from typing import Any

from simple_ws import Client, Server, WebSocket

parser = argparse.ArgumentParser(description="A server in a Tk window.")
parser.add_argument("port", nargs="?", type=int, default=8080)
args = parser.parse_args()


class Window(WebSocket):
    def __init__(self) -> None:
        super().__init__()
        self.root = tkinter.Tk()
        self.root.title("simple_ws")
        self.count = tkinter.Label(self.root, text="nobody is here")
        self.count.pack()
        self.lines = tkinter.Listbox(self.root, width=60)
        self.lines.pack(fill="both", expand=True)
        self.entry = tkinter.Entry(self.root)
        self.entry.pack(fill="x")
        self.entry.bind("<Return>", self.send)

    def on_open(self, client: Client) -> None:
        self.count["text"] = f"{len(self.clients)} here"

    on_close = on_open

    def on_message(self, msg: str, client: Client) -> None:
        self.lines.insert("end", f"{client.address[0]}: {msg}")
        self.lines.see("end")

    def send(self, event: Any) -> None:
        self.server.broadcast(self.entry.get())
        self.entry.delete(0, "end")


window = Window()
server = Server("127.0.0.1", args.port)
server.mount("/", window)
server.listen()
print(f"Listening on ws://127.0.0.1:{server.port}/", flush=True)


def turn() -> None:
    """Do the work that is ready, and poll again in a hundredth of a second."""
    if server.poll():
        window.root.after(10, turn)


for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda number, frame: window.root.quit())
turn()
window.root.mainloop()
server.stop()  # graceful shutdown
