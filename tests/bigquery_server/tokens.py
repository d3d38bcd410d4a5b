"""OAuth for service accounts: key files, the token endpoint, and who a bearer token is of.

The flow is RFC 7523's: a client signs a JWT with the key of its file, and has it changed for a
bearer token. Google's clients may also send a JWT of that kind as the bearer token itself.
"""

from __future__ import annotations

import base64
import binascii
import json
import secrets
import threading
import time
import uuid
from dataclasses import dataclass
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from tests.bigquery_server.errors import unauthenticated

_LONGEST_S = 3600
_TOLERANCE_S = 300
_JWT_GRANT = "urn:ietf:params:oauth:grant-type:jwt-bearer"
_INVALID = (
    "Request had invalid authentication credentials. Expected OAuth 2 access token, login cookie "
    "or other valid authentication credential. "
    "See https://developers.google.com/identity/sign-in/web/devconsole-project."
)
_MISSING = (
    "Request is missing required authentication credential. Expected OAuth 2 access token, login "
    "cookie or other valid authentication credential. "
    "See https://developers.google.com/identity/sign-in/web/devconsole-project."
)
_UNTIMELY = (
    "Invalid JWT: Token must be a short-lived token (60 minutes) and in a reasonable timeframe. "
    "Check your iat and exp values in the JWT claim."
)


class GrantError(Exception):
    """OAuth's refusal of a grant, rendered as RFC 6749 says."""

    def __init__(self, error: str, description: str) -> None:
        super().__init__(f"{error}: {description}")
        self.body = {"error": error, "error_description": description}


@dataclass(frozen=True)
class _Token:
    principal: str
    expires_s: float


class Tokens:
    """Keys and tokens. Any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._keys: dict[str, tuple[str, rsa.RSAPublicKey]] = {}
        self._tokens: dict[str, _Token] = {}
        self.life_s: float = 3600
        self.skew_s: float = 0
        self.required = False

    def key_file(self, email: str, project: str, token_uri: str) -> dict[str, str]:
        """A new key of a service account, as its file has it."""
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        key_id = uuid.uuid4().hex
        with self._lock:
            self._keys[key_id] = (email, key.public_key())
        pem = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        return {
            "type": "service_account",
            "project_id": project,
            "private_key_id": key_id,
            "private_key": pem.decode(),
            "client_email": email,
            "client_id": str(uuid.uuid4().int)[:21],
            "auth_uri": token_uri,
            "token_uri": token_uri,
        }

    def grant(self, form: dict[str, str]) -> dict[str, Any]:
        """Answers POST /token.

        Raises:
            GrantError: the JWT is of nobody known, badly signed, or not of now.
        """
        if form.get("grant_type") != _JWT_GRANT:
            raise GrantError("unsupported_grant_type", f"Invalid grant_type: {form}")
        claims = self._claims(form.get("assertion", ""))
        token = self.issue(str(claims["iss"]))
        return {"access_token": token, "expires_in": int(self.life_s), "token_type": "Bearer"}

    def issue(self, principal: str, life_s: float | None = None) -> str:
        """A bearer token."""
        token = f"ya29.{secrets.token_urlsafe(24)}"
        with self._lock:
            expires_s = time.time() + (self.life_s if life_s is None else life_s)
            self._tokens[token] = _Token(principal, expires_s)
        return token

    def revoke(self) -> None:
        """No token issued so far is valid any more."""
        with self._lock:
            self._tokens.clear()

    def check(self, authorization: str | None) -> None:
        """Lets pass who may.

        Args:
            authorization: The header's value.

        Raises:
            ApiError: tokens are required, and this is none that is valid.
        """
        if not self.required:
            return
        if not authorization:
            raise unauthenticated(_MISSING)
        token = authorization.removeprefix("Bearer ")
        with self._lock:
            known = self._tokens.get(token)
        if known is None:
            self._check_self_signed(token)
        elif known.expires_s <= time.time():
            raise unauthenticated(_INVALID)

    def _check_self_signed(self, token: str) -> None:
        try:
            self._claims(token)
        except GrantError as error:
            raise unauthenticated(_INVALID) from error

    def _claims(self, jwt: str) -> dict[str, Any]:
        try:
            signed, _, signature = jwt.rpartition(".")
            header, claims = (json.loads(_decoded(part)) for part in signed.split("."))
            email, key = self._keys[header["kid"]]
            key.verify(_decoded(signature), signed.encode(), padding.PKCS1v15(), hashes.SHA256())
            issued, expires = float(claims["iat"]), float(claims["exp"])
        except (ValueError, KeyError, TypeError, binascii.Error, InvalidSignature) as error:
            raise GrantError("invalid_grant", "Invalid JWT Signature.") from error
        if claims.get("iss") != email:
            raise GrantError("invalid_grant", "Invalid grant: account not found")
        now = time.time() + self.skew_s
        if not issued - _TOLERANCE_S <= now <= expires + _TOLERANCE_S or (
            expires - issued > _LONGEST_S
        ):
            raise GrantError("invalid_grant", _UNTIMELY)
        return dict(claims)


def _decoded(part: str) -> bytes:
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
