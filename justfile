# Short names; every one of them works without `just` too.

# Installs what the tests need and runs all of them.
test:
    tests/run

# Only the named parts: fmt sqlx clippy tests deny unit docker
part +NAMES:
    tests/run {{NAMES}}

# A long crash run: more faults, more events (`just crash 200 500000`).
crash faults="100" events="200000":
    tests/prepare
    CRASH_FAULTS={{faults}} CRASH_EVENTS={{events}} cargo test --features failpoints --test crash -- --nocapture

# Writes .sqlx anew after a change of queries or migrations.
sqlx:
    tests/tools/sqlx write
