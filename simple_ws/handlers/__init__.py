"""User code: callbacks, middleware, deferred results."""
