-- The ledger: what was recorded, where the streams stand, where the sinks stand (design.md section 4).
-- Forward only: a later migration expands first and contracts once no running program needs the old shape.

CREATE TABLE ledger (
    one        boolean     NOT NULL DEFAULT true,
    id         uuid        NOT NULL,
    deployment text        NOT NULL,
    shards     smallint    NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT ledger_pkey PRIMARY KEY (one),
    CONSTRAINT ledger_is_one CHECK (one),
    CONSTRAINT ledger_has_shards CHECK (shards BETWEEN 1 AND 1024)
);
COMMENT ON TABLE ledger IS 'One row: which ledger this is.';
COMMENT ON COLUMN ledger.one IS 'Always true, so that there is no second row.';
COMMENT ON COLUMN ledger.id IS 'Names the ledger for good: the chain starts from it, transactional ids and headers carry it.';
COMMENT ON COLUMN ledger.deployment IS 'The deployment that made it; another one is refused.';
COMMENT ON COLUMN ledger.shards IS 'The number of shards, fixed when the ledger was made.';
COMMENT ON COLUMN ledger.created_at IS 'When it was made.';

CREATE TABLE shards (
    shard          smallint NOT NULL,
    epoch          bigint   NOT NULL DEFAULT 0,
    lease_owner    uuid,
    lease_until    timestamptz,
    head           bigint   NOT NULL DEFAULT 0,
    chain          bytea    NOT NULL,
    oldest         bigint   NOT NULL DEFAULT 1,
    bytes          bigint   NOT NULL DEFAULT 0,
    partitioned_to bigint   NOT NULL DEFAULT 1,
    CONSTRAINT shards_pkey PRIMARY KEY (shard),
    CONSTRAINT shards_chain_is_sha256 CHECK (octet_length(chain) = 32),
    CONSTRAINT shards_oldest_is_kept CHECK (oldest BETWEEN 1 AND head + 1)
) WITH (fillfactor = 50);
COMMENT ON TABLE shards IS 'The unit of order, of ownership and of Kafka transactions. Its row is the lock under which everything of the shard is written.';
COMMENT ON COLUMN shards.shard IS 'Numbered from 0.';
COMMENT ON COLUMN shards.epoch IS 'Counts the owners. Every write of an owner names its epoch and fails when it is not this one.';
COMMENT ON COLUMN shards.lease_owner IS 'The instance that owns the shard, or owned it last; null after a graceful stop.';
COMMENT ON COLUMN shards.lease_until IS 'Until when, by this server''s clock; null when nobody does. Serves liveness only: the epoch serves safety.';
COMMENT ON COLUMN shards.head IS 'The seq of the newest event; 0 before the first.';
COMMENT ON COLUMN shards.chain IS 'The hash chain at head.';
COMMENT ON COLUMN shards.oldest IS 'The oldest seq that is still kept; head + 1 when none is.';
COMMENT ON COLUMN shards.bytes IS 'Bytes of all bodies ever recorded in the shard: the difference between two commits is what lies between them.';
COMMENT ON COLUMN shards.partitioned_to IS 'Partitions exist for every seq below this one.';

CREATE TABLE chain_marks (
    shard smallint    NOT NULL,
    seq   bigint      NOT NULL,
    chain bytea       NOT NULL,
    bytes bigint      NOT NULL,
    CONSTRAINT chain_marks_pkey PRIMARY KEY (shard, seq),
    CONSTRAINT chain_marks_chain_is_sha256 CHECK (octet_length(chain) = 32)
);
COMMENT ON TABLE chain_marks IS 'The hash chain, once a commit: the chain at any seq is recomputed from the mark before it.';
COMMENT ON COLUMN chain_marks.shard IS 'The shard.';
COMMENT ON COLUMN chain_marks.seq IS 'The last seq of the commit.';
COMMENT ON COLUMN chain_marks.chain IS 'The chain there.';
COMMENT ON COLUMN chain_marks.bytes IS 'shards.bytes there: a sink''s backlog is a difference, never a scan.';

CREATE TABLE accounts (
    account_id integer     GENERATED ALWAYS AS IDENTITY,
    name       text        NOT NULL,
    shard      smallint,
    dialect    text,
    seen_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT accounts_pkey PRIMARY KEY (account_id),
    CONSTRAINT accounts_name_key UNIQUE (name),
    CONSTRAINT accounts_shard_fkey FOREIGN KEY (shard) REFERENCES shards (shard),
    CONSTRAINT accounts_dialect_is_known CHECK (dialect IN ('reference', 'live'))
);
COMMENT ON TABLE accounts IS 'The Sell accounts ever configured.';
COMMENT ON COLUMN accounts.account_id IS 'A small number in place of the name.';
COMMENT ON COLUMN accounts.name IS 'The configured name.';
COMMENT ON COLUMN accounts.shard IS 'Where its streams are recorded, chosen when it was first seen and never changed; null for our own announcements.';
COMMENT ON COLUMN accounts.dialect IS 'The dialect that it was found to speak; null until asked.';
COMMENT ON COLUMN accounts.seen_at IS 'When it was first seen.';

CREATE TABLE event_types (
    type_id integer GENERATED ALWAYS AS IDENTITY,
    name    text    NOT NULL,
    CONSTRAINT event_types_pkey PRIMARY KEY (type_id),
    CONSTRAINT event_types_name_key UNIQUE (name)
);
COMMENT ON TABLE event_types IS 'Every event type ever recorded.';
COMMENT ON COLUMN event_types.type_id IS 'A small number in place of the name.';
COMMENT ON COLUMN event_types.name IS 'The canonical type.';

CREATE TABLE streams (
    stream_id    integer     GENERATED ALWAYS AS IDENTITY,
    account_id   integer     NOT NULL,
    name         text        NOT NULL,
    position     bytea       NOT NULL,
    position_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    at_top       boolean     NOT NULL DEFAULT false,
    state        text        NOT NULL DEFAULT 'active',
    detail       text        NOT NULL DEFAULT '',
    state_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    paused       boolean     NOT NULL DEFAULT false,
    seek_to      bytea,
    seek_at      timestamptz,
    CONSTRAINT streams_pkey PRIMARY KEY (stream_id),
    CONSTRAINT streams_name_key UNIQUE (account_id, name),
    CONSTRAINT streams_account_fkey FOREIGN KEY (account_id) REFERENCES accounts (account_id),
    CONSTRAINT streams_state_is_known CHECK (state IN ('active', 'forbidden', 'missing', 'stuck', 'halted')),
    CONSTRAINT streams_seek_is_dated CHECK ((seek_to IS NULL) = (seek_at IS NULL))
) WITH (fillfactor = 50);
COMMENT ON TABLE streams IS 'Where every source stream stands.';
COMMENT ON COLUMN streams.stream_id IS 'A small number in place of account and name.';
COMMENT ON COLUMN streams.account_id IS 'The account.';
COMMENT ON COLUMN streams.name IS 'The name, as the source spells it.';
COMMENT ON COLUMN streams.position IS 'The committed position: opaque UTF-8 of the source, as bytes because it may hold what text refuses.';
COMMENT ON COLUMN streams.position_at IS 'When the position last moved: its age counts against the source''s history.';
COMMENT ON COLUMN streams.at_top IS 'Whether the last committed page said that nothing newer is there.';
COMMENT ON COLUMN streams.state IS 'What the source reports of it.';
COMMENT ON COLUMN streams.detail IS 'The reason of the state, in words.';
COMMENT ON COLUMN streams.state_at IS 'Since when it is in that state.';
COMMENT ON COLUMN streams.paused IS 'An operator''s order: nothing is polled and nothing is recorded.';
COMMENT ON COLUMN streams.seek_to IS 'An operator''s order to stand here instead; carried out by the owner''s next commit.';
COMMENT ON COLUMN streams.seek_at IS 'When that was ordered.';

CREATE TABLE events (
    shard        smallint    NOT NULL,
    seq          bigint      NOT NULL,
    account_id   integer     NOT NULL,
    type_id      integer     NOT NULL,
    occurred_at  timestamptz,
    recorded_at  timestamptz NOT NULL,
    content_hash uuid        NOT NULL,
    event_id     text        NOT NULL,
    record_id    text        NOT NULL,
    replay_of    bigint,
    replay_sink  text,
    body         bytea       NOT NULL,
    CONSTRAINT events_pkey PRIMARY KEY (shard, seq),
    CONSTRAINT events_replay_names_its_sink CHECK ((replay_of IS NULL) = (replay_sink IS NULL))
) PARTITION BY RANGE (shard, seq);
COMMENT ON TABLE events IS 'The events, partitioned by shard and seq; partitions are made ahead and dropped whole by retention. No foreign keys: account and type are written by the same program, and a check a row would be paid by every event.';
COMMENT ON COLUMN events.shard IS 'The shard.';
COMMENT ON COLUMN events.seq IS 'The place in the shard: dense, in commit order, from 1.';
COMMENT ON COLUMN events.account_id IS 'The account.';
COMMENT ON COLUMN events.type_id IS 'The type.';
COMMENT ON COLUMN events.occurred_at IS 'When it happened; null where the source''s time cannot be read.';
COMMENT ON COLUMN events.recorded_at IS 'When its commit was made, by this server''s clock.';
COMMENT ON COLUMN events.content_hash IS 'The first 16 bytes of SHA-256 over type, timestamp, record and previous.';
COMMENT ON COLUMN events.event_id IS 'The event id as the source spells it.';
COMMENT ON COLUMN events.record_id IS 'The record''s id as spelled; empty where absent.';
COMMENT ON COLUMN events.replay_of IS 'The seq that this row repeats, for one sink; null for a first recording.';
COMMENT ON COLUMN events.replay_sink IS 'That sink.';
COMMENT ON COLUMN events.body IS 'The canonical bytes, as they are delivered (jsonb would reorder keys, change numbers and refuse NUL).';

CREATE TABLE event_partitions (
    shard    smallint NOT NULL,
    from_seq bigint   NOT NULL,
    to_seq   bigint   NOT NULL,
    name     text     NOT NULL,
    CONSTRAINT event_partitions_pkey PRIMARY KEY (shard, from_seq),
    CONSTRAINT event_partitions_name_key UNIQUE (name),
    CONSTRAINT event_partitions_is_a_range CHECK (from_seq < to_seq)
);
COMMENT ON TABLE event_partitions IS 'The partitions of events, so that retention need not parse the catalogue.';
COMMENT ON COLUMN event_partitions.shard IS 'The shard.';
COMMENT ON COLUMN event_partitions.from_seq IS 'The first seq in it.';
COMMENT ON COLUMN event_partitions.to_seq IS 'The first seq after it.';
COMMENT ON COLUMN event_partitions.name IS 'The table.';

CREATE TABLE event_ids (
    key          uuid     NOT NULL,
    content_hash uuid     NOT NULL,
    seq          bigint   NOT NULL,
    day          date     NOT NULL,
    shard        smallint NOT NULL,
    CONSTRAINT event_ids_pkey PRIMARY KEY (key)
);
COMMENT ON TABLE event_ids IS 'What was recorded within the dedupe window. Not partitioned by time: a unique key cannot span partitions. Expired by walking the heap in slices, so that it needs no second index.';
COMMENT ON COLUMN event_ids.key IS 'The dedupe key: half a SHA-256 over account and event id, or over account, resource, record and sequence.';
COMMENT ON COLUMN event_ids.content_hash IS 'The content of the first one: another hash under the same key is a conflict.';
COMMENT ON COLUMN event_ids.seq IS 'Where it was recorded.';
COMMENT ON COLUMN event_ids.day IS 'The day of the recording, UTC: when it may be forgotten.';
COMMENT ON COLUMN event_ids.shard IS 'The shard of seq.';

CREATE TABLE conflicts (
    conflict_id bigint      GENERATED ALWAYS AS IDENTITY,
    shard       smallint    NOT NULL,
    account_id  integer     NOT NULL,
    event_id    text        NOT NULL,
    kept_seq    bigint      NOT NULL,
    kept_hash   uuid        NOT NULL,
    other_hash  uuid        NOT NULL,
    other_body  bytea       NOT NULL,
    seen_at     timestamptz NOT NULL,
    times       bigint      NOT NULL DEFAULT 1,
    CONSTRAINT conflicts_pkey PRIMARY KEY (conflict_id),
    CONSTRAINT conflicts_content_key UNIQUE (shard, kept_seq, other_hash)
);
COMMENT ON TABLE conflicts IS 'Events that came again under a known id with other content. The first stays; this is what the other said.';
COMMENT ON COLUMN conflicts.conflict_id IS 'Its number.';
COMMENT ON COLUMN conflicts.shard IS 'The shard.';
COMMENT ON COLUMN conflicts.account_id IS 'The account.';
COMMENT ON COLUMN conflicts.event_id IS 'The event id that both have.';
COMMENT ON COLUMN conflicts.kept_seq IS 'Where the first one stands.';
COMMENT ON COLUMN conflicts.kept_hash IS 'The content hash of the first one.';
COMMENT ON COLUMN conflicts.other_hash IS 'The content hash of the other one.';
COMMENT ON COLUMN conflicts.other_body IS 'The canonical bytes of the other one.';
COMMENT ON COLUMN conflicts.seen_at IS 'When it came first.';
COMMENT ON COLUMN conflicts.times IS 'How often it came.';

CREATE TABLE rejected (
    rejected_id bigint      GENERATED ALWAYS AS IDENTITY,
    shard       smallint    NOT NULL,
    stream_id   integer     NOT NULL,
    reason      text        NOT NULL,
    raw         bytea       NOT NULL,
    seen_at     timestamptz NOT NULL,
    CONSTRAINT rejected_pkey PRIMARY KEY (rejected_id)
);
CREATE INDEX rejected_by_age ON rejected (shard, seen_at);
COMMENT ON TABLE rejected IS 'Elements of pages that cannot be events, kept whole.';
COMMENT ON COLUMN rejected.rejected_id IS 'Its number.';
COMMENT ON COLUMN rejected.shard IS 'The shard.';
COMMENT ON COLUMN rejected.stream_id IS 'The stream that it came by.';
COMMENT ON COLUMN rejected.reason IS 'What is wrong with it.';
COMMENT ON COLUMN rejected.raw IS 'Its bytes.';
COMMENT ON COLUMN rejected.seen_at IS 'When it was set aside.';

CREATE TABLE gaps (
    gap_id        bigint      GENERATED ALWAYS AS IDENTITY,
    event_id      text        NOT NULL,
    shard         smallint    NOT NULL,
    stream_id     integer,
    from_position bytea,
    to_position   bytea,
    sink          text,
    from_seq      bigint,
    to_seq        bigint,
    reason        text        NOT NULL,
    detail        text        NOT NULL DEFAULT '',
    at            timestamptz NOT NULL,
    seq           bigint,
    CONSTRAINT gaps_pkey PRIMARY KEY (gap_id),
    CONSTRAINT gaps_event_id_key UNIQUE (event_id),
    CONSTRAINT gaps_stream_fkey FOREIGN KEY (stream_id) REFERENCES streams (stream_id),
    CONSTRAINT gaps_reason_is_known CHECK (reason IN ('position_expired', 'sought', 'backlog_hold', 'retention')),
    CONSTRAINT gaps_is_of_a_stream_or_a_sink CHECK (
        (stream_id IS NOT NULL AND from_position IS NOT NULL AND to_position IS NOT NULL
            AND sink IS NULL AND from_seq IS NULL AND to_seq IS NULL)
        OR (stream_id IS NULL AND from_position IS NULL AND to_position IS NULL
            AND sink IS NOT NULL AND from_seq <= to_seq AND from_seq IS NOT NULL)
    )
);
CREATE INDEX gaps_unannounced ON gaps (shard) WHERE seq IS NULL;
COMMENT ON TABLE gaps IS 'Holes: what a stream or a sink will not get. Never silent: each is announced by an event.';
COMMENT ON COLUMN gaps.gap_id IS 'Its number.';
COMMENT ON COLUMN gaps.event_id IS 'The id of the event that announces it, a function of what the gap is.';
COMMENT ON COLUMN gaps.shard IS 'The shard.';
COMMENT ON COLUMN gaps.stream_id IS 'The stream that has the hole; null for a sink''s.';
COMMENT ON COLUMN gaps.from_position IS 'The position before the hole.';
COMMENT ON COLUMN gaps.to_position IS 'The position after it.';
COMMENT ON COLUMN gaps.sink IS 'The sink that has the hole; null for a stream''s.';
COMMENT ON COLUMN gaps.from_seq IS 'The first seq that the sink will not get.';
COMMENT ON COLUMN gaps.to_seq IS 'The last one.';
COMMENT ON COLUMN gaps.reason IS 'Why.';
COMMENT ON COLUMN gaps.detail IS 'What the source said, or who ordered it.';
COMMENT ON COLUMN gaps.at IS 'When.';
COMMENT ON COLUMN gaps.seq IS 'Where it is announced; null until the owner''s next commit.';

CREATE TABLE sinks (
    sink        text        NOT NULL,
    shard       smallint    NOT NULL,
    cursor      bigint,
    cursor_at   timestamptz,
    seek_to     bigint,
    seek_reason text,
    paused      boolean     NOT NULL DEFAULT false,
    disabled    text,
    disabled_at timestamptz,
    state       text        NOT NULL DEFAULT 'starting',
    error       text,
    state_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT sinks_pkey PRIMARY KEY (sink, shard),
    CONSTRAINT sinks_shard_fkey FOREIGN KEY (shard) REFERENCES shards (shard),
    CONSTRAINT sinks_state_is_known CHECK (state IN ('starting', 'running', 'retrying', 'paused', 'disabled', 'halted')),
    CONSTRAINT sinks_seek_has_a_reason CHECK ((seek_to IS NULL) = (seek_reason IS NULL)),
    CONSTRAINT sinks_seek_reason_is_known CHECK (seek_reason IN ('sought', 'backlog_hold', 'retention'))
) WITH (fillfactor = 50);
COMMENT ON TABLE sinks IS 'Where every sink stands in every shard.';
COMMENT ON COLUMN sinks.sink IS 'The configured name.';
COMMENT ON COLUMN sinks.shard IS 'The shard.';
COMMENT ON COLUMN sinks.cursor IS 'The last seq that it took; null before its first start. The truth for a webhook, a copy for Kafka.';
COMMENT ON COLUMN sinks.cursor_at IS 'When the cursor last moved.';
COMMENT ON COLUMN sinks.seek_to IS 'An order to stand at this seq instead; carried out by the sink.';
COMMENT ON COLUMN sinks.seek_reason IS 'Whose order: an operator''s (sought), or ours (backlog_hold, whose gap is recorded with the order; such a sink holds nothing back any more).';
COMMENT ON COLUMN sinks.paused IS 'An operator''s order: it delivers nothing.';
COMMENT ON COLUMN sinks.disabled IS 'Why a webhook endpoint is turned off; null while it is not. Its events are kept.';
COMMENT ON COLUMN sinks.disabled_at IS 'Since when.';
COMMENT ON COLUMN sinks.state IS 'What it is doing.';
COMMENT ON COLUMN sinks.error IS 'Why it does not deliver, with the remedy; null when it does.';
COMMENT ON COLUMN sinks.state_at IS 'Since when it is in that state.';

CREATE TABLE dead_letters (
    sink         text        NOT NULL,
    shard        smallint    NOT NULL,
    seq          bigint      NOT NULL,
    attempts     integer     NOT NULL,
    reason       text        NOT NULL,
    at           timestamptz NOT NULL DEFAULT clock_timestamp(),
    expires_at   timestamptz NOT NULL,
    account_id   integer     NOT NULL,
    type_id      integer     NOT NULL,
    occurred_at  timestamptz,
    content_hash uuid        NOT NULL,
    event_id     text        NOT NULL,
    record_id    text        NOT NULL,
    body         bytea       NOT NULL,
    CONSTRAINT dead_letters_pkey PRIMARY KEY (sink, shard, seq)
);
CREATE INDEX dead_letters_by_age ON dead_letters (expires_at);
COMMENT ON TABLE dead_letters IS 'Events that a sink gave up on, kept whole: they outlive the retention of events.';
COMMENT ON COLUMN dead_letters.sink IS 'The sink.';
COMMENT ON COLUMN dead_letters.shard IS 'The shard.';
COMMENT ON COLUMN dead_letters.seq IS 'The event.';
COMMENT ON COLUMN dead_letters.attempts IS 'How many attempts were made.';
COMMENT ON COLUMN dead_letters.reason IS 'Why it was given up.';
COMMENT ON COLUMN dead_letters.at IS 'When.';
COMMENT ON COLUMN dead_letters.expires_at IS 'When it is forgotten.';
COMMENT ON COLUMN dead_letters.account_id IS 'As in events.';
COMMENT ON COLUMN dead_letters.type_id IS 'As in events.';
COMMENT ON COLUMN dead_letters.occurred_at IS 'As in events.';
COMMENT ON COLUMN dead_letters.content_hash IS 'As in events.';
COMMENT ON COLUMN dead_letters.event_id IS 'As in events.';
COMMENT ON COLUMN dead_letters.record_id IS 'As in events.';
COMMENT ON COLUMN dead_letters.body IS 'As in events.';

CREATE TABLE replays (
    replay_id    bigint      GENERATED ALWAYS AS IDENTITY,
    shard        smallint    NOT NULL,
    of_seq       bigint      NOT NULL,
    sink         text        NOT NULL,
    requested_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    seq          bigint,
    account_id   integer     NOT NULL,
    type_id      integer     NOT NULL,
    occurred_at  timestamptz,
    content_hash uuid        NOT NULL,
    event_id     text        NOT NULL,
    record_id    text        NOT NULL,
    body         bytea,
    CONSTRAINT replays_pkey PRIMARY KEY (replay_id),
    CONSTRAINT replays_wish_has_a_body CHECK (seq IS NOT NULL OR body IS NOT NULL)
);
CREATE INDEX replays_wished ON replays (shard, replay_id) WHERE seq IS NULL;
CREATE INDEX replays_by_event ON replays (shard, of_seq);
COMMENT ON TABLE replays IS 'Wishes to deliver an event again to one sink. The owner''s next commit makes a row of events of each, so that seq and chain stay with the one writer.';
COMMENT ON COLUMN replays.replay_id IS 'Its number.';
COMMENT ON COLUMN replays.shard IS 'The shard.';
COMMENT ON COLUMN replays.of_seq IS 'The event that is repeated.';
COMMENT ON COLUMN replays.sink IS 'The only sink that takes it.';
COMMENT ON COLUMN replays.requested_at IS 'When it was wished.';
COMMENT ON COLUMN replays.seq IS 'Where it was recorded; null while it is a wish.';
COMMENT ON COLUMN replays.account_id IS 'As in events.';
COMMENT ON COLUMN replays.type_id IS 'As in events.';
COMMENT ON COLUMN replays.occurred_at IS 'As in events.';
COMMENT ON COLUMN replays.content_hash IS 'As in events.';
COMMENT ON COLUMN replays.event_id IS 'As in events.';
COMMENT ON COLUMN replays.record_id IS 'As in events.';
COMMENT ON COLUMN replays.body IS 'As in events; given up once it is recorded.';
