# As much as the documentation needs: it is checked where the library is not installed.
from typing import Any

transaction: Any
