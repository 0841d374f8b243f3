-- What was decided about single requests at any node, for `bursar explain`. Not the ledger: it is pruned.
-- `record` is the decision as the gateway encoded it; the other columns repeat of it what is searched by.

CREATE TABLE bursar.decision (
    seq bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    request_id text NOT NULL UNIQUE,
    at_ns bigint NOT NULL,
    node text NOT NULL,
    key_id text NOT NULL,
    team_id text NOT NULL,
    word text NOT NULL,
    ordinary boolean NOT NULL, -- nothing refused it, nor would have; these go first when there are too many
    record bytea NOT NULL
);
CREATE INDEX decision_at ON bursar.decision (at_ns);
CREATE INDEX decision_ordinary ON bursar.decision (ordinary, seq);

CREATE TABLE bursar.decision_shadow_sum ( -- exact, also of calls whose record was not kept; amounts are pico-USD
    hour bigint NOT NULL, -- since the epoch, UTC
    team_id text NOT NULL,
    key_id text NOT NULL,
    control text NOT NULL,
    rule text NOT NULL,
    verdict text NOT NULL,
    word text NOT NULL,
    calls bigint NOT NULL,
    expected numeric NOT NULL,
    ceiling numeric NOT NULL,
    cost numeric NOT NULL,
    saved numeric NOT NULL,
    PRIMARY KEY (hour, team_id, key_id, control, rule, verdict, word)
);

CREATE TABLE bursar.decision_dropped ( -- decisions that were counted and not kept
    hour bigint NOT NULL,
    key_id text NOT NULL,
    why text NOT NULL,
    count bigint NOT NULL,
    PRIMARY KEY (hour, key_id, why)
);

CREATE TABLE bursar.decision_shipped ( -- the last batch of each gateway's life: what comes twice is counted once
    session text PRIMARY KEY,
    number bigint NOT NULL,
    hour bigint NOT NULL
);
