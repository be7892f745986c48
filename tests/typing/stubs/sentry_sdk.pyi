# As much as the documentation needs: it is checked where the library is not installed.
from typing import Any

def __getattr__(name: str) -> Any: ...
