-- In the place of records that retention took away: what audit.db has in `pruned`, for each chain.

CREATE TABLE bursar.audit_pruned (
    chain text NOT NULL,
    first bigint NOT NULL,
    last bigint NOT NULL CHECK (last >= first),
    hash bytea NOT NULL CHECK (length(hash) = 32), -- of the run's last record
    pass bytea NOT NULL CHECK (length(pass) = 32), -- of all runs of the same pass; a signed record holds it as well
    PRIMARY KEY (chain, first)
);
CREATE TRIGGER audit_pruned_stays BEFORE UPDATE OR DELETE ON bursar.audit_pruned
    FOR EACH ROW EXECUTE FUNCTION bursar.audit_only_grows();
CREATE TRIGGER audit_pruned_remains BEFORE TRUNCATE ON bursar.audit_pruned
    FOR EACH STATEMENT EXECUTE FUNCTION bursar.audit_only_grows();

CREATE FUNCTION bursar.audit_may_go() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF coalesce((SELECT last FROM bursar.audit_pruned WHERE chain = OLD.chain AND first <= OLD.seq
                 ORDER BY first DESC LIMIT 1), 0) < OLD.seq THEN
        RAISE EXCEPTION 'the audit is append-only';
    END IF;
    RETURN OLD;
END $$;
DROP TRIGGER audit_record_stays ON bursar.audit_record;
CREATE TRIGGER audit_record_stays BEFORE UPDATE ON bursar.audit_record
    FOR EACH ROW EXECUTE FUNCTION bursar.audit_only_grows();
CREATE TRIGGER audit_record_goes BEFORE DELETE ON bursar.audit_record
    FOR EACH ROW EXECUTE FUNCTION bursar.audit_may_go();
