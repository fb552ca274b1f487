"""Certificates of the ranks of one job, for links that are encrypted.

    rank 0   makes a key and a certificate ── publishes the certificate ──► signed store ──► rank 1 pins it
    rank 1   makes a key and a certificate ── publishes the certificate ──► signed store ──► rank 0 pins it

A certificate signs itself and is good for one job. A rank trusts the one that its neighbour has published,
and no other; keys never leave their process. TLS 1.3 is that of Python's ssl module.
"""

from __future__ import annotations

import datetime
import os
import ssl
from dataclasses import dataclass
from pathlib import Path

from dni_async.errors import UserError

_NAME = "dni_async"
_VALID = datetime.timedelta(days=3650)
_CLOCK_ERROR = datetime.timedelta(days=2)
"""By which the clocks of two hosts may differ."""


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate with its key."""

    text: str
    """The certificate in PEM."""
    key: bytes
    """The private key in PEM."""

    def context(self, theirs: str, *, server: bool) -> ssl.SSLContext:
        """The context of one end of a connection; the other has to have the certificate `theirs` (PEM)."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.check_hostname = False  # the certificate itself is known
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(cadata=theirs)
        descriptor = os.memfd_create("dni_async key", os.MFD_CLOEXEC)
        try:
            path = Path(f"/proc/self/fd/{descriptor}")  # ssl reads files only
            path.write_bytes(self.key + self.text.encode())
            context.load_cert_chain(path)
        finally:
            os.close(descriptor)
        return context


def make_certificate() -> Certificate:
    """A new key on the curve P-256, and its certificate. Raises UserError where the package is missing."""
    try:
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import ec
    except ImportError:
        raise UserError(
            "encrypt needs the package cryptography; install it with pip install 'dni-async[encrypt]'"
        ) from None
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.datetime.now(datetime.timezone.utc)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, _NAME)])
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    certificate = (
        builder.not_valid_before(now - _CLOCK_ERROR).not_valid_after(now + _VALID).sign(key, hashes.SHA256())
    )
    pem, no_password = serialization.Encoding.PEM, serialization.NoEncryption()
    return Certificate(
        certificate.public_bytes(pem).decode(),
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, no_password),
    )
