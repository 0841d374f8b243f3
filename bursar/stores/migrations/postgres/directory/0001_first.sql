-- The directory, as bursar/stores/migrations/directory has it for one node, and what a hold looks at.

CREATE TABLE bursar.directory_head (
    id integer PRIMARY KEY CHECK (id = 1),
    version bigint NOT NULL
);
INSERT INTO bursar.directory_head VALUES (1, 0);

CREATE TABLE bursar.directory_entity (
    kind text NOT NULL,
    id text NOT NULL,
    version bigint NOT NULL, -- of the change that wrote it last
    body bytea NOT NULL, -- JSON
    PRIMARY KEY (kind, id)
);

CREATE TABLE bursar.directory_change (
    version bigint NOT NULL,
    part integer NOT NULL,
    kind text NOT NULL,
    id text NOT NULL,
    before bytea, -- SHA-256 of the body; NULL = not there
    after bytea,
    body bytea,
    action text NOT NULL,
    actor text NOT NULL,
    at_ns bigint NOT NULL,
    PRIMARY KEY (version, part)
);
CREATE INDEX directory_change_of_entity ON bursar.directory_change (kind, id, version);

-- Subjects that may not spend: a key that is disabled or gone, a team that is disabled or gone, and whatever is paused
-- beside the directory. Written in the transaction of the change itself; the act that holds money looks here, so that
-- a hold is refused on every node from the moment the change stands. A row of kind 'key' is enough for the key alone;
-- a hold looks for its key, its team and its owner.
CREATE TABLE bursar.directory_paused (
    kind text NOT NULL, -- 'key' | 'team' | 'owner' | 'provider_key'
    id text NOT NULL,
    reason text NOT NULL, -- 'disabled' | 'gone'; a word, for the refusal
    version bigint NOT NULL, -- the directory version that put it here
    PRIMARY KEY (kind, id)
);
