# What several threads may look at, with the GIL or without;
# included by `_speedups.pyx` before the files that use it.
#
# A loop's objects belong to its thread. Others read two words of a loop (`owner` and
# `attention`), which are atomics: on the processors we know they cost what plain ones
# do. Counters are plain 64-bit words with one writer: a reader sees an older value, not
# half of one.

cdef extern from *:
    """
    #if defined(_MSC_VER)
    #define load_word(place) (*(volatile unsigned long *)(place))
    #define store_word(place, value) (*(volatile unsigned long *)(place) = (value))
    #else
    #define load_word(place) __atomic_load_n(place, __ATOMIC_RELAXED)
    #define store_word(place, value) __atomic_store_n(place, value, __ATOMIC_RELAXED)
    #endif

    #if defined(_MSC_VER)
    #include <intrin.h>
    #define next_id(place) _InterlockedIncrement64(place)
    #else
    #define next_id(place) __atomic_add_fetch(place, 1, __ATOMIC_RELAXED)
    #endif

    /* Whether the caller has the only reference. Without the GIL a count of one proves
       nothing: another thread may hold references that it counts by itself. */
    static inline int has_one_owner(PyObject *object) {
    #if PY_VERSION_HEX >= 0x030E0000
        return PyUnstable_Object_IsUniquelyReferenced(object);
    #elif defined(Py_GIL_DISABLED)
        return _Py_IsOwnedByCurrentThread(object)
            && __atomic_load_n(&object->ob_ref_local, __ATOMIC_RELAXED) == 1
            && __atomic_load_n(&object->ob_ref_shared, __ATOMIC_RELAXED) == 0;
    #else
        return Py_REFCNT(object) == 1;
    #endif
    }
    """
    unsigned long load_word(unsigned long* place) nogil
    void store_word(unsigned long* place, unsigned long value) nogil
    int64_t next_id(int64_t* place) nogil
    bint has_one_owner(PyObject* object)
