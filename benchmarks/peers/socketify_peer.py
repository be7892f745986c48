"""socketify: uWebSockets behind CFFI. Broadcasts by topic, as it recommends."""

import common
from socketify import App, AppListenOptions, CompressOptions

args = common.parse()


def echo(ws, message, opcode):
    ws.send(message, opcode, bool(args.deflate))


def upgrade(response, request, context):
    """Keep the path as the topic."""
    key = request.get_header("sec-websocket-key")
    protocol = request.get_header("sec-websocket-protocol")
    extensions = request.get_header("sec-websocket-extensions")
    topic = request.get_url()
    response.upgrade(key, protocol, extensions, context, topic)


def topic_of(ws):
    return ws.get_user_data() if args.mode == "topics" else "all"


def subscribe(ws):
    ws.subscribe(topic_of(ws))


def broadcast(ws, message, opcode):
    app.publish(topic_of(ws), message, opcode, False)


app = App()
app.ws(
    "/*",
    {
        # The compressor with a window of its own: context takeover, 15 bits, level 8.
        "compression": CompressOptions.DEDICATED_COMPRESSOR_256KB
        | CompressOptions.DEDICATED_DECOMPRESSOR_32KB
        if args.deflate
        else CompressOptions.DISABLED,
        "max_payload_length": args.max_size,
        "max_backpressure": common.WRITE_LIMIT,
        "idle_timeout": 120,
        "upgrade": upgrade if args.mode == "topics" else None,
        "open": subscribe if args.mode != "echo" else None,
        "message": echo if args.mode == "echo" else broadcast,
    },
)
app.listen(
    AppListenOptions(port=args.port, host="127.0.0.1"),
    lambda config: common.ready(config.port),
)
app.run()
