-- The recording call as in 0002, made cheaper. Overlap is the everyday case of a source that sends again, so a page whose
-- ids are all known passes by two looks at `event_ids` instead of four. And the columns stand in the target list, where
-- they are read side by side: in FROM each array is first copied out into a store of its own.

CREATE OR REPLACE FUNCTION standpipe_record(
    p_shard smallint,           -- what the owner holds to be true of its shard
    p_epoch bigint,
    p_head bigint,
    p_chain bytea,
    p_streams integer[],        -- one element a stream: where its pages were polled from, and where they lead
    p_from bytea[],
    p_to bytea[],
    p_top boolean[],
    p_seek boolean[],           -- an operator's seek, which may move a paused stream too
    p_keys uuid[],              -- one element an event, in page order; null for a replay, which has no id of its own
    p_hashes uuid[],
    p_seqs bigint[],            -- the seq that it gets if every id is new; 0 where the call holds its key twice
    p_accounts integer[],
    p_types integer[],
    p_ids text[],
    p_records text[],
    p_occurred timestamptz[],
    p_replay_of bigint[],
    p_replay_sinks text[],
    p_bodies bytea[],
    p_next_chain bytea,         -- the chain if every id is new; computed by the program, as is every chain
    p_bytes bigint,             -- the bodies' bytes if every id is new
    OUT outcome text,           -- recorded, superseded or fenced; only the first has written anything
    OUT epoch bigint,
    OUT head bigint,
    OUT chain bytea,
    OUT recorded_at timestamptz,
    OUT superseded integer[],   -- the streams that are elsewhere, and where
    OUT superseded_at bytea[],
    OUT known integer[],        -- the elements (from 1) whose id was known, and what is known of it
    OUT known_seqs bigint[],
    OUT known_hashes uuid[]
)
LANGUAGE plpgsql AS $$
DECLARE
    own shards%ROWTYPE;
    seqs bigint[] := p_seqs;
    planned bigint := (SELECT count(*) FROM unnest(p_seqs) s WHERE s > 0);
    fresh bigint := planned;
    grown bigint := p_bytes;
    replayed bigint := cardinality(p_keys) - cardinality(array_remove(p_keys, NULL));
    changed bigint;
    conflicting bigint;
    one record;
BEGIN
    -- INV-6: under the row's lock, what the owner believes is what is. NO KEY UPDATE lets the sinks check the epoch
    -- (KEY SHARE) meanwhile; whoever takes the lease locks FOR UPDATE and waits for both.
    SELECT * INTO own FROM shards s WHERE s.shard = p_shard FOR NO KEY UPDATE;
    epoch := own.epoch; head := own.head; chain := own.chain;
    IF own.epoch IS DISTINCT FROM p_epoch OR own.head <> p_head OR own.chain <> p_chain THEN
        outcome := 'fenced';
        RETURN;
    END IF;

    -- INV-3: every stream is where its pages were polled from, or nothing is written and the caller leaves them out.
    PERFORM 1 FROM streams s WHERE s.stream_id = ANY (p_streams) ORDER BY s.stream_id FOR NO KEY UPDATE;
    SELECT array_agg(p.stream_id), array_agg(s.position) INTO superseded, superseded_at
    FROM unnest(p_streams, p_from, p_seek) AS p (stream_id, was, seek)
    LEFT JOIN streams s ON s.stream_id = p.stream_id
    WHERE s.position IS DISTINCT FROM p.was OR (s.paused AND NOT p.seek);
    IF superseded IS NOT NULL THEN
        outcome := 'superseded';
        RETURN;
    END IF;

    outcome := 'recorded';
    recorded_at := clock_timestamp();

    -- INV-1: the id decides. Seqs are first given as if every id were new, which is the rule.
    INSERT INTO event_ids AS i (key, content_hash, seq, day, shard)
    SELECT p.key, p.hash, p.seq, (recorded_at AT TIME ZONE 'UTC')::date, p_shard
    FROM (SELECT unnest(p_keys) AS key, unnest(p_hashes) AS hash, unnest(p_seqs) AS seq) p
    WHERE p.seq > 0 AND p.key IS NOT NULL
    ON CONFLICT ON CONSTRAINT event_ids_pkey DO NOTHING;
    GET DIAGNOSTICS changed = ROW_COUNT;

    -- INV-2: dense in commit order, so those after a known id move up. A key of this call has a seq above the head,
    -- one that was known has not, which tells them apart.
    IF changed + replayed = 0 THEN
        seqs := array_fill(0::bigint, ARRAY[cardinality(p_seqs)]);
        fresh := 0;
        grown := 0;
    ELSIF changed + replayed < planned THEN
        SELECT array_agg(CASE WHEN q.fresh THEN p_head + q.place ELSE 0 END ORDER BY q.ord),
               count(*) FILTER (WHERE q.fresh), coalesce(sum(octet_length(q.body)) FILTER (WHERE q.fresh), 0)
        INTO seqs, fresh, grown
        FROM (
            SELECT p.ord, p.body, f.fresh, count(*) FILTER (WHERE f.fresh) OVER (ORDER BY p.ord) AS place
            FROM unnest(p_keys, p_seqs, p_bodies) WITH ORDINALITY AS p (key, seq, body, ord)
            LEFT JOIN event_ids i ON i.key = p.key
            CROSS JOIN LATERAL (SELECT p.seq > 0 AND (p.key IS NULL OR (i.shard = p_shard AND i.seq > p_head)) AS fresh) f
        ) q;
        IF fresh <> changed + replayed THEN
            RAISE 'standpipe: % ids were new, % of them are told apart', changed + replayed, fresh;
        END IF;
        UPDATE event_ids i SET seq = p.seq
        FROM unnest(p_keys, p_seqs, seqs) AS p (key, was, seq)
        WHERE i.key = p.key AND p.seq > 0 AND p.seq <> p.was;
        FOR one IN
            SELECT p.seq, p.id, p.hash FROM unnest(seqs, p_ids, p_hashes) WITH ORDINALITY AS p (seq, id, hash, ord)
            WHERE p.seq > 0 ORDER BY p.ord
        LOOP
            chain := sha256(chain || int8send(one.seq) || int8send(octet_length(one.id)::bigint)
                || convert_to(one.id, 'UTF8') || uuid_send(one.hash));
        END LOOP;
    ELSE
        chain := p_next_chain;
    END IF;

    IF fresh < cardinality(p_seqs) THEN
        SELECT array_agg(k.ord), array_agg(k.seq), array_agg(k.content_hash),
               count(*) FILTER (WHERE k.content_hash <> k.hash)
        INTO known, known_seqs, known_hashes, conflicting
        FROM (
            SELECT p.ord::integer AS ord, p.hash, i.seq, i.content_hash
            FROM unnest(p_keys, p_hashes, seqs) WITH ORDINALITY AS p (key, hash, seq, ord)
            JOIN event_ids i ON i.key = p.key
            WHERE p.seq = 0
            ORDER BY p.ord
        ) k;
        -- The first content stays; the other is kept beside it.
        IF conflicting > 0 THEN
            INSERT INTO conflicts (shard, account_id, event_id, kept_seq, kept_hash, other_hash, other_body, seen_at, times)
            SELECT p_shard, min(p.account), min(p.id), i.seq, i.content_hash, p.hash, (array_agg(p.body))[1], recorded_at, count(*)
            FROM unnest(p_keys, p_hashes, seqs, p_accounts, p_ids, p_bodies) AS p (key, hash, seq, account, id, body)
            JOIN event_ids i ON i.key = p.key
            WHERE p.seq = 0 AND i.content_hash <> p.hash
            GROUP BY i.seq, i.content_hash, p.hash
            ON CONFLICT ON CONSTRAINT conflicts_content_key DO UPDATE SET times = conflicts.times + EXCLUDED.times;
        END IF;
    END IF;

    IF fresh > 0 THEN
        head := p_head + fresh;
        -- Made ahead by maintenance; here only when that was outrun.
        WHILE own.partitioned_to <= head LOOP
            own.partitioned_to := standpipe_add_partition(p_shard, 1000000);
        END LOOP;
        INSERT INTO events (shard, seq, account_id, type_id, occurred_at, recorded_at, content_hash,
            event_id, record_id, replay_of, replay_sink, body)
        SELECT p_shard, p.seq, p.account, p.type, p.occurred, recorded_at, p.hash, p.id, p.record, p.replay_of,
            p.replay_sink, p.body
        FROM (SELECT unnest(seqs) AS seq, unnest(p_accounts) AS account, unnest(p_types) AS type,
                unnest(p_occurred) AS occurred, unnest(p_hashes) AS hash, unnest(p_ids) AS id, unnest(p_records) AS record,
                unnest(p_replay_of) AS replay_of, unnest(p_replay_sinks) AS replay_sink, unnest(p_bodies) AS body) p
        WHERE p.seq > 0;
        GET DIAGNOSTICS changed = ROW_COUNT;
        IF changed <> fresh THEN
            RAISE 'standpipe: % new ids, but % events', fresh, changed;
        END IF;
    END IF;

    -- INV-4: an empty page's position moves too. An unmoved one keeps its age, which counts against the source's history.
    UPDATE streams s
    SET position = p.target, at_top = p.top,
        position_at = CASE WHEN s.position = p.target THEN s.position_at ELSE recorded_at END,
        seek_to = CASE WHEN p.seek THEN NULL ELSE s.seek_to END,
        seek_at = CASE WHEN p.seek THEN NULL ELSE s.seek_at END,
        state = CASE WHEN p.seek THEN 'active' ELSE s.state END
    FROM unnest(p_streams, p_to, p_top, p_seek) AS p (stream_id, target, top, seek)
    WHERE s.stream_id = p.stream_id;
    GET DIAGNOSTICS changed = ROW_COUNT;
    IF changed <> cardinality(p_streams) THEN
        RAISE 'standpipe: % streams moved of %', changed, cardinality(p_streams);
    END IF;

    IF fresh > 0 THEN
        INSERT INTO chain_marks (shard, seq, chain, bytes) VALUES (p_shard, head, standpipe_record.chain, own.bytes + grown);
        UPDATE shards s SET head = standpipe_record.head, chain = standpipe_record.chain, bytes = own.bytes + grown
        WHERE s.shard = p_shard;
    END IF;
END
$$;
