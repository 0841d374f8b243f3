-- What was decided about single requests, for `bursar explain`. Not the ledger: it may be deleted, and is pruned.
-- `record` is the decision as the gateway encoded it; the other columns repeat of it what is searched by.

CREATE TABLE decision (
    seq INTEGER PRIMARY KEY, -- the order in which they came
    request_id TEXT NOT NULL UNIQUE,
    at_ns INTEGER NOT NULL,
    node TEXT NOT NULL,
    key_id TEXT NOT NULL,
    team_id TEXT NOT NULL,
    word TEXT NOT NULL,
    ordinary INTEGER NOT NULL, -- 1: nothing refused it, nor would have; these go first when there are too many
    record BLOB NOT NULL
) STRICT;

CREATE INDEX decision_at ON decision (at_ns);
CREATE INDEX decision_ordinary ON decision (ordinary, seq);

CREATE TABLE shadow_sum ( -- exact, also of calls whose record was not kept; amounts are decimal text in pico-USD
    hour INTEGER NOT NULL, -- since the epoch, UTC
    team_id TEXT NOT NULL,
    key_id TEXT NOT NULL,
    control TEXT NOT NULL,
    rule TEXT NOT NULL,
    verdict TEXT NOT NULL,
    word TEXT NOT NULL,
    calls INTEGER NOT NULL,
    expected TEXT NOT NULL,
    ceiling TEXT NOT NULL,
    cost TEXT NOT NULL,
    saved TEXT NOT NULL,
    PRIMARY KEY (hour, team_id, key_id, control, rule, verdict, word)
) STRICT, WITHOUT ROWID;

CREATE TABLE dropped ( -- decisions that were counted and not kept
    hour INTEGER NOT NULL,
    key_id TEXT NOT NULL,
    why TEXT NOT NULL,
    count INTEGER NOT NULL,
    PRIMARY KEY (hour, key_id, why)
) STRICT, WITHOUT ROWID;

CREATE TABLE shipped ( -- the last batch of each gateway's life: what comes twice is counted once
    session TEXT PRIMARY KEY,
    number INTEGER NOT NULL,
    hour INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
