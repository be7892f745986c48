"""The user's code: callbacks, middleware, results that come later."""
