# The OpenSSL that this Python's `ssl` uses, called from C (ADR 49); included by
# `_speedups.pyx` before `_c/tls.pxi`.
#
# Nothing is linked: the symbols are looked up in the libraries that Python's `_ssl` has
# loaded already, so that an `SSL` of Python's is understood. Only public functions and
# documented constants of OpenSSL 1.1.1 and 3 are used, and no object of Python's `ssl`
# is looked into: OpenSSL itself tells of each `SSL` that it makes, by the callback that
# `CRYPTO_get_ex_new_index` takes. `find_openssl` makes sure of all that, once.

cdef extern from *:
    """
    typedef struct ssl_st SSL;
    typedef struct bio_st BIO;
    typedef struct bio_method_st BIO_METHOD;
    typedef struct crypto_ex_data_st CRYPTO_EX_DATA;
    typedef void ex_new(void *, void *, CRYPTO_EX_DATA *, int, long, void *);

    /* Documented constants, the same in OpenSSL 1.1.1 and 3. */
    enum {
        SSL_ERROR_SSL = 1,
        SSL_ERROR_WANT_READ = 2,
        SSL_ERROR_ZERO_RETURN = 6,
        BIO_FLAGS_RETRY_READ = 1 | 8,
        BIO_FLAGS_RETRIES = 15,
        BIO_CTRL_PENDING = 10,
        BIO_CTRL_FLUSH = 11,
        BIO_TYPE_SOURCE_SINK = 0x400,
        EX_INDEX_SSL = 0,
    };

    #define OPENSSL_FUNCTIONS(F) \\
        F(unsigned long, OpenSSL_version_num, (void)) \\
        F(const char *, OpenSSL_version, (int)) \\
        F(int, CRYPTO_get_ex_new_index, \\
          (int, long, void *, ex_new *, void *, void *)) \\
        F(int, BIO_get_new_index, (void)) \\
        F(BIO_METHOD *, BIO_meth_new, (int, const char *)) \\
        F(int, BIO_meth_set_read, (BIO_METHOD *, int (*)(BIO *, char *, int))) \\
        F(int, BIO_meth_set_write, (BIO_METHOD *, int (*)(BIO *, const char *, int))) \\
        F(int, BIO_meth_set_ctrl, \\
          (BIO_METHOD *, long (*)(BIO *, int, long, void *))) \\
        F(int, BIO_meth_set_create, (BIO_METHOD *, int (*)(BIO *))) \\
        F(int, BIO_meth_set_destroy, (BIO_METHOD *, int (*)(BIO *))) \\
        F(BIO *, BIO_new, (const BIO_METHOD *)) \\
        F(int, BIO_free, (BIO *)) \\
        F(int, BIO_up_ref, (BIO *)) \\
        F(void, BIO_set_data, (BIO *, void *)) \\
        F(void *, BIO_get_data, (BIO *)) \\
        F(void, BIO_set_init, (BIO *, int)) \\
        F(void, BIO_set_flags, (BIO *, int)) \\
        F(void, BIO_clear_flags, (BIO *, int)) \\
        F(long, BIO_ctrl, (BIO *, int, long, void *)) \\
        F(void, SSL_set_bio, (SSL *, BIO *, BIO *)) \\
        F(BIO *, SSL_get_rbio, (const SSL *)) \\
        F(int, SSL_up_ref, (SSL *)) \\
        F(void, SSL_free, (SSL *)) \\
        F(int, SSL_read_ex, (SSL *, void *, size_t, size_t *)) \\
        F(int, SSL_write_ex, (SSL *, const void *, size_t, size_t *)) \\
        F(int, SSL_get_error, (const SSL *, int)) \\
        F(int, SSL_has_pending, (const SSL *)) \\
        F(void, SSL_set_msg_callback, (SSL *, void *)) \\
        F(unsigned long, ERR_peek_last_error, (void)) \\
        F(const char *, ERR_reason_error_string, (unsigned long)) \\
        F(void, ERR_clear_error, (void))

    #define DECLARE(result, name, args) result (*name) args;
    static struct functions { OPENSSL_FUNCTIONS(DECLARE) } openssl;

    #ifdef _WIN32 /* the DLLs of Python would have to be found by another way */
    static int look_up_openssl(const char *path, const void *code) {
        (void)path, (void)code;
        return 0;
    }
    #else
    /* Whether two addresses are in the same program or library. */
    static int same_object(const void *one, const void *other) {
        Dl_info first, second;
        return dladdr(one, &first) && dladdr(other, &second)
            && first.dli_fbase == second.dli_fbase;
    }

    /* Look up all functions in a library that is loaded, and in those it needs; without
     * a path in the program itself, if `code` is a part of that. */
    static int look_up_openssl(const char *path, const void *code) {
    #define NAME(result, name, args) {#name, offsetof(struct functions, name)},
        static const struct { const char *name; size_t place; } wanted[] = {
            OPENSSL_FUNCTIONS(NAME)
        };
        void *library = dlopen(path, path ? RTLD_LAZY | RTLD_NOLOAD : RTLD_LAZY);
        size_t index;
        if (library == NULL) return 0;
        for (index = 0; index < sizeof wanted / sizeof *wanted; index++) {
            void *found = dlsym(library, wanted[index].name);
            if (found == NULL || (path == NULL && !same_object(found, code))) return 0;
            memcpy((char *)&openssl + wanted[index].place, &found, sizeof found);
        }
        return 1;
    }
    #endif

    static const void *code_of(PyTypeObject *type) {
        const void *code = NULL;
        destructor end = type->tp_dealloc;
        memcpy(&code, &end, sizeof code);
        return code;
    }

    /* How many SSL objects this thread has made, and the last one. Of a thread, because
     * Python makes them without the GIL. */
    static THREAD_LOCAL struct { uint64_t count; SSL *last; } births;

    static void note_birth(void *parent, void *data, CRYPTO_EX_DATA *all, int index,
                           long number, void *pointer) {
        (void)data, (void)all, (void)index, (void)number, (void)pointer;
        births.count++;
        births.last = (SSL *)parent;
    }

    static uint64_t count_births(void) {
        return births.count;
    }

    /* The one that was made since `before`; NULL unless it is the only one. */
    static SSL *only_birth(uint64_t before) {
        return births.count == before + 1 ? births.last : NULL;
    }

    /* What is between an SSL and the socket. It belongs to a BIO, and touches no object
     * of Python's: OpenSSL runs without the GIL in the handshake. */
    typedef struct {
        const uint8_t *in; /* ciphertext that OpenSSL has not read yet */
        size_t in_left;
        uint8_t *out;      /* ciphertext that the system has not taken yet */
        size_t out_room, out_used, out_sent;
        int no_memory;     /* some of it was lost */
    } Wire;

    static int reserve_out(Wire *wire, size_t size) {
        size_t room = wire->out_room * 2;
        uint8_t *moved;
        if (size <= wire->out_room - wire->out_used) return 1;
        if (room < wire->out_used + size) room = wire->out_used + size;
        moved = (uint8_t *)realloc(wire->out, room);
        if (moved == NULL) return 0;
        wire->out = moved;
        wire->out_room = room;
        return 1;
    }

    static void drop_out(Wire *wire) {
        free(wire->out);
        wire->out = NULL;
        wire->out_room = wire->out_used = wire->out_sent = 0;
    }

    static int wire_read(BIO *bio, char *to, int size) {
        Wire *wire = (Wire *)openssl.BIO_get_data(bio);
        size_t part = size > 0 ? (size_t)size : 0;
        openssl.BIO_clear_flags(bio, BIO_FLAGS_RETRIES);
        if (part > wire->in_left) part = wire->in_left;
        if (part == 0) {
            openssl.BIO_set_flags(bio, BIO_FLAGS_RETRY_READ);
            return -1;
        }
        memcpy(to, wire->in, part);
        wire->in += part;
        wire->in_left -= part;
        return (int)part;
    }

    static int wire_write(BIO *bio, const char *data, int size) {
        Wire *wire = (Wire *)openssl.BIO_get_data(bio);
        openssl.BIO_clear_flags(bio, BIO_FLAGS_RETRIES);
        if (size <= 0) return 0;
        if (!reserve_out(wire, (size_t)size)) {
            wire->no_memory = 1;
            return -1;
        }
        memcpy(wire->out + wire->out_used, data, (size_t)size);
        wire->out_used += (size_t)size;
        return size;
    }

    static long wire_ctrl(BIO *bio, int command, long number, void *pointer) {
        (void)bio, (void)number, (void)pointer;
        return command == BIO_CTRL_FLUSH;
    }

    static int wire_create(BIO *bio) {
        Wire *wire = (Wire *)calloc(1, sizeof(Wire));
        openssl.BIO_set_data(bio, wire);
        openssl.BIO_set_init(bio, wire != NULL);
        return wire != NULL;
    }

    static int wire_destroy(BIO *bio) {
        Wire *wire = (Wire *)openssl.BIO_get_data(bio);
        if (wire != NULL) {
            drop_out(wire);
            free(wire);
        }
        return 1;
    }

    static BIO_METHOD *wire_method;

    static int make_wire_method(void) {
        BIO_METHOD *made = openssl.BIO_meth_new(
            openssl.BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "simple_ws");
        if (made == NULL) return 0;
        openssl.BIO_meth_set_read(made, wire_read);
        openssl.BIO_meth_set_write(made, wire_write);
        openssl.BIO_meth_set_ctrl(made, wire_ctrl);
        openssl.BIO_meth_set_create(made, wire_create);
        openssl.BIO_meth_set_destroy(made, wire_destroy);
        wire_method = made;
        return 1;
    }

    static int note_births(void) {
        return openssl.CRYPTO_get_ex_new_index(EX_INDEX_SSL, 0, NULL, note_birth, NULL,
                                               NULL) >= 0;
    }

    /* Put a wire between an SSL and its socket, in the place of what Python put there.
     * The reference of the caller's to the BIO is kept in `*kept`. */
    static Wire *connect_wire(SSL *ssl, BIO **kept) {
        BIO *bio = openssl.BIO_new(wire_method);
        if (bio == NULL) return NULL;
        openssl.BIO_up_ref(bio);
        openssl.SSL_set_bio(ssl, bio, bio);
        *kept = bio;
        return (Wire *)openssl.BIO_get_data(bio);
    }
    """
    ctypedef struct SSL:
        pass
    ctypedef struct BIO:
        pass
    ctypedef struct Wire:
        const uint8_t* in_ "in"
        size_t in_left
        uint8_t* out
        size_t out_used
        size_t out_sent
        bint no_memory
    enum:
        SSL_ERROR_SSL
        SSL_ERROR_WANT_READ
        SSL_ERROR_ZERO_RETURN
        BIO_CTRL_PENDING
    bint look_up_openssl(const char* path, const void* code)
    const void* code_of(type owner)
    uint64_t count_births()
    SSL* only_birth(uint64_t before)
    bint reserve_out(Wire* wire, size_t size)
    void drop_out(Wire* wire)
    bint make_wire_method()
    bint note_births()
    Wire* connect_wire(SSL* ssl, BIO** kept)
    unsigned long OpenSSL_version_num "openssl.OpenSSL_version_num"()
    const char* OpenSSL_version "openssl.OpenSSL_version"(int what)
    long BIO_ctrl "openssl.BIO_ctrl"(BIO* bio, int command, long number, void* pointer)
    int BIO_free "openssl.BIO_free"(BIO* bio)
    BIO* SSL_get_rbio "openssl.SSL_get_rbio"(const SSL* ssl)
    int SSL_up_ref "openssl.SSL_up_ref"(SSL* ssl)
    void SSL_free "openssl.SSL_free"(SSL* ssl)
    bint SSL_read_ex "openssl.SSL_read_ex"(SSL* ssl, void* to, size_t size, size_t* got)
    bint SSL_write_ex "openssl.SSL_write_ex"(
        SSL* ssl, const void* data, size_t size, size_t* written
    )
    int SSL_get_error "openssl.SSL_get_error"(const SSL* ssl, int result)
    bint SSL_has_pending "openssl.SSL_has_pending"(const SSL* ssl)
    void SSL_set_msg_callback "openssl.SSL_set_msg_callback"(SSL* ssl, void* callback)
    unsigned long ERR_peek_last_error "openssl.ERR_peek_last_error"()
    const char* ERR_reason_error_string "openssl.ERR_reason_error_string"(
        unsigned long error
    )
    void ERR_clear_error "openssl.ERR_clear_error"()


cdef bint find_openssl(object ssl, object _ssl) except -1:
    """Look up the functions and make sure that they are those of this `ssl`; called
    once, before anything else of this file."""
    cdef const char* name = NULL
    path = getattr(_ssl, "__file__", None)
    if path is not None:
        path = os.fsencode(path)
        name = path
    if not look_up_openssl(name, code_of(<type> _ssl.MemoryBIO)):
        return False  # linked statically, its names hidden
    version = ssl.OPENSSL_VERSION
    if OpenSSL_version(0).decode("ascii", "replace") != version:
        return False
    if OpenSSL_version_num() != <unsigned long> ssl.OPENSSL_VERSION_NUMBER:
        return False
    if not version.startswith(("OpenSSL 1.1.1", "OpenSSL 3.")):
        return False  # LibreSSL, AWS-LC and others have these names too
    return make_wire_method() and note_births() and is_told_of_births(ssl)


cdef bint is_told_of_births(object ssl) except -1:
    """Whether OpenSSL tells us of the `SSL` that Python makes: what Python puts into
    its `MemoryBIO` must be in the BIO of the `SSL` we were told of."""
    cdef uint64_t before
    cdef SSL* found
    incoming = ssl.MemoryBIO()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    before = count_births()
    made = context.wrap_bio(incoming, ssl.MemoryBIO(), True)
    found = only_birth(before)
    if found == NULL:
        return False
    if BIO_ctrl(SSL_get_rbio(found), BIO_CTRL_PENDING, 0, NULL) != 0:
        return False
    incoming.write(b"1234567")
    return BIO_ctrl(SSL_get_rbio(found), BIO_CTRL_PENDING, 0, NULL) == 7
