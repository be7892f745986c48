"""Signed tokens that say who a client of `Server.live` is, and what it may do.

They are JSON Web Tokens with the claims of Centrifugo (centrifugal.dev, "Client JWT
authentication", "Channel JWT authorization"). The extra `jwt` installs PyJWT, which
makes and verifies them.
"""

from .claims import ConnectionClaims, SubscriptionClaims
from .tokens import Tokens

__all__ = ["ConnectionClaims", "SubscriptionClaims", "Tokens"]
