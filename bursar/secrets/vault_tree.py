"""Which secrets of a KV engine are of a layout: only the folders that it names are listed."""

import re

from bursar.core.layout import Layout, pattern_of
from bursar.secrets.vault_login import VaultClient

_MOST_PATHS = 10_000


async def walk(client: VaultClient, mount: str, layout: Layout) -> list[str]:
    """Every path that the layout can mean. Raises Refusal. A folder that is not there holds nothing."""
    folders = [""]
    *inner, last = layout.segments
    for segment in inner:
        if "{" not in segment:
            folders = [f"{folder}{segment}/" for folder in folders]
            continue
        folders = [
            f"{folder}{name}" for folder in folders for name in await _below(client, mount, folder, segment, "/")
        ]
    if "{" not in last:
        return [f"{folder}{last}" for folder in folders]
    return [f"{folder}{name}" for folder in folders for name in await _below(client, mount, folder, last, "")]


async def _below(client: VaultClient, mount: str, folder: str, segment: str, end: str) -> list[str]:
    """Names in a folder that fit a segment of the template; with `end` "/" the folders, else the secrets."""
    reply = await client.ask("GET", f"{mount}/metadata/{folder}", query="list=true")  # proxies know no LIST
    names = reply.data.get("keys") or []
    fits = re.compile(pattern_of(segment) + re.escape(end))
    return [name for name in names[:_MOST_PATHS] if isinstance(name, str) and fits.fullmatch(name)]
