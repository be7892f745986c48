"""A game loop with a fixed time step: clients throw balls in one shared world.

    python examples/loops/game_loop.py [port]

In a browser (F12):

    ws = new WebSocket("ws://127.0.0.1:8080/");
    ws.onmessage = (event) => console.log(event.data);
    ws.onopen = () => ws.send(JSON.stringify({throw: 12}));  // metres/second, upwards

The world moves 60 times per second, whatever clients do; the server gets the time left
between two steps. All clients are sent the world 20 times per second.
"""

import argparse
import signal
import time
from typing import Any

from simple_ws import Client, JSONMessages, Server, WebSocket

STEP = 1 / 60
STEPS_PER_VIEW = 3
#: Steps caught up after a pause; in a longer pause the world stands still.
MOST_STEPS = 30
GRAVITY = 9.81

parser = argparse.ArgumentParser(description="A server in a game loop.")
parser.add_argument("port", nargs="?", type=int, default=8080)
args = parser.parse_args()


class Ball:
    def __init__(self, speed: Any) -> None:
        self.height, self.speed = 0.0, speed

    def step(self) -> None:
        self.height += self.speed * STEP
        self.speed -= GRAVITY * STEP


class World(WebSocket):
    def __init__(self) -> None:
        super().__init__()
        self.balls: list[Ball] = []
        self.steps = 0

    def on_message(self, msg: Any, client: Client) -> None:
        match msg:
            case {"throw": int() | float() as speed} if 0 < speed < 100:
                self.balls.append(Ball(speed))
            case _:
                client.close(1008, "that is no throw")

    def step(self) -> None:
        self.steps += 1
        for ball in self.balls:
            ball.step()
        self.balls = [ball for ball in self.balls if ball.height >= 0]
        if self.steps % STEPS_PER_VIEW == 0:
            heights = [round(ball.height, 2) for ball in self.balls]
            self.server.broadcast({"step": self.steps, "heights": heights})


server = Server("127.0.0.1", args.port)
server.use(JSONMessages())
world = server.mount("/", World())
server.listen()
print(f"Listening on ws://127.0.0.1:{server.port}/", flush=True)

playing = True


def end_game(number: Any, frame: Any) -> None:
    global playing
    playing = False


for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, end_game)

due = time.monotonic()
while playing:
    now = time.monotonic()
    due = max(due, now - MOST_STEPS * STEP)
    while due <= now:
        world.step()
        due += STEP
    server.poll(max(0.0, due - time.monotonic()))
server.stop()  # graceful shutdown
