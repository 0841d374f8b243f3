-- What owners are to be told, written in the transaction in which it came about: no death of a node loses it. Some
-- node's control takes a row, writes it to the audit and removes it; who finds it taken for long looks there first.

CREATE TABLE bursar.ledger_event (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    t_ns bigint NOT NULL, -- of the act
    told jsonb NOT NULL, -- as the act says it
    taken_by text, -- the node that is telling it
    taken_ns bigint
);
