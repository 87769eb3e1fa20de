# Short names; every one of them works without `just` too.

# Installs what the tests need and runs all of them.
test:
    tests/run

# Only the named parts: fmt sqlx clippy tests mutants chaos deny unit docker
part +NAMES:
    tests/run {{NAMES}}

# A long crash run: more faults, more events (`just crash 200 500000`).
crash faults="100" events="200000":
    tests/prepare
    CRASH_FAULTS={{faults}} CRASH_EVENTS={{events}} cargo test --features failpoints --test crash -- --nocapture

# Chaos on the real thing, a release build (`just chaos 500 1000000 120`: faults, events, minutes at most). The same
# again: CHAOS_SEED=n.
chaos faults="500" events="1000000" minutes="240":
    STANDPIPE_TESTS_DENY=0 tests/prepare
    CHAOS_FAULTS={{faults}} CHAOS_EVENTS={{events}} CHAOS_MINUTES={{minutes}} \
        cargo test --release --features failpoints --test crash -- --nocapture

# Simulates the whole protocol, seed after seed (`just simulate 1000000`); one alone: SIM_SEED=n, step by step: SIM_TRACE=1.
simulate seeds="100000":
    SIM_SEEDS={{seeds}} cargo test --profile checked --features failpoints --test sim everything -- --nocapture

# Runs fuzz targets under libFuzzer, so many minutes of CPU each (`just fuzz guard 60`; without a name all of them).
fuzz target="all" minutes="10":
    tests/tools/fuzz {{target}} {{minutes}}

# Plants faults, one at a time, and sees a test fail on each: all of them, or those named (`just mutants --list`).
mutants *NAMES:
    tests/prepare
    tests/tools/mutants {{NAMES}}

# Measures the pipe beside its ceilings (`just bench --help` says what can be asked for).
bench *OPTIONS:
    STANDPIPE_TESTS_DENY=0 tests/prepare bench
    cargo bench --bench pipe -- {{OPTIONS}}

# Writes .sqlx anew after a change of queries or migrations.
sqlx:
    tests/tools/sqlx write
