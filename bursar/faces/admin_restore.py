"""Backup and restore over the admin API: a backup is noted in the audit, a restored node is released."""

from bursar.core.restore import Restored
from bursar.faces.admin_calls import AdminCall
from bursar.faces.admin_route import Route
from bursar.faces.admin_shapes import Shape, instant


class BackupNote(Shape, frozen=True, kw_only=True):
    file: str  # where it will be


class RestoreView(Shape, frozen=True, kw_only=True):
    """What happened after `taken` (the backup) is missing, but for what was replayed up to `known_until`."""

    paused: bool
    restored: str | None = None
    taken: str | None = None
    known_until: str | None = None
    repeat: tuple[str, ...] = ()


def _view(state: Restored | None) -> RestoreView:
    if state is None:
        return RestoreView(paused=False)
    replayed = state.replayed
    return RestoreView(
        paused=True,
        restored=instant(state.restored_ns),
        taken=instant(state.taken_ns),
        known_until=instant(replayed.until_ns) if replayed else None,
        repeat=replayed.repeat if replayed else (),
    )


async def note_backup(call: AdminCall) -> None:
    given: BackupNote = call.body
    await call.services.restored.note_backup(call.actor, given.file)


async def show_restore(call: AdminCall) -> object:
    return _view(call.services.restored.state())


async def acknowledge(call: AdminCall) -> object:
    return _view(await call.services.restored.acknowledge(call.actor))


ROUTES = (
    Route(
        "POST",
        "/backups",
        "Note in the audit that a backup is being taken",
        note_backup,
        body=BackupNote,
        refusals=("audit_unavailable",),
    ),
    Route("GET", "/restore", "Whether this node was restored and is paused", show_restore, RestoreView),
    Route(
        "POST",
        "/restore/acknowledge",
        "Serve again after a restore",
        acknowledge,
        RestoreView,
        refusals=("unknown_id", "audit_unavailable"),
    ),
)
