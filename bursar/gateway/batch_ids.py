"""What a team may know of its batches: each with its result files, on record before anybody is told of them."""

import msgspec

from bursar.core.batches import BatchState
from bursar.core.made_ids import MadeId, is_id
from bursar.core.units import NS_PER_S
from bursar.gateway.node import Node

_encode = msgspec.json.Encoder().encode


async def learn_batch(node: Node, batch: MadeId, state: BatchState) -> MadeId:
    """Write down what the provider tells: how the batch stands, and that its files are the team's.

    `batch`: what is on record of it. Raises Refusal(ids_unavailable).
    """
    told = msgspec.structs.replace(batch, about=state.shown.decode())
    if told == batch:
        return batch
    await node.made_ids.keep([told, *(_result_file(node, batch, file) for file in state.files if is_id(file))])
    return told


def _result_file(node: Node, batch: MadeId, file_id: str) -> MadeId:
    now = node.clock.now()
    about = {"id": file_id, "purpose": "batch_output", "created_at": now // NS_PER_S}
    return MadeId(
        team=batch.team,
        kind="file",
        id=file_id,
        key=batch.key,
        provider=batch.provider,
        secret=batch.secret,
        made_at=now,
        expires_at=now + node.id_lives.of("file"),
        about=_encode(about).decode(),
    )
