-- One budget of requests per account over all replicas (sell-api.md, "one request budget per account").

CREATE TABLE budgets (
    account text        NOT NULL,
    turn    bigint      NOT NULL DEFAULT 0,
    book    text        NOT NULL DEFAULT '{}',
    at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT budgets_pkey PRIMARY KEY (account)
) WITH (fillfactor = 20);
COMMENT ON TABLE budgets IS 'What an account''s requests of the last hour were, and which slices of its budget replicas hold. Its row is the lock under which slices are given; losing it costs no event.';
COMMENT ON COLUMN budgets.account IS 'The configured name: a name of its own, because a standby that owns no shard pays from it too.';
COMMENT ON COLUMN budgets.turn IS 'Counts the slices.';
COMMENT ON COLUMN budgets.book IS 'JSON, of the program alone: counts of requests by the second or minute, and the replicas with what they hold and until when.';
COMMENT ON COLUMN budgets.at IS 'When the last slice was given.';
