"""A terminal: lines can be edited while messages arrive, and commands begin with /."""

from __future__ import annotations

import sys
import threading

from ...errors import ConnectError, ConnectionClosed, InvalidState
from ...text import for_terminal
from ..values import Failure
from .forms import Form
from .peer import Peer
from .screen import PROMPT, Screen

__all__ = ["talk"]

#: Seconds for the last messages, once we have closed.
_LAST = 2.0

_HELP = """\
/ping [TEXT]            ping, and show how long the pong took
/close [CODE [REASON]]  close the connection; default: 1000
/binary HEX             send these bytes, such as: /binary 00 ff
/help                   show this
//...                   send a line that begins with /, such as //ping
Ctrl-D                  close the connection, and leave\
"""


def talk(peer: Peer, form: Form, screen: Screen) -> int:
    """Send what is typed, show what arrives; return the exit code."""
    return _Talk(peer, form, screen).run()


class _Talk:
    def __init__(self, peer: Peer, form: Form, screen: Screen) -> None:
        self._peer, self._form, self._screen = peer, form, screen
        self._commands = {
            "/ping": self._ping,
            "/close": self._close,
            "/binary": self._binary,
            "/help": self._help,
        }

    def run(self) -> int:
        print(f"{self._peer.greeting}; /help, Ctrl-D closes", file=sys.stderr)
        receiver = threading.Thread(target=self._show_all, daemon=True)
        receiver.start()
        while receiver.is_alive():
            try:
                self._obey(self._typed())
            except EOFError:
                print()
                break
            except KeyboardInterrupt:
                print()  # further output starts on a new line
                raise
            except ConnectionClosed:
                break
        self._peer.end()
        receiver.join(_LAST)
        text, code = self._peer.farewell()
        print(text, file=sys.stderr)
        return code

    def _typed(self) -> str:
        self._screen.editing = True
        try:
            return input(PROMPT)
        finally:
            self._screen.editing = False

    def _obey(self, line: str) -> None:
        word, _, rest = line.partition(" ")
        command = self._commands.get(word)
        try:
            if command is not None:
                command(rest.strip())
            else:
                text = line[1:] if line.startswith("//") else line
                self._peer.send(self._form.encode(text))
        except UnicodeError:
            self._screen.tell("not sent: it is not UTF-8")
        except (Failure, ValueError, InvalidState) as error:
            self._screen.tell(f"not sent: {error}")
        except TimeoutError as error:
            self._screen.tell(str(error))

    def _ping(self, text: str) -> None:
        latency = self._peer.ping(text)
        if latency is not None:
            print(f"pong after {latency * 1000:.1f} ms", file=sys.stderr)

    def _close(self, text: str) -> None:
        code, _, reason = text.partition(" ")
        if code and not code.isdecimal():
            raise Failure(f"a close code is a number, not {code!r}")
        self._peer.close(int(code or 1000), reason.strip())

    def _binary(self, text: str) -> None:
        try:
            data = bytes.fromhex(text)
        except ValueError:
            raise Failure(f"expected bytes such as 00 ff, not {text!r}") from None
        self._peer.send(data)

    def _help(self, _: str) -> None:
        print(_HELP, file=sys.stderr)

    def _show_all(self) -> None:
        try:
            while True:
                message, sender = self._peer.recv(None)
                self._screen.show(f"{sender}< {self._form.shown(message)}")
        except ConnectionClosed:
            pass
        except ConnectError as error:  # that will not heal
            self._screen.show(for_terminal(str(error)))
        if not self._peer.ended_by_us():
            self._screen.show("the connection has ended; press Enter to leave")
