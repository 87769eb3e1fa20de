//! The recording statement, over the ledger's own tables.

use sqlx::{Connection as _, PgConnection, Row as _};
use standpipe::event::ports::StreamBook as _;
use standpipe::event::{AccountName, Chain, Position, Seq, Shard, StreamKey, StreamName};
use standpipe::ledger::Lease;
use time::OffsetDateTime;
use time::macros::datetime;
use uuid::Uuid;

use super::fetch::Event;
use crate::ground::open;

const HAPPENED: OffsetDateTime = datetime!(2026-01-05 10:30:00.123 UTC);
const CALL: &str = "SELECT outcome, head, chain FROM standpipe_record($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, \
                    $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22)";

/// A ledger that is owned for the length of a run.
pub struct Ledger {
    connection: PgConnection,
    epoch: i64,
    head: i64,
    chain: Chain,
    stream: i32,
    account: i32,
    kind: i32,
}

impl Ledger {
    pub async fn open(url: &str) -> Self {
        let made = open(url, "bare").await;
        let held = Lease::new(&made, Shard(0), Uuid::new_v4()).try_acquire().await.expect("a lease").expect("free");
        let key = StreamKey { account: AccountName::from("acme"), stream: StreamName::from("s0") };
        made.open(&key, &Position::tail()).await.expect("a stream");
        let mut connection = PgConnection::connect(url).await.expect("the server answers");
        let sql = "INSERT INTO event_types (name) VALUES ('deal.updated') RETURNING type_id, \
                   (SELECT stream_id FROM streams), (SELECT account_id FROM streams), (SELECT chain FROM shards)";
        let row = sqlx::query(sql).fetch_one(&mut connection).await.expect("an empty ledger");
        let chain: Vec<u8> = row.get(3);
        Self {
            connection,
            epoch: held.ownership().epoch.0,
            head: 0,
            chain: Chain(chain.try_into().expect("32 bytes")),
            stream: row.get(1),
            account: row.get(2),
            kind: row.get(0),
        }
    }

    pub async fn record(&mut self, from: &str, to: &str, events: &[Event]) {
        let mut chain = self.chain;
        let mut seqs = Vec::with_capacity(events.len());
        let mut bytes = 0;
        for event in events {
            let seq = self.head + 1 + i64::try_from(seqs.len()).expect("a group");
            chain = chain.link(Seq(seq.cast_unsigned()), text(&event.id), &event.hash);
            bytes += i64::try_from(event.body.len()).expect("a body");
            seqs.push(seq);
        }
        let count = events.len();
        let records: Vec<String> = events.iter().map(|event| event.record.to_string()).collect();
        let row = sqlx::query(CALL)
            .bind(0_i16)
            .bind(self.epoch)
            .bind(self.head)
            .bind(&self.chain.0[..])
            .bind(vec![self.stream])
            .bind(vec![from.as_bytes()])
            .bind(vec![to.as_bytes()])
            .bind(vec![false])
            .bind(vec![false])
            .bind(events.iter().map(|event| event.key.0).collect::<Vec<_>>())
            .bind(events.iter().map(|event| Uuid::from_bytes(event.hash.0)).collect::<Vec<_>>())
            .bind(seqs)
            .bind(vec![self.account; count])
            .bind(vec![self.kind; count])
            .bind(events.iter().map(|event| text(&event.id)).collect::<Vec<_>>())
            .bind(records)
            .bind(vec![HAPPENED; count])
            .bind(vec![None::<i64>; count])
            .bind(vec![None::<&str>; count])
            .bind(events.iter().map(|event| &event.body[..]).collect::<Vec<_>>())
            .bind(&chain.0[..])
            .bind(bytes)
            .fetch_one(&mut self.connection)
            .await
            .expect("a commit");
        assert_eq!(row.get::<&str, _>(0), "recorded");
        self.head = row.get(1);
        let chain: Vec<u8> = row.get(2);
        self.chain = Chain(chain.try_into().expect("32 bytes"));
    }
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("digits")
}
