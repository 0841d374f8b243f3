"""The checklist over the admin API."""

from bursar.control.checklist import CheckLine
from bursar.faces.admin_calls import AdminCall
from bursar.faces.admin_route import Route
from bursar.faces.admin_shapes import Shape, instant


class ChecklistView(Shape, frozen=True, kw_only=True):
    """`failing` counts the lines that do not pass; those that cannot be seen are not among them."""

    at: str
    node: str
    failing: int
    lines: tuple[CheckLine, ...]


async def read_checklist(call: AdminCall) -> object:
    services = call.services
    lines = await services.checklist.read()
    return ChecklistView(
        at=instant(services.directory.now()),
        node=services.status.read().facts.node,
        failing=sum(line.verdict == "fail" for line in lines),
        lines=tuple(lines),
    )


ROUTES = (
    Route(
        "GET",
        "/checklist",
        "The playbook as live lines: each passes, fails with what mends it, or cannot be seen",
        read_checklist,
        ChecklistView,
        refusals=("secrets_unavailable", "ledger_unreadable"),
    ),
)
