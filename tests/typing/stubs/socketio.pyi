# As much as the documentation needs: it is checked where the library is not typed.
from collections.abc import Callable
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])

class AsyncServer:
    def __init__(self, **options: Any) -> None: ...
    def event(self, handler: F) -> F: ...
    def __getattr__(self, name: str) -> Any: ...

ASGIApp: Any
