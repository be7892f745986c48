# The message rate of one connection, the twin of `token_bucket.py`; included by
# `_speedups.pyx`.

cdef struct Bucket:
    double rate
    double burst
    double tokens
    double filled_at


cdef bint take_token(Bucket* bucket, double now) noexcept nogil:
    """Whether another message is within the rate."""
    bucket.tokens = min(
        bucket.burst, bucket.tokens + (now - bucket.filled_at) * bucket.rate
    )
    bucket.filled_at = now
    if bucket.tokens < 1:
        return False
    bucket.tokens -= 1
    return True
