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
    commit_id text NOT NULL, -- of the transaction: by it a node whose connection broke finds out whether its change stands
    PRIMARY KEY (version, part)
);
CREATE INDEX directory_change_of_entity ON bursar.directory_change (kind, id, version);

CREATE FUNCTION bursar.directory_change_is_kept() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'a change is never edited or removed';
END $$;
CREATE TRIGGER directory_change_is_kept BEFORE UPDATE OR DELETE ON bursar.directory_change
    FOR EACH ROW EXECUTE FUNCTION bursar.directory_change_is_kept();

-- Subjects that may not spend: what is disabled, and what is gone. Written in the transaction of the change itself. The
-- act that holds money looks here for its key, its team, its owner and its provider key, so that a hold is refused on
-- every node from the moment the change stands, whatever that node has heard of the directory.
CREATE TABLE bursar.directory_paused (
    kind text NOT NULL, -- 'key' | 'team' | 'owner' | 'provider_key'
    id text NOT NULL,
    reason text NOT NULL, -- 'disabled' | 'gone'
    version bigint NOT NULL, -- the directory version that put it here
    PRIMARY KEY (kind, id)
);
