"""AWS Secrets Manager beyond what every store does, on moto's server; its faults by a server that only refuses."""

import json
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import boto3
import pytest

from bursar.core.errors import RULES, Refusal
from bursar.core.layout import Layout
from bursar.core.provider_keys import provider_key_of
from bursar.core.secret import Secret
from bursar.secrets.aws import AwsPlace, AwsStore
from bursar.secrets.values import Fingerprint
from tests.conformance.clouds import forget, moto_running

ADDRESS = "openai/*/api_key/prod/alpha"
NAME = "bursar/openai/_/api_key/prod/alpha"
REGION = "eu-central-1"
TAGS = {"billing_owner": "ann", "allowed_models": "gpt-4o,o1*"}


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with moto_running() as url:
        yield url


@pytest.fixture
def moto(server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    forget(server)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    return server


def opened(url: str, layout: Layout | None = None, value_field: str = "", seconds: float = 5.0) -> AwsStore:
    place = AwsPlace(region=REGION, endpoint=url, layout=layout or Layout(), value_field=value_field, seconds=seconds)
    return AwsStore("cloud", place, Fingerprint(Secret("test")))


def client(url: str) -> "boto3.client":
    return boto3.client("secretsmanager", region_name=REGION, endpoint_url=url)


async def word_of(doing: Awaitable[object]) -> str:
    with pytest.raises(Refusal) as refused:
        await doing
    assert refused.value.word in RULES
    return refused.value.word


async def test_a_secret_that_was_there_before_is_adopted(moto: str, canary: Secret) -> None:
    tags = [{"Key": "billing_owner", "Value": "ann"}, {"Key": "allowed_models", "Value": "gpt-4o gpt-4o-mini"}]
    client(moto).create_secret(Name="llm/team-alpha/api-key", SecretString=canary.reveal(), Tags=tags)
    client(moto).create_secret(Name="other", SecretString="not of this layout")
    store = opened(moto, Layout(path="llm/{team}/{key_type}", address={"provider": "openai"}))
    (entry,) = await store.entries()
    key = provider_key_of(entry)
    assert (entry.address, key.allowed_models) == ("openai/*/api-key/*/team-alpha", ("gpt-4o", "gpt-4o-mini"))
    assert await store.get(entry.id) == canary
    changed = await store.tag(entry.id, {"purpose": "inference,embedding"})
    assert (changed.id, provider_key_of(changed).purposes) == (entry.id, ("inference", "embedding"))
    assert provider_key_of(changed).allowed_models == ("gpt-4o", "gpt-4o-mini")


async def test_json_with_tags_beside_the_value(moto: str, canary: Secret) -> None:
    text = json.dumps({"value": canary.reveal(), "billing_owner": "ann", "note": "kept"})
    client(moto).create_secret(Name="llm/a/k", SecretString=text)
    store = opened(moto, Layout(path="llm/{team}/{key_type}", address={"provider": "openai"}), "value")
    (entry,) = await store.entries()
    assert (entry.tags["billing_owner"], await store.get(entry.id)) == ("ann", canary)
    await store.put_version(entry.id, Secret("sk-next"))
    lies = json.loads(client(moto).get_secret_value(SecretId="llm/a/k")["SecretString"])
    assert lies == {"value": "sk-next", "billing_owner": "ann", "note": "kept"}


async def test_stage_labels_are_followed(moto: str, canary: Secret) -> None:
    """A rotation of AWS's own: pending is not current, and the label moves the current version."""
    store = opened(moto)
    secret_id, first = await store.put(ADDRESS, Secret("sk-first"), TAGS)
    aws, token = client(moto), "7f3d5a52-0000-4000-8000-9b1deb4d3b7d"
    aws.put_secret_value(
        SecretId=NAME, ClientRequestToken=token, SecretString=canary.reveal(), VersionStages=["AWSPENDING"]
    )
    entry = await store.entry(secret_id)
    assert (entry.version, [v.version for v in entry.versions]) == (first, [first])
    current = aws.describe_secret(SecretId=NAME)["VersionIdsToStages"]
    old = next(one for one, labels in current.items() if "AWSCURRENT" in labels)
    aws.update_secret_version_stage(
        SecretId=NAME, VersionStage="AWSCURRENT", MoveToVersionId=token, RemoveFromVersionId=old
    )
    entry = await store.entry(secret_id)
    assert entry.version == 0x9B1DEB4D3B7D
    assert await store.get(secret_id) == canary
    assert await store.get(secret_id, first) == Secret("sk-first")
    assert await store.put_version(secret_id, Secret("sk-third")) == first + 1, "ours count on"


async def test_of_two_writers_one_is_refused(moto: str) -> None:
    one, two = opened(moto), opened(moto)
    secret_id, _ = await one.put(ADDRESS, Secret("sk-first"), TAGS)
    told = await two._described(secret_id)
    await one.put_version(secret_id, Secret("sk-second"))
    assert await word_of(two._add(told, Secret("sk-late"))) == "secret_changed"
    assert await one.get(secret_id) == Secret("sk-second")


async def test_marked_for_deletion_is_gone(moto: str) -> None:
    store = opened(moto)
    secret_id, _ = await store.put(ADDRESS, Secret("sk-first"), TAGS)
    client(moto).delete_secret(SecretId=NAME, RecoveryWindowInDays=7)
    assert await word_of(store.get(secret_id)) == "secret_not_found"
    assert await store.entries() == []


async def test_tags_that_aws_cannot_hold_are_told_before_anything_is_sent(moto: str) -> None:
    for tags in ({"note": "x" * 257}, {f"t{n}": "v1" for n in range(47)}, {"note": "ü" * 43}, {"aws.x": "y1"}):
        assert await word_of(opened(moto).put(ADDRESS, Secret("sk-val"), tags)) == "invalid_tags"
    assert await opened(moto).entries() == []


# ---- faults


@pytest.fixture
def refusing() -> Iterator[Callable[[int, str], str]]:
    """A server that answers every call with one error of AWS -> its address."""
    said = {"status": 400, "code": ""}

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            body = json.dumps({"__type": said["code"], "message": "told by AWS"}).encode()
            self.send_response(int(said["status"]))
            self.send_header("Content-Type", "application/x-amz-json-1.1")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()

    def say(status: int, code: str) -> str:
        said.update(status=status, code=code)
        return f"http://127.0.0.1:{server.server_port}"

    yield say
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("status", "code", "word"),
    [
        (400, "ThrottlingException", "store_throttled"),
        (400, "AccessDeniedException", "store_denied"),
        (400, "DecryptionFailure", "store_denied"),
        (400, "UnrecognizedClientException", "store_login_failed"),
        (403, "InvalidSignatureException", "store_login_failed"),
        (400, "ExpiredTokenException", "store_login_failed"),
        (500, "InternalServiceError", "secrets_unavailable"),
        (400, "SomethingNew", "store_mismatch"),
    ],
)
async def test_each_fault_has_its_word(
    moto: str, refusing: Callable[[int, str], str], status: int, code: str, word: str, canary: Secret
) -> None:
    store = opened(refusing(status, code))
    for act in (store.entries(), store.put(ADDRESS, canary, TAGS, allow_duplicate=True)):
        assert await word_of(act) == word


async def test_away_without_credentials_or_region(moto: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        away = opened(f"http://127.0.0.1:{nobody.getsockname()[1]}", seconds=1)
        assert await word_of(away.entries()) == "secrets_unavailable"
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION", "AWS_REGION", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nowhere")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    assert await word_of(opened(moto).entries()) == "store_login_failed"
    assert await word_of(AwsStore("cloud", AwsPlace(), Fingerprint(Secret("x"))).entries()) == "store_mismatch"


async def test_nothing_of_it_shows_the_value(
    moto: str, refusing: Callable[[int, str], str], canary: Secret, shown: Callable[[BaseException], str]
) -> None:
    with pytest.raises(Refusal) as refused:
        await opened(refusing(400, "AccessDeniedException"))._create(NAME, {}, canary)
    assert canary.reveal() not in shown(refused.value)
    with pytest.raises(Refusal) as refused:
        await opened(refusing(400, "AccessDeniedException"), value_field="value")._create(NAME, {}, canary)
    assert canary.reveal() not in shown(refused.value)
