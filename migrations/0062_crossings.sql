-- A sink's cursor tells by which void it came where it stands; the ledger says whether it is this one.

ALTER TABLE voids ADD COLUMN chain_before bytea NOT NULL DEFAULT '';
COMMENT ON COLUMN voids.chain_before IS 'The chain at after_seq; empty where an older program did not note it.';
