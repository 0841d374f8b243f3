-- The audit of a fleet: a chain for each node, as audit.db has one for its own. `payload` is the record as it was
-- hashed; the other columns repeat it for searching.

CREATE TABLE bursar.audit_record (
    chain text NOT NULL, -- the node's name
    seq bigint NOT NULL,
    at_ns bigint NOT NULL,
    actor text NOT NULL,
    action text NOT NULL,
    target text NOT NULL,
    outcome text NOT NULL,
    hash bytea NOT NULL CHECK (length(hash) = 32),
    payload bytea NOT NULL,
    PRIMARY KEY (chain, seq)
);
CREATE INDEX audit_record_at ON bursar.audit_record (at_ns);

-- Against slips, not against somebody who owns the database: the chain and the signed checkpoints are for that.
CREATE FUNCTION bursar.audit_only_grows() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the audit is append-only';
END $$;
CREATE TRIGGER audit_record_stays BEFORE UPDATE OR DELETE ON bursar.audit_record
    FOR EACH ROW EXECUTE FUNCTION bursar.audit_only_grows();
CREATE TRIGGER audit_record_remains BEFORE TRUNCATE ON bursar.audit_record
    FOR EACH STATEMENT EXECUTE FUNCTION bursar.audit_only_grows();
