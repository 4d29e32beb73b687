"""A certificate for simulated connections with TLS, and the contexts of both ends.

It is the same in each process, and all signatures that it makes have the same length. So a seed has the same
trace each time, although the random numbers of OpenSSL differ: the trace contains the lengths of encrypted
data, and nothing of its content.
"""

from __future__ import annotations

import datetime as dt
import functools
import ssl
import tempfile
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from rankserver import tls

_NAME = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "simulate")])


@functools.cache
def server_context() -> ssl.SSLContext:
    """Return the server's context."""
    key = Ed25519PrivateKey.from_private_bytes(bytes(32))
    with tempfile.TemporaryDirectory(prefix="simulate-") as place:
        key_file, cert_file = Path(place, "key.pem"), Path(place, "cert.pem")
        key_file.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        cert_file.write_bytes(_certificate(key).public_bytes(serialization.Encoding.PEM))
        return tls.context(str(cert_file), str(key_file), None)


@functools.cache
def client_context() -> ssl.SSLContext:
    """Return a client's context. It trusts everybody: nobody else is there."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _certificate(key: Ed25519PrivateKey) -> x509.Certificate:
    builder = x509.CertificateBuilder(
        issuer_name=_NAME,
        subject_name=_NAME,
        public_key=key.public_key(),
        serial_number=1,
        not_valid_before=dt.datetime(2000, 1, 1, tzinfo=dt.timezone.utc),
        not_valid_after=dt.datetime(2049, 1, 1, tzinfo=dt.timezone.utc),
    )
    return builder.sign(key, algorithm=None)
