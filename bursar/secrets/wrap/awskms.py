"""A key-encryption key in AWS KMS: it never leaves there, each wrap and unwrap is a call.

Needs boto3 (`pip install bursar[aws]`); credentials come from boto3's usual chain. The encryption context binds a
wrapped data key to its secret and version, and stands in CloudTrail. boto3 is synchronous: its calls run in threads.

id: ``awskms:<key ARN>``. An alias is looked up once, at start: the ARN stands in what is sealed.
"""

import asyncio
import base64
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from bursar.secrets.sealing import WrapperError

T = TypeVar("T")

_AWAY = {
    "ThrottlingException": "it is throttled",
    "LimitExceededException": "it is throttled",
    "KMSInternalException": "it failed inside",
    "DependencyTimeoutException": "it timed out inside",
    "KeyUnavailableException": "the key is unavailable for now",
    "RequestTimeout": "it timed out",
    "ServiceUnavailable": "it is unavailable",
}
_LOST = {"NotFoundException", "DisabledException", "KMSInvalidStateException", "InvalidKeyUsageException"}
_WRONG = {"InvalidCiphertextException", "IncorrectKeyException"}


class KmsWrapper:
    """`bursar.ports.KeyWrapper`. Made by `connect`."""

    def __init__(self, client: Any, arn: str) -> None:
        self.id = f"awskms:{arn}"
        self._client = client
        self._arn = arn

    def __repr__(self) -> str:
        return f"KmsWrapper({self.id})"

    async def wrap(self, data_key: bytes, context: bytes) -> bytes:
        given = _Plain(data_key)
        del data_key
        answer = await _asked(self.id, lambda: given.encrypt(self._client, self._arn, _context(context)))
        return bytes(answer["CiphertextBlob"])

    async def unwrap(self, wrapped: bytes, context: bytes) -> bytes:
        """Raises WrapperError: wrapper_wrong (context or bytes), wrapper_lost (the key is disabled or gone), ..."""
        fields = {"KeyId": self._arn, "CiphertextBlob": wrapped, "EncryptionContext": _context(context)}
        answer = await _asked(self.id, lambda: self._client.decrypt(**fields))
        return bytes(answer["Plaintext"])


class _Plain:
    """A data key on its way: out of reach of a repr."""

    def __init__(self, raw: bytes) -> None:
        self._raw = raw

    def __repr__(self) -> str:
        return "Plain(***)"

    def encrypt(self, client: Any, arn: str, context: Mapping[str, str]) -> dict[str, Any]:
        answer: dict[str, Any] = client.encrypt(KeyId=arn, Plaintext=self._raw, EncryptionContext=context)
        return answer


async def connect(key: str, region: str, endpoint: str, seconds: float) -> KmsWrapper:
    """The wrapper of a key given by id, ARN or alias. `seconds` bound each attempt, of which there are two.

    Raises WrapperError: wrapper_unavailable, wrapper_denied, wrapper_lost (no such key, or it is disabled).
    """
    settings = Config(
        connect_timeout=seconds, read_timeout=seconds, retries={"mode": "standard", "total_max_attempts": 2}
    )

    def look() -> tuple[Any, dict[str, Any]]:
        client = boto3.client("kms", region_name=region or None, endpoint_url=endpoint or None, config=settings)
        return client, client.describe_key(KeyId=key)["KeyMetadata"]

    client, about = await _asked(f"awskms:{key}", look)
    if about["KeyState"] != "Enabled":
        message = f"The KMS key is in the state {about['KeyState']}"
        raise WrapperError("wrapper_lost", message, "Enable the key in KMS", facts={"wrapper": f"awskms:{key}"})
    return KmsWrapper(client, about["Arn"])


def _context(context: bytes) -> dict[str, str]:
    return {"bursar": base64.b64encode(context).decode()}


async def _asked(wrapper: str, call: Callable[[], T]) -> T:
    """What KMS answers, in a thread. Raises WrapperError; its message never holds what was sent."""
    try:
        return await asyncio.to_thread(call)
    except ClientError as error:
        fault = _refused(wrapper, error.response["Error"].get("Code", ""))
    except BotoCoreError as error:
        message = f"AWS KMS cannot be reached ({type(error).__name__})"
        hint = "See region, endpoint, credentials and network of the node"
        fault = WrapperError("wrapper_unavailable", message, hint, retry_after=5, facts={"wrapper": wrapper})
    raise fault


def _refused(wrapper: str, code: str) -> WrapperError:
    facts: dict[str, str | int] = {"wrapper": wrapper, "aws": code}
    if code in _AWAY:
        return WrapperError("wrapper_unavailable", f"AWS KMS does not serve: {_AWAY[code]}", "", 5, facts)
    if code in _LOST:
        return WrapperError(
            "wrapper_lost", f"The KMS key cannot be used ({code})", "Enable the key in KMS", None, facts
        )
    if code in _WRONG:
        hint = "Restore the row from a backup, or use the key it was sealed under"
        return WrapperError("wrapper_wrong", "The KMS key does not open this secret", hint, None, facts)
    hint = "Allow kms:Encrypt, kms:Decrypt and kms:DescribeKey on the key to this node's role"
    return WrapperError("wrapper_denied", f"AWS KMS refuses this node ({code})", hint, None, facts)
