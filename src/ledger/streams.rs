//! What a source reads and writes about its streams, apart from pages.

use time::OffsetDateTime;

use super::database::{failed, within};
use super::dictionary::StreamNumbers;
use super::open::Ledger;
use crate::event::ports::{Dialect, LedgerError, StreamBook, StreamRow, StreamState};
use crate::event::{AccountName, Position, StreamKey, StreamName};

/// A row of `streams`, before it is words.
struct Raw {
    name: String,
    position: Vec<u8>,
    position_at: OffsetDateTime,
    at_top: bool,
    state: String,
    paused: bool,
}

impl Raw {
    fn row(self, account: &AccountName) -> StreamRow {
        let state = if self.paused {
            StreamState::Paused
        } else {
            StreamState::ALL.into_iter().find(|state| state.as_str() == self.state).unwrap_or(StreamState::Active)
        };
        StreamRow {
            key: StreamKey { account: account.clone(), stream: StreamName::from(self.name) },
            position: position(self.position),
            position_at: self.position_at,
            top: self.at_top,
            state,
        }
    }
}

/// A position as it was stored; it came from a text, so it is one.
pub(crate) fn position(bytes: Vec<u8>) -> Position {
    Position::from(
        String::from_utf8(bytes).unwrap_or_else(|wrong| String::from_utf8_lossy(wrong.as_bytes()).into_owned()),
    )
}

impl StreamBook for Ledger {
    async fn dialect(&self, account: &AccountName) -> Result<Option<Dialect>, LedgerError> {
        let doing = "reading an account's dialect";
        within(doing, async {
            let mut session = self.0.db.session().await.map_err(failed(doing))?;
            let row = sqlx::query!("SELECT dialect FROM accounts WHERE name = $1", account.as_str())
                .fetch_optional(&mut *session)
                .await
                .map_err(failed(doing))?;
            session.done().await.map_err(failed(doing))?;
            Ok(row.and_then(|row| row.dialect).and_then(|word| {
                [Dialect::Reference, Dialect::Live].into_iter().find(|dialect| dialect.as_str() == word)
            }))
        })
        .await
    }

    async fn keep_dialect(&self, account: &AccountName, dialect: Dialect) -> Result<(), LedgerError> {
        let doing = "keeping an account's dialect";
        within(doing, async {
            let number = self.account_number(account).await?;
            let mut session = self.0.db.session().await.map_err(failed(doing))?;
            sqlx::query!("UPDATE accounts SET dialect = $2 WHERE account_id = $1", number, dialect.as_str())
                .execute(&mut *session)
                .await
                .map_err(failed(doing))?;
            session.done().await.map_err(failed(doing))
        })
        .await
    }

    async fn open(&self, key: &StreamKey, start: &Position) -> Result<StreamRow, LedgerError> {
        let doing = "opening a stream";
        within(doing, async {
            let account = self.account_number(&key.account).await?;
            let mut session = self.0.db.begin().await.map_err(failed(doing))?;
            sqlx::query!(
                "INSERT INTO streams (account_id, name, position) VALUES ($1, $2, $3)
                 ON CONFLICT ON CONSTRAINT streams_name_key DO NOTHING",
                account,
                key.stream.as_str(),
                start.as_str().as_bytes()
            )
            .execute(&mut *session)
            .await
            .map_err(failed(doing))?;
            let row = sqlx::query!(
                "SELECT stream_id, name, position, position_at, at_top, state, paused
                 FROM streams WHERE account_id = $1 AND name = $2",
                account,
                key.stream.as_str()
            )
            .fetch_one(&mut *session)
            .await
            .map_err(failed(doing))?;
            session.done().await.map_err(failed(doing))?;
            self.learn_stream(key, StreamNumbers { stream: row.stream_id, account });
            let raw = Raw {
                name: row.name,
                position: row.position,
                position_at: row.position_at,
                at_top: row.at_top,
                state: row.state,
                paused: row.paused,
            };
            Ok(raw.row(&key.account))
        })
        .await
    }

    async fn streams(&self, account: &AccountName) -> Result<Vec<StreamRow>, LedgerError> {
        let doing = "reading an account's streams";
        within(doing, async {
            let mut session = self.0.db.session().await.map_err(failed(doing))?;
            let rows = sqlx::query_as!(
                Raw,
                "SELECT s.name, s.position, s.position_at, s.at_top, s.state, s.paused
                 FROM streams s JOIN accounts a USING (account_id) WHERE a.name = $1 ORDER BY s.name",
                account.as_str()
            )
            .fetch_all(&mut *session)
            .await
            .map_err(failed(doing))?;
            session.done().await.map_err(failed(doing))?;
            Ok(rows.into_iter().map(|raw| raw.row(account)).collect())
        })
        .await
    }

    async fn set_state(&self, key: &StreamKey, state: StreamState, detail: &str) -> Result<(), LedgerError> {
        let doing = "noting a stream's state";
        // Paused is an operator's order and has its own column, so that no report overwrites it.
        if state == StreamState::Paused {
            return Ok(());
        }
        let detail = printable(detail, 1024);
        within(doing, async {
            let Some(numbers) = self.stream_numbers(key).await? else { return Ok(()) };
            let mut session = self.0.db.session().await.map_err(failed(doing))?;
            sqlx::query!(
                "UPDATE streams SET state = $2, detail = $3,
                    state_at = CASE WHEN state = $2 THEN state_at ELSE clock_timestamp() END
                 WHERE stream_id = $1",
                numbers.stream,
                state.as_str(),
                detail
            )
            .execute(&mut *session)
            .await
            .map_err(failed(doing))?;
            session.done().await.map_err(failed(doing))
        })
        .await
    }
}

/// Words that a text column takes, at most `limit` bytes: what others say may hold NUL and may have no end.
pub(crate) fn printable(words: &str, limit: usize) -> String {
    let end = words.floor_char_boundary(limit);
    words[..end].replace('\0', "\u{fffd}")
}
