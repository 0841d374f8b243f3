-- The directory: the present value of every entity, and every change that led there.
-- Bodies are JSON of the structs in bursar/core/directory.py. Virtual keys are here as keyed digests only.

CREATE TABLE head (
    one     INTEGER PRIMARY KEY CHECK (one = 1),
    version INTEGER NOT NULL CHECK (version >= 0)
);

INSERT INTO head (one, version) VALUES (1, 0);

CREATE TABLE entity (
    kind    TEXT NOT NULL,
    id      TEXT NOT NULL,
    version INTEGER NOT NULL,            -- directory version of its last change
    body    BLOB NOT NULL,
    PRIMARY KEY (kind, id)
) WITHOUT ROWID;

-- Append-only. One version may change several entities: `part` counts them.
CREATE TABLE change (
    version INTEGER NOT NULL,
    part    INTEGER NOT NULL,
    kind    TEXT NOT NULL,
    id      TEXT NOT NULL,
    before  BLOB,                        -- SHA-256 of the body before; NULL = it is new
    after   BLOB,                        -- SHA-256 of the body after; NULL = it is gone
    body    BLOB,                        -- the body after; NULL = it is gone
    action  TEXT NOT NULL,
    actor   TEXT NOT NULL,
    at_ns   INTEGER NOT NULL,
    PRIMARY KEY (version, part)
) WITHOUT ROWID;

CREATE INDEX change_of_entity ON change (kind, id, version);

CREATE TRIGGER change_is_never_edited BEFORE UPDATE ON change
BEGIN SELECT RAISE(ABORT, 'a change is never edited'); END;

CREATE TRIGGER change_is_never_removed BEFORE DELETE ON change
BEGIN SELECT RAISE(ABORT, 'a change is never removed'); END;
