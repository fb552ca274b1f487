"""Signed values for the rendezvous store, which any local user can write to.

    JSON value  ── HMAC-SHA256(job secret, key + value) ──►  "<64 hex digits><JSON>"

The local launcher makes a secret for each job and hands it to its ranks in their environment, which other
users cannot read. Under torchrun there is no secret, and values are plain JSON.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
from typing import Any

JOB_SECRET = "DNI_ASYNC_JOB_SECRET"
"""Environment variable with the secret of a job; empty or missing for none."""
_TAG_LENGTH = 64


class ForgedValue(Exception):
    """A value that was not written by a process that knows the job's secret."""


def secret_from_env() -> bytes:
    """The secret of this process's job; empty for none."""
    return os.environ.get(JOB_SECRET, "").encode()


def sign(secret: bytes, key: str, value: Any) -> str:
    """The JSON of `value`, signed so that it is accepted under this key only."""
    text = json.dumps(value)
    return _tag(secret, key, text) + text if secret else text


def verify(secret: bytes, key: str, data: bytes) -> Any:
    """The value that `sign` was given. Raises ForgedValue."""
    try:
        text = data.decode()
        if secret:
            tag, text = text[:_TAG_LENGTH], text[_TAG_LENGTH:]
            if not hmac.compare_digest(tag.encode(), _tag(secret, key, text).encode()):
                raise ForgedValue(key)
        return json.loads(text)
    except ValueError:
        raise ForgedValue(key) from None


def _tag(secret: bytes, key: str, text: str) -> str:
    return hmac.new(secret, f"{key}\n{text}".encode(), hashlib.sha256).hexdigest()
