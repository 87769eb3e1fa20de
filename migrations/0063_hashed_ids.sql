-- Keys have no order, so a look into a large index of them waits for memory at each page. A hash index has one page where a
-- B-tree has two that are not in the processor's cache (measured: ARCHITECTURE.md, "Why it is fast"). It cannot be UNIQUE,
-- but can exclude, which is as strict: ON CONFLICT asks it the same.

ALTER TABLE event_ids
    DROP CONSTRAINT event_ids_pkey,
    ADD CONSTRAINT event_ids_key_excl EXCLUDE USING hash (key WITH =),
    REPLICA IDENTITY FULL; -- or a publication of all tables would make every expiry an error

-- The recording call as in 0040, but for the constraint's name.
DO $$
BEGIN
    EXECUTE replace(pg_get_functiondef('standpipe_record'::regproc),
        'ON CONFLICT ON CONSTRAINT event_ids_pkey', 'ON CONFLICT ON CONSTRAINT event_ids_key_excl');
END
$$;
