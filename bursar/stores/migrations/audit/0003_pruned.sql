-- In the place of records that retention took away: runs of them, the hash of each run's last record, and the digest of
-- all runs of the same pass, which a signed record of the chain holds as well.
CREATE TABLE pruned (
    first INTEGER PRIMARY KEY,
    last INTEGER NOT NULL CHECK (last >= first),
    hash BLOB NOT NULL CHECK (length(hash) = 32),
    pass BLOB NOT NULL CHECK (length(pass) = 32)
);

CREATE TRIGGER pruned_stays BEFORE UPDATE ON pruned BEGIN SELECT RAISE(ABORT, 'the audit is append-only'); END;
CREATE TRIGGER pruned_remains BEFORE DELETE ON pruned BEGIN SELECT RAISE(ABORT, 'the audit is append-only'); END;

DROP TRIGGER record_remains;
CREATE TRIGGER record_remains BEFORE DELETE ON record
WHEN coalesce((SELECT last FROM pruned WHERE first <= OLD.seq ORDER BY first DESC LIMIT 1), 0) < OLD.seq
BEGIN SELECT RAISE(ABORT, 'the audit is append-only'); END;
