-- Provider keys, sealed, as bursar/secrets/migrations has them for one node. Nothing here opens without a wrapping key,
-- which is never in the database.

CREATE TABLE bursar.secret (
    id text PRIMARY KEY,
    address text NOT NULL, -- provider/model/key_type/environment/team
    tags text NOT NULL, -- JSON object of texts; bound into every sealed version, as the address is
    disabled boolean NOT NULL DEFAULT false,
    created_at bigint NOT NULL, -- ns
    updated_at bigint NOT NULL,
    destroyed_at bigint
);
CREATE UNIQUE INDEX secret_address ON bursar.secret (address) WHERE destroyed_at IS NULL;

CREATE TABLE bursar.secret_version (
    secret_id text NOT NULL REFERENCES bursar.secret (id),
    version integer NOT NULL CHECK (version > 0),
    state text NOT NULL CHECK (state IN ('current', 'previous', 'destroyed')),
    sealed bytea, -- bursar.secrets.sealing; NULL once destroyed
    fingerprint bytea, -- keyed digest of the value, to notice the same key stored twice
    created_at bigint NOT NULL,
    PRIMARY KEY (secret_id, version),
    CHECK ((state = 'destroyed') = (sealed IS NULL)),
    CHECK ((sealed IS NULL) = (fingerprint IS NULL))
);
CREATE UNIQUE INDEX secret_version_current ON bursar.secret_version (secret_id) WHERE state = 'current';
CREATE INDEX secret_version_fingerprint ON bursar.secret_version (fingerprint) WHERE fingerprint IS NOT NULL;

-- Bursar's own small secrets: peppers, signing keys, the admin token. Shared, so that a key works on every node.
CREATE TABLE bursar.secret_internal (
    name text PRIMARY KEY,
    sealed bytea NOT NULL,
    created_at bigint NOT NULL
);
