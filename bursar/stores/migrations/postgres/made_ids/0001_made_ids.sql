-- Ids of what providers keep for callers, by the team that made them: known to every node at once.

CREATE TABLE bursar.made_id (
    team text NOT NULL,
    kind text NOT NULL, -- response, item, conversation, file, batch
    id text NOT NULL,
    made_at bigint NOT NULL, -- ns
    expires_at bigint NOT NULL, -- ns
    body text NOT NULL, -- JSON of bursar.core.made_ids.MadeId
    PRIMARY KEY (team, kind, id)
);

CREATE INDEX made_id_by_age ON bursar.made_id (team, made_at);
CREATE INDEX made_id_by_end ON bursar.made_id (expires_at);
