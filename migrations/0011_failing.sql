-- For how long an endpoint has failed is counted from attempt to attempt, so that time in which nothing was tried is left
-- out. An older version writes rows without it.

ALTER TABLE endpoints ADD COLUMN failing_ms bigint NOT NULL DEFAULT 0;
COMMENT ON COLUMN endpoints.failing_ms IS 'The time between failed attempts that followed each other since then, in milliseconds; when it reaches `disable_after` the endpoint is disabled.';
