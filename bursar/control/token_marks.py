"""What is remembered of single tokens until they have expired: entries of the directory, so that every node knows."""

import hashlib
from collections.abc import Mapping

from bursar.control.directory import Book, Change, Directory
from bursar.core.directory import Kind, TokenMark, revoked_mark
from bursar.core.errors import Refusal

_MOST_SWEPT = 200  # marks that are over, taken away with the next one made


class TokenMarks:
    def __init__(self, directory: Directory) -> None:
        self._directory = directory

    async def revoke(self, actor: str, jti: str, until: int, facts: Mapping[str, str | int]) -> None:
        """`until`: when the token has expired anyway, ns."""
        await self._put(actor, "token.revoke", f"token/{jti}", TokenMark(id=revoked_mark(jti), until=until), facts)

    async def use_up(self, actor: str, issuer: str, jti: str, until: int) -> None:
        """Once only: raises Refusal(subject_replayed) the second time, on whichever node."""
        name = hashlib.sha256(f"{issuer}\0{jti}".encode()).hexdigest()[:40]
        await self._put(actor, "token.use_up", f"subject/{name}", TokenMark(id=f"used/{name}", until=until), {}, True)

    def is_revoked(self, jti: str) -> bool:
        return self._directory.book.find(TokenMark, revoked_mark(jti)) is not None

    async def _put(
        self, actor: str, action: str, target: str, mark: TokenMark, facts: Mapping[str, str | int], once: bool = False
    ) -> None:
        def decide(book: Book) -> Change:
            now = self._directory.now()
            known = book.find(TokenMark, mark.id)
            if once and known is not None and known.until > now:
                raise Refusal("subject_replayed", "The subject token was used before", "Fetch a new one")
            over = [old.id for old in book.all(TokenMark) if old.until <= now and old.id != mark.id][:_MOST_SWEPT]
            gone: list[tuple[Kind, str]] = [("token_mark", mark_id) for mark_id in over]
            return Change(action=action, target=target, put=[mark], gone=gone, facts=facts)

        await self._directory.change(actor, decide)
