"""The signer against the examples that AWS publishes for S3."""

from __future__ import annotations

import datetime

import pytest

from adapters.recordings.sigv4 import Credentials, sign

KEYS = Credentials("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", "us-east-1")
AT = datetime.datetime(2013, 5, 24, tzinfo=datetime.UTC).timestamp()
HOST = "https://examplebucket.s3.amazonaws.com"


@pytest.mark.parametrize(
    ("method", "url", "headers", "body", "signature"),
    [
        (
            "GET",
            f"{HOST}/test.txt",
            {"Range": "bytes=0-9"},
            b"",
            "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41",
        ),
        (
            "PUT",
            f"{HOST}/test%24file.text",
            {"Date": "Fri, 24 May 2013 00:00:00 GMT", "x-amz-storage-class": "REDUCED_REDUNDANCY"},
            b"Welcome to Amazon S3.",
            "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd",
        ),
        ("GET", f"{HOST}/?lifecycle", {}, b"", "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543"),
        (
            "GET",
            f"{HOST}/?max-keys=2&prefix=J",
            {},
            b"",
            "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7",
        ),
    ],
)
def test_the_published_examples_are_signed_as_published(
    method: str, url: str, headers: dict[str, str], body: bytes, signature: str
) -> None:
    signed = sign(method, url, headers, body, KEYS, AT)
    assert signed["authorization"].endswith(f",Signature={signature}")
    assert KEYS.secret not in str(signed) + repr(KEYS)


def test_a_token_of_a_session_is_signed_and_sent() -> None:
    keys = Credentials("id", "secret", "eu-central-1", "token")
    signed = sign("GET", f"{HOST}/a", {}, b"", keys, AT)
    assert signed["x-amz-security-token"] == "token"
    assert "x-amz-security-token" in signed["authorization"]
