-- Provider keys, sealed. Nothing in this file opens without a wrapping key, which is never in it.

CREATE TABLE secret (
    id TEXT PRIMARY KEY,
    address TEXT NOT NULL,              -- provider/model/key_type/environment/team
    tags TEXT NOT NULL,                 -- JSON object of texts; bound into every sealed version, as the address is
    disabled INTEGER NOT NULL DEFAULT 0 CHECK (disabled IN (0, 1)),
    created_at INTEGER NOT NULL,        -- ns
    updated_at INTEGER NOT NULL,
    destroyed_at INTEGER
);

CREATE UNIQUE INDEX secret_address ON secret (address) WHERE destroyed_at IS NULL;

CREATE TABLE version (
    secret_id TEXT NOT NULL REFERENCES secret (id),
    version INTEGER NOT NULL CHECK (version > 0),
    state TEXT NOT NULL CHECK (state IN ('current', 'previous', 'destroyed')),
    sealed BLOB,                        -- bursar.secrets.sealing, NULL once destroyed
    fingerprint BLOB,                   -- keyed digest of the value, to notice the same key stored twice
    created_at INTEGER NOT NULL,
    PRIMARY KEY (secret_id, version),
    CHECK ((state = 'destroyed') = (sealed IS NULL)),
    CHECK ((sealed IS NULL) = (fingerprint IS NULL))
);

CREATE UNIQUE INDEX version_current ON version (secret_id) WHERE state = 'current';
CREATE INDEX version_fingerprint ON version (fingerprint) WHERE fingerprint IS NOT NULL;

-- Bursar's own small secrets: peppers, signing keys, the admin token.
CREATE TABLE internal (
    name TEXT PRIMARY KEY,
    sealed BLOB NOT NULL,
    created_at INTEGER NOT NULL
);
