"""AWS Secrets Manager as a store, by boto3 in a thread. Extra: ``bursar[aws]``.

It is `bursar.ports.SecretStore`. Who may come in is AWS's own business: boto3's chain (environment, profile, a role of
the machine, a Kubernetes service account's web identity); no credential of AWS stands in `bursar.yaml`.

- A version's number is the end of its VersionId (48 bits). Ours are made so that they count 1, 2, 3: the id is derived
  from name and number, so that a second writer of the same number is refused by AWS itself (check-and-set); one that
  AWS or a rotation function made has a large number of its own. AWSCURRENT is the current one.
- Tags of AWS hold no comma and no star: such characters are written ``=2C``, in secrets that Bursar wrote. In adopted
  ones tags are read as they are, with blanks between the parts of a list.
- AWS destroys whole secrets only; one version is left to its own cleaning.
"""

import asyncio
import os
from collections.abc import Mapping, Sequence
from typing import Any

import boto3
import botocore.exceptions as faults
import msgspec
from botocore.config import Config as BotoConfig

from bursar.core.errors import Refusal
from bursar.core.layout import Layout, derived_id
from bursar.core.provider_keys import Put, SecretEntry, check_address, check_tags
from bursar.core.secret import Secret
from bursar.secrets.aws_shapes import (
    COUNTED,
    DISABLED,
    FINGERPRINT,
    ID,
    OURS,
    OWN,
    as_list,
    current_of,
    fitting,
    instant_of,
    number_of,
    object_of,
    plain,
    quoted,
    tags_of,
    version_id,
    versions_of,
)
from bursar.secrets.tagging import put_each, tag_each
from bursar.secrets.values import Fingerprint, check_value, found_value


class AwsPlace(msgspec.Struct, frozen=True, kw_only=True):
    """`value_field` "" = the secret's whole text is the value; else it is JSON, and the other fields are tags too."""

    region: str = ""
    endpoint: str = ""
    profile: str = ""
    layout: Layout = Layout()
    value_field: str = ""
    seconds: float = 5.0


class AwsStore:
    writable = True

    def __init__(self, name: str, place: AwsPlace, fingerprint: Fingerprint) -> None:
        self.name = name
        self._place = place
        self._fingerprint = fingerprint
        self._names: dict[str, str] = {}  # id -> the secret's name, as last seen
        self._client: Any = None

    # ---- reading

    async def entries(self) -> list[SecretEntry]:
        return sorted((await self._all()).values(), key=lambda entry: (entry.address, entry.id))

    async def entry(self, secret_id: str) -> SecretEntry:
        return self._entry_of(await self._described(secret_id), await self._fields(secret_id))

    async def get(self, secret_id: str, version: int | None = None) -> Secret:
        told = await self._described(secret_id)
        wanted = current_of(told) if version is None else version
        version_id = next((one for one in told.get("VersionIdsToStages", {}) if number_of(one) == wanted), None)
        if version_id is None:
            raise Refusal("secret_not_found", f"Provider key {secret_id} has no version {wanted} in {self.name}")
        return self._value_of(await self._ask("get_secret_value", SecretId=told["Name"], VersionId=version_id))

    async def find(self, value: Secret) -> SecretEntry | None:
        mark = self._fingerprint(value)
        for told in await self._listed():
            if tags_of(told).get(FINGERPRINT) == mark:
                return self._entry_of(told, {})
        return None

    # ---- writing

    async def put(
        self,
        address: str,
        value: Secret,
        tags: Mapping[str, str],
        allow_duplicate: bool = False,
        secret_id: str | None = None,
    ) -> tuple[str, int]:
        check_address(address)
        clean = fitting(check_tags(tags), self.name)
        check_value(value, (address, *clean, *clean.values()))
        await self._check_duplicate(value, allow_duplicate)
        name = self._place.layout.place_of(address)
        found = secret_id or derived_id(self.name, name)
        marks = {**clean, OURS: "1", ID: found, FINGERPRINT: self._fingerprint(value)}
        try:
            told = await self._ask("describe_secret", SecretId=name)
        except Refusal as refusal:
            if refusal.word != "secret_not_found":
                raise
            await self._create(name, marks, value)
            self._names[found] = name
            return found, 1
        found = tags_of(told).get(ID) or derived_id(self.name, name)
        entry = self._entry_of(told, {})
        await self._retag(told, {**marks, ID: found}, set(entry.tags) - set(clean))
        self._names[found] = name
        return found, await self._add(told, value)

    async def put_many(self, puts: Sequence[Put]) -> list[tuple[str, int]]:
        return await put_each(self, puts)

    async def put_version(self, secret_id: str, value: Secret, allow_duplicate: bool = False) -> int:
        told = await self._described(secret_id)
        entry = self._entry_of(told, {})
        check_value(value, (entry.address, *entry.tags, *entry.tags.values()))
        await self._check_duplicate(value, allow_duplicate)
        await self._retag(told, {FINGERPRINT: self._fingerprint(value)}, set())
        return await self._add(told, value)

    async def tag(self, secret_id: str, changes: Mapping[str, str | None]) -> SecretEntry:
        told = await self._described(secret_id)
        entry = self._entry_of(told, await self._fields(secret_id))
        merged = {**entry.tags, **changes}
        tags = fitting(check_tags({n: value for n, value in merged.items() if value is not None}), self.name)
        await self._retag(told, {**tags, OURS: "1"}, set(entry.tags) - set(tags))
        return await self.entry(secret_id)

    async def tag_many(self, changes: Mapping[str, Mapping[str, str | None]]) -> list[SecretEntry]:
        return await tag_each(self, changes)

    async def set_disabled(self, secret_id: str, disabled: bool) -> SecretEntry:
        told = await self._described(secret_id)
        await self._retag(told, {DISABLED: "true"} if disabled else {}, set() if disabled else {DISABLED})
        return await self.entry(secret_id)

    async def destroy(self, secret_id: str, version: int | None = None) -> None:
        """The whole secret, without AWS's time for second thoughts."""
        told = await self._described(secret_id)
        if version is not None:
            hint = "Destroy the whole entry, or wait: AWS drops versions without a label by itself"
            raise Refusal("store_unsupported", "AWS Secrets Manager destroys whole secrets only", hint)
        await self._ask("delete_secret", SecretId=told["Name"], ForceDeleteWithoutRecovery=True)
        self._names.pop(secret_id, None)

    async def close(self) -> None:
        """boto3 keeps nothing that must be given back."""

    # ---- inside

    async def _listed(self) -> list[dict[str, Any]]:
        """Every secret of the layout as ListSecrets describes it, by the fixed beginning of the path."""
        prefix = self._place.layout.path.partition("{")[0]
        asked: dict[str, Any] = {"Filters": [{"Key": "name", "Values": [prefix]}]} if prefix else {}
        found: list[dict[str, Any]] = []
        while True:
            page = await self._ask("list_secrets", MaxResults=100, **asked)
            found += [told for told in page["SecretList"] if self._place.layout.parts_of(told["Name"]) is not None]
            if not page.get("NextToken"):
                return found
            asked["NextToken"] = page["NextToken"]

    async def _all(self) -> dict[str, SecretEntry]:
        """What the list tells is enough, unless tags stand beside the value."""
        entries = {}
        for told in await self._listed():
            secret_id = tags_of(told).get(ID) or derived_id(self.name, told["Name"])
            self._names[secret_id] = told["Name"]
            entries[secret_id] = self._entry_of(told, await self._fields(secret_id))
        return entries

    async def _described(self, secret_id: str) -> dict[str, Any]:
        """Raises Refusal(secret_not_found). An id that was not seen yet is looked for among all."""
        for look_again in (False, True):
            if look_again:
                for told in await self._listed():
                    self._names[tags_of(told).get(ID) or derived_id(self.name, told["Name"])] = told["Name"]
            name = self._names.get(secret_id)
            if name is None:
                continue
            try:
                told = await self._ask("describe_secret", SecretId=name)
            except Refusal as refusal:
                if refusal.word != "secret_not_found":
                    raise
                continue
            if not told.get("DeletedDate"):
                return told
        raise Refusal("secret_not_found", f"There is no provider key {secret_id[:64]!r} in {self.name}")

    async def _fields(self, secret_id: str) -> dict[str, object]:
        """Fields beside the value, where the secret is JSON: they are tags as well."""
        if not self._place.value_field:
            return {}
        answer = await self._ask("get_secret_value", SecretId=self._names[secret_id])
        fields = object_of(answer.text("SecretString"))
        fields.pop(self._place.value_field, None)
        return fields

    def _value_of(self, answer: "_Answer") -> Secret:
        name, field = str(answer["Name"]), self._place.value_field
        if not field:
            return found_value(answer.text("SecretString"), f"The secret {name} in {self.name}")
        return found_value(
            object_of(answer.text("SecretString")).get(field), f"The field {field!r} of {name} in {self.name}"
        )

    def _entry_of(self, told: Mapping[str, Any], fields: Mapping[str, object]) -> SecretEntry:
        given = tags_of(told)
        ours = OURS in given
        shown: dict[str, object] = dict(fields)
        for name, text in given.items():
            if name not in OWN:
                shown[name] = plain(text) if ours else as_list(name, text)
        address, tags, fault = self._place.layout.read(str(told["Name"]), shown)
        stages = told.get("VersionIdsToStages") or told.get("SecretVersionsToStages") or {}
        changed = instant_of(told.get("LastChangedDate") or told.get("CreatedDate"))
        return SecretEntry(
            id=given.get(ID) or derived_id(self.name, str(told["Name"])),
            address=address,
            tags=tags,
            version=current_of(told),
            versions=versions_of(stages, changed),
            disabled=given.get(DISABLED) == "true",
            created_at=instant_of(told.get("CreatedDate")),
            updated_at=changed,
            store=self.name,
            fault=fault,
        )

    async def _create(self, name: str, marks: Mapping[str, str], value: Secret) -> None:
        await self._ask(
            "create_secret",
            Name=name,
            SecretString=self._written(value, {}),
            ClientRequestToken=version_id(name, 1),
            Tags=[{"Key": key, "Value": text if key in OWN else quoted(text)} for key, text in marks.items()],
        )

    async def _add(self, told: Mapping[str, Any], value: Secret) -> int:
        """A new current version, whose id no second writer can take -> its number. Raises Refusal(secret_changed)."""
        name = str(told["Name"])
        counted = [number for one in told.get("VersionIdsToStages", {}) if (number := number_of(one)) < COUNTED]
        number = max(counted, default=0) + 1
        fields: dict[str, object] = {}
        if self._place.value_field and current_of(told):
            answer = await self._ask("get_secret_value", SecretId=name)
            fields = object_of(answer.text("SecretString"))
        token = version_id(name, number)
        await self._ask(
            "put_secret_value", SecretId=name, SecretString=self._written(value, fields), ClientRequestToken=token
        )
        return number

    def _written(self, value: Secret, fields: dict[str, object]) -> Secret:
        if not self._place.value_field:
            return value
        return Secret(msgspec.json.encode({**fields, self._place.value_field: value.reveal()}).decode())

    async def _retag(self, told: Mapping[str, Any], tags: Mapping[str, str], gone: set[str]) -> None:
        """Set first, then remove: what narrows is there before what widened is gone."""
        name, present = str(told["Name"]), tags_of(told)
        ours = OURS in present or OURS in tags
        written = {key: text if key in OWN or not ours else quoted(text) for key, text in tags.items()}
        changed = {key: text for key, text in written.items() if present.get(key) != text}
        if changed:
            pairs = [{"Key": key, "Value": text} for key, text in changed.items()]
            await self._ask("tag_resource", SecretId=name, Tags=pairs)
        if doomed := sorted(gone & set(present)):
            await self._ask("untag_resource", SecretId=name, TagKeys=doomed)

    async def _check_duplicate(self, value: Secret, allowed: bool) -> None:
        holder = None if allowed else await self.find(value)
        if holder is not None:
            raise Refusal(
                "duplicate_secret",
                f"The same provider key is already stored as {holder.address}, version {holder.version}",
                "Use that entry, or allow the duplicate",
                facts={"secret": holder.id, "address": holder.address, "version": holder.version},
            )

    async def _ask(self, operation: str, **asked: Any) -> "_Answer":
        """One call in a thread. Raises Refusal. A `Secret` among what is asked is opened there only."""
        return await asyncio.to_thread(self._call, operation, asked)

    def _call(self, operation: str, asked: dict[str, Any]) -> "_Answer":
        try:
            call = getattr(self._made(), operation)
            return _Answer(call(**{k: v.reveal() if isinstance(v, Secret) else v for k, v in asked.items()}))
        except (faults.ClientError, faults.BotoCoreError) as error:
            fault = _named(error, self.name)
        raise fault

    def _made(self) -> Any:
        if self._client is None:
            place = self._place
            region = place.region or os.environ.get("AWS_REGION") or None  # boto3 by itself reads the other name only
            session = boto3.Session(profile_name=place.profile or None, region_name=region)
            config = BotoConfig(
                connect_timeout=place.seconds,
                read_timeout=place.seconds,
                retries={"max_attempts": 2, "mode": "standard"},
            )
            self._client = session.client("secretsmanager", endpoint_url=place.endpoint or None, config=config)
        return self._client


class _Answer(dict[str, Any]):
    """What AWS answered; its repr shows nothing, because it may hold the value."""

    def __repr__(self) -> str:
        return "Answer(***)"

    def text(self, name: str) -> str | None:
        return found if isinstance(found := self.get(name), str) else None


def _named(error: faults.ClientError | faults.BotoCoreError, store: str) -> Refusal:
    if isinstance(error, faults.ClientError):
        code = str(error.response.get("Error", {}).get("Code", ""))
        if code in _WORDS:
            word, hint = _WORDS[code]
            return Refusal(word, f"The secret store {store} answered {code}", hint)
        status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        word = "secrets_unavailable" if status >= 500 else "store_mismatch"
        return Refusal(word, f"The secret store {store} answered {code or status}", "See the store's region and path")
    kind = type(error).__name__
    if isinstance(error, faults.NoCredentialsError | faults.PartialCredentialsError | faults.TokenRetrievalError):
        return Refusal("store_login_failed", f"No AWS credentials for {store} ({kind})", "Give this node a role")
    if isinstance(error, faults.NoRegionError | faults.ProfileNotFound | faults.ParamValidationError):
        return Refusal("store_mismatch", f"The secret store {store} cannot be asked ({kind})", "See its region")
    return Refusal("secrets_unavailable", f"The secret store {store} was not reached ({kind})", "See the network")


_WORDS: dict[str, tuple[str, str]] = {  # AWS's error code -> word, what the operator does
    "ResourceNotFoundException": ("secret_not_found", "See: bursar secrets list"),
    "ResourceExistsException": ("secret_changed", "Somebody wrote the same version: look, and say it again"),
    "ThrottlingException": ("store_throttled", "Raise the cache's ttl, or AWS's quota"),
    "Throttling": ("store_throttled", "Raise the cache's ttl, or AWS's quota"),
    "TooManyRequestsException": ("store_throttled", "Raise the cache's ttl, or AWS's quota"),
    "RequestLimitExceeded": ("store_throttled", "Raise the cache's ttl, or AWS's quota"),
    "AccessDeniedException": ("store_denied", "See the IAM policy of this node's role"),
    "AccessDenied": ("store_denied", "See the IAM policy of this node's role"),
    "DecryptionFailure": ("store_denied", "The role may not use the secret's KMS key"),
    "EncryptionFailure": ("store_denied", "The role may not use the secret's KMS key"),
    "InvalidRequestException": ("secret_not_found", "It is marked for deletion in AWS"),
    "UnrecognizedClientException": ("store_login_failed", "See the node's AWS credentials"),
    "InvalidSignatureException": ("store_login_failed", "See the node's AWS credentials and its clock"),
    "InvalidClientTokenId": ("store_login_failed", "See the node's AWS credentials"),
    "ExpiredTokenException": ("store_login_failed", "See the node's AWS credentials"),
    "ExpiredToken": ("store_login_failed", "See the node's AWS credentials"),
}
