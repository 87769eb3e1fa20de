//! The small numbers in place of names, kept in memory once they are known. They never change in a database; one that was
//! restored or failed over to may lack the newest, and give their numbers to others. So an owner begins without them.

use std::collections::{HashMap, HashSet};
use std::hash::Hash;
use std::sync::{PoisonError, RwLock};

use super::database::{failed, shard_to_db};
use super::open::Ledger;
use crate::event::ports::LedgerError;
use crate::event::{AccountName, EventType, Shard, StreamKey};

/// More names than this are forgotten and asked for again: a source can invent types without end.
const REMEMBERED: usize = 20_000;

#[derive(Debug, Default)]
pub(crate) struct Dictionary {
    accounts: Names<AccountName>,
    types: Names<EventType>,
    streams: RwLock<HashMap<StreamKey, StreamNumbers>>,
}

/// The numbers of a stream and of its account.
#[derive(Clone, Copy, Debug)]
pub struct StreamNumbers {
    pub(crate) stream: i32,
    pub(crate) account: i32,
}

#[derive(Debug)]
struct Names<N>(RwLock<(HashMap<N, i32>, HashMap<i32, N>)>);

impl<N> Default for Names<N> {
    fn default() -> Self {
        Self(RwLock::new((HashMap::new(), HashMap::new())))
    }
}

impl<N: Clone + Eq + Hash> Names<N> {
    fn number(&self, name: &N) -> Option<i32> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).0.get(name).copied()
    }

    fn name(&self, number: i32) -> Option<N> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).1.get(&number).cloned()
    }

    fn forget(&self) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = (HashMap::new(), HashMap::new());
    }

    fn learn(&self, known: impl IntoIterator<Item = (i32, N)>) {
        let mut names = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if names.0.len() > REMEMBERED {
            *names = (HashMap::new(), HashMap::new());
        }
        for (number, name) in known {
            names.0.insert(name.clone(), number);
            names.1.insert(number, name);
        }
    }
}

/// The account that announcements of a sink's gaps stand under: they are no account's own.
pub(crate) const OUR_ACCOUNT: &str = "standpipe";

impl Ledger {
    /// Forgets every number. What a name stands for is asked again.
    pub(crate) fn forget_names(&self) {
        let Dictionary { accounts, types, streams } = &self.0.dictionary;
        accounts.forget();
        types.forget();
        streams.write().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// The numbers of event types; new ones are given one. A type with NUL has none.
    pub(crate) async fn type_numbers<'t>(
        &self,
        types: impl Iterator<Item = &'t EventType>,
    ) -> Result<HashMap<EventType, i32>, LedgerError> {
        let doing = "numbering event types";
        let known = &self.0.dictionary.types;
        let mut numbers = HashMap::new();
        let mut missing = HashSet::new();
        for name in types {
            if numbers.contains_key(name) || missing.contains(name.as_str()) {
                continue;
            }
            match known.number(name) {
                Some(number) => drop(numbers.insert(name.clone(), number)),
                None if name.as_str().contains('\0') => {}
                None => drop(missing.insert(name.as_str())),
            }
        }
        if missing.is_empty() {
            return Ok(numbers);
        }
        // Sorted, so that two shards that meet the same new types do not lock each other out.
        let mut missing: Vec<&str> = missing.into_iter().collect();
        missing.sort_unstable();
        let mut session = self.0.db.begin().await.map_err(failed(doing))?;
        sqlx::query!(
            "INSERT INTO event_types (name) SELECT unnest($1::text[])
             ON CONFLICT ON CONSTRAINT event_types_name_key DO NOTHING",
            &missing as &[&str]
        )
        .execute(&mut *session)
        .await
        .map_err(failed(doing))?;
        let rows = sqlx::query!("SELECT type_id, name FROM event_types WHERE name = ANY ($1)", &missing as &[&str])
            .fetch_all(&mut *session)
            .await
            .map_err(failed(doing))?;
        session.done().await.map_err(failed(doing))?;
        let rows: Vec<(i32, EventType)> =
            rows.into_iter().map(|row| (row.type_id, EventType::from(row.name))).collect();
        known.learn(rows.iter().cloned());
        numbers.extend(rows.into_iter().map(|(number, name)| (name, number)));
        Ok(numbers)
    }

    /// The name of an event type.
    pub(crate) async fn type_name(&self, number: i32) -> Result<EventType, LedgerError> {
        let doing = "naming an event type";
        if let Some(name) = self.0.dictionary.types.name(number) {
            return Ok(name);
        }
        let mut session = self.0.db.session().await.map_err(failed(doing))?;
        let rows = sqlx::query!(
            "SELECT type_id, name FROM event_types ORDER BY type_id = $1, type_id DESC LIMIT 10000",
            number
        )
        .fetch_all(&mut *session)
        .await
        .map_err(failed(doing))?;
        session.done().await.map_err(failed(doing))?;
        let found = rows.iter().find(|row| row.type_id == number).map(|row| EventType::from(row.name.as_str()));
        self.0.dictionary.types.learn(rows.into_iter().map(|row| (row.type_id, EventType::from(row.name))));
        found.ok_or_else(|| LedgerError::Refused { doing, why: format!("event type {number} has no name") })
    }

    /// The number of an account; given at its first sight, with the shard that has the fewest.
    pub(crate) async fn account_number(&self, account: &AccountName) -> Result<i32, LedgerError> {
        match self.0.dictionary.accounts.number(account) {
            Some(number) => Ok(number),
            None => self.assign(account).await.map(|(number, _)| number),
        }
    }

    /// The number of the account that our own announcements stand under.
    pub(crate) async fn our_account(&self) -> Result<(AccountName, i32), LedgerError> {
        let doing = "numbering our own account";
        let ours = AccountName::from(OUR_ACCOUNT);
        if let Some(number) = self.0.dictionary.accounts.number(&ours) {
            return Ok((ours, number));
        }
        let mut session = self.0.db.begin().await.map_err(failed(doing))?;
        let row = sqlx::query!(
            "INSERT INTO accounts (name) VALUES ($1)
             ON CONFLICT ON CONSTRAINT accounts_name_key DO UPDATE SET name = excluded.name RETURNING account_id",
            OUR_ACCOUNT
        )
        .fetch_one(&mut *session)
        .await
        .map_err(failed(doing))?;
        session.done().await.map_err(failed(doing))?;
        self.0.dictionary.accounts.learn([(row.account_id, ours.clone())]);
        Ok((ours, row.account_id))
    }

    /// The name of an account.
    pub(crate) async fn account_name(&self, number: i32) -> Result<AccountName, LedgerError> {
        let doing = "naming an account";
        if let Some(name) = self.0.dictionary.accounts.name(number) {
            return Ok(name);
        }
        let mut session = self.0.db.session().await.map_err(failed(doing))?;
        let row = sqlx::query!("SELECT name FROM accounts WHERE account_id = $1", number)
            .fetch_optional(&mut *session)
            .await
            .map_err(failed(doing))?;
        session.done().await.map_err(failed(doing))?;
        let name = row
            .map(|row| AccountName::from(row.name))
            .ok_or_else(|| LedgerError::Refused { doing, why: format!("account {number} has no name") })?;
        self.0.dictionary.accounts.learn([(number, name.clone())]);
        Ok(name)
    }

    /// The shard of an account, chosen for good when it is first seen: the one with the fewest accounts.
    pub async fn shard_of(&self, account: &AccountName) -> Result<Shard, LedgerError> {
        self.assign(account).await.map(|(_, shard)| shard)
    }

    async fn assign(&self, account: &AccountName) -> Result<(i32, Shard), LedgerError> {
        let doing = "assigning an account to a shard";
        super::database::within(doing, async {
            let mut session = self.0.db.begin().await.map_err(failed(doing))?;
            // One at a time, or two accounts seen together would choose the same shard.
            sqlx::query!("SELECT one FROM ledger FOR UPDATE").fetch_one(&mut *session).await.map_err(failed(doing))?;
            let row = sqlx::query!(
                r#"INSERT INTO accounts AS a (name, shard)
                   SELECT $1, s.shard FROM shards s LEFT JOIN accounts o USING (shard)
                   GROUP BY s.shard ORDER BY count(o.account_id), s.shard LIMIT 1
                   ON CONFLICT ON CONSTRAINT accounts_name_key DO UPDATE SET shard = coalesce(a.shard, excluded.shard)
                   RETURNING a.account_id, a.shard AS "shard!""#,
                account.as_str()
            )
            .fetch_one(&mut *session)
            .await
            .map_err(failed(doing))?;
            session.done().await.map_err(failed(doing))?;
            self.0.dictionary.accounts.learn([(row.account_id, account.clone())]);
            Ok((row.account_id, super::database::shard_from_db(row.shard)))
        })
        .await
    }

    /// The numbers of a stream, where it was opened.
    pub(crate) async fn stream_numbers(&self, key: &StreamKey) -> Result<Option<StreamNumbers>, LedgerError> {
        let doing = "numbering a stream";
        let known = self.0.dictionary.streams.read().unwrap_or_else(PoisonError::into_inner).get(key).copied();
        if known.is_some() {
            return Ok(known);
        }
        let mut session = self.0.db.session().await.map_err(failed(doing))?;
        let row = sqlx::query!(
            "SELECT s.stream_id, s.account_id FROM streams s JOIN accounts a USING (account_id)
             WHERE a.name = $1 AND s.name = $2",
            key.account.as_str(),
            key.stream.as_str()
        )
        .fetch_optional(&mut *session)
        .await
        .map_err(failed(doing))?;
        session.done().await.map_err(failed(doing))?;
        Ok(row.map(|row| {
            let numbers = StreamNumbers { stream: row.stream_id, account: row.account_id };
            self.learn_stream(key, numbers);
            numbers
        }))
    }

    pub(crate) fn learn_stream(&self, key: &StreamKey, numbers: StreamNumbers) {
        let mut streams = self.0.dictionary.streams.write().unwrap_or_else(PoisonError::into_inner);
        if streams.len() > REMEMBERED {
            streams.clear();
        }
        streams.insert(key.clone(), numbers);
    }

    /// The shard as the database spells it, where the ledger has it.
    pub(crate) fn known_shard(&self, shard: Shard) -> Result<i16, LedgerError> {
        if shard.0 < self.0.shards {
            return Ok(shard_to_db(shard));
        }
        Err(LedgerError::Refused {
            doing: "looking up a shard",
            why: format!("the ledger has {} shards, no shard {shard}", self.0.shards),
        })
    }
}
