-- What webhook sinks keep beyond their cursor: nothing on the good path, a row for every exception (design.md section 6).

CREATE TABLE deliveries (
    sink         text        NOT NULL,
    shard        smallint    NOT NULL,
    seq          bigint      NOT NULL,
    version      bigint      NOT NULL DEFAULT 1,
    attempts     integer     NOT NULL,
    due_at       timestamptz NOT NULL,
    account_id   integer     NOT NULL,
    type_id      integer     NOT NULL,
    occurred_at  timestamptz,
    recorded_at  timestamptz NOT NULL,
    content_hash uuid        NOT NULL,
    chain        bytea       NOT NULL,
    event_id     text        NOT NULL,
    record_id    text        NOT NULL,
    replay_of    bigint,
    body         bytea       NOT NULL,
    CONSTRAINT deliveries_pkey PRIMARY KEY (sink, shard, seq),
    CONSTRAINT deliveries_sink_fkey FOREIGN KEY (sink, shard) REFERENCES sinks (sink, shard) ON DELETE CASCADE,
    CONSTRAINT deliveries_chain_is_sha256 CHECK (octet_length(chain) = 32)
) WITH (fillfactor = 70);
COMMENT ON TABLE deliveries IS 'Deliveries that failed, wait behind one of their record that did, or take long. Whole, because they may outlive the retention of events.';
COMMENT ON COLUMN deliveries.sink IS 'The sink.';
COMMENT ON COLUMN deliveries.shard IS 'The shard.';
COMMENT ON COLUMN deliveries.seq IS 'The event.';
COMMENT ON COLUMN deliveries.version IS 'Rises with every change: a change is made only to the version that was seen.';
COMMENT ON COLUMN deliveries.attempts IS 'Attempts that failed.';
COMMENT ON COLUMN deliveries.due_at IS 'When the next attempt is due, once it is the first of its record.';
COMMENT ON COLUMN deliveries.account_id IS 'As in events.';
COMMENT ON COLUMN deliveries.type_id IS 'As in events.';
COMMENT ON COLUMN deliveries.occurred_at IS 'As in events.';
COMMENT ON COLUMN deliveries.recorded_at IS 'As in events.';
COMMENT ON COLUMN deliveries.content_hash IS 'As in events.';
COMMENT ON COLUMN deliveries.chain IS 'The hash chain at the event.';
COMMENT ON COLUMN deliveries.event_id IS 'As in events.';
COMMENT ON COLUMN deliveries.record_id IS 'As in events.';
COMMENT ON COLUMN deliveries.replay_of IS 'As in events; the sink of the replay is this one.';
COMMENT ON COLUMN deliveries.body IS 'As in events.';

CREATE TABLE attempts (
    sink    text        NOT NULL,
    shard   smallint    NOT NULL,
    seq     bigint      NOT NULL,
    number  integer     NOT NULL,
    at      timestamptz NOT NULL,
    took_ms integer     NOT NULL,
    status  smallint,
    error   text        NOT NULL,
    answer  bytea       NOT NULL,
    CONSTRAINT attempts_pkey PRIMARY KEY (sink, shard, seq, number),
    CONSTRAINT attempts_answer_is_cut CHECK (octet_length(answer) <= 4096)
);
COMMENT ON TABLE attempts IS 'Attempts that failed, of deliveries and of dead letters. No foreign key: they pass from the one to the other.';
COMMENT ON COLUMN attempts.sink IS 'The sink.';
COMMENT ON COLUMN attempts.shard IS 'The shard.';
COMMENT ON COLUMN attempts.seq IS 'The event.';
COMMENT ON COLUMN attempts.number IS 'From 1. A probe of an endpoint that is known to be down takes the place of the one before.';
COMMENT ON COLUMN attempts.at IS 'When it began.';
COMMENT ON COLUMN attempts.took_ms IS 'How long it took, in milliseconds.';
COMMENT ON COLUMN attempts.status IS 'The status of the answer; null where there was none.';
COMMENT ON COLUMN attempts.error IS 'What went wrong.';
COMMENT ON COLUMN attempts.answer IS 'The beginning of the answer''s body.';

CREATE TABLE endpoints (
    sink          text        NOT NULL,
    shard         smallint    NOT NULL,
    failing_since timestamptz NOT NULL,
    CONSTRAINT endpoints_pkey PRIMARY KEY (sink, shard),
    CONSTRAINT endpoints_sink_fkey FOREIGN KEY (sink, shard) REFERENCES sinks (sink, shard) ON DELETE CASCADE
);
COMMENT ON TABLE endpoints IS 'Webhook endpoints that have given nothing but failures for a while; after `disable_after` they are disabled.';
COMMENT ON COLUMN endpoints.sink IS 'The sink.';
COMMENT ON COLUMN endpoints.shard IS 'The shard that saw it.';
COMMENT ON COLUMN endpoints.failing_since IS 'When the first of these failures was.';
