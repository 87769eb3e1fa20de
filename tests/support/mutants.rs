//! The mutants of the recording function: faults of SQL, planted by changing its text in a test's own database.

use secrecy::{ExposeSecret as _, SecretString};
use sqlx::{Connection as _, PgConnection};
use standpipe::mutant::{Mutant, planted};

/// A text of the function, from its first words up to the next ones, and what stands there in a mutant.
struct Change {
    from: &'static str,
    /// The words before which the text ends; none where `from` is all of it.
    to: Option<&'static str>,
    instead: &'static str,
}

const fn change(from: &'static str, instead: &'static str) -> Change {
    Change { from, to: None, instead }
}

/// Seqs that are drawn when a call begins and never given back, as `nextval` does.
const SEQUENCE_OBJECT: &[Change] = &[
    change(
        "    SELECT * INTO own FROM shards s",
        "    PERFORM nextval('drawn') FROM generate_series(1, planned);
    SELECT * INTO own FROM shards s",
    ),
    change(
        "    outcome := 'recorded';\n",
        "    outcome := 'recorded';
    p_seqs := ARRAY(SELECT CASE WHEN s.seq > 0 THEN s.seq + d.last_value - planned - p_head ELSE 0 END
        FROM unnest(p_seqs) WITH ORDINALITY AS s (seq, at) CROSS JOIN drawn d ORDER BY s.at);
    seqs := p_seqs;\n",
    ),
    change("THEN p_head + q.place ELSE", "THEN q.seq ELSE"),
    change("SELECT p.ord, p.body, f.fresh,", "SELECT p.ord, p.body, p.seq, f.fresh,"),
    change("head := p_head + fresh;", "head := (SELECT max(s) FROM unnest(seqs) s);"),
];

/// Everything that is written for a page, as one statement: its parts see the tables as they were before it, so that
/// the events do not find the ids that are inserted beside them.
const ONE_STATEMENT: &[Change] = &[
    Change {
        from: "    -- INV-1: the id decides.",
        to: Some("    IF fresh > 0 THEN\n        INSERT INTO chain_marks"),
        instead: "
    WITH page AS (
        SELECT unnest(p_keys) AS key, unnest(p_hashes) AS hash, unnest(p_seqs) AS seq, unnest(p_accounts) AS account,
            unnest(p_types) AS type, unnest(p_ids) AS id, unnest(p_records) AS record, unnest(p_occurred) AS occurred,
            unnest(p_bodies) AS body
    ), ids AS (
        INSERT INTO event_ids (key, content_hash, seq, day, shard)
        SELECT p.key, p.hash, p.seq, (recorded_at AT TIME ZONE 'UTC')::date, p_shard FROM page p WHERE p.seq > 0
        ON CONFLICT ON CONSTRAINT event_ids_key_excl DO NOTHING
        RETURNING key
    ), moved AS (
        UPDATE streams s SET position = p.target, at_top = p.top
        FROM unnest(p_streams, p_to, p_top) AS p (stream_id, target, top) WHERE s.stream_id = p.stream_id
    ), written AS (
        INSERT INTO events (shard, seq, account_id, type_id, occurred_at, recorded_at, content_hash, event_id, record_id,
            body)
        SELECT p_shard, p.seq, p.account, p.type, p.occurred, recorded_at, p.hash, p.id, p.record, p.body
        FROM page p JOIN event_ids i ON i.key = p.key AND i.seq = p.seq
    )
    SELECT count(*) INTO fresh FROM ids;
    head := p_head + fresh;
    chain := p_next_chain;

",
    },
];

const POSITION_UNCHECKED: &[Change] = &[change("WHERE s.position IS DISTINCT FROM p.was OR (", "WHERE (")];
const EPOCH_UNCHECKED: &[Change] = &[change("IF own.epoch IS DISTINCT FROM p_epoch OR ", "IF ")];

fn asked() -> Option<&'static [Change]> {
    [
        (Mutant::SequenceObject, SEQUENCE_OBJECT),
        (Mutant::OneStatement, ONE_STATEMENT),
        (Mutant::PositionUnchecked, POSITION_UNCHECKED),
        (Mutant::EpochUnchecked, EPOCH_UNCHECKED),
    ]
    .into_iter()
    .find_map(|(mutant, changes)| planted(mutant).then_some(changes))
}

/// Plants what was asked for in a database whose schema is there, once.
pub async fn plant(url: &SecretString) {
    const DEFINITION: &str = "SELECT pg_get_functiondef('standpipe_record'::regproc)";
    const PLANTED: &str = "BEGIN -- a mutant\n";
    let Some(changes) = asked() else { return };
    let mut sql = PgConnection::connect(url.expose_secret()).await.expect("the database answers");
    let (mut definition,): (String,) =
        sqlx::query_as(DEFINITION).fetch_one(&mut sql).await.expect("the schema is there");
    if definition.contains(PLANTED) {
        return;
    }
    for Change { from, to, instead } in changes.iter().chain([&change("BEGIN\n", PLANTED)]) {
        let found: Vec<_> = definition.match_indices(from).map(|(at, _)| at).collect();
        let [at] = found[..] else { panic!("the recording function holds {} times: {from}", found.len()) };
        let end = match to {
            None => at + from.len(),
            Some(to) => at + definition[at..].find(to).unwrap_or_else(|| panic!("no longer there: {to}")),
        };
        definition.replace_range(at..end, instead);
    }
    // What seqs may be drawn from.
    let planted = sqlx::AssertSqlSafe(format!("CREATE SEQUENCE drawn; {definition}"));
    sqlx::raw_sql(planted).execute(&mut sql).await.expect("a mutant that PostgreSQL takes");
}
