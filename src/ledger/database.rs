//! Connections, their limits, and what a failure of theirs means.

use std::ops::{Deref, DerefMut};
use std::time::Duration;

use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{Executor, PgPool, Postgres};

use super::statements::Statements;

use crate::event::ports::LedgerError;
use crate::event::{Seq, Shard};

/// How long one statement may take on the server.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a transaction of ours may stand idle: nothing goes over the network inside one.
const IDLE_TIMEOUT: Duration = Duration::from_secs(5);
/// Whether the server may compile a statement before it runs it. Ours take milliseconds, and it decides by a cost that it
/// guesses: beside 20 million events in 40 partitions a quarter of two cores went into compiling (measured with perf).
const JIT: &str = "off";
/// How long a whole call may take as we see it, so that a silent network is noticed too.
pub(crate) const CALL_LIMIT: Duration = Duration::from_secs(15);
/// How long we wait for a free connection.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);
/// Connections of one process, at most: some for each shard that it may own, within what a server gives by default.
const CONNECTIONS: u32 = 14;
const CONNECTIONS_PER_SHARD: u32 = 2;
const MAX_CONNECTIONS: u32 = 64;
/// With more shards than this in one process a connection is taken for each commit and not kept between them.
pub(crate) const SHARDS_THAT_KEEP: u16 = 16;

/// The pool, and whether a transaction-mode pooler stands between.
#[derive(Clone, Debug)]
pub(crate) struct Db {
    pool: PgPool,
    pooler: bool,
}

impl Db {
    /// Nothing is connected yet.
    pub(crate) fn new(options: PgConnectOptions, application: &str, pooler: bool, shards: u16) -> Self {
        let options = options.application_name(application);
        // A pooler gives every transaction another server connection: neither session settings nor named statements
        // survive, and it refuses start-up parameters that it does not know.
        let options = if pooler {
            options.extra_float_digits(None)
        } else {
            options.options([
                ("statement_timeout", STATEMENT_TIMEOUT.as_millis().to_string()),
                ("idle_in_transaction_session_timeout", IDLE_TIMEOUT.as_millis().to_string()),
                ("jit", JIT.to_owned()),
            ])
        };
        let pool = PgPoolOptions::new()
            .max_connections((CONNECTIONS + CONNECTIONS_PER_SHARD * u32::from(shards)).min(MAX_CONNECTIONS))
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .connect_lazy_with(options);
        Self { pool, pooler }
    }

    /// A connection as it is; behind a pooler it takes nothing before a transaction is begun on it.
    pub(crate) async fn connection(&self) -> Result<Session, sqlx::Error> {
        let connection: PoolConnection<Postgres> = self.pool.acquire().await?;
        Ok(Session { connection: Some(Statements::over(connection, !self.pooler)), in_transaction: false })
    }

    /// A connection for single statements, each of which is a transaction; but behind a pooler, where all are one that
    /// [`Session::done`] commits.
    pub(crate) async fn session(&self) -> Result<Session, sqlx::Error> {
        let mut session = self.connection().await?;
        if self.pooler {
            self.begin_on(&mut session).await?;
        }
        Ok(session)
    }

    /// A connection with a transaction begun.
    pub(crate) async fn begin(&self) -> Result<Session, sqlx::Error> {
        let mut session = self.connection().await?;
        self.begin_on(&mut session).await?;
        Ok(session)
    }

    /// Begins a transaction on a session that has none.
    pub(crate) async fn begin_on(&self, session: &mut Session) -> Result<(), sqlx::Error> {
        if self.pooler {
            // One simple query, one round trip.
            session
                .execute(sqlx::raw_sql(
                    "BEGIN; SET LOCAL statement_timeout = 10000; SET LOCAL idle_in_transaction_session_timeout = 5000;
                     SET LOCAL jit = off",
                ))
                .await?;
        } else {
            session.execute("BEGIN").await?;
        }
        session.in_transaction = true;
        Ok(())
    }

    pub(crate) const fn pooler(&self) -> bool {
        self.pooler
    }

    pub(crate) async fn close(&self) {
        self.pool.close().await;
    }
}

/// A connection whose answers are all read. Dropped before [`Session::done`] it is closed, not given back: an answer may
/// still be under way, or a transaction open, and a pool that waits for a silent server would run dry.
#[derive(Debug)]
pub struct Session {
    connection: Option<Statements>,
    in_transaction: bool,
}

impl Session {
    /// Commits, where a transaction is open, and gives the connection back.
    pub(crate) async fn done(mut self) -> Result<(), sqlx::Error> {
        self.commit().await?;
        drop(self.connection.take());
        Ok(())
    }

    /// Commits, where a transaction is open, and keeps the connection.
    pub(crate) async fn commit(&mut self) -> Result<(), sqlx::Error> {
        if std::mem::take(&mut self.in_transaction) {
            self.execute("COMMIT").await?;
        }
        Ok(())
    }

    /// Undoes what the open transaction did, and keeps the connection.
    pub(crate) async fn roll_back(&mut self) -> Result<(), sqlx::Error> {
        if std::mem::take(&mut self.in_transaction) {
            self.execute("ROLLBACK").await?;
        }
        Ok(())
    }
}

impl Deref for Session {
    type Target = Statements;

    fn deref(&self) -> &Statements {
        self.connection.as_ref().expect("only `done` takes it, and it takes self")
    }
}

impl DerefMut for Session {
    fn deref_mut(&mut self) -> &mut Statements {
        self.connection.as_mut().expect("only `done` takes it, and it takes self")
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take() {
            connection.cut();
        }
    }
}

/// Bounds a whole call.
pub(crate) async fn within<T>(
    doing: &'static str,
    call: impl Future<Output = Result<T, LedgerError>>,
) -> Result<T, LedgerError> {
    // Boxed, because the client's futures are large and would make their callers' so.
    match tokio::time::timeout(CALL_LIMIT, Box::pin(call)).await {
        Ok(result) => result,
        Err(elapsed) => Err(LedgerError::Unavailable { doing, source: elapsed.into() }),
    }
}

/// What a failure of the database client means.
pub(crate) fn failed(doing: &'static str) -> impl Fn(sqlx::Error) -> LedgerError {
    move |error| {
        if let sqlx::Error::Database(database) = &error {
            let class = database.code().map(|code| code.chars().take(2).collect::<String>()).unwrap_or_default();
            // Wrong data, broken constraints, missing tables or rights, our own RAISE: trying again changes nothing.
            if matches!(class.as_str(), "0A" | "22" | "23" | "28" | "3D" | "3F" | "42" | "P0") {
                return LedgerError::Refused { doing, why: database.to_string() };
            }
        }
        LedgerError::Unavailable { doing, source: error.into() }
    }
}

/// Whether the server refused the data itself (SQLSTATE class 22).
pub(crate) fn is_data_exception(error: &sqlx::Error) -> bool {
    matches!(error, sqlx::Error::Database(database) if database.code().is_some_and(|code| code.starts_with("22")))
}

pub(crate) fn seq_to_db(seq: Seq) -> i64 {
    i64::try_from(seq.0).unwrap_or(i64::MAX)
}

pub(crate) fn seq_from_db(seq: i64) -> Seq {
    Seq(u64::try_from(seq).unwrap_or(0))
}

pub(crate) fn shard_to_db(shard: Shard) -> i16 {
    i16::try_from(shard.0).unwrap_or(i16::MAX)
}

pub(crate) fn shard_from_db(shard: i16) -> Shard {
    Shard(u16::try_from(shard).unwrap_or(0))
}
