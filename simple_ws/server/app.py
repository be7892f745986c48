"""`App`: the setup of a server: handlers, HTTP routes, middleware, topics.

`lookup` finds them for a request; running and stopping the loop is left to `server`,
sending to `hub`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Coroutine, Hashable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from ..cluster.topic_rules import checked_rule
from ..connection.options import Options
from ..errors import InvalidState
from ..handlers.handler import BaseHandler, FunctionHandler
from ..handlers.middleware import Middleware, changes_output, check_middleware
from ..http.cors import check_cors
from ..http.routes import answered_by, check_methods
from ..http.routing import check_pattern
from ..loop.deferred import is_async, takes
from ..messages import check_close
from ..protocol.request import Request
from .denial import Denial
from .feeds import Live
from .lookup import Lookup
from .presence import Present

if TYPE_CHECKING:
    from typing import Unpack

    from ..connection.option_types import HandlerOptions

__all__ = ["App"]

H = TypeVar("H", bound=BaseHandler[Any])
F = TypeVar(
    "F",
    bound=Callable[[Any, Any], Any]
    | Callable[[Any], Coroutine[Any, Any, Any]]
    | type[BaseHandler[Any]],
)
Answering = TypeVar("Answering", bound=Callable[[Request], Any])
W = TypeVar("W", bound=Middleware)


#: Options of a listening socket, which a single handler cannot have.
_OF_THE_SOCKET = (
    "unix",
    "ssl",
    "certfile",
    "keyfile",
    "trusted_proxies",
    "max_header",
    "keep_alive",
    "allowed_hosts",
    "notsent_lowat",
    "workers",
    "worker_class",
    "presence_grace",
    "engine",
    "engine_secret",
)


class App(Lookup):
    """The setup of a server; see `Lookup` for the arguments."""

    #: Serves the layer `live/`, which is above this one: `simple_ws/__init__` sets it.
    _serve_live: ClassVar[Callable[..., Any]]

    # Handlers and middleware

    def live(
        self,
        path: str,
        *,
        authorize: Callable[[Any, str, str], Any] | None = None,
        on_connect: Callable[[Any, Any], Any] | None = None,
        on_subscribe: Callable[[Any, str, Any], Any] | None = None,
        on_publish: Callable[[Any, str, Any], Any] | None = None,
        on_rpc: Callable[[Any, str, Any], Any] | None = None,
        on_send: Callable[[Any, Any], Any] | None = None,
        on_refresh: Callable[[Any], Any] | None = None,
        on_sub_refresh: Callable[[Any, str], Any] | None = None,
        on_disconnect: Callable[[Any], Any] | None = None,
        tokens: Any = None,
        allow_anonymous: bool = False,
        refresh_grace: float = 25.0,
        heartbeat: float = 25.0,
        heartbeat_timeout: float = 8.0,
        max_topics: int = 128,
        command_rate: tuple[float, float] | None = (100, 1000),
        force_recovery: bool = False,
        api_key: Any = None,
        cors: Any = None,
        **options: Unpack[HandlerOptions],
    ) -> Live:
        """Serve the Centrifugo client protocol: its SDKs connect to `{path}/websocket`,
        or by `{path}/sse` and `{path}/http_stream` where WebSockets are blocked; pages
        without an SDK listen to `{path}/events?topic=…`.

        Its channels are the topics of the server. All functions may be async or
        `in_thread`, and may raise `live.LiveError`; False refuses (error 103).

        Args:
            path: such as "/live", without parameters.
            authorize: called with (client, action, topic) before each "subscribe",
                "publish", "presence" and "history", and before each "call" with the
                name of the method; True allows it, False or None do not, and what else
                it returns is an error (100). Without it nothing is allowed.
            on_connect: called with (client, request), a `live.ConnectRequest`; returns
                None, False (error 101) or a `live.Connected`.
            on_subscribe: called with (client, topic, data); returns None, False, data
                for the client, or a `live.Subscribed`.
            on_publish: called with (client, topic, data); returns None, False, or what
                is published instead.
            on_rpc: called with (client, method, data) before the method is; returns
                None, False, or data for the method.
            on_send: called with (client, data) for what the client sends to nobody.
            on_refresh: called with (client) when its connection expires; returns until
                when it may stay, in seconds since 1970, or None or False: it is
                disconnected (3005). With it, clients do not refresh their tokens.
            on_sub_refresh: called with (client, topic) when the subscription expires;
                likewise, and it is unsubscribed (2501).
            on_disconnect: called with (client) when one that was connected has gone.
            tokens: a `tokens.Tokens` that verifies the tokens of clients. With it, who
                has no token and no identity cannot connect (error 101), and a valid
                token of a subscription allows it without `authorize`.
            allow_anonymous: who has no token may connect, as nobody in particular.
            refresh_grace: seconds for which a client whose token has expired may stay,
                to send another one.
            heartbeat: seconds between two pings of a client, which it answers.
            heartbeat_timeout: seconds in which it must (3012).
            max_topics: of one client (error 106).
            command_rate: commands a second of one client, and at once: others get error
                111, and it is disconnected (3013) after `max_topics` + 100 of them in a
                row; None: no limit.
            force_recovery: subscriptions of topics with history are recoverable, even
                if the client does not ask for that.
            api_key: serves the server API below `{path}/api`, for other programs that
                have this key; several keys for the time in which one is replaced.
                None: there is no such API.
            cors: which pages of other origins may use its paths by HTTP, see `http`;
                who may open a WebSocket is said by the option `origins`.
            options: of the handler, see `options.Options`.

        Returns:
            The handler; its `method` lets clients call functions.

        Raises:
            TypeError, ValueError: The path is malformed or already in use, a function
                takes other arguments, or an option is unknown or wrong.
            InvalidState: A function is async, and the server runs, but not in an
                asyncio loop.
        """
        hooks = {
            "authorize": authorize,
            "on_connect": on_connect,
            "on_subscribe": on_subscribe,
            "on_publish": on_publish,
            "on_rpc": on_rpc,
            "on_send": on_send,
            "on_refresh": on_refresh,
            "on_sub_refresh": on_sub_refresh,
            "on_disconnect": on_disconnect,
        }
        served: Live = self._serve_live(
            self,
            path,
            heartbeat=heartbeat,
            heartbeat_timeout=heartbeat_timeout,
            max_topics=max_topics,
            command_rate=command_rate,
            force_recovery=force_recovery,
            api_key=api_key,
            cors=check_cors(cors),
            tokens=tokens,
            allow_anonymous=allow_anonymous,
            refresh_grace=refresh_grace,
            hooks=hooks,
            options=options,
        )
        return served

    def mount(self, path: str, handler: H) -> H:
        """Serve a handler on a path.

        Args:
            path: `/chat`, `/chat/{room}`, `/user/{id:int}`, `/game/*` or `*`; tried in
                this order. Types of parameters: str, int, float, uuid, and path at the
                end. `client.params` has the values.
            handler: an instance of `WebSocket`; it can be mounted on several paths.

        Returns:
            The handler.

        Raises:
            TypeError: Not a handler, a handler whose callbacks take other arguments, or
                not a path.
            ValueError: The path is malformed or already in use, or the handler was
                given options that belong to the server.
            InvalidState: The handler is mounted on another server.
        """
        if not isinstance(handler, BaseHandler):
            raise TypeError(
                f"handler must be an instance of WebSocket, not {handler!r}"
            )
        _check_mounted(handler._given, self.options)
        if self._running:
            self._check_awaited(handler._callbacks(), self._asyncio_loop)
        was_ours = handler.server is self
        handler._adopt(self)
        try:
            self._router.add(path, handler)
        except (TypeError, ValueError):
            if not was_ours:
                handler._abandon_server()
            raise
        self._stats.note_mount(path, handler)
        self._forget_plans()
        return handler

    def route(self, path: str, **options: Unpack[HandlerOptions]) -> Callable[[F], F]:
        """Serve the decorated function or handler class on a path; see `mount`.

        A function is called with (msg, client); its return value is sent back. An
        `async def` that takes only the client owns the connection, see
        `WebSocket.on_connect`. A class is instantiated once.

        Args:
            path: see `mount`.
            options: options of this handler, see `options.Options`.

        Raises:
            TypeError, ValueError: The path is malformed or already in use; the function
                takes other arguments; an option is unknown or wrong.
        """
        check_pattern(path)  # checked now: `@server.route` alone passes a function

        def decorate(target: F) -> F:
            function: Any = target
            if isinstance(target, type):
                self.mount(path, target(**options))
            elif is_async(function) and takes(function, ("client",)):
                from ..handlers.owned import ConnectionHandler  # only when needed

                self.mount(path, ConnectionHandler(function, **options))
            else:
                self.mount(path, FunctionHandler(function, **options))
            return target

        return decorate

    def use(self, middleware: W) -> W:
        """Add a middleware after the existing ones, for all paths.

        Connections that are already open are not affected.

        Returns:
            The middleware.

        Raises:
            TypeError: Not an instance of `Middleware`, or its methods take other
                arguments.
            InvalidState: The middleware was added already.
        """
        check_middleware(middleware)
        if any(known is middleware for known in self._middlewares):
            raise InvalidState(f"{type(middleware).__name__} is in use already")
        if self._running:
            self._check_awaited(middleware._callbacks(), self._asyncio_loop)
        middleware.on_use(self)
        if changes_output(middleware):
            self._filtered = True
            self._forget_plain()
        self._middlewares.append(middleware)
        self._forget_plans()
        return middleware

    def topic(
        self,
        pattern: str,
        *,
        history: int = 0,
        keep: float | None = None,
        presence: bool = False,
        latest: bool | Callable[[Any], Hashable] = False,
        max_subscribers: int | None = None,
    ) -> None:
        """Say what is special about topics, before the server runs.

        The most specific pattern holds, and no other: a topic itself, then the longest
        beginning such as `"room:*"`, then `"*"`. With an engine all nodes need the same
        rules.

        Args:
            pattern: a topic, or the beginning of topics and "*".
            history: this many messages of each topic are kept, and `client.subscribe`
                with `since` sends those that the client has missed.
            keep: seconds for which each of them is kept; None: until there are newer
                ones.
            presence: who is subscribed is known: `present` and `on_presence`.
            latest: while a client takes no output, only the newest message waits for
                it, in the place of the older one; with a function, called with each
                message, the newest of each key that it returns.
            max_subscribers: of one topic in one process, `client.subscribe` returns
                False above it; None: no limit.

        Raises:
            TypeError, ValueError: An argument has a value that is not allowed, or the
                pattern has a rule already; or the engine is NATS, which keeps no
                history.
            InvalidState: The server runs.
        """
        rule = checked_rule(
            pattern,
            history=history,
            keep=keep,
            presence=presence,
            latest=latest,
            max_subscribers=max_subscribers,
            max_buffered=self.options.max_buffered,
        )
        if self._running:
            raise InvalidState("rules of topics are set before the server runs")
        if history and self.options.engine is not None:
            from ..cluster.engine_url import check_history  # only when needed

            check_history(self.options.engine)
        self._topic_rules.add(rule)

    def present(self, topic: str) -> Present:
        """Who is present in a topic: those who have subscribed to it, on any node.

        Members are identities (`client.bind`), however many connections they have, and
        clients without one, as `f"{client.id}@{server.cluster.id}"`. What it returns
        comes at once from what this node knows, which is up to date while somebody here
        is subscribed, and for a minute after each call; before, it is `stale`.

        Args:
            topic: one with `presence=True`, see `topic`.

        Returns:
            A dict of each member and what it has set as `client.present_as`, or None;
            of several connections the one that was set last. With an attribute `stale`:
            it may be out of date, since this node has just begun to ask, or its engine
            is down.

        Raises:
            TypeError: The topic is not a str.
            ValueError: The topic has no presence.
        """
        if not isinstance(topic, str):
            raise TypeError(f"topic must be a str, not {topic!r}")
        rule = self._topic_rules.find(topic)
        if rule is None or not rule.presence:
            raise ValueError(
                f"the topic {topic!r} has no presence: it needs "
                "server.topic(…, presence=True)"
            )
        presence = self._presence
        if presence is None:
            return Present({}, stale=True)
        self._on_loop(presence.ask_for, topic)
        return presence.present(topic)

    def deny_new_connections(
        self, status: int = 503, reason: str = "No new connections at the moment."
    ) -> None:
        """Refuse new handshakes from now on; open connections stay.

        Args:
            status: HTTP status of the refusal, 400 to 599. Or a close code (RFC 6455
                §7.4) such as 1013 or 4000: the handshake is completed then, and the
                connection closed at once, without any callback; browsers show a close
                code to the page, but not an HTTP status.
            reason: text for people, sent as the body, or with the close code (at most
                123 bytes of UTF-8).

        Raises:
            TypeError: `status` is not an int, or `reason` not a str.
            ValueError: The status is not one of a refusal, the code must not be sent,
                or the reason is too long for it.
        """
        if isinstance(status, bool) or not isinstance(status, int):
            raise TypeError(f"status must be an int, not {status!r}")
        if status < 1000 and not 400 <= status <= 599:
            raise ValueError(f"status must be from 400 to 599, not {status}")
        if not isinstance(reason, str):
            raise TypeError(f"reason must be a str, not {reason!r}")
        if status < 1000:
            self._denied = status, reason
        else:
            denial = Denial(check_close(status, reason), reason)
            denial._adopt(self)
            self._denied = denial
        self._forget_plans()

    def allow_new_connections(self) -> None:
        """Accept new connections again after `deny_new_connections`."""
        self._denied = None
        self._forget_plans()

    # HTTP on the same port

    def http(
        self, path: str, methods: Iterable[str] = ("GET",), *, cors: Any = None
    ) -> Callable[[Answering], Answering]:
        """Answer plain HTTP requests for a path with the decorated function.

        The function is called with a `Request`, whose body is complete, in the loop's
        thread: it must not block, unless it is `in_thread`. It returns a `Response`, a
        dict or list (JSON), str, bytes, or None for 204. It may raise
        `AuthenticationError` for 401, and `HandshakeError` for any status; any other
        exception is logged, and answered with 500.

        Args:
            path: see `mount`; `request.params` has the values. A WebSocket handler can
                be mounted on the same path.
            methods: the methods that the function answers; GET includes HEAD. Several
                functions can share a path with different methods.
            cors: the origins of other servers whose pages may read the answers, such as
                "https://example.com" or a list; "*" for all. Or a `Cors`, which says
                more. None: no pages of others.

        Raises:
            TypeError: The function takes other arguments; `methods` is not a list of
                strings.
            ValueError: The path is malformed; a method is unknown or already in use.
            InvalidState: The function is async, and the server does not run in an
                asyncio loop.
        """
        # Checked now: `@server.http` alone passes a function.
        check_pattern(path)
        names, policy = check_methods(methods), check_cors(cors)

        def decorate(function: Answering) -> Answering:
            name = getattr(function, "__name__", repr(function))
            if self._running:
                self._check_awaited([(name, function)], self._asyncio_loop)
            self._routes.add(path, names, answered_by(function), policy)
            self._answering.append((name, function))
            return function

        return decorate

    def static(
        self, prefix: str, folder: str | os.PathLike[str], *, cors: Any = None
    ) -> None:
        """Answer plain HTTP requests with the files of a folder.

        A subfolder is answered with its index.html; files that are hidden (whose name
        starts with a dot) or outside the folder are not served.

        Args:
            prefix: the path of the folder in URLs, such as "/" or "/files".
            folder: an existing folder.
            cors: see `http`.

        Raises:
            TypeError: The folder is not a path.
            ValueError: There is no such folder; the prefix is malformed or already in
                use.
        """
        from ..http.static import Static  # only when needed

        files = Static(prefix, folder, check_cors(cors))
        self._routes.add_below(files.prefix, files.route)

    def wsgi(self, prefix: str, app: Callable[..., Any], threads: int = 8) -> None:
        """Answer plain HTTP requests with a WSGI application (PEP 3333).

        It runs in worker threads, so it may block; requests wait until a thread is
        free, and when too many wait, the next are answered with 503.

        Args:
            prefix: the path below which all requests go to the application.
            app: called with (environ, start_response).
            threads: the number of requests answered at the same time.

        Raises:
            TypeError: The application takes other arguments; `threads` is not a number.
            ValueError: The prefix is malformed or already in use; `threads` is out of
                range.
        """
        from ..http.wsgi import Wsgi  # only when needed

        pages = Wsgi(prefix, app, threads)
        self._routes.add_below(pages.prefix, pages.route, pages.end)
        self._wsgi.append(pages)

    def asgi(
        self,
        prefix: str,
        app: Callable[..., Any],
        *,
        root_path: str = "",
        max_body: int | None = 100 * 2**20,
    ) -> None:
        """Serve an ASGI application: FastAPI, Starlette, Django, Quart and others.

        It gets plain requests and WebSockets below the prefix, and its lifespan. It is
        awaited in the asyncio loop that the server is attached to; without one `run`
        and `start` make a loop for it. `run` and `serve_async` raise `StartupFailed`
        when the application says that it cannot start.

        Args:
            prefix: the path below which all requests go to the application; "/" for all
                that have no handler and no function of their own.
            app: called with (scope, receive, send), as ASGI 3.0 says.
            root_path: the path that a proxy in front of the server removes from all
                requests.
            max_body: bytes of a request's body; a larger one gets 413. None: no limit.
                The body is handed over while it arrives, and not kept as a whole.

        Raises:
            TypeError: The application takes other arguments, or a value has the wrong
                type.
            ValueError: The prefix is malformed or already in use; another value is
                wrong.
            InvalidState: The server runs, but not in an asyncio loop.
        """
        from ..asgi.mount import Mount  # only when needed: they import asyncio
        from .applications import Applications

        mount = Mount(prefix, app, root_path, max_body)
        if self._running:
            self._check_awaited([(mount.name, mount.serve)], self._asyncio_loop)
        self._routes.add_below(mount.prefix, mount.route)
        self.mount(f"{mount.prefix}/*", mount.handler)
        self._answering.append((mount.name, mount.serve))
        if self._asgi is None:
            self._asgi = Applications()
        self._asgi.add(mount, self._run if self._running else None)


def _check_mounted(given: Mapping[str, Any], options: Options) -> None:
    """Refuse what would be passed over in silence: a handler believed to have TLS."""
    for name in _OF_THE_SOCKET:
        if given.get(name) and given[name] != getattr(options, name):
            raise ValueError(f"{name} is an option of the server, not of one handler")
