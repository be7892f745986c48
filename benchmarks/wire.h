/* wire.h: the few pieces of RFC 6455 that loadgen.c and echo_server.c share.
 *
 * SHA-1 and base64 for the handshake, masking, frame heads, HTTP header look-up.
 * Sockets, clocks and limits are left to the two programs.
 */
#ifndef SIMPLE_WS_BENCH_WIRE_H
#define SIMPLE_WS_BENCH_WIRE_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum { OP_CONT = 0, OP_TEXT = 1, OP_BINARY = 2, OP_CLOSE = 8, OP_PING = 9, OP_PONG = 10 };
enum { BIT_FIN = 0x80, BIT_RSV1 = 0x40, BITS_RSV23 = 0x30, BIT_MASK = 0x80 };

#define WS_GUID "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
#define ACCEPT_LEN 28 /* base64 of 20 bytes */

/* ---- SHA-1 (FIPS 180-4), for messages of up to 119 bytes ------------------------- */

static inline uint32_t rotl32(uint32_t x, int n) { return (x << n) | (x >> (32 - n)); }

static inline void sha1_block(uint32_t h[5], const uint8_t *p)
{
    uint32_t w[80];
    for (int i = 0; i < 16; i++)
        w[i] = (uint32_t)p[4 * i] << 24 | (uint32_t)p[4 * i + 1] << 16 |
               (uint32_t)p[4 * i + 2] << 8 | p[4 * i + 3];
    for (int i = 16; i < 80; i++)
        w[i] = rotl32(w[i - 3] ^ w[i - 8] ^ w[i - 14] ^ w[i - 16], 1);
    uint32_t a = h[0], b = h[1], c = h[2], d = h[3], e = h[4];
    for (int i = 0; i < 80; i++) {
        uint32_t f, k;
        if (i < 20)
            f = (b & c) | (~b & d), k = 0x5A827999;
        else if (i < 40)
            f = b ^ c ^ d, k = 0x6ED9EBA1;
        else if (i < 60)
            f = (b & c) | (b & d) | (c & d), k = 0x8F1BBCDC;
        else
            f = b ^ c ^ d, k = 0xCA62C1D6;
        uint32_t t = rotl32(a, 5) + f + e + k + w[i];
        e = d, d = c, c = rotl32(b, 30), b = a, a = t;
    }
    h[0] += a, h[1] += b, h[2] += c, h[3] += d, h[4] += e;
}

static inline void sha1(const uint8_t *data, size_t len, uint8_t digest[20])
{
    uint32_t h[5] = {0x67452301, 0xEFCDAB89, 0x98BADCFE, 0x10325476, 0xC3D2E1F0};
    uint8_t block[128] = {0};
    if (len > 119)
        abort();
    memcpy(block, data, len);
    block[len] = 0x80;
    size_t total = len + 9 <= 64 ? 64 : 128;
    for (int i = 0; i < 8; i++)
        block[total - 1 - i] = (uint8_t)((uint64_t)len * 8 >> (8 * i));
    for (size_t at = 0; at < total; at += 64)
        sha1_block(h, block + at);
    for (int i = 0; i < 20; i++)
        digest[i] = (uint8_t)(h[i / 4] >> (24 - 8 * (i % 4)));
}

/* Write the base64 text of `data` and a NUL; returns the length of the text. */
static inline size_t base64(const uint8_t *data, size_t len, char *out)
{
    static const char digits[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    char *o = out;
    for (size_t i = 0; i < len; i += 3) {
        uint32_t v = (uint32_t)data[i] << 16;
        if (i + 1 < len)
            v |= (uint32_t)data[i + 1] << 8;
        if (i + 2 < len)
            v |= data[i + 2];
        *o++ = digits[v >> 18];
        *o++ = digits[v >> 12 & 63];
        *o++ = i + 1 < len ? digits[v >> 6 & 63] : '=';
        *o++ = i + 2 < len ? digits[v & 63] : '=';
    }
    *o = 0;
    return (size_t)(o - out);
}

/* Sec-WebSocket-Accept for a key of at most 64 characters (RFC 6455 §4.2.2). */
static inline void accept_key(const char *key, size_t len, char out[ACCEPT_LEN + 1])
{
    uint8_t text[64 + sizeof WS_GUID], digest[20];
    if (len > 64)
        len = 64;
    memcpy(text, key, len);
    memcpy(text + len, WS_GUID, sizeof WS_GUID - 1);
    sha1(text, len + sizeof WS_GUID - 1, digest);
    base64(digest, 20, out);
}

/* ---- masking --------------------------------------------------------------------- */

typedef uint8_t vec32 __attribute__((vector_size(32)));

/* dst[i] = src[i] ^ key[i % 4].
 *
 * Walks forward and loads before it stores, so dst may be src or lie before it:
 * that is how the echo server moves frames together while it unmasks them. */
static inline void mask_copy(uint8_t *dst, const uint8_t *src, size_t len, const uint8_t key[4])
{
    vec32 k32;
    uint64_t k8;
    for (int i = 0; i < 32; i++)
        k32[i] = key[i & 3];
    memcpy(&k8, &k32, 8);
    size_t i = 0;
    for (; i + 32 <= len; i += 32) {
        vec32 v;
        memcpy(&v, src + i, 32);
        v ^= k32;
        memcpy(dst + i, &v, 32);
    }
    for (; i + 8 <= len; i += 8) {
        uint64_t v;
        memcpy(&v, src + i, 8);
        v ^= k8;
        memcpy(dst + i, &v, 8);
    }
    for (; i < len; i++)
        dst[i] = src[i] ^ key[i & 3];
}

/* ---- frame heads ----------------------------------------------------------------- */

#define MAX_HEAD 14

/* Bytes of a head that starts with these two bytes. */
static inline unsigned head_size(uint8_t second)
{
    unsigned length = second & 0x7F;
    return 2u + (length == 126 ? 2 : length == 127 ? 8 : 0) + (second & BIT_MASK ? 4 : 0);
}

/* Payload length out of a complete head. */
static inline uint64_t head_length(const uint8_t *p)
{
    unsigned length = p[1] & 0x7F;
    if (length < 126)
        return length;
    if (length == 126)
        return (uint64_t)p[2] << 8 | p[3];
    uint64_t v = 0;
    for (int i = 2; i < 10; i++)
        v = v << 8 | p[i];
    return v;
}

/* Write a head without mask; `mask_bit` is BIT_MASK or 0. Returns its size (2, 4 or 10). */
static inline unsigned put_head(uint8_t *p, uint8_t first, uint64_t len, uint8_t mask_bit)
{
    p[0] = first;
    if (len < 126) {
        p[1] = (uint8_t)(mask_bit | len);
        return 2;
    }
    if (len < 65536) {
        p[1] = mask_bit | 126;
        p[2] = (uint8_t)(len >> 8);
        p[3] = (uint8_t)len;
        return 4;
    }
    p[1] = mask_bit | 127;
    for (int i = 0; i < 8; i++)
        p[2 + i] = (uint8_t)(len >> (56 - 8 * i));
    return 10;
}

/* ---- HTTP heads ------------------------------------------------------------------ */

/* Value of a header in a NUL-terminated head, or NULL; `*len` gets its length. */
static inline const char *http_header(const char *head, const char *name, size_t *len)
{
    size_t n = strlen(name);
    for (const char *line = strstr(head, "\r\n"); line; line = strstr(line, "\r\n")) {
        line += 2;
        if (strncasecmp(line, name, n) || line[n] != ':')
            continue;
        const char *v = line + n + 1, *end = strstr(v, "\r\n");
        if (!end)
            end = v + strlen(v);
        while (v < end && (*v == ' ' || *v == '\t'))
            v++;
        while (end > v && (end[-1] == ' ' || end[-1] == '\t'))
            end--;
        *len = (size_t)(end - v);
        return v;
    }
    return NULL;
}

/* Parameter of a permessage-deflate element: -1 absent, 0 without value, else its number. */
static inline int deflate_parameter(const char *text, const char *name)
{
    size_t n = strlen(name);
    for (const char *p = text; (p = strstr(p, name)); p += n) {
        if (p > text && !strchr(" ;\t", p[-1]))
            continue;
        const char *v = p + n;
        while (*v == ' ')
            v++;
        if (*v == 0 || *v == ';' || *v == ',')
            return 0;
        if (*v != '=')
            continue;
        v++;
        while (*v == ' ' || *v == '"')
            v++;
        return atoi(v);
    }
    return -1;
}

#endif
