"""The TLS code that server and client share: loading a certificate, and describing errors."""

from __future__ import annotations

import ssl
from typing import Final

from rankserver.wire.exceptions import ConfigError

# The most bytes that one TLS record holds (RFC 8446, section 5.1).
MAX_RECORD_BYTES: Final = 16 * 1024
# OpenSSL's reasons if a key does not belong to the certificate, for keys of the same type and of other types.
MISMATCHES: Final = frozenset({"KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH", "NO_CERTIFICATE_ASSIGNED"})


def load_certificate(context: ssl.SSLContext, cert: str, key: str | None) -> None:
    """Load our certificate and its key into ``context``.

    Args:
        context: the server's or the client's.
        cert: file with our certificate, and those between it and the authority's.
        key: file with its private key; None if that is in ``cert`` too.

    Raises:
        ConfigError: a file cannot be used.
    """
    try:
        context.load_cert_chain(cert, key, password=_no_password)
    except (OSError, ValueError) as error:
        files = cert if key is None else f"{cert} with the key {key}"
        raise ConfigError(f"cannot use the certificate {files}: {describe_error(error)}") from None


def describe_error(error: Exception) -> str:
    """Describe an error of OpenSSL or of the system in words for a person."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the certificate is not accepted: {error.verify_message}"
    if isinstance(error, ssl.SSLError) and (reason := getattr(error, "reason", None)):
        if reason in MISMATCHES:
            return "the key and the certificate do not belong together"
        return str(reason).replace("_", " ").lower()
    return getattr(error, "strerror", None) or str(error)


def _no_password() -> str:
    """Refuse an encrypted key: OpenSSL would ask for its password on the terminal."""
    raise ValueError("the key needs a password")
