//! Opening a ledger: its schema, its identity, its shards.

use std::collections::HashMap;
use std::str::FromStr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use sqlx::Connection;
use sqlx::migrate::Migrator;
use sqlx::postgres::PgConnectOptions;
use uuid::Uuid;

use super::database::{CALL_LIMIT, Db, seq_to_db, shard_from_db, shard_to_db};
use super::dictionary::Dictionary;
use crate::config::LedgerConfig;
use crate::event::{Chain, LedgerId, Seq, Shard};

static MIGRATIONS: Migrator = sqlx::migrate!();

/// The oldest server that has what we use.
const OLDEST_SERVER: i32 = 140_000;
/// Seqs in the first partition of a shard; later ones follow the rate.
const FIRST_PARTITION: i64 = 1_000_000;

/// A database that is, or may become, a ledger.
#[derive(Clone, Debug)]
pub struct Database {
    db: Db,
}

/// An open ledger. Cheap to clone; implements the ports of [`crate::event::ports`].
#[derive(Clone, Debug)]
pub struct Ledger(pub(crate) Arc<Inner>);

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) db: Db,
    pub(crate) id: LedgerId,
    pub(crate) shards: u16,
    pub(crate) lease_ttl: Duration,
    pub(crate) dictionary: Dictionary,
    /// Where the ledger lived when a shard's present owner began.
    pub(crate) homes: Mutex<HashMap<Shard, String>>,
}

/// Why a ledger cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The URL is not one of PostgreSQL. The text is left out: it may hold a password.
    #[error("`ledger.url` is not a PostgreSQL URL; it looks like postgres://user@host/database")]
    Url,
    /// The database does not answer, or refuses.
    #[error("the ledger's database fails while {doing}")]
    Database {
        /// What was being done.
        doing: &'static str,
        /// What the database client said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The server is too old, or the database cannot hold any text.
    #[error("the ledger's database cannot be used: {why}")]
    Unfit {
        /// What is missing.
        why: String,
    },
    /// A newer program made the schema.
    #[error("the ledger's schema is at version {found}, this program knows {known}: run a newer standpipe")]
    Newer {
        /// The newest migration that was applied.
        found: i64,
        /// The newest one that this program has.
        known: i64,
    },
    /// The schema is older than this program, and it may not change it.
    #[error("the ledger's schema is at version {found}, this program needs {known}: run `standpipe migrate`")]
    Older {
        /// The newest migration that was applied; 0 for an empty database.
        found: i64,
        /// The newest one that this program has.
        known: i64,
    },
    /// A migration failed.
    #[error("the ledger's schema cannot be migrated")]
    Migrate {
        /// Which one, and why.
        #[source]
        source: sqlx::migrate::MigrateError,
    },
    /// The number of shards is fixed when a ledger is made.
    #[error(
        "this ledger has {stored} shards and `ledger.shards` says {configured}: the number is fixed when a ledger is made"
    )]
    Shards {
        /// What it was made with.
        stored: u16,
        /// What is configured.
        configured: u16,
    },
    /// The ledger is another deployment's.
    #[error(
        "this ledger belongs to the deployment \"{stored}\", not to \"{configured}\": two deployments never share one"
    )]
    Deployment {
        /// Whose it is.
        stored: String,
        /// What is configured.
        configured: String,
    },
    /// There is a schema, but no `run` has made the ledger yet.
    #[error("the database holds no ledger yet: `standpipe run` makes it")]
    Absent,
}

/// What to do about an [`OpenError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenDisposition {
    /// Try again until `startup_timeout`; then it is the environment's fault (exit code 3).
    Retry,
    /// The configuration does not fit (exit code 2).
    Configuration,
    /// The database does not fit (exit code 3).
    Environment,
}

impl OpenError {
    /// What to do about it.
    #[must_use]
    pub const fn disposition(&self) -> OpenDisposition {
        match self {
            Self::Database { .. } => OpenDisposition::Retry,
            Self::Url | Self::Shards { .. } | Self::Deployment { .. } => OpenDisposition::Configuration,
            Self::Unfit { .. } | Self::Newer { .. } | Self::Older { .. } | Self::Migrate { .. } | Self::Absent => {
                OpenDisposition::Environment
            }
        }
    }
}

fn broken(doing: &'static str) -> impl Fn(sqlx::Error) -> OpenError {
    move |source| OpenError::Database { doing, source: source.into() }
}

async fn bounded<T>(
    doing: &'static str,
    limit: Duration,
    call: impl Future<Output = Result<T, OpenError>>,
) -> Result<T, OpenError> {
    match tokio::time::timeout(limit, call).await {
        Ok(result) => result,
        Err(elapsed) => Err(OpenError::Database { doing, source: elapsed.into() }),
    }
}

/// The newest migration that this program has.
#[must_use]
pub fn newest_schema() -> i64 {
    MIGRATIONS.iter().map(|migration| migration.version).max().unwrap_or(0)
}

impl Database {
    /// Connects, and refuses a server that cannot hold a ledger.
    pub async fn connect(config: &LedgerConfig, url: &SecretString, deployment: &str) -> Result<Self, OpenError> {
        let doing = "connecting";
        let url = url.expose_secret();
        // The client takes any scheme for its own.
        if !["postgres://", "postgresql://"].iter().any(|scheme| url.starts_with(scheme)) {
            return Err(OpenError::Url);
        }
        let options = PgConnectOptions::from_str(url).map_err(|_| OpenError::Url)?;
        let db = Db::new(options, &format!("standpipe {deployment}"), config.pooler, config.shards);
        bounded(doing, CALL_LIMIT, async {
            let mut session = db.session().await.map_err(broken(doing))?;
            let server = sqlx::query!(
                r#"SELECT current_setting('server_version_num')::integer AS "version!",
                    current_setting('server_encoding') AS "encoding!""#
            )
            .fetch_one(&mut *session)
            .await
            .map_err(broken(doing))?;
            session.done().await.map_err(broken(doing))?;
            if server.version < OLDEST_SERVER {
                return Err(OpenError::Unfit { why: "PostgreSQL 14 or newer is needed".to_owned() });
            }
            if server.encoding != "UTF8" {
                let why = format!("its encoding is {}, and only UTF8 holds every text", server.encoding);
                return Err(OpenError::Unfit { why });
            }
            Ok(())
        })
        .await?;
        Ok(Self { db })
    }

    /// Which migrations were applied: the newest, 0 for none.
    pub async fn schema(&self) -> Result<i64, OpenError> {
        let doing = "reading the schema's version";
        bounded(doing, CALL_LIMIT, async {
            let mut session = self.db.session().await.map_err(broken(doing))?;
            // Not checked at build: this table is the migrator's, and may be absent.
            let (there,): (bool,) = sqlx::query_as("SELECT to_regclass('_sqlx_migrations') IS NOT NULL")
                .fetch_one(&mut *session)
                .await
                .map_err(broken(doing))?;
            let mut applied: Vec<(i64,)> = Vec::new();
            if there {
                applied = sqlx::query_as("SELECT version FROM _sqlx_migrations WHERE success")
                    .fetch_all(&mut *session)
                    .await
                    .map_err(broken(doing))?;
            }
            session.done().await.map_err(broken(doing))?;
            let found = applied.iter().map(|(version,)| *version).max().unwrap_or(0);
            if applied.iter().any(|(version,)| !MIGRATIONS.version_exists(*version)) {
                return Err(OpenError::Newer { found, known: newest_schema() });
            }
            if MIGRATIONS.iter().any(|known| !applied.iter().any(|(version,)| *version == known.version)) {
                // The newest may be there while an earlier one is not: still older than this program.
                return Ok(found.min(newest_schema() - 1));
            }
            Ok(found)
        })
        .await
    }

    /// Refuses a schema that is not this program's.
    pub async fn check_schema(&self) -> Result<(), OpenError> {
        let found = self.schema().await?;
        let known = newest_schema();
        if found < known { Err(OpenError::Older { found, known }) } else { Ok(()) }
    }

    /// Brings the schema to this program's version, in one transaction; does nothing when it is there. Returns the
    /// versions before and after.
    pub async fn migrate(&self) -> Result<(i64, i64), OpenError> {
        let doing = "migrating the schema";
        let found = self.schema().await?;
        if found == newest_schema() {
            return Ok((found, found));
        }
        bounded(doing, Duration::from_mins(10), async {
            let mut session = self.db.session().await.map_err(broken(doing))?;
            session.roll_back().await.map_err(broken(doing))?;
            let mut transaction = session.raw().begin().await.map_err(broken(doing))?;
            // A lock that ends with the transaction: an advisory one would outlive it behind a pooler.
            for statement in [
                "SET LOCAL statement_timeout = 0",
                "SET LOCAL lock_timeout = '60s'",
                "CREATE TABLE IF NOT EXISTS standpipe_migration_lock ()",
                "LOCK TABLE standpipe_migration_lock IN ACCESS EXCLUSIVE MODE",
            ] {
                sqlx::query(statement).execute(&mut *transaction).await.map_err(broken(doing))?;
            }
            let mut migrator = Migrator { migrations: MIGRATIONS.migrations.clone(), ..Migrator::DEFAULT };
            migrator.set_locking(false);
            migrator.run(&mut *transaction).await.map_err(|source| OpenError::Migrate { source })?;
            fail::fail_point!("ledger::before_migrated");
            transaction.commit().await.map_err(broken(doing))?;
            fail::fail_point!("ledger::after_migrated");
            session.done().await.map_err(broken(doing))
        })
        .await?;
        Ok((found, newest_schema()))
    }

    /// Opens the ledger that is in it; makes it when there is none and `create` says so.
    async fn open(self, config: &LedgerConfig, deployment: &str, create: bool) -> Result<Ledger, OpenError> {
        let doing = "opening the ledger";
        let db = self.db;
        let stored = bounded(doing, CALL_LIMIT, async {
            let mut session = db.begin().await.map_err(broken(doing))?;
            if create {
                let id = LedgerId(Uuid::new_v4());
                let made = sqlx::query!(
                    "INSERT INTO ledger (id, deployment, shards) VALUES ($1, $2, $3)
                     ON CONFLICT ON CONSTRAINT ledger_pkey DO NOTHING",
                    id.0,
                    deployment,
                    shard_to_db(Shard(config.shards)),
                )
                .execute(&mut *session)
                .await
                .map_err(broken(doing))?;
                if made.rows_affected() == 1 {
                    make_shards(&mut session, id, config.shards).await.map_err(broken(doing))?;
                }
            }
            let stored = sqlx::query!("SELECT id, deployment, shards FROM ledger")
                .fetch_optional(&mut *session)
                .await
                .map_err(broken(doing))?;
            session.done().await.map_err(broken(doing))?;
            stored.ok_or(OpenError::Absent)
        })
        .await?;
        if stored.deployment != deployment {
            return Err(OpenError::Deployment { stored: stored.deployment, configured: deployment.to_owned() });
        }
        let shards = shard_from_db(stored.shards).0;
        if shards != config.shards {
            return Err(OpenError::Shards { stored: shards, configured: config.shards });
        }
        Ok(Ledger(Arc::new(Inner {
            db,
            id: LedgerId(stored.id),
            shards,
            lease_ttl: config.lease_ttl,
            dictionary: Dictionary::default(),
            homes: Mutex::default(),
        })))
    }
}

async fn make_shards(
    connection: &mut super::statements::Statements,
    id: LedgerId,
    shards: u16,
) -> Result<(), sqlx::Error> {
    let chain = Chain::start(id).0;
    for shard in (0..shards).map(|shard| shard_to_db(Shard(shard))) {
        sqlx::query!("INSERT INTO shards (shard, chain) VALUES ($1, $2)", shard, &chain[..])
            .execute(&mut *connection)
            .await?;
        sqlx::query!(
            "INSERT INTO chain_marks (shard, seq, chain, bytes) VALUES ($1, $2, $3, 0)",
            shard,
            seq_to_db(Seq::ZERO),
            &chain[..]
        )
        .execute(&mut *connection)
        .await?;
        sqlx::query!("SELECT standpipe_add_partition($1, $2)", shard, FIRST_PARTITION)
            .fetch_one(&mut *connection)
            .await?;
    }
    Ok(())
}

impl Ledger {
    /// What `run` does: connects, migrates or checks the schema, and makes the ledger when there is none.
    pub async fn connect(config: &LedgerConfig, url: &SecretString, deployment: &str) -> Result<Self, OpenError> {
        let database = Database::connect(config, url, deployment).await?;
        if config.migrate {
            database.migrate().await?;
        } else {
            database.check_schema().await?;
        }
        database.open(config, deployment, true).await
    }

    /// What an operator's verb does: connects to a ledger that is there, and changes no schema.
    pub async fn attach(config: &LedgerConfig, url: &SecretString, deployment: &str) -> Result<Self, OpenError> {
        let database = Database::connect(config, url, deployment).await?;
        database.check_schema().await?;
        database.open(config, deployment, false).await
    }

    /// Which ledger it is.
    #[must_use]
    pub fn id(&self) -> LedgerId {
        self.0.id
    }

    /// Its shards.
    pub fn shards(&self) -> impl Iterator<Item = Shard> + use<> {
        (0..self.0.shards).map(Shard)
    }

    /// Closes every connection; what is under way fails.
    pub async fn close(&self) {
        self.0.db.close().await;
    }
}
