"""socketify: uWebSockets behind CFFI. Broadcasts by topic, as it recommends."""

import common
from socketify import App, AppListenOptions, CompressOptions

args = common.parse()


def echo(ws, message, opcode):
    ws.send(message, opcode, bool(args.deflate))


def subscribe(ws):
    ws.subscribe("all")


def broadcast(ws, message, opcode):
    app.publish("all", message, opcode, False)


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
        "open": subscribe if args.mode == "broadcast" else None,
        "message": echo if args.mode == "echo" else broadcast,
    },
)
app.listen(
    AppListenOptions(port=args.port, host="127.0.0.1"),
    lambda config: common.ready(config.port),
)
app.run()
