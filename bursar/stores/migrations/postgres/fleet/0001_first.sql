-- The nodes of a fleet, and turns at what is to be done once in a fleet.

CREATE TABLE bursar.fleet_node (
    name text PRIMARY KEY,
    identity text NOT NULL, -- of its data folder: the same node may come back at once, another of its name may not
    version text NOT NULL, -- of Bursar
    host text NOT NULL,
    directory_version bigint NOT NULL,
    gateways integer NOT NULL, -- connected to its control
    joined_at timestamptz NOT NULL DEFAULT now(),
    seen_at timestamptz NOT NULL DEFAULT now(),
    lease interval NOT NULL -- silent for longer: gone
);

CREATE TABLE bursar.fleet_turn (
    name text PRIMARY KEY,
    node text NOT NULL, -- whose turn it is, or was
    until timestamptz NOT NULL -- nobody else's before
);
