//! Which database the ledger lives in. Another one than before means that it was restored, failed over or copied, so that
//! the next owner looks whether somebody else still runs on the one before.

use std::collections::HashMap;
use std::sync::{MutexGuard, PoisonError};

use super::database::{Session, failed, within};
use super::open::Ledger;
use super::store::Doubt;
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

/// Server, timeline and database: one server may be met at several addresses, and counts as moved by them only where it
/// does not say who it is.
fn place(home: &str) -> &str {
    let end = home.match_indices('/').nth(2).map_or(home.len(), |(at, _)| at);
    if home.starts_with("untold") { home } else { &home[..end] }
}

impl Ledger {
    /// Where the ledger lives, as the owners of a shard know it. One who begins asks first: what it writes is refused from
    /// here on where the ledger lives elsewhere.
    pub async fn home(&self, shard: Shard) -> Result<Home, LedgerError> {
        let doing = "looking which database the ledger lives in";
        let (of, shard) = (shard, self.known_shard(shard)?);
        // They may be those of the database before.
        self.forget_names();
        within(doing, async {
            let mut session = self.0.db.session().await.map_err(failed(doing))?;
            let row =
                sqlx::query!(r#"SELECT s.home, standpipe_home() AS "now!" FROM shards s WHERE s.shard = $1"#, shard)
                    .fetch_one(&mut *session)
                    .await
                    .map_err(failed(doing))?;
            session.done().await.map_err(failed(doing))?;
            self.homes().insert(of, row.now.clone());
            Ok(Home { noted: row.home, now: row.now })
        })
        .await
    }

    /// Refuses a database that is not the one that the shard's owner began on.
    pub(crate) fn at_home(&self, shard: Shard, now: &str) -> Result<(), LedgerError> {
        let why = match self.homes().get(&shard) {
            Some(known) if place(known) != place(now) => format!("the ledger lives in {now} now, and lived in {known}"),
            _ => return Ok(()),
        };
        Err(LedgerError::Moved { shard, why })
    }

    /// Refuses the database of a connection that is not the one that the shard's owner began on. Neither the epoch nor the
    /// chain tells the recorder: one that lacks the last commits may have given the same epoch to another owner, and a void
    /// leads to the chain that was there before.
    pub(super) async fn look_home(&self, session: &mut Session, shard: Shard) -> Result<(), Doubt> {
        let now = sqlx::query_scalar!(r#"SELECT standpipe_home() AS "now!""#).fetch_one(&mut **session).await;
        self.at_home(shard, &now.map_err(Doubt::Nothing)?).map_err(Doubt::Elsewhere)
    }

    fn homes(&self) -> MutexGuard<'_, HashMap<Shard, String>> {
        self.0.homes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes where the ledger lives now.
    pub async fn settle(&self, owner: Ownership, home: &Home) -> Result<(), LedgerError> {
        let doing = "noting which database the ledger lives in";
        let shard = self.known_shard(owner.shard)?;
        within(doing, async {
            let mut session = self.0.db.begin().await.map_err(failed(doing))?;
            self.own(&mut session, owner, doing).await?;
            sqlx::query!("UPDATE shards SET home = $2 WHERE shard = $1", shard, home.now)
                .execute(&mut *session)
                .await
                .map_err(failed(doing))?;
            session.done().await.map_err(failed(doing))
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::place;

    #[test]
    fn an_address_alone_does_not_tell_a_server_that_says_who_it_is() {
        assert_eq!(place("7301/00000001/16384/10.0.0.1"), place("7301/00000001/16384/::1"));
        assert_eq!(place("7301/00000001/16384"), place("7301/00000001/16384/::1"));
        assert_ne!(place("7301/00000001/16384/::1"), place("7301/00000002/16384/::1"), "promoted");
        assert_ne!(place("7301/00000001/16384"), place("7301/00000001/16385"), "another database of it");
        assert_ne!(place("untold/16384/10.0.0.1"), place("untold/16384/10.0.0.2"));
    }
}
