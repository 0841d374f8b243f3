-- Money of many nodes: the ledger, and the balances that it adds up to, always changed in one transaction.
-- Amounts are pico-USD, instants nanoseconds since the epoch by this database's clock. One attempt's amounts fit 63 bits;
-- sums may not. What is decided here is what bursar/core/ledger.py decides: tests compare them on any history.

-- ---- the ledger: only ever added to, a partition a month

CREATE SEQUENCE bursar.ledger_seq;

CREATE TABLE bursar.ledger (
    seq bigint NOT NULL, -- the order of any one budget: drawn while its row is locked
    t_ns bigint NOT NULL,
    kind smallint NOT NULL, -- 2 define, 3 window, 4 hold, 5 shrink, 6 post, 7 void, 8 correct: the tags of ledger_records.py
    hold_id bigint,
    label bigint, -- hold, post: who and what; see ledger_label
    request_id text, -- hold
    attempt smallint, -- hold
    directory_version bigint, -- hold
    amount bigint, -- hold, shrink: the ceiling; post: the cost; correct: what each leg gets, its opposite goes to adjustments
    held bigint, -- shrink: what is released of it; post, void: what was held on each hard leg
    expected bigint, -- hold, post, void: held on each soft leg
    overage bigint, -- post: the part of the cost above what was held
    input_tokens bigint, -- hold: the ceiling; else usage
    output_tokens bigint,
    cache_read bigint,
    reasoning bigint,
    usage_more jsonb, -- counts that are mostly zero
    held_ns bigint, -- post: when it was held
    exact boolean, -- post: by the provider's own usage
    word text, -- post: how it ended; void, correct: why
    legs bigint[], -- hold, correct: budget, version of its definition, window, 1 = hard; four numbers a leg
    asked integer[], -- hold: the budgets that apply, where some are not in use and have no leg
    body jsonb, -- define, window: the record
    PRIMARY KEY (seq, t_ns)
) PARTITION BY RANGE (t_ns);

CREATE INDEX ledger_of_hold ON bursar.ledger (hold_id) WHERE kind = 4;
CREATE INDEX ledger_of_posts ON bursar.ledger USING brin (held_ns);

CREATE FUNCTION bursar.ledger_only_grows() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the ledger is only ever added to: book a correction' USING ERRCODE = 'restrict_violation';
END $$;

CREATE TRIGGER only_grows BEFORE UPDATE OR DELETE ON bursar.ledger
    FOR EACH ROW EXECUTE FUNCTION bursar.ledger_only_grows();
CREATE TRIGGER only_grows_whole BEFORE TRUNCATE ON bursar.ledger
    FOR EACH STATEMENT EXECUTE FUNCTION bursar.ledger_only_grows();

-- What no month takes, so that a missing partition never closes money.
CREATE TABLE bursar.ledger_rest PARTITION OF bursar.ledger DEFAULT;
CREATE TRIGGER only_grows_whole BEFORE TRUNCATE ON bursar.ledger_rest
    FOR EACH STATEMENT EXECUTE FUNCTION bursar.ledger_only_grows();

-- The months from this one on that have no partition yet get one; how many did. Attached, so that nobody waits.
CREATE FUNCTION bursar.ledger_months(p_ahead integer) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    v_first timestamptz;
    v_name text;
    v_made integer := 0;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('bursar.ledger_months', 0));
    FOR i IN 0 .. p_ahead LOOP
        v_first := (date_trunc('month', now() AT TIME ZONE 'UTC') + make_interval(months => i)) AT TIME ZONE 'UTC';
        v_name := 'bursar.ledger_' || to_char(v_first AT TIME ZONE 'UTC', 'YYYY_MM');
        CONTINUE WHEN to_regclass(v_name) IS NOT NULL;
        BEGIN
            EXECUTE 'CREATE TABLE ' || v_name || ' (LIKE bursar.ledger INCLUDING ALL)';
            EXECUTE 'ALTER TABLE bursar.ledger ATTACH PARTITION ' || v_name || format(' FOR VALUES FROM (%s) TO (%s)',
                extract(epoch FROM v_first)::bigint * 1000000000,
                extract(epoch FROM (v_first AT TIME ZONE 'UTC' + interval '1 month') AT TIME ZONE 'UTC')::bigint * 1000000000);
            EXECUTE 'CREATE TRIGGER only_grows_whole BEFORE TRUNCATE ON ' || v_name
                || ' FOR EACH STATEMENT EXECUTE FUNCTION bursar.ledger_only_grows()';
            v_made := v_made + 1;
        EXCEPTION WHEN check_violation THEN
            NULL; -- rows of that month are in the rest already: there it stays
        END;
    END LOOP;
    RETURN v_made;
END $$;

SELECT bursar.ledger_months(2);

-- ---- names: few combinations, written once

CREATE TABLE bursar.ledger_label (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    digest bytea NOT NULL UNIQUE, -- SHA-256 of the names
    key_id text NOT NULL,
    team_id text NOT NULL,
    owner_id text NOT NULL,
    secret_id text NOT NULL,
    names jsonb NOT NULL -- all of the request that says who and what, by field
);

-- ---- budgets and their windows

CREATE TABLE bursar.ledger_definition ( -- the newest of each budget; the ledger has all of them
    budget integer PRIMARY KEY,
    id text NOT NULL UNIQUE,
    body jsonb NOT NULL -- a DefineRecord
);

CREATE TABLE bursar.ledger_budget ( -- a narrow row, for it is written with every act
    no integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    version bigint NOT NULL,
    "limit" numeric NOT NULL,
    hard boolean NOT NULL,
    enforced boolean NOT NULL,
    tracked boolean NOT NULL,
    marks numeric[] NOT NULL, -- amounts at which the owner is told
    next_mark numeric, -- the next of them
    floor bigint NOT NULL DEFAULT 0,
    last_number integer NOT NULL DEFAULT 0,
    number integer NOT NULL DEFAULT 0, -- the current window; 0 = none is open
    start_ns bigint NOT NULL DEFAULT 0,
    end_ns bigint NOT NULL DEFAULT 0,
    posted numeric NOT NULL DEFAULT 0, -- in the current window
    held numeric NOT NULL DEFAULT 0,
    overage numeric NOT NULL DEFAULT 0,
    closed boolean NOT NULL DEFAULT false,
    other_posted numeric NOT NULL DEFAULT 0, -- in other windows that count now
    other_held numeric NOT NULL DEFAULT 0,
    other_closed boolean NOT NULL DEFAULT false
) WITH (fillfactor = 40, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000);

CREATE TABLE bursar.ledger_window ( -- all windows that are known but the current one
    budget integer NOT NULL,
    number integer NOT NULL,
    start_ns bigint NOT NULL,
    end_ns bigint NOT NULL,
    posted numeric NOT NULL,
    held numeric NOT NULL,
    overage numeric NOT NULL,
    closed boolean NOT NULL,
    retired boolean NOT NULL,
    counted boolean NOT NULL,
    PRIMARY KEY (budget, number)
);

-- ---- nodes and their holds

CREATE TABLE bursar.ledger_session ( -- one life of one node; a hold's id begins with it
    id integer GENERATED ALWAYS AS IDENTITY (MAXVALUE 16777215) PRIMARY KEY,
    node text NOT NULL,
    began_ns bigint NOT NULL,
    seen_ns bigint NOT NULL,
    lease_ns bigint NOT NULL, -- silent for longer: taken for dead
    last_hold bigint NOT NULL, -- no hold with this id or a lower one can be made any more
    ended_ns bigint,
    ended_by integer, -- the session that books what it left open
    recovered_ns bigint -- nothing of it is open any more
) WITH (fillfactor = 40);
CREATE INDEX ledger_session_open ON bursar.ledger_session (id) WHERE recovered_ns IS NULL;

CREATE TABLE bursar.ledger_hold ( -- the holds that are open
    id bigint PRIMARY KEY, -- session * 2^39 + count
    t_ns bigint NOT NULL,
    label bigint NOT NULL,
    request_id text NOT NULL,
    ceiling bigint NOT NULL, -- as last lowered
    expected bigint NOT NULL,
    legs bigint[] NOT NULL
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);

CREATE TABLE bursar.ledger_late ( -- holds posted as unreconciled: their node may yet say what they cost
    hold_id bigint PRIMARY KEY,
    t_ns bigint NOT NULL,
    cost bigint NOT NULL,
    legs bigint[] NOT NULL
);
