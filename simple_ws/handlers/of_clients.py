"""`WebSocket[Player]`: the class of the connections, as a type parameter.

For type checkers it is a `TypeVar` with a default (PEP 696), which `typing` has since
Python 3.13 only. When the program runs, it makes a subclass with this `client_class`,
so that what a checker believes is true.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..connection.client import Client

__all__ = ["C", "OfClients", "check_client_class"]

if TYPE_CHECKING:
    from typing import Generic

    from typing_extensions import TypeVar

    C = TypeVar("C", bound=Client, default=Client)

    class OfClients(Generic[C]):
        """A class whose connections are of another class."""

else:
    from typing import TypeVar

    C = TypeVar("C")

    class OfClients:
        """A class whose connections are of another class."""

        def __class_getitem__(cls, client_class: Any) -> Any:
            """A subclass with this `client_class`; itself for `Any` and variables."""
            if client_class is Any or isinstance(client_class, TypeVar):
                return cls
            what = f"{cls.__name__}[…]"
            if not isinstance(client_class, type):
                raise TypeError(f"{what} needs a class, not {client_class!r}")
            check_client_class(what, client_class)
            members = {"client_class": client_class, "__module__": cls.__module__}
            return type(cls)(cls.__name__, (cls,), members)


def check_client_class(
    what: str, client_class: object, base: type[Client] = Client
) -> None:
    """Refuse an object that is neither a `Client` class nor a function.

    Raises:
        TypeError: It is something else.
    """
    if isinstance(client_class, type):
        good = issubclass(client_class, base)
    else:
        good = callable(client_class)
    if not good:
        name = base.__name__
        raise TypeError(f"{what} must be a subclass of {name}, not {client_class!r}")
