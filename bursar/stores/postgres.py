"""The way to PostgreSQL: a small pool of connections, one vocabulary of faults, the schema's name in every statement.

Statements are written with the schema `bursar.` in front of every table, and `Postgres.sql` puts the configured one in
its place. Nothing relies on the state of a connection (search_path, SET, prepared statements by name), so that
pgbouncer may stand between in transaction mode. What needs a connection of its own (LISTEN, a session's advisory lock)
takes a `dedicated` one, which goes to the server that the URL names.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager, suppress
from typing import Any

import asyncpg
import msgspec

from bursar.core.errors import Refusal
from bursar.core.secret import Secret

Connection = Any  # asyncpg's own: it has no types

AWAY = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError, TimeoutError)
"""What a statement or a connection can fail with. Whether a commit that failed so stands, only the database knows."""

TIMELINE = "SELECT left(pg_walfile_name(pg_current_wal_insert_lsn()), 8)"
"""Another answer since a standby was promoted, which may lack the last of what was told before it."""

_BROKEN = (OSError, TimeoutError, asyncio.CancelledError, asyncpg.InterfaceError)
_SCHEMA = re.compile(r"\bbursar\.(?=[a-z_])")
_HINT = "See whether PostgreSQL runs and answers: bursar check --connect"


class Address(msgspec.Struct, frozen=True, kw_only=True):
    """How to reach the database. Times are seconds."""

    url: Secret
    schema: str = "bursar"
    connections: int = 8
    pooler: bool = False  # something like pgbouncer stands between, in transaction mode
    connect_timeout: float = 5
    statement_timeout: float = 5
    application: str = "bursar"  # shown in pg_stat_activity


class Postgres:
    """Made inside a running loop; connects when first asked. `close()` when done."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self._pool: Any = None
        self._opening = asyncio.Lock()

    def sql(self, text: str) -> str:
        """The statement for the configured schema."""
        schema = self.address.schema
        return text if schema == "bursar" else _SCHEMA.sub(f"{schema}.", text)

    def faults(self, word: str, what: str) -> AbstractContextManager[None]:
        """See `named_faults`; for those who are handed the way to the database and import nothing of it."""
        return named_faults(word, what)

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """One of the pool, for a few statements. Raises what is in AWAY, within the address's time-outs.

        A connection that was left in the middle of something is not given back but cut.
        """
        pool = self._pool or await self._open()
        connection = await pool.acquire(timeout=self.address.connect_timeout)
        try:
            yield connection
        except _BROKEN:
            with suppress(asyncpg.InterfaceError):  # cut from the other side, the pool has taken it back already
                connection.terminate()
            raise
        finally:
            await pool.release(connection)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """The same, inside a transaction (read committed). Whether it stands when COMMIT fails is not known."""
        async with self.connection() as connection:
            await connection.execute("BEGIN")
            try:
                yield connection
            except _BROKEN:
                raise  # nothing more can be said on this connection; the server rolls back as it is cut
            except BaseException:
                await connection.execute("ROLLBACK")
                raise
            await connection.execute("COMMIT")

    async def dedicated(self) -> Connection:
        """A connection outside the pool, the caller's to close. Raises what is in AWAY."""
        return await asyncpg.connect(**_options(self.address))

    async def close(self) -> None:
        """Close politely, and within a second in any case."""
        pool, self._pool = self._pool, None
        if pool is None:
            return
        try:
            async with asyncio.timeout(1):
                await pool.close()
        except AWAY:
            pool.terminate()

    async def _open(self) -> Any:
        async with self._opening:
            if self._pool is None:
                options = _options(self.address)
                most = self.address.connections
                self._pool = await asyncpg.create_pool(min_size=0, max_size=most, reset=_keep, **options)
            return self._pool


def _options(address: Address) -> dict[str, Any]:
    """What asyncpg is told. A pooler lets no settings of ours through; time-outs are then kept on this side alone."""
    options: dict[str, Any] = {
        "dsn": address.url.reveal(),
        "timeout": address.connect_timeout,
        "command_timeout": address.statement_timeout,
    }
    if address.pooler:
        return {**options, "statement_cache_size": 0}
    settings = {
        "application_name": address.application,
        "statement_timeout": str(int(address.statement_timeout * 1000)),
        "idle_in_transaction_session_timeout": str(int(address.statement_timeout * 2000)),
        "jit": "off",  # compiling costs more than any statement of ours takes
        "timezone": "UTC",
    }
    return {**options, "server_settings": settings}


async def _keep(connection: Connection) -> None:
    """Nothing of ours changes a pooled connection, so that giving it back needs no round trip."""


@contextmanager
def named_faults(word: str, what: str) -> Iterator[None]:
    """Any fault of the database as Refusal(word): "WHAT: why", without a value, a URL or a credential."""
    try:
        yield
    except AWAY as fault:
        raise Refusal(word, f"{what}: {said(fault)}", _HINT, retry_after=1) from None


def said(fault: BaseException) -> str:
    """The fault in one line: the server's own message without its detail, which can quote a value."""
    if isinstance(fault, TimeoutError):
        return "PostgreSQL did not answer in time"
    if isinstance(fault, OSError):
        return f"PostgreSQL cannot be reached ({fault.strerror or type(fault).__name__})"
    return str(fault.args[0] if fault.args else type(fault).__name__).splitlines()[0]
