-- For people who look: by what was acted on, by what was done, by time.

CREATE INDEX record_target ON record (target);
CREATE INDEX record_action ON record (action);
CREATE INDEX record_at ON record (at_ns);
