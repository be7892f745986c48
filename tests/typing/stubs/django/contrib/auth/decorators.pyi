# As much as the documentation needs: it is checked where the library is not installed.
from collections.abc import Callable
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])

def login_required(function: F) -> F: ...
