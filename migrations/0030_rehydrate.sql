-- A ledger that was rewound behind Kafka (a restored backup, a fail-over that lost commits): what its seqs were used for
-- by then, and what its sinks have delivered of it (design.md section 5).

ALTER TABLE shards ADD COLUMN home text;
COMMENT ON COLUMN shards.home IS 'The database that it was last owned in: server, timeline, address. Another one means a restore, a fail-over or a copy; null until an owner has noted it.';

CREATE TABLE voids (
    shard     smallint    NOT NULL,
    after_seq bigint      NOT NULL,
    to_seq    bigint      NOT NULL,
    chain     bytea       NOT NULL,
    at        timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT voids_pkey PRIMARY KEY (shard, after_seq),
    CONSTRAINT voids_shard_fkey FOREIGN KEY (shard) REFERENCES shards (shard),
    CONSTRAINT voids_is_a_range CHECK (after_seq < to_seq),
    CONSTRAINT voids_chain_is_sha256 CHECK (octet_length(chain) = 32)
);
COMMENT ON TABLE voids IS 'Seqs that stay without an event for good: Kafka has messages under them whose rows the ledger lost. What they were comes again from the source under new seqs.';
COMMENT ON COLUMN voids.shard IS 'The shard.';
COMMENT ON COLUMN voids.after_seq IS 'The last seq before the range: the head when it was marked.';
COMMENT ON COLUMN voids.to_seq IS 'The last seq of the range: the cursor of the sink that had come furthest.';
COMMENT ON COLUMN voids.chain IS 'The hash chain at to_seq, which is that sink''s: what is recorded next links to what it has delivered.';
COMMENT ON COLUMN voids.at IS 'When it was marked.';

CREATE TABLE rehydrations (
    sink         text        NOT NULL,
    shard        smallint    NOT NULL,
    seq          bigint      NOT NULL,
    chain        bytea       NOT NULL,
    base         bigint      NOT NULL,
    until        bigint      NOT NULL,
    reclaimed_to bigint      NOT NULL,
    goes_on      bigint      NOT NULL,
    skips        bigint      NOT NULL DEFAULT 0,
    reclaimed    bigint      NOT NULL DEFAULT 0,
    at           timestamptz NOT NULL DEFAULT clock_timestamp(),
    done_at      timestamptz,
    CONSTRAINT rehydrations_pkey PRIMARY KEY (sink, shard, seq, chain),
    CONSTRAINT rehydrations_shard_fkey FOREIGN KEY (shard) REFERENCES shards (shard),
    CONSTRAINT rehydrations_is_in_order CHECK (base <= reclaimed_to AND goes_on >= seq),
    CONSTRAINT rehydrations_chain_is_sha256 CHECK (octet_length(chain) = 32)
);
COMMENT ON TABLE rehydrations IS 'Kafka sinks that were found with events that the ledger had lost, and how they found their way back.';
COMMENT ON COLUMN rehydrations.sink IS 'The sink.';
COMMENT ON COLUMN rehydrations.shard IS 'The shard.';
COMMENT ON COLUMN rehydrations.seq IS 'Where its cursor stood in Kafka.';
COMMENT ON COLUMN rehydrations.chain IS 'The hash chain there: not the ledger''s.';
COMMENT ON COLUMN rehydrations.base IS 'Up to here ledger and sink agree for certain: the copy of its cursor that the ledger held.';
COMMENT ON COLUMN rehydrations.until IS 'Up to here the ledger may hold events that the sink has never seen under a seq that it has used.';
COMMENT ON COLUMN rehydrations.reclaimed_to IS 'Up to here they have been looked at: those that the sink never delivered became wishes for a replay.';
COMMENT ON COLUMN rehydrations.goes_on IS 'Where the cursor is put.';
COMMENT ON COLUMN rehydrations.skips IS 'How many delivered events were found in its topics.';
COMMENT ON COLUMN rehydrations.reclaimed IS 'How many events became wishes for a replay.';
COMMENT ON COLUMN rehydrations.at IS 'When it was found.';
COMMENT ON COLUMN rehydrations.done_at IS 'When everything was ready for it to go on; null while it is not.';

CREATE TABLE skips (
    sink      text     NOT NULL,
    shard     smallint NOT NULL,
    key       uuid     NOT NULL,
    replay_of bigint   NOT NULL DEFAULT 0,
    day       date     NOT NULL DEFAULT (clock_timestamp() AT TIME ZONE 'UTC')::date,
    CONSTRAINT skips_pkey PRIMARY KEY (sink, shard, key, replay_of)
);
COMMENT ON TABLE skips IS 'Events that a sink has delivered and the ledger has lost: when they come again, that sink passes them. Kept for the dedupe window, for a skip that is removed before its cursor has passed would be a duplicate.';
COMMENT ON COLUMN skips.sink IS 'The sink.';
COMMENT ON COLUMN skips.shard IS 'The shard.';
COMMENT ON COLUMN skips.key IS 'Half a SHA-256 over account and event id, as a dedupe key; read from the trace id of the message.';
COMMENT ON COLUMN skips.replay_of IS 'The seq that it repeats, where the delivered message was a replay; else 0.';
COMMENT ON COLUMN skips.day IS 'The day on which it was found, UTC.';
