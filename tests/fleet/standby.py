"""A PostgreSQL and its hot standby, the loss of the first, and a fleet that is told where both are."""

from pathlib import Path
from types import TracebackType
from typing import Any

from tests.faults.books import until
from tests.fleet.harness import Fleet
from tests.postgres import PostgresServer


class Pair:
    """Both run; the standby follows asynchronously until `be_synchronous`."""

    def __init__(self) -> None:
        self.primary = PostgresServer().start()
        self.database = self.primary.new_database().rpartition("/")[2]
        self.standby = PostgresServer(of=self.primary).start()
        self._all = (self.primary, self.standby)
        places = ",".join(f"127.0.0.1:{server.port}" for server in self._all)
        self.url = f"postgresql://bursar@{places}/{self.database}?target_session_attrs=read-write"
        until(lambda: self._replicated("state") == "streaming")

    def be_synchronous(self) -> None:
        """From now on what is committed stands on both."""
        for setting in ("synchronous_standby_names = '*'", "synchronous_commit = remote_apply"):
            self.primary.psql(f"ALTER SYSTEM SET {setting}")
        self.primary.psql("SELECT pg_reload_conf()")
        until(lambda: self._replicated("sync_state") == "sync")

    def cut(self) -> None:
        """The standby has what was committed before this, and hears nothing more."""
        reached = self.primary.psql("SELECT pg_current_wal_flush_lsn()")
        until(lambda: self.standby.psql(f"SELECT pg_last_wal_receive_lsn() >= '{reached}'") == "t")
        self.standby.psql("ALTER SYSTEM SET primary_conninfo = ''")
        self.standby.psql("SELECT pg_reload_conf()")
        until(lambda: not self._replicated("state"))

    def fail_over(self) -> None:
        """The primary is gone with its disk; the standby is the primary."""
        self.primary.lose()
        self.promote()

    def promote(self) -> None:
        self.standby.promote()
        self.primary = self.standby

    def _replicated(self, column: str) -> str:
        return self.primary.psql(f"SELECT {column} FROM pg_stat_replication")

    def close(self) -> None:
        for server in self._all:
            server.close()


class ReplicatedFleet(Fleet):
    """Brokers over a `Pair`."""

    def __init__(
        self, folder: Path, pair: Pair, names: tuple[str, ...], settings: dict[str, Any] | None = None
    ) -> None:
        super().__init__(folder, names, settings, server=pair.primary)
        self.pair = pair

    def __enter__(self) -> "ReplicatedFleet":
        self.url = self.pair.url
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close_nodes()

    def psql(self, statement: str) -> str:
        return self.pair.primary.psql(statement, self.pair.database)
