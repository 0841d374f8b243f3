"""What a provider key's value may be; and its keyed fingerprint, by which the same value is noticed elsewhere."""

import hmac
from collections.abc import Sequence

from bursar.core.errors import Refusal
from bursar.core.secret import Secret

_MAX_VALUE = 64 * 1024


def check_value(value: Secret, shown: Sequence[str]) -> None:
    """A value of unknown shape is fine (providers change theirs); what is empty, or shown elsewhere, is not."""
    if not value.reveal().strip():
        raise Refusal("invalid_secret", "The value is empty")
    if len(value.reveal()) > _MAX_VALUE:
        raise Refusal("invalid_secret", f"The value has more than {_MAX_VALUE} characters")
    if value.reveal() != value.reveal().strip() or "\0" in value.reveal():
        raise Refusal("invalid_secret", "The value begins or ends with a blank", "Drop the line end or the blanks")
    if any(value.reveal() in text for text in shown):
        raise Refusal("invalid_secret", "The value also stands in the address or a tag, which are not sealed")


def found_value(raw: object, where: str) -> Secret:
    """A value as it lies in somebody else's store, without the line end that tools leave behind.

    Raises Refusal(secret_malformed). `where` is told, the value is not.
    """
    if not isinstance(raw, str) or not raw.strip():
        raise Refusal("secret_malformed", f"{where} holds no text", "Store the provider key there as one text")
    if len(raw) > _MAX_VALUE or "\0" in raw or "\n" in raw.strip():
        raise Refusal("secret_malformed", f"{where} is no provider key: too long, or several lines")
    return Secret(raw.strip())


class Fingerprint:
    """Keyed, so that a store's metadata does not tell whether it holds a key that somebody has found."""

    def __init__(self, key: Secret) -> None:
        self._key = key

    def __call__(self, value: Secret) -> str:
        raw = value.reveal().encode
        return hmac.digest(self._key.reveal().encode(), raw("utf-8", "surrogatepass"), "sha256").hex()[:40]
