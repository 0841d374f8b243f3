"""AWS KMS as the wrapping key, against moto's server: round trips, bindings, and each way to be refused."""

import asyncio
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto.server import ThreadedMotoServer

from bursar.core.secret import Secret
from bursar.ports import Clock, Entropy
from bursar.secrets.embedded import EmbeddedStore
from bursar.secrets.sealing import WrapperError
from bursar.secrets.wrap import awskms
from bursar.secrets.wrap.awskms import KmsWrapper
from tests.faults.proxy import FaultProxy

KEY = b"k" * 32
CONTEXT = b"secret one, version 1"
REGION = "eu-central-1"


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "NO_PROXY": "*"}.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def kms(endpoint: str) -> Any:
    return boto3.client(
        "kms", region_name=REGION, endpoint_url=endpoint, aws_access_key_id="test", aws_secret_access_key="test"
    )


@pytest.fixture
def key_id(kms: Any) -> str:
    return str(kms.create_key()["KeyMetadata"]["KeyId"])


async def connected(key: str, endpoint: str, seconds: float = 5) -> KmsWrapper:
    return await awskms.connect(key, REGION, endpoint, seconds)


async def test_what_is_wrapped_is_unwrapped_and_an_alias_becomes_an_arn(kms: Any, key_id: str, endpoint: str) -> None:
    kms.create_alias(AliasName="alias/bursar-test", TargetKeyId=key_id)
    wrapper = await connected("alias/bursar-test", endpoint)
    assert wrapper.id == f"awskms:arn:aws:kms:{REGION}:123456789012:key/{key_id}"
    wrapped = await wrapper.wrap(KEY, CONTEXT)
    assert KEY not in wrapped
    assert await (await connected(key_id, endpoint)).unwrap(wrapped, CONTEXT) == KEY
    kms.delete_alias(AliasName="alias/bursar-test")


async def word_of(doing: Any) -> str:
    with pytest.raises(WrapperError) as refused:
        await doing
    return refused.value.word


async def test_another_context_key_or_byte_does_not_open(kms: Any, key_id: str, endpoint: str) -> None:
    wrapper = await connected(key_id, endpoint)
    wrapped = await wrapper.wrap(KEY, CONTEXT)
    assert await word_of(wrapper.unwrap(wrapped, b"secret two, version 1")) == "wrapper_wrong"
    assert await word_of(wrapper.unwrap(wrapped[:-1] + bytes([wrapped[-1] ^ 1]), CONTEXT)) == "wrapper_wrong"


async def test_a_key_that_is_gone_or_disabled_is_lost(kms: Any, key_id: str, endpoint: str) -> None:
    assert await word_of(connected("alias/none-such", endpoint)) == "wrapper_lost"
    wrapper = await connected(key_id, endpoint)
    kms.disable_key(KeyId=key_id)
    assert await word_of(connected(key_id, endpoint)) == "wrapper_lost"
    kms.enable_key(KeyId=key_id)
    kms.schedule_key_deletion(KeyId=key_id, PendingWindowInDays=7)
    assert await word_of(connected(key_id, endpoint)) == "wrapper_lost"
    assert wrapper.id.endswith(key_id)


@pytest.mark.parametrize(
    ("code", "word"),
    [
        ("ThrottlingException", "wrapper_unavailable"),
        ("KMSInternalException", "wrapper_unavailable"),
        ("DisabledException", "wrapper_lost"),
        ("NotFoundException", "wrapper_lost"),
        ("IncorrectKeyException", "wrapper_wrong"),
        ("AccessDeniedException", "wrapper_denied"),
        ("UnrecognizedClientException", "wrapper_denied"),
    ],
)
def test_each_refusal_of_kms_has_its_word(code: str, word: str) -> None:
    assert awskms._refused("awskms:x", code).word == word


async def test_a_service_that_is_away_or_slow_is_unavailable_in_time(
    key_id: str, endpoint: str, shown: Callable[[BaseException], str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    assert await word_of(connected(key_id, f"http://127.0.0.1:{port}", 0.2)) == "wrapper_unavailable"
    with FaultProxy("127.0.0.1", int(endpoint.rpartition(":")[2])) as proxy:
        wrapper = await connected(key_id, f"http://127.0.0.1:{proxy.port}", 1)
        proxy.mute()
        async with asyncio.timeout(20):
            with pytest.raises(WrapperError) as refused:
                await wrapper.wrap(KEY, CONTEXT)
    assert refused.value.word == "wrapper_unavailable"
    assert refused.value.retry_after
    assert repr(KEY)[2:-1] not in shown(refused.value)


async def test_a_store_under_kms(folder: Path, clock: Clock, entropy: Entropy, key_id: str, endpoint: str) -> None:
    path = folder / "secrets.db"
    store = await EmbeddedStore.open(path, [await connected(key_id, endpoint)], clock, entropy)
    first, _ = await store.put("openai/*/api_key/prod/*", Secret("value-one"), {"billing_owner": "ann"})
    await asyncio.gather(  # changes that meet while KMS is asked take turns
        store.tag(first, {"purpose": "inference"}),
        store.put_version(first, Secret("value-two")),
        store.tag(first, {"note": "both"}),
    )
    entry = await store.entry(first)
    assert (entry.version, entry.tags["note"], entry.tags["purpose"]) == (2, "both", "inference")
    assert [(await store.get(first, number)).reveal() for number in (1, 2)] == ["value-one", "value-two"]
    store.close()
