"""The fallback: the extension's functions and classes in pure Python.

These names are the specification; `_speedups.pyx` is their fast twin, with the same
signatures, results and error texts. `speedups` chooses between the two.
"""

from __future__ import annotations

from ..messages import encode_json, json_text
from .codecs import (
    Deflater,
    Inflater,
    Utf8Validator,
    apply_mask,
    build_frame,
    parse_header,
    raw_fields,
    read_request,
    read_upgrade,
)
from .connection import (
    ConnectionCore,
    Poller,
    accept_from,
)
from .fan_out import fan_out, fan_out_latest, write_latest
from .loop import Counters, LoopState
from .opening import Opener, Plan, Plans, accept_key
from .publish import PublishCore
from .wheel import Wheel

__all__ = [
    "BACKEND",
    "ConnectionCore",
    "Counters",
    "Deflater",
    "Inflater",
    "LoopState",
    "Opener",
    "Plan",
    "Plans",
    "Poller",
    "PublishCore",
    "Utf8Validator",
    "Wheel",
    "accept_from",
    "accept_key",
    "apply_mask",
    "build_frame",
    "encode_json",
    "fan_out",
    "fan_out_latest",
    "json_text",
    "parse_header",
    "raw_fields",
    "read_request",
    "read_upgrade",
    "write_latest",
]

BACKEND = "fallback"
