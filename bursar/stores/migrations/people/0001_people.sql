-- One row a person whom the audit has met. Without the wrapping key of the vault no row tells whom it is about.
CREATE TABLE person (
    pseudonym TEXT PRIMARY KEY,         -- as it stands in the records
    lookup BLOB NOT NULL UNIQUE,        -- keyed digest of the name, to find the row again
    sealed BLOB NOT NULL                -- the person's key, under the audit's own (bursar.control.audit_people)
);
