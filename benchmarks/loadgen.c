/* loadgen.c: single-threaded epoll load generator for WebSocket servers.
 *
 * Every frame it sends was masked before the run and lies ready in one block, so that
 * messages in flight leave with one write; every answer is compared with what was
 * sent, piece by piece as it arrives: opcode, length, content and order. A server may
 * split its messages, send pings in between, and use permessage-deflate if offered.
 *
 *   loadgen echo      --port N [--connections 100] [--inflight 1] [--size 32] [--text]
 *                     [--any] [--deflate] [--seconds 5] [--warmup 1]
 *   loadgen broadcast --port N [--connections 1000] [--inflight 1] [--group 10]
 *                     [--blocked 10] ...
 *   loadgen handshake --port N [--progress 64] [--sources 8] [--close rst|frame] ...
 *   loadgen idle      --port N [--connections 10000] [--progress 64] [--sources 1] [--deflate]
 *
 * broadcast: the first connection sends, all receive. With --group, that many connections
 * each are among themselves: they ask for the path /GROUP. The last --blocked ones never
 * read, and their sockets take little.
 *
 * --any: answers may have another content of the same length.
 *
 * Common: --host 127.0.0.1, --path /, --tls (see tls.h), --pid N (a process whose CPU
 * time is reported).
 *
 * Writes lines "EVENT start", "EVENT stop" (the measured window), "EVENT ready" (idle:
 * all open; it then holds them until stdin closes), and last one line of JSON.
 * Exits with 0 when there was no error, 1 when there was one, 2 when misused.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>
#include <zlib.h>

#include "wire.h"

#include "tls.h"

#ifndef IP_BIND_ADDRESS_NO_PORT
#define IP_BIND_ADDRESS_NO_PORT 24
#endif

#define READ_SIZE (256 * 1024) /* stays in the second-level cache */
#define EVENTS 1024
#define RESPONSE_LIMIT 4096    /* bytes of a handshake answer */
#define KEYS 256               /* different Sec-WebSocket-Keys */
#define POOL_BYTES (4u << 20)  /* messages lying ready */
#define STALL 10.0             /* seconds without any message: the server hangs */
#define DRAIN 3.0              /* seconds for the last answers after the window */
#define OPEN_LIMIT 60.0        /* seconds for opening all connections */

enum state { CONNECTING, UPGRADING, OPEN, CLOSING, CLOSED };

typedef struct {
    uint8_t waiting[131], sending[131]; /* pongs: the next one, the one on its way */
    unsigned waiting_len;
} pong;

typedef struct {
    int fd;
    SSL *ssl;                /* NULL without TLS */
    uint8_t state;
    uint8_t want_out;        /* EPOLLOUT is registered */
    uint8_t key;             /* index of the Sec-WebSocket-Key */
    /* output: one contiguous piece at a time, always ending at a frame boundary */
    const uint8_t *piece;
    size_t piece_len;
    uint32_t to_send;        /* messages not yet put into a piece */
    uint64_t sent, received; /* messages; both index the pool */
    uint64_t *times;         /* when each message in flight was sent, nanoseconds */
    pong *pong;
    /* input: the frame head being read, then what is left of its payload */
    uint8_t head[MAX_HEAD];
    uint8_t head_len, frame_opcode, frame_fin;
    uint8_t in_message, compressed, bad; /* a message has begun; is deflated; differs */
    uint64_t frame_left;
    size_t message_len;      /* payload bytes of the message so far (inflated) */
    uint8_t control[126];
    uint8_t control_len;
    /* handshake and permessage-deflate */
    char *response;
    unsigned response_len;
    uint8_t deflate, server_reset, server_bits;
    z_stream *inflater;
    uint8_t *inflated;
    uint64_t began;          /* when connect() was called, nanoseconds */
} conn;

/* ---- options --------------------------------------------------------------------- */

static enum { ECHO, BROADCAST, HANDSHAKE, IDLE } mode;
static const char *opt_host = "127.0.0.1", *opt_path = "/";
static int opt_port, opt_pid, opt_connections = -1, opt_sources = -1, opt_progress = 64;
static int opt_inflight = 1, opt_group, opt_blocked, opt_any, opt_text, opt_deflate, opt_close_frame, opt_tls;
static size_t opt_size = 32;
static double opt_seconds = 5, opt_warmup = 1;

/* ---- counters -------------------------------------------------------------------- */

static uint64_t n_messages, n_errors, bytes_in, bytes_out, n_pings, n_frames;
static bool measuring, stopping;
static char first_error[256], extensions[256];
static uint64_t latencies[64 * 32]; /* 32 steps in each power of two: 3 % wide */
static uint64_t latency_max;

static void error(const char *format, ...)
{
    n_errors++;
    if (first_error[0])
        return;
    va_list args;
    va_start(args, format);
    vsnprintf(first_error, sizeof first_error, format, args);
    va_end(args);
}

static void die(const char *what)
{
    perror(what);
    exit(2);
}

static void *zalloc(size_t count, size_t size)
{
    void *p = calloc(count, size);
    if (!p)
        die("calloc");
    return p;
}

static inline uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static inline void note_latency(uint64_t ns)
{
    if (ns > latency_max)
        latency_max = ns;
    if (ns < 32) {
        latencies[ns]++;
        return;
    }
    int top = 63 - __builtin_clzll(ns);
    latencies[(top - 4) * 32 + (int)(ns >> (top - 5) & 31)]++;
}

/* Middle of the histogram step that holds this share of all latencies, µs. */
static double percentile(double share)
{
    uint64_t total = 0, seen = 0;
    for (int i = 0; i < 64 * 32; i++)
        total += latencies[i];
    if (!total)
        return 0;
    for (int i = 0; i < 64 * 32; i++) {
        seen += latencies[i];
        if (seen < share * (double)total)
            continue;
        if (i < 32)
            return i / 1000.0;
        int shift = i / 32 - 1;
        double middle = (double)((uint64_t)(32 + i % 32) << shift) + (double)(1ull << shift) / 2;
        return (middle < (double)latency_max ? middle : (double)latency_max) / 1000.0;
    }
    return 0;
}

/* ---- the pool of messages -------------------------------------------------------- */

static uint8_t *pool_plain, *pool_frames;
static size_t *pool_at;      /* pool_frames + pool_at[i] is frame i; one more at the end */
static size_t pool_count;
static uint64_t random_state = 0x9E3779B97F4A7C15u;

static uint32_t random32(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (uint32_t)(random_state >> 32);
}

static void fill_plain(uint8_t *p, size_t size, size_t i)
{
    char number[24];
    int n = snprintf(number, sizeof number, "%08zx ", i);
    for (size_t k = 0; k < size; k++)
        p[k] = opt_text ? (uint8_t)(32 + random32() % 95) : (uint8_t)random32();
    memcpy(p, number, size < (size_t)n ? size : (size_t)n);
}

/* JSON such as a dashboard sends: keys repeat, numbers and names vary. */
static void fill_json(uint8_t *p, size_t size, size_t i)
{
    static const char *const names[] = {"temperature", "humidity", "pressure", "voltage",
                                        "rotation", "position", "level", "flow"};
    static const char *const states[] = {"ok", "warning", "calibrating", "offline"};
    size_t room = size + 512;
    char *text = zalloc(room, 1);
    size_t n = (size_t)snprintf(
        text, room, "{\"id\":%zu,\"time\":\"2024-05-%02uT%02u:%02u:%02u.%03uZ\",\"device\":\"sensor-%04u\",\"readings\":[",
        i, 1 + random32() % 28, random32() % 24, random32() % 60, random32() % 60,
        random32() % 1000, random32() % 10000);
    while (n + 110 < size)
        n += (size_t)snprintf(text + n, room - n,
                              "{\"name\":\"%s\",\"value\":%u.%03u,\"state\":\"%s\"},",
                              names[random32() % 8], random32() % 1000, random32() % 1000,
                              states[random32() % 4]);
    if (text[n - 1] == ',')
        n--;
    n += (size_t)snprintf(text + n, room - n, "],\"note\":\"");
    while (n + 2 < size)
        text[n++] = "abcdefghijklmnopqrstuvwxyz     "[random32() % 31];
    text[n++] = '"';
    text[n++] = '}';
    memcpy(p, text, size);
    free(text);
}

/* Deflate a message that leans on no other one, for a window of 2**bits. zlib has no raw
 * stream with 8 bits: there only runs are used, whose distance is 1. */
static size_t deflate_message(uint8_t *dst, size_t room, uint8_t *p, size_t len, int bits)
{
    z_stream z = {0};
    bool narrow = bits < 9;
    if (deflateInit2(&z, 6, Z_DEFLATED, narrow ? -15 : -bits, 8,
                     narrow ? Z_RLE : Z_DEFAULT_STRATEGY) != Z_OK)
        die("deflateInit2");
    z.next_in = p, z.avail_in = (uInt)len;
    z.next_out = dst, z.avail_out = (uInt)room;
    if (deflate(&z, Z_SYNC_FLUSH) != Z_OK || z.avail_in || !z.avail_out)
        die("deflate");
    size_t size = room - z.avail_out - 4;
    deflateEnd(&z);
    return size;
}

/* Frames of all messages behind each other, masked with a key of their own each. */
static void build_pool(bool compressed, int bits)
{
    pool_count = POOL_BYTES / (opt_size + MAX_HEAD);
    pool_count = pool_count > 1024 ? 1024 : pool_count < 4 ? 4 : pool_count;
    size_t room = opt_size + opt_size / 8 + 128;
    pool_plain = zalloc(pool_count, opt_size + 1);
    pool_frames = zalloc(pool_count, room + MAX_HEAD);
    pool_at = zalloc(pool_count + 1, sizeof *pool_at);
    uint8_t *packed = zalloc(1, room);
    size_t at = 0;
    for (size_t i = 0; i < pool_count; i++) {
        uint8_t *plain = pool_plain + i * opt_size, *body = plain;
        size_t len = opt_size;
        if (opt_deflate)
            fill_json(plain, opt_size, i);
        else
            fill_plain(plain, opt_size, i);
        if (compressed)
            len = deflate_message(packed, room, plain, opt_size, bits), body = packed;
        uint8_t *p = pool_frames + at, first = BIT_FIN | (opt_text ? OP_TEXT : OP_BINARY);
        unsigned head = put_head(p, first | (compressed ? BIT_RSV1 : 0), len, BIT_MASK);
        uint32_t key = random32();
        memcpy(p + head, &key, 4);
        mask_copy(p + head + 4, body, len, p + head);
        pool_at[i] = at;
        at += head + 4 + len;
    }
    pool_at[pool_count] = at;
    free(packed);
}

/* ---- connections ----------------------------------------------------------------- */

static int epfd;
static conn *conns;
static int n_conns, n_open;
static uint8_t read_buffer[READ_SIZE];
static char key_text[KEYS][25], key_accept[KEYS][ACCEPT_LEN + 1], *key_request[KEYS];
static size_t key_request_len[KEYS];
static uint64_t now; /* of the event being handled */

static void build_requests(void)
{
    for (int i = 0; i < KEYS; i++) {
        uint8_t raw[16];
        for (int k = 0; k < 16; k++)
            raw[k] = (uint8_t)random32();
        base64(raw, 16, key_text[i]);
        accept_key(key_text[i], 24, key_accept[i]);
        int n = asprintf(&key_request[i],
                         "GET %s HTTP/1.1\r\nHost: %s:%d\r\nUpgrade: websocket\r\n"
                         "Connection: Upgrade\r\nSec-WebSocket-Key: %s\r\n"
                         "Sec-WebSocket-Version: 13\r\n%s\r\n",
                         opt_path, opt_host, opt_port, key_text[i],
                         opt_deflate ? "Sec-WebSocket-Extensions: permessage-deflate; "
                                       "client_max_window_bits\r\n"
                                     : "");
        if (n < 0)
            die("asprintf");
        key_request_len[i] = (size_t)n;
    }
}

static bool is_blocked(const conn *c)
{
    return c - conns >= n_conns - opt_blocked;
}

static void want(conn *c, bool out)
{
    if (c->want_out == out || c->fd < 0)
        return;
    c->want_out = out;
    struct epoll_event ev = {.events = out ? EPOLLIN | EPOLLOUT : EPOLLIN, .data.ptr = c};
    epoll_ctl(epfd, EPOLL_CTL_MOD, c->fd, &ev);
}

/* send, through TLS if there is; with EAGAIN, `out` says whether to wait for output. */
static ssize_t put(conn *c, const void *p, size_t len, int *out)
{
    *out = 1;
    return c->ssl ? tls_send(c->ssl, p, len, out)
                  : send(c->fd, p, len, MSG_NOSIGNAL | MSG_DONTWAIT);
}

/* Close by reset: no TIME_WAIT that would eat up the ports. */
static void cut(conn *c)
{
    if (c->fd < 0)
        return;
    struct linger l = {.l_onoff = 1, .l_linger = 0};
    setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &l, sizeof l);
    if (c->ssl)
        SSL_free(c->ssl);
    c->ssl = NULL;
    close(c->fd);
    c->fd = -1;
    if (c->state == OPEN)
        n_open--;
    c->state = CLOSED;
}

static void fail(conn *c, const char *what, const char *detail)
{
    if (c->state == CLOSED)
        return;
    error("%s%s%s", what, detail ? ": " : "", detail ? detail : "");
    cut(c);
}

/* What a member of a group asks for: the prepared request, with a path of its own. */
static size_t group_request(const conn *c, char *text, size_t room)
{
    int n = snprintf(text, room, "GET /%td%s", (c - conns) / opt_group,
                     key_request[c->key] + strlen("GET ") + strlen(opt_path));
    return n < 0 || (size_t)n >= room ? 0 : (size_t)n;
}

static void send_request(conn *c)
{
    int out;
    char own[512];
    const char *request = key_request[c->key];
    size_t len = key_request_len[c->key];
    if (opt_group)
        request = own, len = group_request(c, own, sizeof own);
    ssize_t n = put(c, request, len, &out);
    if (n == (ssize_t)len) {
        c->state = UPGRADING;
        want(c, false);
    } else if (n < 0 && (errno == EAGAIN || errno == ENOTCONN))
        want(c, out);
    else
        fail(c, "request", n < 0 ? strerror(errno) : "short write");
}

static void begin(conn *c)
{
    static unsigned count;
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)opt_port)};
    int one = 1;
    c->state = CONNECTING;
    c->want_out = 0;
    c->response_len = 0;
    c->key = (uint8_t)(count % KEYS);
    c->began = now_ns();
    if (inet_pton(AF_INET, opt_host, &to.sin_addr) != 1) {
        fprintf(stderr, "--host is an IPv4 address\n");
        exit(2);
    }
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (c->fd < 0) {
        fail(c, "socket", strerror(errno));
        return;
    }
    if (mode != HANDSHAKE) /* a single small write needs no such care */
        setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (is_blocked(c)) { /* segments of the size that makes the server's buffer small */
        int size = 2048, segment = 536;
        setsockopt(c->fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof size);
        setsockopt(c->fd, IPPROTO_TCP, TCP_MAXSEG, &segment, sizeof segment);
    }
    if (opt_sources > 1) { /* 127.0.0.2 and on: each has ports of its own */
        struct sockaddr_in from = {.sin_family = AF_INET};
        from.sin_addr.s_addr = htonl(INADDR_LOOPBACK + 1 + count % (unsigned)opt_sources);
        setsockopt(c->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one);
        if (bind(c->fd, (struct sockaddr *)&from, sizeof from)) {
            fail(c, "bind", strerror(errno));
            return;
        }
    }
    count++;
    if (connect(c->fd, (struct sockaddr *)&to, sizeof to) && errno != EINPROGRESS) {
        fail(c, "connect", strerror(errno));
        return;
    }
    struct epoll_event ev = {.events = EPOLLIN, .data.ptr = c};
    if (epoll_ctl(epfd, EPOLL_CTL_ADD, c->fd, &ev))
        die("epoll_ctl");
    if (opt_tls)
        c->ssl = tls_begin(c->fd);
    send_request(c); /* over loopback the connection mostly stands already */
}

/* Read the terms of permessage-deflate out of the answer; false if they cannot be kept. */
static bool take_extensions(conn *c, const char *value, size_t len)
{
    char text[256];
    if (!value)
        return true;
    if (len >= sizeof text)
        return false;
    memcpy(text, value, len);
    text[len] = 0;
    if (!extensions[0])
        memcpy(extensions, text, len + 1);
    if (!opt_deflate || strncmp(text, "permessage-deflate", 18) || strcmp(text, extensions))
        return false;
    int server_bits = deflate_parameter(text, "server_max_window_bits");
    c->deflate = 1;
    c->server_bits = (uint8_t)(server_bits > 0 ? server_bits : 15);
    c->server_reset = deflate_parameter(text, "server_no_context_takeover") >= 0;
    return c->server_bits >= 8 && c->server_bits <= 15;
}

static void feed(conn *c, const uint8_t *p, size_t len);
static void opened(conn *c);

static void upgrade(conn *c, const uint8_t *p, size_t len)
{
    if (!c->response)
        c->response = zalloc(1, RESPONSE_LIMIT + 1);
    size_t had = c->response_len;
    if (had + len > RESPONSE_LIMIT)
        len = RESPONSE_LIMIT - had;
    memcpy(c->response + had, p, len);
    c->response[c->response_len += (unsigned)len] = 0;
    char *end = memmem(c->response, c->response_len, "\r\n\r\n", 4);
    if (!end) {
        if (c->response_len == RESPONSE_LIMIT)
            fail(c, "handshake", "answer too long");
        return;
    }
    size_t n, taken = (size_t)(end + 4 - c->response);
    end[2] = 0;
    const char *accept = http_header(c->response, "Sec-WebSocket-Accept", &n);
    if (strncmp(c->response, "HTTP/1.1 101", 12)) {
        c->response[strcspn(c->response, "\r\n")] = 0;
        fail(c, "handshake refused", c->response);
        return;
    }
    if (!accept || n != ACCEPT_LEN || memcmp(accept, key_accept[c->key], n)) {
        fail(c, "handshake", "wrong Sec-WebSocket-Accept");
        return;
    }
    const char *value = http_header(c->response, "Sec-WebSocket-Extensions", &n);
    if (!take_extensions(c, value, n)) {
        fail(c, "handshake", "Sec-WebSocket-Extensions not acceptable");
        return;
    }
    if (mode != HANDSHAKE) { /* there the next handshake uses it again */
        free(c->response);
        c->response = NULL;
    }
    c->state = OPEN;
    n_open++;
    opened(c);
    if (c->state == OPEN && had + len > taken)
        feed(c, p + (taken - had), len - (taken - had));
}

/* ---- output ---------------------------------------------------------------------- */

/* Choose the next piece: a pong first, else all messages that lie side by side. */
static bool next_piece(conn *c)
{
    if (c->pong && c->pong->waiting_len) {
        memcpy(c->pong->sending, c->pong->waiting, c->pong->waiting_len);
        c->piece = c->pong->sending;
        c->piece_len = c->pong->waiting_len;
        c->pong->waiting_len = 0;
        return true;
    }
    if (!c->to_send)
        return false;
    size_t from = c->sent % pool_count, count = c->to_send;
    if (count > pool_count - from)
        count = pool_count - from;
    c->piece = pool_frames + pool_at[from];
    c->piece_len = pool_at[from + count] - pool_at[from];
    for (size_t i = 0; c->times && i < count; i++)
        c->times[(c->sent + i) % (unsigned)opt_inflight] = now;
    c->sent += count;
    c->to_send -= (uint32_t)count;
    return true;
}

static void flush(conn *c)
{
    while (c->piece_len || next_piece(c)) {
        int out;
        ssize_t n = put(c, c->piece, c->piece_len, &out);
        if (n < 0) {
            if (errno != EAGAIN && errno != EINTR)
                fail(c, "send", strerror(errno));
            else
                want(c, out);
            return;
        }
        bytes_out += (uint64_t)n;
        c->piece += n;
        c->piece_len -= (size_t)n;
    }
    want(c, false);
}

static void queue_control(conn *c, uint8_t opcode, const uint8_t *p, size_t len)
{
    if (!c->pong)
        c->pong = zalloc(1, sizeof *c->pong);
    uint8_t *w = c->pong->waiting;
    unsigned head = put_head(w, BIT_FIN | opcode, len, BIT_MASK);
    uint32_t key = random32();
    memcpy(w + head, &key, 4);
    mask_copy(w + head + 4, p, len, w + head);
    c->pong->waiting_len = head + 4 + (unsigned)len;
}

/* ---- input ----------------------------------------------------------------------- */

static void message_done(conn *c); /* of the mode */

/* A piece of the message's plain content. */
static void check(conn *c, const uint8_t *p, size_t len)
{
    const uint8_t *expected = pool_plain + c->received % pool_count * opt_size;
    if (c->message_len + len > opt_size || (!opt_any && memcmp(expected + c->message_len, p, len)))
        c->bad = 1;
    c->message_len += len;
}

/* Inflate a piece. A server may end a message with a final block (RFC 7692 §7.2.3.4):
 * then the stream starts anew with the window it had. */
static bool inflate_piece(conn *c, const uint8_t *p, size_t len)
{
    z_stream *z = c->inflater;
    size_t room = opt_size + 64;
    if (!z) {
        z = c->inflater = zalloc(1, sizeof *z);
        c->inflated = zalloc(1, room);
        if (inflateInit2(z, c->server_bits == 8 ? -9 : -c->server_bits) != Z_OK)
            die("inflateInit2");
    }
    z->next_in = (Bytef *)p;
    z->avail_in = (uInt)len;
    while (z->avail_in) {
        z->next_out = c->inflated;
        z->avail_out = (uInt)room;
        int rc = inflate(z, Z_SYNC_FLUSH);
        check(c, c->inflated, room - z->avail_out);
        if (rc == Z_STREAM_END) {
            static uint8_t window[32768];
            uInt n = 0;
            if (inflateGetDictionary(z, window, &n) != Z_OK || inflateReset(z) != Z_OK ||
                inflateSetDictionary(z, window, n) != Z_OK)
                return false;
        } else if (rc != Z_OK && rc != Z_BUF_ERROR)
            return false;
        else if (c->message_len > opt_size)
            return true; /* counted as wrong when it ends */
    }
    return true;
}

static void data(conn *c, const uint8_t *p, size_t len)
{
    if (!c->compressed)
        check(c, p, len);
    else if (!inflate_piece(c, p, len))
        fail(c, "answer", "cannot be inflated");
}

static void control(conn *c)
{
    if (c->frame_opcode == OP_PING) {
        n_pings++;
        queue_control(c, OP_PONG, c->control, c->control_len);
        flush(c);
    } else if (c->frame_opcode == OP_CLOSE && c->state != CLOSING) {
        char text[160];
        int code = c->control_len >= 2 ? c->control[0] << 8 | c->control[1] : 1005;
        snprintf(text, sizeof text, "%d %.*s", code, c->control_len > 2 ? c->control_len - 2 : 0,
                 (char *)c->control + 2);
        fail(c, "closed by the server", text);
    }
}

static void frame_done(conn *c)
{
    static const uint8_t tail[4] = {0, 0, 0xff, 0xff};
    c->head_len = 0;
    if (c->frame_opcode >= 8) {
        control(c);
        return;
    }
    if (!c->frame_fin)
        return;
    if (c->compressed) {
        if (!inflate_piece(c, tail, 4)) {
            fail(c, "answer", "cannot be inflated");
            return;
        }
        if (c->server_reset)
            inflateReset(c->inflater);
    }
    if (c->bad || c->message_len != opt_size)
        error("message %llu: %s (%zu bytes)", (unsigned long long)c->received,
              c->bad ? "content differs" : "wrong length", c->message_len);
    c->in_message = c->bad = 0;
    c->message_len = 0;
    message_done(c);
}

/* What is wrong with a complete head, or NULL. */
static const char *head_error(conn *c, uint64_t len)
{
    uint8_t first = c->head[0], opcode = first & 15;
    if (c->head[1] & BIT_MASK)
        return "masked frame";
    if (first & BITS_RSV23)
        return "reserved bit";
    if (opcode >= 8) {
        if (opcode > OP_PONG || len > 125 || !(first & BIT_FIN) || (first & BIT_RSV1))
            return "bad control frame";
        return NULL;
    }
    if (opcode > OP_BINARY)
        return "unknown opcode";
    if ((first & BIT_RSV1) && (!c->deflate || opcode == OP_CONT))
        return "unexpected RSV1";
    if ((opcode == OP_CONT) != c->in_message)
        return "wrong order of fragments";
    if (opcode != OP_CONT && opcode != (opt_text ? OP_TEXT : OP_BINARY))
        return "wrong opcode";
    if (((c->head[1] & 127) == 126 && len < 126) || ((c->head[1] & 127) == 127 && len < 65536))
        return "length not in its shortest form";
    if (opcode != OP_CONT && mode == ECHO && c->received >= c->sent)
        return "answer without a question";
    return NULL;
}

static void head_done(conn *c)
{
    uint64_t len = head_length(c->head);
    const char *wrong = mode == ECHO || mode == BROADCAST || (c->head[0] & 15) >= 8
                            ? head_error(c, len) : "unexpected message";
    if (wrong) {
        fail(c, "protocol error", wrong);
        return;
    }
    n_frames++;
    c->frame_opcode = c->head[0] & 15;
    c->frame_fin = c->head[0] & BIT_FIN;
    c->frame_left = len;
    c->control_len = 0;
    if (c->frame_opcode == OP_TEXT || c->frame_opcode == OP_BINARY) {
        c->in_message = 1;
        c->compressed = c->head[0] & BIT_RSV1;
        c->message_len = 0;
    }
}

/* Everything that was received, in pieces of any size. */
static void feed(conn *c, const uint8_t *p, size_t len)
{
    while (len) {
        if (!c->frame_left) { /* in a head: the state between frames as well */
            unsigned need = c->head_len < 2 ? 2 : head_size(c->head[1]);
            while (c->head_len < need && len) {
                c->head[c->head_len++] = *p++;
                len--;
                if (c->head_len == 2)
                    need = head_size(c->head[1]);
            }
            if (c->head_len < need)
                return;
            head_done(c);
            if (c->state == CLOSED)
                return;
            if (!c->frame_left)
                frame_done(c);
            if (c->state == CLOSED)
                return;
            continue;
        }
        size_t n = len < c->frame_left ? len : (size_t)c->frame_left;
        if (c->frame_opcode < 8)
            data(c, p, n);
        else {
            memcpy(c->control + c->control_len, p, n);
            c->control_len += (uint8_t)n;
        }
        p += n, len -= n;
        c->frame_left -= n;
        if (c->state != CLOSED && !c->frame_left)
            frame_done(c);
        if (c->state == CLOSED)
            return;
    }
}

static void receive(conn *c)
{
    ssize_t n = c->ssl ? tls_recv(c->ssl, read_buffer, READ_SIZE)
                       : recv(c->fd, read_buffer, READ_SIZE, MSG_DONTWAIT);
    now = now_ns();
    if (n > 0) {
        bytes_in += (uint64_t)n;
        if (c->state >= OPEN)
            feed(c, read_buffer, (size_t)n);
        else
            upgrade(c, read_buffer, (size_t)n);
        if (c->state == OPEN && c->to_send && !c->want_out)
            flush(c); /* one write for all answers of one read */
    } else if (n == 0 && c->state == CLOSING)
        cut(c);
    else if (n == 0)
        fail(c, "connection ended by the server", NULL);
    else if (errno != EAGAIN && errno != EINTR)
        fail(c, "recv", strerror(errno));
}

static void handle(conn *c, uint32_t events)
{
    if (c->fd < 0)
        return;
    if (c->ssl && c->state == CONNECTING) { /* its handshake, in either direction */
        send_request(c);
        return;
    }
    if (events & (EPOLLIN | EPOLLERR | EPOLLHUP))
        receive(c);
    if (c->fd >= 0 && (events & EPOLLOUT)) {
        if (c->state == CONNECTING)
            send_request(c);
        else if (c->state >= OPEN)
            flush(c);
    }
}

static void turn(double timeout)
{
    static struct epoll_event events[EVENTS];
    int n = epoll_wait(epfd, events, EVENTS, timeout <= 0 ? 0 : (int)(timeout * 1000) + 1);
    if (n < 0 && errno != EINTR)
        die("epoll_wait");
    now = now_ns();
    for (int i = 0; i < n; i++)
        handle(events[i].data.ptr, events[i].events);
}

/* ---- the measured window --------------------------------------------------------- */

typedef struct {
    double wall, self, server; /* seconds */
    uint64_t messages, in, out, frames, pings;
} moment;

static moment begin_window, end_window;

/* CPU time of a process with all its threads: what utime + stime of /proc/PID/stat
 * count, in nanoseconds instead of clock ticks. */
static double process_cpu(int pid)
{
    clockid_t clock;
    struct timespec t;
    if (!pid || clock_getcpuclockid(pid, &clock) || clock_gettime(clock, &t))
        return 0;
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static moment take_moment(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (moment){(double)now_ns() / 1e9, (double)t.tv_sec + (double)t.tv_nsec / 1e9,
                    process_cpu(opt_pid), n_messages, bytes_in, bytes_out, n_frames,
                    n_pings};
}

static void say(const char *event)
{
    printf("EVENT %s\n", event);
    fflush(stdout);
}

/* Run turns through warm-up and window; `step` (may be NULL) is called after each. */
static void run_window(void (*step)(void))
{
    double start = (double)now_ns() / 1e9, open_at = start + opt_warmup;
    double close_at = open_at + opt_seconds, moved = start;
    uint64_t last = n_messages;
    for (;;) {
        turn(0.1);
        double t = (double)now / 1e9;
        if (!measuring && t >= open_at) {
            say("start");
            begin_window = take_moment();
            close_at = begin_window.wall + opt_seconds;
            measuring = true;
        }
        if (measuring && t >= close_at)
            break;
        if (n_messages != last)
            last = n_messages, moved = t;
        if (t - moved > STALL) {
            error("stalled: no message for %.0f s", STALL);
            break;
        }
        if (mode != HANDSHAKE && !n_open)
            break; /* every failure has been counted */
        if (mode == HANDSHAKE && n_errors > 1000)
            break;
        if (step)
            step();
    }
    if (!measuring)
        begin_window = take_moment();
    end_window = take_moment();
    measuring = false;
    stopping = true;
    say("stop");
}

static void open_all(void)
{
    int begun = 0;
    double limit = (double)now_ns() / 1e9 + OPEN_LIMIT;
    for (;;) {
        int done = 0;
        for (int i = 0; i < begun; i++)
            done += conns[i].state >= OPEN;
        while (begun < n_conns && begun - done < opt_progress)
            begin(&conns[begun++]);
        if (done == n_conns)
            break;
        turn(0.1);
        if (n_errors || (double)now / 1e9 > limit) {
            error("only %d of %d connections opened", n_open, n_conns);
            break;
        }
    }
    if (n_errors == 0 && n_open < n_conns)
        error("only %d of %d connections opened", n_open, n_conns);
}

/* ---- modes ----------------------------------------------------------------------- */

/* broadcast: who receive what the first of them sends */
typedef struct {
    conn *sender;
    uint64_t members, asked, received; /* messages sent, and what came of them */
} group;

static group *groups;
static int n_groups;

static group *group_of(const conn *c)
{
    return &groups[opt_group ? (c - conns) / opt_group : 0];
}
static uint64_t handshakes;

static void opened(conn *c)
{
    if (is_blocked(c))
        epoll_ctl(epfd, EPOLL_CTL_DEL, c->fd, NULL);
    if (mode != HANDSHAKE)
        return;
    n_messages++;
    handshakes++;
    if (measuring)
        note_latency(now - c->began);
    if (!opt_close_frame) {
        cut(c);
        return;
    }
    static const uint8_t normal[2] = {1000 >> 8, 1000 & 255};
    queue_control(c, OP_CLOSE, normal, 2);
    n_open--;
    c->state = CLOSING;
    flush(c);
}

/* Send as many messages as are not on their way. */
static void ask(group *g)
{
    uint64_t room = (uint64_t)opt_inflight - (g->asked - g->received / g->members);
    if (stopping || !room || g->sender->state != OPEN)
        return;
    g->asked += room;
    g->sender->to_send += (uint32_t)room;
    flush(g->sender);
}

static void message_done(conn *c)
{
    uint64_t index = c->received++;
    n_messages++;
    if (mode == ECHO) {
        if (measuring)
            note_latency(now - c->times[index % (unsigned)opt_inflight]);
        if (!stopping)
            c->to_send++;
        return;
    }
    group *g = group_of(c);
    if (measuring)
        note_latency(now - g->sender->times[index % (unsigned)opt_inflight]);
    if (++g->received % g->members == 0)
        ask(g);
}

static void drain(void)
{
    uint64_t open = 0;
    double limit = (double)now_ns() / 1e9 + DRAIN;
    for (;;) {
        open = 0;
        for (int i = 0; i < n_conns; i++)
            if (conns[i].state == OPEN && !is_blocked(&conns[i]))
                open += (mode == ECHO ? &conns[i] : group_of(&conns[i])->sender)->sent -
                        conns[i].received;
        if (!open || (double)now / 1e9 > limit)
            break;
        turn(0.05);
    }
    if (open)
        error("%llu messages never answered", (unsigned long long)open);
}

static void prepare_messages(void)
{
    bool compressed = conns[0].deflate;
    int bits = compressed ? deflate_parameter(extensions, "client_max_window_bits") : 15;
    if (opt_deflate && !compressed)
        error("permessage-deflate was offered and not taken");
    build_pool(compressed, bits > 0 ? bits : 15);
    for (int i = 0; i < n_conns; i++)
        if (mode == ECHO || group_of(&conns[i])->sender == &conns[i])
            conns[i].times = zalloc((size_t)opt_inflight, sizeof(uint64_t));
}

static void run_echo(void)
{
    open_all();
    if (n_errors)
        return;
    prepare_messages();
    now = now_ns();
    for (int i = 0; i < n_conns; i++) {
        conns[i].sent = conns[i].received = (uint64_t)i * 7919;
        conns[i].to_send = (uint32_t)opt_inflight;
        flush(&conns[i]);
    }
    run_window(NULL);
    drain();
}

static void make_groups(void)
{
    n_groups = opt_group ? n_conns / opt_group : 1;
    groups = zalloc((size_t)n_groups, sizeof *groups);
    for (int i = 0; i < n_conns - opt_blocked; i++) {
        group *g = group_of(&conns[i]);
        g->sender = g->members++ ? g->sender : &conns[i];
    }
}

static void run_broadcast(void)
{
    make_groups();
    open_all();
    if (n_errors)
        return;
    prepare_messages();
    now = now_ns();
    for (int i = 0; i < n_groups; i++)
        ask(&groups[i]);
    run_window(NULL);
    drain();
}

static void replace_closed(void)
{
    for (int i = 0; i < n_conns && !stopping; i++)
        if (conns[i].state == CLOSED)
            begin(&conns[i]);
}

static void run_handshake(void)
{
    for (int i = 0; i < n_conns; i++)
        begin(&conns[i]);
    run_window(replace_closed);
}

static void run_idle(void)
{
    open_all();
    begin_window = take_moment();
    struct epoll_event ev = {.events = EPOLLIN, .data.ptr = NULL};
    int in = epoll_create1(EPOLL_CLOEXEC);
    if (epoll_ctl(in, EPOLL_CTL_ADD, 0, &ev))
        die("stdin must be a pipe");
    say("ready");
    for (;;) {
        char text[256];
        turn(0.05);
        if (epoll_wait(in, &ev, 1, 0) == 1 && read(0, text, sizeof text) <= 0)
            break;
    }
    end_window = take_moment();
    if (n_open < n_conns && !n_errors)
        error("%d connections were lost while idle", n_conns - n_open);
}

/* ---- results and main ------------------------------------------------------------ */

static void print_string(const char *name, const char *text)
{
    printf("\"%s\": \"", name);
    for (; *text; text++)
        if (*text == '"' || *text == '\\')
            printf("\\%c", *text);
        else if ((unsigned char)*text < 32 || (unsigned char)*text > 126)
            printf("\\u%04x", (unsigned char)*text);
        else
            putchar(*text);
    printf("\", ");
}

static void print_result(void)
{
    static const char *const modes[] = {"echo", "broadcast", "handshake", "idle"};
    double wall = end_window.wall - begin_window.wall;
    double messages = (double)(end_window.messages - begin_window.messages);
    double self = end_window.self - begin_window.self;
    double server = end_window.server - begin_window.server;
    double per = messages ? messages : 1;
    if (wall <= 0)
        wall = 1e-9;
    printf("{");
    print_string("mode", modes[mode]);
    print_string("error", first_error);
    print_string("extensions", extensions);
    printf("\"errors\": %llu, \"connections\": %d, \"open\": %d, \"inflight\": %d, "
           "\"size\": %zu, \"text\": %s, \"deflate\": %s, \"seconds\": %.4f, "
           "\"messages\": %.0f, \"rate\": %.2f, ",
           (unsigned long long)n_errors, n_conns, n_open, opt_inflight, opt_size,
           opt_text ? "true" : "false", opt_deflate ? "true" : "false", wall, messages,
           messages / wall);
    printf("\"p50_us\": %.2f, \"p90_us\": %.2f, \"p99_us\": %.2f, \"max_us\": %.2f, ",
           percentile(0.5), percentile(0.9), percentile(0.99), (double)latency_max / 1000.0);
    printf("\"bytes_in\": %llu, \"bytes_out\": %llu, \"wire_in_per_message\": %.1f, "
           "\"wire_out_per_message\": %.1f, \"frames_per_message\": %.2f, \"pings\": %llu, ",
           (unsigned long long)(end_window.in - begin_window.in),
           (unsigned long long)(end_window.out - begin_window.out),
           (double)(end_window.in - begin_window.in) / per,
           (double)(end_window.out - begin_window.out) / per,
           (double)(end_window.frames - begin_window.frames) / per,
           (unsigned long long)(end_window.pings - begin_window.pings));
    printf("\"loadgen_cpu\": %.4f, \"loadgen_us\": %.4f, \"server_cpu\": %.4f, "
           "\"server_us\": %.4f}\n",
           self / wall, self * 1e6 / per, server / wall, server * 1e6 / per);
    fflush(stdout);
}

static void parse_options(int argc, char **argv)
{
    static const char *const modes[] = {"echo", "broadcast", "handshake", "idle"};
    static const struct option options[] = {
        {"host", 1, 0, 'h'},     {"port", 1, 0, 'p'},    {"path", 1, 0, 'P'},
        {"pid", 1, 0, 'i'},      {"connections", 1, 0, 'n'}, {"inflight", 1, 0, 'm'},
        {"size", 1, 0, 's'},     {"text", 0, 0, 't'},    {"deflate", 0, 0, 'd'},
        {"seconds", 1, 0, 'D'},  {"warmup", 1, 0, 'W'},  {"sources", 1, 0, 'S'},
        {"any", 0, 0, 'a'},      {"group", 1, 0, 'g'},   {"blocked", 1, 0, 'b'},
        {"progress", 1, 0, 'k'}, {"close", 1, 0, 'c'},   {"tls", 0, 0, 'T'},
        {0, 0, 0, 0}};
    int o, m = -1;
    for (int i = 0; i < 4 && argc > 1; i++)
        if (!strcmp(argv[1], modes[i]))
            m = i;
    if (m < 0) {
        fprintf(stderr, "usage: loadgen echo|broadcast|handshake|idle --port N ...\n");
        exit(2);
    }
    mode = m;
    while ((o = getopt_long(argc - 1, argv + 1, "", options, NULL)) != -1) {
        switch (o) {
        case 'h': opt_host = optarg; break;
        case 'p': opt_port = atoi(optarg); break;
        case 'P': opt_path = optarg; break;
        case 'i': opt_pid = atoi(optarg); break;
        case 'n': opt_connections = atoi(optarg); break;
        case 'm': opt_inflight = atoi(optarg); break;
        case 's': opt_size = strtoull(optarg, NULL, 10); break;
        case 't': opt_text = 1; break;
        case 'd': opt_deflate = 1; break;
        case 'D': opt_seconds = atof(optarg); break;
        case 'W': opt_warmup = atof(optarg); break;
        case 'S': opt_sources = atoi(optarg); break;
        case 'k': opt_progress = atoi(optarg); break;
        case 'a': opt_any = 1; break;
        case 'g': opt_group = atoi(optarg); break;
        case 'b': opt_blocked = atoi(optarg); break;
        case 'T': opt_tls = 1; tls_prepare(); break;
        case 'c': opt_close_frame = !strcmp(optarg, "frame"); break;
        default: exit(2);
        }
    }
    if (opt_connections < 0)
        opt_connections = mode == ECHO ? 100 : mode == BROADCAST ? 1000 : 10000;
    if (opt_sources < 0)
        opt_sources = mode == HANDSHAKE ? 8 : 1 + opt_connections / 20000;
    if (mode == HANDSHAKE)
        opt_connections = opt_progress;
    if (mode == BROADCAST && !opt_group)
        opt_connections++; /* the sender, who gets its own message as well */
    if (opt_deflate && (mode == ECHO || mode == BROADCAST)) {
        opt_text = 1;
        if (opt_size < 256)
            opt_size = 256;
    }
    if (opt_port < 1 || opt_inflight < 1 || opt_size < 1 || opt_connections < 1 ||
        opt_progress < 1 || opt_seconds <= 0 || opt_blocked < 0 || opt_group < 0 ||
        (opt_group && (mode != BROADCAST || opt_blocked || opt_connections % opt_group)) ||
        (opt_blocked && (mode != BROADCAST || opt_blocked >= opt_connections))) {
        fprintf(stderr, "loadgen: --port and positive numbers, please\n");
        exit(2);
    }
}

int main(int argc, char **argv)
{
    struct rlimit files;
    parse_options(argc, argv);
    signal(SIGPIPE, SIG_IGN);
    if (!getrlimit(RLIMIT_NOFILE, &files)) {
        files.rlim_cur = files.rlim_max;
        setrlimit(RLIMIT_NOFILE, &files);
    }
    if ((epfd = epoll_create1(EPOLL_CLOEXEC)) < 0)
        die("epoll_create1");
    n_conns = opt_connections;
    conns = zalloc((size_t)n_conns, sizeof *conns);
    for (int i = 0; i < n_conns; i++)
        conns[i].fd = -1, conns[i].state = CONNECTING;
    build_requests();
    if (mode == ECHO)
        run_echo();
    else if (mode == BROADCAST)
        run_broadcast();
    else if (mode == HANDSHAKE)
        run_handshake();
    else
        run_idle();
    print_result();
    for (int i = 0; i < n_conns; i++)
        cut(&conns[i]);
    return n_errors ? 1 : 0;
}
