-- What a call was for ('' = inference). What was projected before is called that.

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
    purpose TEXT NOT NULL,
    UNIQUE (key_id, team_id, owner_id, user, provider, model, secret_id, price_id, price_digest, credential, purpose)
) STRICT;

INSERT INTO labels_new SELECT *, '' FROM labels;
DROP TABLE labels;
ALTER TABLE labels_new RENAME TO labels;

CREATE VIEW attempts AS
    SELECT hold_id, request_id, attempt, t_ns, key_id, team_id, owner_id, user, provider, model, secret_id, price_id,
        price_digest, directory_version, state, held, cost, overage, settled_ns, exact, outcome, input_tokens,
        output_tokens, cache_read, reasoning, usage_more, credential, caller, purpose
    FROM attempt JOIN labels ON labels.id = label_id;
