-- Which database the ledger lives in, as far as the server tells. Hosted servers withhold some of it, and none of them may
-- keep a ledger from being owned: what is not told is left out, and a rewind is still found by comparing with Kafka.

CREATE FUNCTION standpipe_home() RETURNS text
LANGUAGE plpgsql AS $$
DECLARE
    server text;
BEGIN
    BEGIN
        -- The timeline is read from the log's position: the control file follows a promotion later.
        server := (SELECT system_identifier FROM pg_control_system()) || '/' || left(pg_walfile_name(pg_current_wal_lsn()), 8);
    EXCEPTION WHEN OTHERS THEN
        server := 'untold';
    END;
    RETURN concat_ws('/', server, (SELECT oid FROM pg_database WHERE datname = current_database()), host(inet_server_addr()));
END
$$;
COMMENT ON FUNCTION standpipe_home IS 'The server''s identifier, its timeline, the database, the address.';
