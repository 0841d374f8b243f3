-- The audit's own trail. `payload` is the record as it was hashed; the other columns repeat it for searching.

CREATE TABLE record (
    seq INTEGER PRIMARY KEY,
    at_ns INTEGER NOT NULL,
    actor TEXT NOT NULL,
    action TEXT NOT NULL,
    target TEXT NOT NULL,
    outcome TEXT NOT NULL,
    hash BLOB NOT NULL CHECK (length(hash) = 32),
    payload BLOB NOT NULL
);

-- Against slips, not against somebody who can write the file: the chain and the signed checkpoints are for that.
CREATE TRIGGER record_stays BEFORE UPDATE ON record BEGIN SELECT RAISE(ABORT, 'the audit is append-only'); END;
CREATE TRIGGER record_remains BEFORE DELETE ON record BEGIN SELECT RAISE(ABORT, 'the audit is append-only'); END;
