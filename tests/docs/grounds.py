"""What has to be there before a page is read: mostly nothing; a Vault with a key in it, or a provider of its own."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tests.providers.emulated import Emulated
from tests.vault.fake import FakeVault

_POLICY = 'path "secret/*" { capabilities = ["create", "read", "update", "patch", "delete", "list"] }'


@contextmanager
def ground_of(page: str) -> Iterator[dict[str, Any]]:
    """Settings and environment of the broker that the page is read beside."""
    if page == "docs/observe.md":
        with TemporaryDirectory() as folder:
            provider = Emulated(Path(folder))
            try:
                real = {"base_url": f"{provider.url}/v1", "allow_private": True}
                yield {"config": {"observe": {"enabled": True}, "providers": {"openai": real}}}
            finally:
                provider.stop()
        return
    if page != "docs/secrets.md":
        yield {}
        return
    with FakeVault() as vault:
        role, secret_id = vault.approle("bursar", _POLICY)
        lies = {"value": "sk-lies-there-already", "billing_owner": "ann", "allowed_models": "gpt-4o, gpt-4o-mini"}
        vault.write("llm/team-alpha/api-key", lies)
        login = {"method": "approle", "role": role, "env": "BURSAR_VAULT_LOGIN"}
        adopted = {"path": "llm/{team}/{key_type}", "address": {"provider": "openai"}, "tags_in": "data"}
        stores = {"corp": {}, "legacy": adopted}
        secrets = {"default": "corp", "vault": {n: {"url": vault.url, "login": login, **s} for n, s in stores.items()}}
        yield {"config": {"secrets": secrets}, "env": {"BURSAR_VAULT_LOGIN": secret_id}}
