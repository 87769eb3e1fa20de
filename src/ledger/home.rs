//! Which database the ledger lives in. Another one than before means that it was restored, failed over or copied, so that
//! the next owner looks whether somebody else still runs on the one before.

use super::database::{failed, within};
use super::open::Ledger;
use super::sinks::own;
use crate::event::Shard;
use crate::event::ports::{LedgerError, Ownership};

/// The ledger's database, as it was noted and as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Home {
    /// As the last owner noted it; none where none has.
    pub noted: Option<String>,
    /// As it is: the server's identifier, its timeline, the database, the address, as far as the server tells them.
    pub now: String,
}

impl Home {
    /// Whether the ledger is elsewhere than it was.
    #[must_use]
    pub fn has_moved(&self) -> bool {
        self.noted.as_ref().is_some_and(|noted| *noted != self.now)
    }
}

impl Ledger {
    /// Where the ledger lives, as the owners of a shard know it.
    pub async fn home(&self, shard: Shard) -> Result<Home, LedgerError> {
        let doing = "looking which database the ledger lives in";
        let shard = self.known_shard(shard)?;
        within(doing, async {
            let mut session = self.0.db.session().await.map_err(failed(doing))?;
            let row =
                sqlx::query!(r#"SELECT s.home, standpipe_home() AS "now!" FROM shards s WHERE s.shard = $1"#, shard)
                    .fetch_one(&mut *session)
                    .await
                    .map_err(failed(doing))?;
            session.done().await.map_err(failed(doing))?;
            Ok(Home { noted: row.home, now: row.now })
        })
        .await
    }

    /// Notes where the ledger lives now.
    pub async fn settle(&self, owner: Ownership, home: &Home) -> Result<(), LedgerError> {
        let doing = "noting which database the ledger lives in";
        let shard = self.known_shard(owner.shard)?;
        within(doing, async {
            let mut session = self.0.db.begin().await.map_err(failed(doing))?;
            own(&mut session, owner, doing).await?;
            sqlx::query!("UPDATE shards SET home = $2 WHERE shard = $1", shard, home.now)
                .execute(&mut *session)
                .await
                .map_err(failed(doing))?;
            session.done().await.map_err(failed(doing))
        })
        .await
    }
}
