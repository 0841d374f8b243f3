-- A store that is brought from one node's data folder: no node begins before it is whole.

CREATE TABLE bursar.store_moving (
    one integer PRIMARY KEY CHECK (one = 1),
    source bytea NOT NULL, -- tells that folder from another: none but it may go on
    began_at timestamptz NOT NULL DEFAULT now(),
    done_at timestamptz -- NULL: half way
);
