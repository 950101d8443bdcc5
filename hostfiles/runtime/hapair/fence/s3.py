"""A fence store in a bucket of S3, or of anything that speaks it: the version tag is the object's ETag."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path
from typing import Any

import boto3
import botocore.session
from botocore.config import Config
from botocore.exceptions import ClientError

from hapair.fence.base import BadStore, Found, Reading, Writing, Written, confirmed, is_page, refusal
from hapair.fence.bounded import Late, left_s, within
from hapair.fence.credentials import secret
from hapair.lock import LARGEST_BYTES

KEYS = 'JSON with "access_key_id" and "secret_access_key"'
AGAIN_S = 0.02
"""Pause after a 409: S3 tells no event, and its own advice is to send the same request again."""


class S3Store:
    """A `Backend`. One client with its connections, kept warm by whoever reads the lock again and again."""

    def __init__(
        self,
        bucket: str,
        *,
        credentials: str,
        timeout_s: float,
        prefix: str = "",
        endpoint: str = "",
        region: str = "",
        ca: str = "",
    ) -> None:
        """Prepare for requests; none is made yet.

        Args:
            bucket: the bucket's name.
            credentials: a file with {"access_key_id": …, "secret_access_key": …}, and "session_token" if there is one.
            timeout_s: the limit for each wait of a connection; `read` and `write` have theirs beside that.
            prefix: what the names of all objects begin with.
            endpoint: another server than Amazon's.
            region: as in the request's signature.
            ca: a file with the certificates that may sign the server's; those of botocore unless given.

        Raises:
            BadStore: the credentials or the certificates cannot be used.
        """
        keys = secret(credentials, ("access_key_id", "secret_access_key"), KEYS)
        if ca and not Path(ca).is_file():
            raise BadStore(f"{ca}: no certificates there that can be read (PEM)")
        core = botocore.session.Session()
        for variable in ("config_file", "credentials_file"):
            core.set_config_variable(variable, os.devnull)  # nothing of a home folder's counts here
        try:
            self._client = boto3.session.Session(botocore_session=core).client(
                "s3",
                region_name=region or "us-east-1",
                endpoint_url=endpoint or None,
                aws_access_key_id=keys["access_key_id"],
                aws_secret_access_key=keys["secret_access_key"],
                aws_session_token=keys.get("session_token"),
                verify=ca or None,
                config=_settings(timeout_s, own_server=bool(endpoint)),
            )
        except Exception as bad:  # whatever the SDK has against its settings
            raise BadStore(f"store: the S3 client cannot be made ({type(bad).__name__})") from None
        # The SDK has no limit for a call as a whole: nothing is sent once nobody waits any more.
        self._client.meta.events.register("before-send.s3", _on_time)
        self._bucket, self._prefix = bucket, prefix

    def read(self, name: str, limit_s: float) -> Reading:
        """Return the object's current version, its ETag and its body."""
        asked = f"read s3://{self._bucket}/{self._prefix}{name}"
        try:
            return within(limit_s, lambda: self._read(name, asked))
        except ClientError as bad:
            _, code = _status(bad)
            if code == "NoSuchKey":
                return Reading(Found.MISSING, text=f"{asked}: no such lock")
            return Reading(Found.UNAVAILABLE, text=_text(asked, bad))
        except Exception as bad:  # whatever the SDK raises, the lock was not read
            return Reading(Found.UNAVAILABLE, text=_text(asked, bad))

    def write(self, name: str, body: bytes, tag: str | None, limit_s: float) -> Writing:
        """Put under If-Match or If-None-Match; 412 is a conflict, 409 is sent again (F9), the rest is unclear."""
        asked = f"write s3://{self._bucket}/{self._prefix}{name}"
        due = time.monotonic() + limit_s
        while True:
            try:
                answer = within(due - time.monotonic(), lambda: self._put(name, body, tag))
                break
            except ClientError as bad:
                status, _ = _status(bad)
                if status == 409 and due - time.monotonic() > AGAIN_S:
                    # No event tells when the other request has ended.
                    time.sleep(AGAIN_S)
                    continue
                return Writing(Written.CONFLICT if status in (409, 412) else Written.UNCLEAR, _text(asked, bad))
            except Exception as bad:  # whatever the SDK raises, the write may have happened
                return Writing(Written.UNCLEAR, _text(asked, bad))
        if _proves(answer, body):
            return Writing(Written.YES)
        return confirmed(self, name, body, due - time.monotonic())

    def _read(self, name: str, asked: str) -> Reading:
        answer = self._client.get_object(Bucket=self._bucket, Key=self._prefix + name)
        with answer["Body"] as stream:
            body = stream.read(LARGEST_BYTES + 1)
        tag = str(answer.get("ETag", ""))
        if is_page(str(answer.get("ContentType", ""))):
            return Reading(Found.UNAVAILABLE, text=f"{asked}: a web page: is it the store's address?")
        if not tag or tag.startswith("W/"):
            return Reading(Found.UNAVAILABLE, text=f"{asked}: no strong ETag: it cannot keep a lock")
        return Reading(Found.OBJECT, body, tag)

    def _put(self, name: str, body: bytes, tag: str | None) -> Any:
        condition = {"IfNoneMatch": "*"} if tag is None else {"IfMatch": tag}
        return self._client.put_object(
            Bucket=self._bucket, Key=self._prefix + name, Body=body, ContentType="application/json", **condition
        )


def _on_time(**_: object) -> None:
    left_s()


def _settings(timeout_s: float, *, own_server: bool) -> Config:
    return Config(
        connect_timeout=timeout_s,
        read_timeout=timeout_s,
        retries={"total_max_attempts": 1},
        proxies={},
        signature_version="s3v4",
        ignore_configured_endpoint_urls=True,
        s3={"addressing_style": "path" if own_server else "auto"},
        # Other servers than Amazon's do not know the newer checksums.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )


def _proves(answer: Any, body: bytes) -> bool:
    """True when the ETag is that of this very body: S3 makes it by MD5, unless it encrypts with a key of its own."""
    try:
        return str(answer.get("ETag", "")).strip('"') == hashlib.md5(body).hexdigest()  # noqa: S324 - S3's choice
    except ValueError:  # a machine that has no MD5, by its policy
        return False


def _status(bad: ClientError) -> tuple[int, str]:
    return (
        int(bad.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)),
        str(bad.response.get("Error", {}).get("Code", "")),
    )


def _text(asked: str, bad: Exception) -> str:
    """Say what went wrong without the server's own words, which may repeat a credential."""
    if isinstance(bad, ClientError):
        status, code = _status(bad)
        return refusal(asked, status, code if code.isalnum() and not code.isdigit() else "")
    return f"{asked}: {bad if isinstance(bad, Late) else type(bad).__name__}"
