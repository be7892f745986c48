/* tls.h: the load generator's end of TLS, over OpenSSL's own BIO of a socket.
 *
 * Compiled with -DWITH_TLS where OpenSSL's headers are installed; elsewhere --tls is
 * refused. No certificate is verified: a look at the server's speed needs none.
 */
#ifndef SIMPLE_WS_BENCH_TLS_H
#define SIMPLE_WS_BENCH_TLS_H

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/types.h>

#ifdef WITH_TLS
#include <openssl/ssl.h>

static SSL_CTX *tls_context;

static inline void tls_prepare(void)
{
    tls_context = SSL_CTX_new(TLS_client_method());
    if (!tls_context)
        exit(2);
    SSL_CTX_set_mode(tls_context, SSL_MODE_ENABLE_PARTIAL_WRITE |
                                      SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER |
                                      SSL_MODE_RELEASE_BUFFERS);
    SSL_CTX_set_read_ahead(tls_context, 1); /* one recv takes many records */
    SSL_CTX_set_default_read_buffer_len(tls_context, 256 * 1024);
}

static inline SSL *tls_begin(int fd)
{
    SSL *ssl = SSL_new(tls_context);
    if (!ssl || !SSL_set_fd(ssl, fd))
        exit(2);
    SSL_set_connect_state(ssl);
    return ssl;
}

/* The result of a call that moved nothing, as recv and send say it. */
static inline ssize_t tls_failed(SSL *ssl, int result, int *want_out)
{
    int why = SSL_get_error(ssl, result);
    *want_out = why == SSL_ERROR_WANT_WRITE;
    if (why == SSL_ERROR_ZERO_RETURN)
        return 0;
    if (why == SSL_ERROR_WANT_READ || why == SSL_ERROR_WANT_WRITE)
        errno = EAGAIN;
    else if (why != SSL_ERROR_SYSCALL || !errno)
        errno = EPROTO;
    return -1;
}

static inline ssize_t tls_send(SSL *ssl, const void *p, size_t len, int *want_out)
{
    int n = SSL_write(ssl, p, len < (1 << 30) ? (int)len : 1 << 30);
    if (n > 0)
        return n;
    return tls_failed(ssl, n, want_out);
}

/* Records until the buffer is full or none is left; there is no further call of recv
 * once the last one was read. */
static inline ssize_t tls_recv(SSL *ssl, uint8_t *p, size_t len)
{
    size_t got = 0;
    int unused;
    while (len - got >= 16384) {
        int n = SSL_read(ssl, p + got, 16384);
        if (n <= 0)
            return got ? (ssize_t)got : tls_failed(ssl, n, &unused);
        got += (size_t)n;
        if (!SSL_has_pending(ssl))
            break;
    }
    return (ssize_t)got;
}

#else

typedef void SSL;
static inline void tls_prepare(void)
{
    fprintf(stderr, "loadgen: built without TLS\n");
    exit(2);
}
static inline SSL *tls_begin(int fd) { return fd < 0 ? NULL : NULL; }
static inline void SSL_free(SSL *ssl) { (void)ssl; }
static inline ssize_t tls_send(SSL *ssl, const void *p, size_t len, int *want_out)
{
    return (void)ssl, (void)p, (void)len, (void)want_out, -1;
}
static inline ssize_t tls_recv(SSL *ssl, uint8_t *p, size_t len)
{
    return (void)ssl, (void)p, (void)len, -1;
}

#endif
#endif
