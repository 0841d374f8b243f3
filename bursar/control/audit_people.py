"""Personal data in the audit: kept as a commitment and a sealed text, erased by shredding one key.

A record never holds a person's name in clear. In its place stands a pseudonym, ``person:<32 hex>``, and beside it a
fact ``sealed.<field>`` with the field's own text, encrypted. Both hang on a key that each person has for himself:

    pseudonym    HMAC-SHA256(key, "bursar audit person 1" || NUL || name), its first 16 bytes: the commitment
    sealed       base64 of nonce (12) || AES-256-GCM(key, text), with the pseudonym as associated data

The keys lie in `audit-people.db`, sealed with AES-256-GCM under one secret of the vault and found by a keyed digest of
the name. While a key exists, records can be searched by name and are shown with it. Shredding it leaves every hash,
signature and copy as it is: who looks then finds the pseudonym, and nothing that could be tried against it.

What counts as personal: an actor that is no part of Bursar (it holds an `@`, or begins with `user:` or `oidc:`), a fact
by the name of `user`, `email` or `contact`, and any text that is an e-mail address.
"""

import hmac
import os
import re
from base64 import b64decode, b64encode
from collections import OrderedDict
from typing import Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from msgspec.structs import replace

from bursar.core.audit import Event, Record
from bursar.core.errors import Refusal
from bursar.core.secret import Secret

PREFIX = "person:"
_SEALED = "sealed."
_NAMES = frozenset({"user", "email", "contact"})
_OTHERS = ("user:", "oidc:")
_MAIL = re.compile(r"[^@\s:/]+@[^@\s:/]+\.[^@\s:/]+")
_PSEUDONYM = re.compile(r"person:[0-9a-f]{32}")
_REMEMBERED = 10_000


class Rows(Protocol):
    """What is needed of `bursar.stores.audit_people_db.PeopleDb`."""

    def by_lookup(self, lookup: bytes) -> tuple[str, bytes] | None: ...

    def by_pseudonym(self, pseudonym: str) -> bytes | None: ...

    def put(self, lookup: bytes, pseudonym: str, sealed: bytes) -> None: ...

    def shred(self, pseudonym: str) -> None: ...


class _Person:
    """Holds the key out of reach of a repr."""

    __slots__ = ("_cipher", "pseudonym")

    def __init__(self, key: bytes, pseudonym: str) -> None:
        self._cipher = AESGCM(key)
        self.pseudonym = pseudonym

    def __repr__(self) -> str:
        return f"Person({self.pseudonym})"

    def seal(self, text: str) -> str:
        nonce = os.urandom(12)
        sealed = self._cipher.encrypt(nonce, text.encode("utf-8", "backslashreplace"), self.pseudonym.encode())
        return b64encode(nonce + sealed).decode()

    def open(self, sealed: str) -> str | None:
        try:
            raw = b64decode(sealed, validate=True)
            return self._cipher.decrypt(raw[:12], raw[12:], self.pseudonym.encode()).decode()
        except (InvalidTag, ValueError):
            return None


class People:
    """`secret` is 32 bytes in hex, from the vault."""

    def __init__(self, rows: Rows, secret: Secret) -> None:
        self._rows = rows
        raw = bytes.fromhex(secret.reveal())
        self._finding = hmac.digest(raw, b"bursar audit people: find", "sha256")
        self._sealing = AESGCM(hmac.digest(raw, b"bursar audit people: seal", "sha256"))
        self._digesting = hmac.digest(raw, b"bursar audit people: digest", "sha256")
        self._known: OrderedDict[str, _Person] = OrderedDict()  # by subject

    def digest(self, content: bytes) -> str:
        """Tells whether two contents are the same, and nothing else to who has not the vault."""
        return hmac.digest(self._digesting, content, "sha256").hex()

    def veil(self, event: Event) -> Event:
        """The event as it may be written. Raises AuditFailed when a key can be neither found nor kept."""
        personal = _personal_fields(event)
        if not personal:
            return event
        facts = dict(event.facts)
        changed = {"actor": event.actor, "target": event.target}
        for field, text in personal.items():
            person = self._person(_subject(text))
            facts[f"{_SEALED}{field}"] = person.seal(text)
            if field in changed:
                head, slash, _ = text.partition("/") if field == "target" else ("", "", "")
                changed[field] = f"{head}{slash}{person.pseudonym}"
            else:
                facts[field] = person.pseudonym
        return replace(event, actor=changed["actor"], target=changed["target"], facts=facts)

    def open(self, record: Record) -> Record:
        """The record with the names that may still be known. Those that were erased stay pseudonyms."""
        facts = dict(record.facts)
        shown = {"actor": record.actor, "target": record.target}
        for field in [name.removeprefix(_SEALED) for name in facts if name.startswith(_SEALED)]:
            standing = str(shown.get(field, facts.get(field, "")))
            text = self._opened(standing, str(facts[f"{_SEALED}{field}"]))
            if text is None:
                continue
            del facts[f"{_SEALED}{field}"]
            if field in shown:
                shown[field] = text
            else:
                facts[field] = text
        return replace(record, actor=shown["actor"], target=shown["target"], facts=facts)

    def as_written(self, text: str) -> str | None:
        """A text to look for, as the records have it; None when it names somebody whom they do not know."""
        known = self.pseudonym(text)
        if known is None:
            return None if _names_somebody(text) else text
        head, slash, _ = text.partition("/")
        return f"{head}{slash}{known}" if slash else known

    def pseudonym(self, text: str) -> str | None:
        """As whom the records know this person (a name, or a pseudonym as it stands); None if they do not."""
        if _PSEUDONYM.fullmatch(text):
            return text if self._rows.by_pseudonym(text) is not None else None
        row = self._rows.by_lookup(self._lookup(_subject(text)))
        return None if row is None else row[0]

    def erase(self, pseudonym: str) -> None:
        """Shred the key. There is no undo."""
        self._rows.shred(pseudonym)
        for subject in [known for known, person in self._known.items() if person.pseudonym == pseudonym]:
            del self._known[subject]

    # ---- keys

    def _person(self, subject: str) -> _Person:
        person = self._known.get(subject)
        if person is None:
            person = self._known[subject] = self._found_or_made(subject)
            if len(self._known) > _REMEMBERED:
                self._known.popitem(last=False)
        return person

    def _found_or_made(self, subject: str) -> _Person:
        lookup = self._lookup(subject)
        row = self._rows.by_lookup(lookup)
        if row is not None:
            return self._unsealed(*row)
        key, nonce = os.urandom(32), os.urandom(12)
        commitment = hmac.digest(
            key, b"bursar audit person 1\0" + subject.encode("utf-8", "backslashreplace"), "sha256"
        )
        pseudonym = PREFIX + commitment[:16].hex()
        self._rows.put(lookup, pseudonym, nonce + self._sealing.encrypt(nonce, key, pseudonym.encode()))
        return _Person(key, pseudonym)

    def _unsealed(self, pseudonym: str, sealed: bytes) -> _Person:
        try:
            return _Person(self._sealing.decrypt(sealed[:12], sealed[12:], pseudonym.encode()), pseudonym)
        except InvalidTag:
            hint = "Restore audit-people.db together with secrets.db"
            raise Refusal("tampered", "A person's key in audit-people.db does not open", hint) from None

    def _opened(self, standing: str, sealed: str) -> str | None:
        found = _PSEUDONYM.search(standing)
        row = self._rows.by_pseudonym(found[0]) if found else None
        return None if found is None or row is None else self._unsealed(found[0], row).open(sealed)

    def _lookup(self, subject: str) -> bytes:
        return hmac.digest(self._finding, subject.encode("utf-8", "backslashreplace"), "sha256")


def _personal_fields(event: Event) -> dict[str, str]:
    """Field -> its text, for each field that names a person."""
    found = {
        name: fact
        for name, fact in event.facts.items()
        if isinstance(fact, str) and fact and (name in _NAMES or ("@" in fact and _MAIL.fullmatch(fact)))
    }
    if _names_somebody(event.actor):
        found["actor"] = event.actor
    if "@" in event.target and _MAIL.search(event.target):
        found["target"] = event.target
    return found


def _names_somebody(text: str) -> bool:
    return "@" in text or text.startswith(_OTHERS)


def _subject(text: str) -> str:
    """Whom a field is about: the e-mail address in it, else what follows `user:`, `oidc:` or `user/`; case aside."""
    mail = _MAIL.search(text)
    return (mail[0] if mail else re.split(r"[:/]", text, maxsplit=1)[-1]).strip().lower()
