"""What `bursar check --connect` asks of PostgreSQL: reached, how, with which rights, at which schema."""

from collections.abc import MutableMapping
from typing import Any

import msgspec

from bursar.app.connecting import Wrong
from bursar.app.database import address_of
from bursar.app.spec import NodeSpec
from bursar.config import Config
from bursar.stores.postgres import AWAY, Postgres, said
from bursar.stores.postgres_schema import PARTS, known_version

_OLDEST = 16
_RIGHTS = """SELECT has_schema_privilege($1, 'CREATE') AS may_make, has_schema_privilege($1, 'USAGE') AS may_use"""
_MAY_MAKE_SCHEMA = "SELECT has_database_privilege(current_database(), 'CREATE')"
_NOT_MINE = """SELECT string_agg(tablename, ', ' ORDER BY tablename) FROM pg_tables WHERE schemaname = $1
    AND NOT pg_has_role(tableowner, 'MEMBER')"""
_HALF = "SELECT EXISTS (SELECT FROM {schema}.store_moving WHERE done_at IS NULL)"


async def look(config: Config, env: MutableMapping[str, str], seconds: float) -> str:
    """In a line. Raises Wrong, Refusal(invalid_input)."""
    address = address_of(NodeSpec(config=config, data=config.data, node="check"), env, "check")
    store = Postgres(msgspec.structs.replace(address, connect_timeout=seconds, statement_timeout=seconds))
    try:
        db = await store.dedicated()
    except AWAY as fault:
        raise Wrong(said(fault), "See the URL, that it runs, pg_hba.conf, and the firewall between") from None
    try:
        return await _looked(db, address.schema)
    except AWAY as fault:
        raise Wrong(said(fault), "See the rights of Bursar's role") from None
    finally:
        db.terminate()


async def _looked(db: Any, schema: str) -> str:
    version = int(await db.fetchval("SHOW server_version_num")) // 10_000
    if version < _OLDEST:
        raise Wrong(f"is PostgreSQL {version}", f"Bursar needs {_OLDEST} or later")
    if await db.fetchval("SELECT pg_is_in_recovery()"):
        raise Wrong("is a standby, which takes no writes", "Name the primary; several hosts need target_session_attrs")
    encrypted = await db.fetchval("SELECT coalesce((SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()), false)")
    told = f"PostgreSQL {version}" + (", TLS" if encrypted else "")
    if await db.fetchval("SELECT to_regnamespace($1)", schema) is None:
        if not await db.fetchval(_MAY_MAKE_SCHEMA):
            raise Wrong(
                f"the role may not make the schema {schema}", "GRANT CREATE ON DATABASE, or make the schema for it"
            )
        return f"{told}; the first start makes the schema {schema}"
    rights = await db.fetchrow(_RIGHTS, schema)
    if not (rights["may_make"] and rights["may_use"]):
        raise Wrong(
            f"the role may not make tables in {schema}", f"GRANT USAGE, CREATE ON SCHEMA {schema} to Bursar's role"
        )
    if others := await db.fetchval(_NOT_MINE, schema):
        raise Wrong(f"these tables are another role's: {others[:200]}", "Connect as their owner, or REASSIGN OWNED")
    return f"{told}; {await _versions(db, schema)}"


async def _versions(db: Any, schema: str) -> str:
    if await db.fetchval("SELECT to_regclass($1)", f"{schema}.schema_version") is None:
        return "the first start makes the tables"
    rows = {row["part"]: row for row in await db.fetch(f"SELECT part, version, needs FROM {schema}.schema_version")}  # noqa: S608 - the name was checked with the configuration
    behind = []
    for part in PARTS:
        row, known = rows.get(part), known_version(part)
        if row is not None and row["needs"] > known:
            raise Wrong(f"{part} has schema {row['version']}, this Bursar knows {known}", "Start a newer Bursar on it")
        if row is None or row["version"] < known:
            behind.append(part)
    moving = await db.fetchval("SELECT to_regclass($1)", f"{schema}.store_moving")
    if moving is not None and await db.fetchval(_HALF.format(schema=schema)):
        raise Wrong("a store is half way into this database", "Finish `bursar store migrate`")
    return f"the next start brings forward: {', '.join(behind)}" if behind else "its tables are as this Bursar has them"
