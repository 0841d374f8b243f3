-- The ledger as people and reports read it: a projection of the journal, which alone is the truth.
-- Sums are decimal text in pico-USD, added up in Python: they may pass 63 bits. One attempt's amounts are integers.

CREATE TABLE position ( -- how far the journal is projected
    one INTEGER PRIMARY KEY CHECK (one = 1),
    segment INTEGER NOT NULL,
    offset INTEGER NOT NULL,
    records INTEGER NOT NULL
) STRICT;

CREATE TABLE labels ( -- who and what of an attempt: few combinations, named once
    id INTEGER PRIMARY KEY,
    key_id TEXT NOT NULL,
    team_id TEXT NOT NULL,
    owner_id TEXT NOT NULL,
    user TEXT NOT NULL,
    provider TEXT NOT NULL,
    model TEXT NOT NULL,
    secret_id TEXT NOT NULL,
    price_id TEXT NOT NULL,
    price_digest TEXT NOT NULL,
    UNIQUE (key_id, team_id, owner_id, user, provider, model, secret_id, price_id, price_digest)
) STRICT;

CREATE TABLE attempt ( -- read it through `attempts`
    hold_id INTEGER PRIMARY KEY,
    request_id TEXT NOT NULL,
    attempt INTEGER NOT NULL,
    label_id INTEGER NOT NULL REFERENCES labels (id),
    t_ns INTEGER NOT NULL, -- when it was held
    directory_version INTEGER NOT NULL,
    state TEXT NOT NULL, -- HELD, POSTED, VOIDED
    held INTEGER NOT NULL, -- pico-USD, on hard budgets, as last lowered
    cost INTEGER, -- pico-USD; NULL until posted
    overage INTEGER, -- the part of the cost above what was held
    settled_ns INTEGER,
    exact INTEGER, -- 1: by the provider's own usage
    outcome TEXT, -- how it ended, or why it was voided
    input_tokens INTEGER,
    output_tokens INTEGER,
    cache_read INTEGER,
    reasoning INTEGER,
    usage_more TEXT -- JSON of the counts that are mostly zero; NULL = all are
) STRICT;

CREATE INDEX attempt_request ON attempt (request_id);

CREATE VIEW attempts AS
    SELECT hold_id, request_id, attempt, t_ns, key_id, team_id, owner_id, user, provider, model, secret_id, price_id,
        price_digest, directory_version, state, held, cost, overage, settled_ns, exact, outcome, input_tokens,
        output_tokens, cache_read, reasoning, usage_more
    FROM attempt JOIN labels ON labels.id = label_id;

CREATE TABLE corrections ( -- what was learned after a hold's end
    segment INTEGER NOT NULL,
    offset INTEGER NOT NULL,
    hold_id INTEGER NOT NULL,
    t_ns INTEGER NOT NULL,
    delta TEXT NOT NULL, -- pico-USD on the hold's budgets; its opposite on adjustments
    reason TEXT NOT NULL,
    PRIMARY KEY (segment, offset)
) STRICT, WITHOUT ROWID;

CREATE TABLE budget_defs (
    budget_id TEXT NOT NULL,
    version INTEGER NOT NULL,
    t_ns INTEGER NOT NULL, -- in force from then on
    "limit" TEXT NOT NULL,
    hard INTEGER NOT NULL,
    mode TEXT NOT NULL,
    deleted INTEGER NOT NULL,
    window TEXT NOT NULL, -- JSON
    thresholds TEXT NOT NULL, -- JSON
    name TEXT NOT NULL,
    subject_kind TEXT NOT NULL,
    subject TEXT NOT NULL,
    PRIMARY KEY (budget_id, version, t_ns)
) STRICT, WITHOUT ROWID;

CREATE TABLE balances ( -- every window of every budget
    budget_id TEXT NOT NULL,
    window INTEGER NOT NULL, -- 1, 2, ... per budget
    start_ns INTEGER NOT NULL,
    end_ns INTEGER NOT NULL,
    "limit" TEXT NOT NULL,
    posted TEXT NOT NULL, -- includes overage and corrections
    held TEXT NOT NULL,
    overage TEXT NOT NULL,
    closed INTEGER NOT NULL,
    PRIMARY KEY (budget_id, window)
) STRICT, WITHOUT ROWID;

CREATE TABLE hourly ( -- posted attempts by the hour in which they were held, UTC
    hour INTEGER NOT NULL, -- hours since the epoch
    label_id INTEGER NOT NULL REFERENCES labels (id),
    attempts INTEGER NOT NULL,
    inexact INTEGER NOT NULL,
    input_tokens INTEGER NOT NULL,
    output_tokens INTEGER NOT NULL,
    cached_tokens INTEGER NOT NULL,
    cost TEXT NOT NULL, -- includes overage and corrections
    overage TEXT NOT NULL,
    PRIMARY KEY (hour, label_id)
) STRICT, WITHOUT ROWID;
