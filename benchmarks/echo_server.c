/* echo_server.c: the limit a Python server is measured against.
 *
 * A single-threaded epoll WebSocket server without message objects: frames are unmasked
 * and echoed where they were received, and each client gets one write per loop turn.
 * It skips what a library may not skip: UTF-8 is not validated, fragments are echoed
 * as they come, nobody is timed out. Written for benchmarks, not for the open network.
 *
 *   echo_server [--port N] [--broadcast | --topics] [--deflate] [--level 6] [--mem-level 8]
 *               [--window 15] [--max-size BYTES]
 *
 * --topics: a message goes to all who asked for the same path, which is a number.
 *
 * Prints "PORT n" when it listens.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>
#include <zlib.h>

#include "wire.h"

/* One read of many small frames; beyond it a message gets a buffer of its own. */
#define SHARED_SIZE (256 * 1024)
#define EVENTS 1024
#define ACCEPTS_PER_TURN 64
#define TOPICS 65536

struct conn;

typedef struct {
    struct conn **members;
    int count, cap;
} topic;

typedef struct conn {
    int fd;
    int slot;               /* index in `all` */
    topic *of;              /* with --topics */
    int place;              /* there */
    uint8_t open;           /* the handshake is done */
    uint8_t dead;           /* to be freed at the end of the turn */
    uint8_t closing;        /* close when the output has left */
    uint8_t deflate;        /* permessage-deflate negotiated */
    uint8_t server_reset;   /* server_no_context_takeover */
    uint8_t client_reset;   /* client_no_context_takeover */
    int8_t window, inflate_window;
    uint8_t *in;            /* an unfinished frame */
    size_t in_len, in_cap;
    uint8_t *out;           /* what a write left over */
    size_t out_at, out_len, out_cap;
    z_stream *inflater, *deflater; /* made when first used */
} conn;

static int epfd, listener;
static conn **all;
static int n_all, cap_all;
static topic topics[TOPICS];
static conn *dying[EVENTS * 2];
static int n_dying;
static uint8_t *shared, *scratch, *packed;
static size_t scratch_cap, packed_cap, packed_len;

static int opt_broadcast, opt_topics, opt_deflate, opt_level = 6, opt_mem = 8, opt_window = 15;
static size_t opt_max = 16 << 20;

static void die(const char *what)
{
    perror(what);
    exit(1);
}

static void *grow(void *p, size_t n)
{
    p = realloc(p, n);
    if (!p)
        die("realloc");
    return p;
}

/* ---- connections ----------------------------------------------------------------- */

static void interest(conn *c, uint32_t events)
{
    struct epoll_event ev = {.events = events, .data.ptr = c};
    epoll_ctl(epfd, EPOLL_CTL_MOD, c->fd, &ev);
}

static void accept_some(void)
{
    for (int i = 0; i < ACCEPTS_PER_TURN; i++) {
        int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0)
            return;
        int one = 1;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        conn *c = calloc(1, sizeof *c);
        if (!c)
            die("calloc");
        c->fd = fd;
        if (n_all == cap_all)
            all = grow(all, (size_t)(cap_all = cap_all ? 2 * cap_all : 256) * sizeof *all);
        c->slot = n_all;
        all[n_all++] = c;
        struct epoll_event ev = {.events = EPOLLIN, .data.ptr = c};
        if (epoll_ctl(epfd, EPOLL_CTL_ADD, fd, &ev))
            die("epoll_ctl");
    }
}

static void subscribe(conn *c, topic *of)
{
    if (of->count == of->cap)
        of->members = grow(of->members, (size_t)(of->cap = of->cap ? 2 * of->cap : 16) *
                                            sizeof *of->members);
    c->of = of;
    c->place = of->count;
    of->members[of->count++] = c;
}

static void unsubscribe(conn *c)
{
    topic *of = c->of;
    of->members[c->place] = of->members[--of->count];
    of->members[c->place]->place = c->place;
}

/* Events of this turn may still point at the connection: it is freed after the turn. */
static void drop(conn *c)
{
    if (c->dead)
        return;
    c->dead = 1;
    c->open = 0;
    close(c->fd);
    if (n_dying < (int)(sizeof dying / sizeof *dying))
        dying[n_dying++] = c; /* beyond that: leaked, never misused */
    if (c->of)
        unsubscribe(c);
    all[c->slot] = all[--n_all];
    all[c->slot]->slot = c->slot;
}

static void bury(void)
{
    while (n_dying) {
        conn *c = dying[--n_dying];
        free(c->in);
        free(c->out);
        if (c->inflater)
            inflateEnd(c->inflater), free(c->inflater);
        if (c->deflater)
            deflateEnd(c->deflater), free(c->deflater);
        free(c);
    }
}

/* ---- output ---------------------------------------------------------------------- */

static void keep_output(conn *c, const uint8_t *p, size_t len)
{
    if (c->out_at + c->out_len + len > c->out_cap) {
        if (c->out_at)
            memmove(c->out, c->out + c->out_at, c->out_len);
        c->out_at = 0;
        if (c->out_len + len > c->out_cap)
            c->out = grow(c->out, c->out_cap = 2 * (c->out_len + len));
    }
    memcpy(c->out + c->out_at + c->out_len, p, len);
    c->out_len += len;
}

/* What a write leaves over of a large message stays where it is: the input buffer
 * becomes the output buffer. Nothing else may be waiting in either. */
static void exchange_buffers(conn *c, const uint8_t *p, size_t len)
{
    uint8_t *old = c->out;
    size_t old_cap = c->out_cap;
    c->out_at = (size_t)(p - c->in);
    c->out_len = len;
    c->out = c->in, c->out_cap = c->in_cap;
    c->in = old, c->in_cap = old_cap;
}

/* Send, or keep what could not be sent; `own` says that p lies in c->in, which holds
 * nothing else of value. */
static void send_from(conn *c, const uint8_t *p, size_t len, int own)
{
    if (c->dead)
        return;
    if (!c->out_len) {
        ssize_t n = send(c->fd, p, len, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n < 0 && errno != EAGAIN && errno != EINTR) {
            drop(c);
            return;
        }
        if (n < 0)
            n = 0;
        if ((size_t)n == len)
            return;
        p += n, len -= (size_t)n;
        /* An echo server reads no more from a client that does not read; broadcast
         * must go on reading, else the sender would stop with its slowest receiver. */
        interest(c, opt_broadcast ? EPOLLIN | EPOLLOUT : EPOLLOUT);
        if (own) {
            exchange_buffers(c, p, len);
            return;
        }
    }
    keep_output(c, p, len);
}

static void send_now(conn *c, const uint8_t *p, size_t len)
{
    send_from(c, p, len, 0);
}

static void writable(conn *c)
{
    ssize_t n = send(c->fd, c->out + c->out_at, c->out_len, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n < 0) {
        if (errno != EAGAIN && errno != EINTR)
            drop(c);
        return;
    }
    c->out_at += (size_t)n;
    c->out_len -= (size_t)n;
    if (c->out_len)
        return;
    c->out_at = 0;
    if (c->closing)
        drop(c);
    else
        interest(c, EPOLLIN);
}

static void publish(topic *of, const uint8_t *p, size_t len)
{
    for (int i = of->count - 1; i >= 0; i--)
        send_now(of->members[i], p, len);
}

static void broadcast(const uint8_t *p, size_t len)
{
    for (int i = n_all - 1; i >= 0; i--) /* drop() moves the last one into the gap */
        if (all[i]->open)
            send_now(all[i], p, len);
}

/* ---- handshake ------------------------------------------------------------------- */

/* Take the first offer; returns the length of the answer written to `out`. */
static int negotiate(conn *c, const char *offer, size_t len, char *out, size_t room)
{
    char text[256];
    const char *comma = memchr(offer, ',', len);
    if (comma)
        len = (size_t)(comma - offer);
    if (len >= sizeof text || len < 18 || strncmp(offer, "permessage-deflate", 18))
        return 0;
    memcpy(text, offer, len);
    text[len] = 0;
    int server_bits = deflate_parameter(text, "server_max_window_bits");
    int client_bits = deflate_parameter(text, "client_max_window_bits");
    c->deflate = 1;
    c->server_reset = deflate_parameter(text, "server_no_context_takeover") >= 0;
    c->client_reset = deflate_parameter(text, "client_no_context_takeover") >= 0;
    c->window = (int8_t)(server_bits > 8 && server_bits < opt_window ? server_bits : opt_window);
    c->inflate_window = (int8_t)(client_bits >= 0 ? opt_window : 15);
    int n = snprintf(out, room, "Sec-WebSocket-Extensions: permessage-deflate%s%s",
                     c->server_reset ? "; server_no_context_takeover" : "",
                     c->client_reset ? "; client_no_context_takeover" : "");
    if (c->window < 15 || server_bits > 0)
        n += snprintf(out + n, room - (size_t)n, "; server_max_window_bits=%d", c->window);
    if (client_bits >= 0 && opt_window < 15)
        n += snprintf(out + n, room - (size_t)n, "; client_max_window_bits=%d", opt_window);
    return n + snprintf(out + n, room - (size_t)n, "\r\n");
}

/* Answer a complete request head; returns the bytes it took, 0 when it is unfinished. */
static size_t handshake(conn *c, uint8_t *p, size_t len)
{
    uint8_t *end = memmem(p, len, "\r\n\r\n", 4);
    if (!end) {
        if (len > 16384)
            drop(c);
        return 0;
    }
    end[2] = 0;
    size_t key_len, n;
    const char *key = http_header((char *)p, "Sec-WebSocket-Key", &key_len);
    if (!key || memcmp(p, "GET ", 4)) {
        static const char bad[] = "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n";
        c->closing = 1;
        send_now(c, (const uint8_t *)bad, sizeof bad - 1);
        drop(c);
        return 0;
    }
    char accept[ACCEPT_LEN + 1], extension[300] = "", answer[600];
    accept_key(key, key_len, accept);
    const char *offer = http_header((char *)p, "Sec-WebSocket-Extensions", &n);
    if (offer && opt_deflate)
        negotiate(c, offer, n, extension, sizeof extension);
    int size = snprintf(answer, sizeof answer,
                        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
                        "Connection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n%s\r\n",
                        accept, extension);
    c->open = 1;
    if (opt_topics)
        subscribe(c, &topics[strtoul((char *)p + 5, NULL, 10) % TOPICS]);
    send_now(c, (const uint8_t *)answer, (size_t)size);
    return (size_t)(end + 4 - p);
}

/* ---- permessage-deflate (RFC 7692) ----------------------------------------------- */

/* Inflate one message into `scratch`; returns its size or -1. */
static ssize_t inflate_message(conn *c, uint8_t *p, size_t len)
{
    static uint8_t tail[4] = {0, 0, 0xff, 0xff};
    if (!c->inflater) {
        c->inflater = calloc(1, sizeof(z_stream));
        if (!c->inflater || inflateInit2(c->inflater, -c->inflate_window) != Z_OK)
            return -1;
    }
    z_stream *z = c->inflater;
    size_t done = 0;
    for (int part = 0; part < 2; part++) {
        z->next_in = part ? tail : p;
        z->avail_in = part ? 4 : (uInt)len;
        do {
            if (done == scratch_cap) {
                if (scratch_cap >= opt_max)
                    return -1;
                scratch = grow(scratch, scratch_cap *= 2);
            }
            z->next_out = scratch + done;
            z->avail_out = (uInt)(scratch_cap - done);
            int rc = inflate(z, Z_SYNC_FLUSH);
            if (rc != Z_OK && rc != Z_BUF_ERROR)
                return -1;
            done = scratch_cap - z->avail_out;
        } while (z->avail_in || !z->avail_out);
    }
    if (c->client_reset)
        inflateReset(z);
    return (ssize_t)done;
}

/* Append the frame of a compressed message to `packed`. */
static int pack_message(conn *c, uint8_t opcode, uint8_t *p, size_t len)
{
    if (!c->deflater) {
        c->deflater = calloc(1, sizeof(z_stream));
        if (!c->deflater || deflateInit2(c->deflater, opt_level, Z_DEFLATED, -c->window, opt_mem,
                                         Z_DEFAULT_STRATEGY) != Z_OK)
            return -1;
    }
    z_stream *z = c->deflater;
    size_t bound = deflateBound(z, len) + 64;
    if (packed_len + bound + MAX_HEAD > packed_cap)
        packed = grow(packed, packed_cap = 2 * (packed_len + bound + MAX_HEAD));
    uint8_t *body = packed + packed_len + 10; /* the longest head there may be */
    z->next_in = p, z->avail_in = (uInt)len;
    z->next_out = body, z->avail_out = (uInt)bound;
    if (deflate(z, Z_SYNC_FLUSH) != Z_OK || z->avail_in || !z->avail_out)
        return -1;
    size_t size = bound - z->avail_out - 4;
    if (c->server_reset)
        deflateReset(z);
    unsigned head = put_head(packed + packed_len, BIT_FIN | BIT_RSV1 | opcode, size, 0);
    if (head < 10)
        memmove(packed + packed_len + head, body, size);
    packed_len += head + size;
    return 0;
}

/* ---- input ----------------------------------------------------------------------- */

/* A control frame, unmasked at p; its answer goes to `dst`. Returns the answer's size. */
static size_t control(conn *c, uint8_t opcode, uint8_t *dst, const uint8_t *p, size_t len)
{
    if (opcode == OP_PONG)
        return 0;
    unsigned head = put_head(dst, BIT_FIN | (opcode == OP_PING ? OP_PONG : OP_CLOSE), len, 0);
    memmove(dst + head, p, len);
    if (opcode == OP_CLOSE)
        c->closing = 1;
    return head + len;
}

/* Handle every complete frame in base[at:len]; returns where the unfinished rest begins.
 *
 * Answers are moved together inside the very same memory: an answer is at least four
 * bytes (the masking key) shorter than its frame, so it always ends before the next one. */
static size_t frames(conn *c, uint8_t *base, size_t at, size_t len)
{
    size_t out_start = 0, out_end = 0;
    int has_out = 0;
    packed_len = 0;
    while (!c->dead && !c->closing && len - at >= 2) {
        uint8_t *p = base + at, first = p[0], opcode = first & 15;
        unsigned head = head_size(p[1]);
        if (!(p[1] & BIT_MASK) || (first & BITS_RSV23) || (opcode > 2 && opcode < 8) ||
            ((first & BIT_RSV1) && !c->deflate)) {
            drop(c);
            return len;
        }
        if (len - at < head)
            break;
        uint64_t size = head_length(p);
        if (size > opt_max || (opcode >= 8 && size > 125)) {
            drop(c);
            return len;
        }
        if (len - at < head + size)
            break;
        uint8_t key[4];
        memcpy(key, p + head - 4, 4);
        uint8_t *payload = p + head;
        at += head + size;
        if (opcode >= 8) {
            mask_copy(payload, payload, size, key);
            size_t answer_at = has_out ? out_end : (size_t)(payload - base) - 2;
            if (!has_out)
                out_start = out_end = answer_at, has_out = 1;
            if (packed_len && !opt_broadcast) { /* keep the order of compressed answers */
                uint8_t answer[127];
                size_t n = control(c, opcode, answer, payload, size);
                packed = grow(packed, packed_cap = packed_cap + 127);
                memcpy(packed + packed_len, answer, n);
                packed_len += n;
            } else
                out_end += control(c, opcode, base + out_end, payload, size);
            continue;
        }
        if (first & BIT_RSV1 || (c->deflate && opcode != OP_CONT && (first & BIT_FIN))) {
            mask_copy(payload, payload, size, key);
            ssize_t plain = (ssize_t)size;
            uint8_t *text = payload;
            if (first & BIT_RSV1) {
                plain = inflate_message(c, payload, size);
                text = scratch;
            }
            if (plain < 0 || !(first & BIT_FIN) || pack_message(c, opcode, text, (size_t)plain)) {
                drop(c);
                return len;
            }
            continue;
        }
        uint8_t answer_head[10];
        unsigned n = put_head(answer_head, first, size, 0);
        if (opt_broadcast) {
            mask_copy(payload, payload, size, key);
            memcpy(payload - n, answer_head, n);
            if (c->of)
                publish(c->of, payload - n, n + size);
            else
                broadcast(payload - n, n + size);
            continue;
        }
        if (!has_out)
            out_start = out_end = (size_t)(payload - base) - n, has_out = 1;
        mask_copy(base + out_end + n, payload, size, key);
        memcpy(base + out_end, answer_head, n);
        out_end += n + size;
    }
    if (has_out && !c->dead && out_end > out_start)
        send_from(c, base + out_start, out_end - out_start,
                  base == c->in && at == len && !packed_len);
    if (packed_len && !c->dead)
        send_now(c, packed, packed_len);
    if (c->closing && !c->dead && !c->out_len)
        drop(c);
    return c->closing ? len : at;
}

/* Put an unfinished rest where the next read continues it. */
static void keep_rest(conn *c, uint8_t *p, size_t len)
{
    size_t need = len;
    if (c->open && len >= 2 && len >= head_size(p[1]))
        need = head_size(p[1]) + head_length(p);
    if (need < len)
        need = len;
    if (need + MAX_HEAD > c->in_cap) {
        uint8_t *fresh = malloc(need + MAX_HEAD);
        if (!fresh)
            die("malloc");
        memcpy(fresh, p, len);
        free(c->in);
        c->in = fresh;
        c->in_cap = need + MAX_HEAD;
    } else
        memmove(c->in, p, len);
    c->in_len = len;
}

static void readable(conn *c)
{
    /* A client that sends large messages keeps its buffer, and is read straight into
     * it; small leftovers move in front of the shared one. */
    uint8_t *base = shared;
    size_t cap = SHARED_SIZE, have = c->in_len;
    if (c->in_cap > SHARED_SIZE / 2)
        base = c->in, cap = c->in_cap;
    else if (have)
        memcpy(base, c->in, have);
    ssize_t n = recv(c->fd, base + have, cap - have, MSG_DONTWAIT);
    if (n <= 0) {
        if (n == 0 || (errno != EAGAIN && errno != EINTR))
            drop(c);
        return;
    }
    size_t len = have + (size_t)n, at = 0;
    c->in_len = 0;
    if (!c->open)
        at = handshake(c, base, len);
    if (c->open)
        at = frames(c, base, at, len);
    if (!c->dead && at < len)
        keep_rest(c, base + at, len - at);
}

/* ---- main ------------------------------------------------------------------------ */

static int listen_on(int port)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), one = 1;
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    socklen_t size = sizeof a;
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (fd < 0 || bind(fd, (struct sockaddr *)&a, sizeof a) || listen(fd, 4096) ||
        getsockname(fd, (struct sockaddr *)&a, &size))
        die("listen");
    printf("PORT %d\n", ntohs(a.sin_port));
    fflush(stdout);
    return fd;
}

static void parse_options(int argc, char **argv, int *port)
{
    static const struct option options[] = {
        {"port", 1, 0, 'p'},  {"broadcast", 0, 0, 'b'}, {"deflate", 0, 0, 'd'}, {"topics", 0, 0, 't'},
        {"level", 1, 0, 'l'}, {"mem-level", 1, 0, 'm'}, {"window", 1, 0, 'w'},
        {"max-size", 1, 0, 's'}, {0, 0, 0, 0}};
    int o;
    while ((o = getopt_long(argc, argv, "", options, NULL)) != -1) {
        switch (o) {
        case 'p': *port = atoi(optarg); break;
        case 'b': opt_broadcast = 1; break;
        case 't': opt_broadcast = opt_topics = 1; break;
        case 'd': opt_deflate = 1; break;
        case 'l': opt_level = atoi(optarg); break;
        case 'm': opt_mem = atoi(optarg); break;
        case 'w': opt_window = atoi(optarg); break;
        case 's': opt_max = strtoull(optarg, NULL, 10); break;
        default: exit(2);
        }
    }
    if (opt_window < 9 || opt_window > 15 || (opt_broadcast && opt_deflate)) {
        fprintf(stderr, "--window is 9..15; --broadcast and --deflate exclude each other\n");
        exit(2);
    }
}

int main(int argc, char **argv)
{
    int port = 0;
    struct rlimit files;
    parse_options(argc, argv, &port);
    signal(SIGPIPE, SIG_IGN);
    if (!getrlimit(RLIMIT_NOFILE, &files)) {
        files.rlim_cur = files.rlim_max;
        setrlimit(RLIMIT_NOFILE, &files);
    }
    shared = grow(NULL, SHARED_SIZE);
    scratch = grow(NULL, scratch_cap = 65536);
    if ((epfd = epoll_create1(EPOLL_CLOEXEC)) < 0)
        die("epoll_create1");
    listener = listen_on(port);
    struct epoll_event ev = {.events = EPOLLIN, .data.ptr = NULL}, events[EVENTS];
    epoll_ctl(epfd, EPOLL_CTL_ADD, listener, &ev);
    for (;;) {
        int n = epoll_wait(epfd, events, EVENTS, -1);
        if (n < 0 && errno != EINTR)
            die("epoll_wait");
        for (int i = 0; i < n; i++) {
            conn *c = events[i].data.ptr;
            if (!c) {
                accept_some();
                continue;
            }
            if (!c->dead && (events[i].events & EPOLLOUT))
                writable(c);
            if (!c->dead && (events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR)))
                readable(c);
        }
        bury();
    }
}
