# As much as the documentation needs: it is checked where the library is not installed.
from typing import Any

class HttpRequest:
    user: Any
    def __getattr__(self, name: str) -> Any: ...

class JsonResponse:
    def __init__(self, data: object, **options: Any) -> None: ...

def __getattr__(name: str) -> Any: ...
