-- By what kind of credential a call came ('' = a virtual key itself, 'token', 'federation'), and whom a token was made
-- out to. What was projected before came by virtual keys.

DROP VIEW attempts;

CREATE TABLE labels_new (
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
    credential TEXT NOT NULL,
    UNIQUE (key_id, team_id, owner_id, user, provider, model, secret_id, price_id, price_digest, credential)
) STRICT;

INSERT INTO labels_new
    SELECT id, key_id, team_id, owner_id, user, provider, model, secret_id, price_id, price_digest, '' FROM labels;

CREATE TABLE attempt_new ( -- read it through `attempts`
    hold_id INTEGER PRIMARY KEY,
    request_id TEXT NOT NULL,
    attempt INTEGER NOT NULL,
    label_id INTEGER NOT NULL,
    t_ns INTEGER NOT NULL, -- when it was held
    directory_version INTEGER NOT NULL,
    caller TEXT, -- NULL = nobody in particular
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

INSERT INTO attempt_new
    SELECT hold_id, request_id, attempt, label_id, t_ns, directory_version, NULL, state, held, cost, overage,
        settled_ns, exact, outcome, input_tokens, output_tokens, cache_read, reasoning, usage_more FROM attempt;

DROP TABLE attempt;
DROP TABLE labels;
ALTER TABLE labels_new RENAME TO labels;
ALTER TABLE attempt_new RENAME TO attempt;

CREATE INDEX attempt_request ON attempt (request_id);

CREATE VIEW attempts AS
    SELECT hold_id, request_id, attempt, t_ns, key_id, team_id, owner_id, user, provider, model, secret_id, price_id,
        price_digest, directory_version, state, held, cost, overage, settled_ns, exact, outcome, input_tokens,
        output_tokens, cache_read, reasoning, usage_more, credential, caller
    FROM attempt JOIN labels ON labels.id = label_id;
