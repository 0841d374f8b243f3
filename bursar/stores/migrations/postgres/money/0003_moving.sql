-- A ledger that is brought from a node's journal, a piece a transaction: how far it has come, so that it can go on.

CREATE TABLE bursar.ledger_moving (
    one integer PRIMARY KEY CHECK (one = 1),
    source bytea NOT NULL, -- of the first record of the journal it comes from: no other may go on
    records bigint NOT NULL, -- that have been read
    rows bigint NOT NULL, -- that were written: the last place in the order
    done_ns bigint -- NULL: no node may begin
);

-- The partition of the month of an instant.
CREATE FUNCTION bursar.ledger_month_of(p_t_ns bigint) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    v_first timestamptz := date_trunc('month', to_timestamp(p_t_ns / 1000000000) AT TIME ZONE 'UTC') AT TIME ZONE 'UTC';
    v_name text := 'bursar.ledger_' || to_char(v_first AT TIME ZONE 'UTC', 'YYYY_MM');
BEGIN
    IF to_regclass(v_name) IS NULL THEN
        EXECUTE 'CREATE TABLE ' || v_name || ' (LIKE bursar.ledger INCLUDING ALL)';
        EXECUTE 'ALTER TABLE bursar.ledger ATTACH PARTITION ' || v_name || format(' FOR VALUES FROM (%s) TO (%s)',
            extract(epoch FROM v_first)::bigint * 1000000000,
            extract(epoch FROM (v_first AT TIME ZONE 'UTC' + interval '1 month') AT TIME ZONE 'UTC')::bigint * 1000000000);
        EXECUTE 'CREATE TRIGGER only_grows_whole BEFORE TRUNCATE ON ' || v_name
            || ' FOR EACH STATEMENT EXECUTE FUNCTION bursar.ledger_only_grows()';
    END IF;
END $$;
