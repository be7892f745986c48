from typing import TypeAlias, final

__all__ = [
    "BACKEND",
    "Deflater",
    "Inflater",
    "Utf8Validator",
    "apply_mask",
    "build_frame",
    "parse_header",
]

_Buffer: TypeAlias = bytes | bytearray | memoryview

BACKEND: str

def apply_mask(data: _Buffer, key: bytes, offset: int = 0) -> bytes: ...
def parse_header(
    data: _Buffer, start: int, end: int
) -> tuple[int, int, int, bytes | None] | None: ...
def build_frame(first: int, payload: _Buffer, key: bytes | None = None) -> bytes: ...

@final
class Utf8Validator:
    def __new__(cls) -> Utf8Validator: ...
    def feed(self, data: _Buffer) -> bool: ...
    def finish(self) -> bool: ...

@final
class Deflater:
    def __new__(
        cls, level: int, mem_level: int, window_bits: int, takeover: bool
    ) -> Deflater: ...
    def compress(self, data: _Buffer) -> bytes: ...

@final
class Inflater:
    def __new__(cls, window_bits: int, takeover: bool) -> Inflater: ...
    def feed(self, data: _Buffer, limit: int) -> bytes: ...
    def finish(self, limit: int) -> bytes: ...
