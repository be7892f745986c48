"""A Qt window (PySide6) that shows what clients send, and sends them what you type.

    python examples/loops/qt_window.py [port]

In a browser (F12):

    ws = new WebSocket("ws://127.0.0.1:8080/");
    ws.onmessage = (event) => console.log(event.data);
    ws.onopen = () => ws.send("hello, window");

Qt watches the server's file descriptor. Closing the window stops the server.
"""

import argparse
import signal

from PySide6.QtCore import QSocketNotifier, QTimer
from PySide6.QtWidgets import (
    QApplication,
    QLabel,
    QLineEdit,
    QListWidget,
    QVBoxLayout,
    QWidget,
)

from simple_ws import Client, Server, WebSocket

parser = argparse.ArgumentParser(description="A server in a Qt window.")
parser.add_argument("port", nargs="?", type=int, default=8080)
args = parser.parse_args()


class Window(WebSocket):
    def __init__(self) -> None:
        super().__init__()
        self.widget = QWidget(windowTitle="simple_ws")
        self.count = QLabel("nobody is here")
        self.lines = QListWidget()
        self.entry = QLineEdit()
        self.entry.returnPressed.connect(self.send)
        layout = QVBoxLayout(self.widget)
        for part in (self.count, self.lines, self.entry):
            layout.addWidget(part)

    def on_open(self, client: Client) -> None:
        self.count.setText(f"{len(self.clients)} here")

    on_close = on_open

    def on_message(self, msg: str, client: Client) -> None:
        self.lines.addItem(f"{client.address[0]}: {msg}")
        self.lines.scrollToBottom()

    def send(self) -> None:
        self.server.broadcast(self.entry.text())
        self.entry.clear()


app = QApplication([])
window = Window()
server = Server("127.0.0.1", args.port)
server.mount("/", window)
server.listen()
print(f"Listening on ws://127.0.0.1:{server.port}/", flush=True)


def turn() -> None:
    if not server.poll():
        app.quit()


notifier = QSocketNotifier(server.fileno(), QSocketNotifier.Type.Read)
notifier.activated.connect(turn)
# For heartbeats and timers, which no descriptor reports; Python also sees signals then.
timer = QTimer(interval=100)
timer.timeout.connect(turn)
timer.start()
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda number, frame: app.quit())
window.widget.show()
app.exec()
notifier.setEnabled(False)
server.stop()  # graceful shutdown
