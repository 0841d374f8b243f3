"""The audit as control runs it: log, sinks, checkpoints, people, what is kept, and the desk that reads it."""

from collections.abc import MutableMapping
from pathlib import Path

from msgspec import structs

from bursar.app.audit_sinks import build_sinks
from bursar.app.places import checkpoints_path
from bursar.app.spec import NodeSpec
from bursar.app.stores import Closes, Stores
from bursar.control.audit import AuditLog
from bursar.control.audit_desk import AuditDesk
from bursar.control.audit_notary import Signer
from bursar.control.audit_people import People
from bursar.control.audit_retention import Retention
from bursar.core.secret import Secret
from bursar.core.units import NS_PER_S
from bursar.ports import Clock
from bursar.stores.audit_file import AuditFile
from bursar.stores.audit_people_db import PeopleDb


class Trail:
    """Everything of the audit in this process, built once inside its running loop."""

    def __init__(
        self,
        spec: NodeSpec,
        env: MutableMapping[str, str],
        stores: Stores,
        clock: Clock,
        seed: Secret,
        people_secret: Secret,
    ) -> None:
        settings, folder = spec.config.audit, Path(spec.data)
        self._sinks = build_sinks(settings, folder, spec.node, env, clock)
        self._checkpoints = AuditFile(checkpoints_path(spec.config, folder), timeout=settings.timeout)
        self._people_db = PeopleDb(folder / "audit-people.db")
        self.people = People(self._people_db, people_secret)
        self.log = AuditLog(stores.trail, self._sinks, self._checkpoints, Signer(seed), clock, veil=self.people.veil)
        self.desk = AuditDesk(stores.trail, self.log, stores.jobs, self.people)
        keep = {name: int(span * NS_PER_S) for name, span in structs.asdict(settings.retention).items() if span}
        files = [sink for sink in self._sinks if isinstance(sink, AuditFile)]
        self.retention = Retention(stores.prunable, files, self.log, Signer(seed), clock, keep, settings.spool)

    def close_files(self) -> None:
        """Once the log itself is closed."""
        closing: list[Closes] = [*self._sinks, self._checkpoints, self._people_db]
        for opened in closing:
            opened.close()
