"""A key-encryption key in the transit engine of Vault or OpenBao: it never leaves there, each wrap is a call.

Source: developer.hashicorp.com/vault/api-docs/secret/transit (encrypt, decrypt with `associated_data`; the key's type
must be an AEAD: aes256-gcm96, the default, or chacha20-poly1305). What is wrapped is bound to its secret and version by
the associated data. Login, renewal, redirects and faults are those of the Vault client that the stores use.

id: ``transit:<mount>/<key>``. The version of the key stands in what is wrapped ("vault:v3:..."), so that a key that was
rotated in Vault opens what was wrapped before.
"""

import base64
import binascii
from collections.abc import Mapping

from bursar.core.errors import Refusal
from bursar.core.secret import Secret
from bursar.ports import Entropy
from bursar.secrets.sealing import WrapperError
from bursar.secrets.vault_api import Reply
from bursar.secrets.vault_login import VaultClient

_AWAY = ("secrets_unavailable", "store_throttled", "store_sealed")
_DENIED = ("store_denied", "store_login_failed")


class TransitWrapper:
    """`bursar.ports.KeyWrapper`. Made by `connect`."""

    def __init__(self, client: VaultClient, mount: str, key: str) -> None:
        self.id = f"transit:{mount}/{key}"
        self._client = client
        self._mount = mount
        self._key = key

    def __repr__(self) -> str:
        return f"TransitWrapper({self.id})"

    async def wrap(self, data_key: bytes, context: bytes) -> bytes:
        plain = Secret(base64.b64encode(data_key).decode())
        del data_key
        reply = await self._ask("encrypt", {"plaintext": plain, "associated_data": _text(context)})
        ciphertext = reply.data.get("ciphertext")
        if not isinstance(ciphertext, str) or not ciphertext:
            raise self._lost("it answered without a ciphertext")
        return ciphertext.encode()

    async def unwrap(self, wrapped: bytes, context: bytes) -> bytes:
        """Raises WrapperError: wrapper_wrong (another key, another context, a spoiled byte), or as `wrap`."""
        body = {"ciphertext": wrapped.decode("ascii", "replace"), "associated_data": _text(context)}
        reply = await self._ask("decrypt", body)
        try:
            return base64.b64decode(str(reply.data.get("plaintext")), validate=True)
        except (binascii.Error, ValueError):
            fault = self._lost("it answered without a plaintext")
        raise fault

    async def _ask(self, act: str, body: Mapping[str, object]) -> Reply:
        try:
            await self._client.login.tend()
            reply = await self._client.ask("POST", f"{self._mount}/{act}/{self._key}", body)
        except Refusal as refusal:
            fault = self._fault(act, refusal)
        else:
            if reply.status != 404:
                return reply
            fault = self._lost("there is no such key or mount")
        raise fault

    def _fault(self, act: str, refusal: Refusal) -> WrapperError:
        facts: dict[str, str | int] = {"wrapper": self.id, "vault": refusal.word}
        if refusal.word in _AWAY:
            return WrapperError("wrapper_unavailable", refusal.message, refusal.hint, refusal.retry_after or 5, facts)
        if refusal.word in _DENIED:
            hint = f"Allow update on {self._mount}/encrypt/{self._key} and {self._mount}/decrypt/{self._key}"
            return WrapperError("wrapper_denied", refusal.message, hint, None, facts)
        if act == "decrypt" and "not found" not in refusal.message:
            hint = "Restore the row from a backup, or use the key it was sealed under"
            return WrapperError("wrapper_wrong", "The transit key does not open this secret", hint, None, facts)
        return self._lost(refusal.message)

    def _lost(self, why: str) -> WrapperError:
        hint = "See that the mount and the key exist, and that the key's type is aes256-gcm96"
        return WrapperError("wrapper_lost", f"{self.id} cannot be used: {why}", hint, facts={"wrapper": self.id})


async def connect(client: VaultClient, mount: str, key: str, entropy: Entropy) -> TransitWrapper:
    """The wrapper of an existing key, tried once there and back. Raises WrapperError."""
    wrapper = TransitWrapper(client, mount.strip("/"), key)
    probe, context = entropy.token_bytes(32), b"bursar probe"
    if await wrapper.unwrap(await wrapper.wrap(probe, context), context) != probe:
        raise WrapperError("wrapper_wrong", f"{wrapper.id} does not give back what it took", "See the transit key")
    return wrapper


def _text(context: bytes) -> str:
    return base64.b64encode(context).decode()
