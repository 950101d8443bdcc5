"""A fence store in a bucket of Google Cloud Storage: the version tag is the object's generation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import requests
from google.api_core.exceptions import GoogleAPICallError
from google.auth import exceptions as auth_exceptions
from google.auth.credentials import AnonymousCredentials
from google.auth.transport.requests import AuthorizedSession, Request
from google.cloud import storage
from google.oauth2 import service_account

from hapair.fence.base import BadStore, Found, Reading, Writing, Written, refusal
from hapair.fence.bounded import Late, left_s, within
from hapair.fence.credentials import secret
from hapair.lock import LARGEST_BYTES

SCOPE = "https://www.googleapis.com/auth/devstorage.read_write"
ACCOUNT = "the key of a service account, as Google hands it out"


class OnTime(requests.adapters.HTTPAdapter):
    """Sends nothing for a call that nobody waits for any more, a fresh token included, and retries nothing."""

    def send(self, request: Any, *args: Any, **kwargs: Any) -> Any:
        """Send one request, with the time that is left."""
        return super().send(request, *args, **{**kwargs, "timeout": left_s()})


class GcsStore:
    """A `Backend`. One session, kept warm by whoever reads the lock again and again."""

    def __init__(
        self, bucket: str, *, prefix: str = "", endpoint: str = "", credentials: str = "", ca: str = ""
    ) -> None:
        """Prepare for requests; none is made yet.

        Args:
            bucket: the bucket's name.
            prefix: what the names of all objects begin with.
            endpoint: another server than Google's. Only there may `credentials` be missing.
            credentials: the file with a service account's key.
            ca: a file with the certificates that may sign the server's; those of `certifi` unless given.

        Raises:
            BadStore: the credentials or the certificates cannot be used.
        """
        if not credentials and not endpoint:
            raise BadStore("store: kind gcs needs credentials: the path of a service account's key")
        if ca and not Path(ca).is_file():
            raise BadStore(f"{ca}: no certificates there that can be read (PEM)")
        who = _account(credentials) if credentials else AnonymousCredentials()
        tokens = _session(requests.Session(), ca)
        session = _session(AuthorizedSession(who, auth_request=Request(tokens)), ca)
        options = {"api_endpoint": endpoint} if endpoint else None
        client = storage.Client(project="hapair", credentials=who, _http=session, client_options=options)
        self._bucket, self._prefix = client.bucket(bucket), prefix

    def read(self, name: str, limit_s: float) -> Reading:
        """Return the object's current generation and its body, in one request."""
        asked = f"read gs://{self._bucket.name}/{self._prefix}{name}"
        try:
            return within(limit_s, lambda: self._read(name, asked))
        except GoogleAPICallError as bad:
            if bad.code == 404 and "bucket" not in str(bad.message).lower().replace(f"/b/{self._bucket.name}", ""):
                return Reading(Found.MISSING, text=f"{asked}: no such lock (or no such bucket)")
            return Reading(Found.UNAVAILABLE, text=_text(asked, bad))
        except Exception as bad:  # whatever the SDK raises, the lock was not read
            return Reading(Found.UNAVAILABLE, text=_text(asked, bad))

    def write(self, name: str, body: bytes, tag: str | None, limit_s: float) -> Writing:
        """Upload under ifGenerationMatch; 409 and 412 are conflicts, every other failure leaves the outcome unclear."""
        asked = f"write gs://{self._bucket.name}/{self._prefix}{name}"
        if tag is not None and not tag.isdigit():
            return Writing(Written.CONFLICT, f"{asked}: {tag!r} is no generation")
        try:
            return within(limit_s, lambda: self._write(name, body, int(tag or 0), asked))
        except GoogleAPICallError as bad:
            return Writing(Written.CONFLICT if bad.code in (409, 412) else Written.UNCLEAR, _text(asked, bad))
        except Exception as bad:  # whatever the SDK raises, the write may have happened
            return Writing(Written.UNCLEAR, _text(asked, bad))

    def _read(self, name: str, asked: str) -> Reading:
        blob = self._bucket.blob(self._prefix + name)
        # One byte more than a lock may have: a larger object is not fetched in whole.
        body = blob.download_as_bytes(end=LARGEST_BYTES, raw_download=True, checksum=None, retry=None, timeout=left_s())
        if not blob.generation:
            return Reading(Found.UNAVAILABLE, text=f"{asked}: an answer without generation: is it the store's address?")
        return Reading(Found.OBJECT, body, str(blob.generation))

    def _write(self, name: str, body: bytes, generation: int, asked: str) -> Writing:
        blob = self._bucket.blob(self._prefix + name)
        # An object that anyone may read would be served from caches otherwise.
        blob.cache_control = "no-store"
        blob.upload_from_string(
            body,
            content_type="application/json",
            if_generation_match=generation,
            retry=None,
            timeout=left_s(),
        )
        if blob.size != len(body) or not blob.generation or blob.generation == generation:
            return Writing(Written.UNCLEAR, f"{asked}: success without a new generation: is it the store's address?")
        return Writing(Written.YES)


def _account(path: str) -> Any:
    fields = secret(path, ("client_email", "private_key", "token_uri"), ACCOUNT)
    try:
        return service_account.Credentials.from_service_account_info(fields, scopes=[SCOPE])
    except Exception:  # whatever the parser of keys raises; its text may repeat the key
        raise BadStore(f"{path}: no key that can be used; it should be {ACCOUNT}") from None


def _session(session: Any, ca: str) -> Any:
    session.trust_env = False  # no proxy and no .netrc of whoever calls
    session.mount("https://", OnTime())
    session.mount("http://", OnTime())
    if ca:
        session.verify = ca
    return session


def _text(asked: str, bad: Exception) -> str:
    """Say what went wrong without the server's own words, which may repeat a credential."""
    if isinstance(bad, GoogleAPICallError):
        return refusal(asked, int(bad.code or 0))
    if isinstance(bad, Late):
        return f"{asked}: {bad}"
    if isinstance(bad, auth_exceptions.RefreshError):
        return f"{asked}: no access token is given for these credentials; is the key still valid, and this clock right?"
    if isinstance(bad, auth_exceptions.InvalidOperation):
        return refusal(asked, 401)  # it wants credentials, and there are none
    return f"{asked}: {type(bad).__name__}"
