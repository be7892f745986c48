"""The constants of the protocol: opcodes, close codes, states, grammar, limits.

Only names and numbers live here; the rules that use them live in `protocol`.
"""

from __future__ import annotations

import enum

__all__ = ["CloseCause", "CloseCode", "Delivered", "Opcode", "SendStatus", "State"]

#: Of this package; pyproject.toml says the same.
RELEASE = "1.0.0"

#: Appended to the key before hashing (RFC 6455 §1.3).
GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"

#: The response that opens a connection, before `Sec-WebSocket-Accept` has its value.
UPGRADE_HEAD = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
    b"Connection: Upgrade\r\nSec-WebSocket-Accept: "
)

#: The only version of the protocol (RFC 6455 §4.1).
VERSION = "13"

#: RFC 9110 §5.6.2, as text for patterns.
TOKEN = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
#: Lines of header fields with their ends (RFC 9112 §5): no space before the colon, no
#: line folding, no bare CR or LF.
FIELD_LINES = rb"(?:" + TOKEN.encode() + rb":[\t\x20-\x7e\x80-\xff]*\r\n)*"


class Opcode(enum.IntEnum):
    """The type of a frame (RFC 6455 §5.2)."""

    CONTINUATION = 0x0
    TEXT = 0x1
    BINARY = 0x2
    CLOSE = 0x8
    PING = 0x9
    PONG = 0xA


class CloseCode(enum.IntEnum):
    """Why a connection ends (RFC 6455 §7.4.1 and the IANA registry)."""

    NORMAL = 1000
    GOING_AWAY = 1001
    PROTOCOL_ERROR = 1002
    UNSUPPORTED_DATA = 1003
    NO_STATUS = 1005  # never on the wire: the close frame carried no code
    ABNORMAL = 1006  # never on the wire: there was no close frame
    INVALID_DATA = 1007
    POLICY_VIOLATION = 1008
    MESSAGE_TOO_BIG = 1009
    MANDATORY_EXTENSION = 1010
    INTERNAL_ERROR = 1011
    SERVICE_RESTART = 1012
    TRY_AGAIN_LATER = 1013
    BAD_GATEWAY = 1014
    TLS_HANDSHAKE = 1015  # never on the wire


#: Codes below 3000 that may be sent in a close frame (RFC 6455 §7.4.1, §7.4.2).
WIRE_CLOSE_CODES = frozenset({1000, 1001, 1002, 1003, *range(1007, 1015)})
#: Registered by libraries (3000-3999) and private to applications (4000-4999).
APPLICATION_CLOSE_CODES = range(3000, 5000)


def may_travel(code: int) -> bool:
    """Whether a close code may be sent in a close frame (RFC 6455 §7.4)."""
    return code in WIRE_CLOSE_CODES or code in APPLICATION_CLOSE_CODES


class SendStatus(enum.IntEnum):
    """The result of `Client.write_message`."""

    #: Not accepted (false): not open, or refused by the slow-consumer policy.
    DROPPED = 0
    #: Accepted.
    SENT = 1
    #: Accepted, but earlier output is still waiting for the peer to read.
    BACKPRESSURE = 2


class Delivered(int):
    """How many clients accepted a message: the result of `broadcast` and its kin.

    A callback may return it, as in `return server.broadcast(msg)`: it is not sent.
    """

    __slots__ = ()


#: Codes that are no error: an iteration over messages just stops.
QUIET_CODES = frozenset((CloseCode.NORMAL, CloseCode.GOING_AWAY, CloseCode.NO_STATUS))


class State(enum.IntEnum):
    """The state of a connection after its opening handshake (RFC 6455 §7.1)."""

    OPEN = 1
    #: Our close frame is sent; only the peer's answer is waited for.
    CLOSING = 2
    #: The closing handshake is complete, the connection failed, or it was cut.
    CLOSED = 3


class CloseCause(enum.StrEnum):
    """Why a connection ended (`Client.close_cause`)."""

    PEER = "peer"
    LOCAL = "local"
    EOF = "eof"
    RESET = "reset"
    PING_TIMEOUT = "ping_timeout"
    IDLE_TIMEOUT = "idle_timeout"
    SLOW_CONSUMER = "slow_consumer"
    OVERLOADED = "overloaded"
    TOO_BIG = "too_big"
    PROTOCOL_ERROR = "protocol_error"
    BAD_DATA = "bad_data"
    HANDLER_ERROR = "handler_error"
    RATE = "rate"
    AUTH_TIMEOUT = "auth_timeout"
    SHUTDOWN = "shutdown"


#: Ends that are the peer's fault, and worth a line in the log where DEBUG is off.
FAULTS = frozenset(
    {
        CloseCause.PROTOCOL_ERROR,
        CloseCause.BAD_DATA,
        CloseCause.TOO_BIG,
        CloseCause.SLOW_CONSUMER,
        CloseCause.OVERLOADED,
        CloseCause.PING_TIMEOUT,
        CloseCause.RATE,
        CloseCause.AUTH_TIMEOUT,
    }
)

#: RFC 6455 §5.5: "All control frames MUST have a payload length of 125 bytes or less".
MAX_CONTROL_PAYLOAD = 125
#: Bytes left for a close reason after the two bytes of the code.
MAX_CLOSE_REASON = MAX_CONTROL_PAYLOAD - 2

#: Bytes of a request head; nginx takes 8 KiB a line and 32 KiB in all, h11 16 KiB.
MAX_HEAD_SIZE = 16 * 1024
#: Header lines of a request; Apache and aiohttp use 100 and more, browsers send 15.
MAX_HEADER_COUNT = 100
#: Extensions and their parameters offered in a handshake; browsers offer one with one.
#: Parsing 16 KiB of them took as long as 200 whole handshakes.
MAX_EXTENSION_PARTS = 100
#: Largest size or time: above it numbers do not fit into the extension, or times into
#: the clock's sums. `sys.maxsize`, passed as "no limit", fits.
LARGEST = 2**63 - 1
#: Largest read in bytes; reads grow up to it while they are full.
MAX_READ = 256 * 1024
#: Empty fragments in one message: each costs us work and the peer six bytes, and no
#: sender needs more than one or two.
MAX_EMPTY_FRAGMENTS = 1000
#: Events returned by one call of the selector; the rest follows with the next call.
MAX_READY = 256
#: Seconds of a turn of the loop in which connections are heard: what is left then is
#: heard in the next, behind a flush and the timers. A reply waits two of them at most.
TURN = 0.005
#: Seconds that one connection has of it, if there are few; and if there are many.
LONGEST_SHARE = 0.002
LEAST_SHARE = 0.0001
#: Deadlines that are looked at in one turn, and seconds that this may take: a ping is a
#: system call, and a handler may have an `on_ping` of its own.
MOST_SWEPT = 64
SWEEP_TIME = 0.001
#: Seconds by which a ping is later than `ping_interval`, at most, and not more than a
#: quarter of it: as much for each connection as sets it apart from the others.
LATEST_PING = 0.9375
#: RFC 7692 §7.2.1: every message's last four bytes, removed before sending.
DEFLATE_TAIL = b"\x00\x00\xff\xff"
#: Streams ended by the peer (BFINAL) in one message; ordinary peers end none. Each
#: takes two bytes and costs us a new stream, so their number is limited.
MAX_DEFLATE_STREAMS = 100
