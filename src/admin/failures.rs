//! Failed tries of a key are slowed, by the address that they come from.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// The first failure is answered after this; each further one after twice as long.
const FIRST: Duration = Duration::from_millis(250);
/// At most.
const LONGEST: Duration = Duration::from_secs(4);
/// So many answers wait for one address at once; more tries are not looked at.
const WAITING: u32 = 8;
/// An address that has not failed for so long is forgotten.
const FORGOTTEN: Duration = Duration::from_mins(5);
/// So many addresses are remembered; the one that failed longest ago makes room.
const ADDRESSES: usize = 1024;

/// What is remembered of addresses that failed. Bounded.
#[derive(Debug, Default)]
pub(super) struct Failures(Mutex<HashMap<IpAddr, Row>>);

#[derive(Clone, Copy, Debug)]
struct Row {
    failures: u32,
    waiting: u32,
    last: Instant,
}

/// The right to one try from an address.
pub(super) struct Turn<'a> {
    of: &'a Failures,
    address: IpAddr,
}

impl Failures {
    /// Whether a try is looked at now.
    pub(super) fn turn(&self, address: IpAddr) -> Option<Turn<'_>> {
        let mut rows = self.rows();
        rows.retain(|_, row| row.waiting > 0 || row.last.elapsed() < FORGOTTEN);
        let waiting = rows.get(&address).map_or(0, |row| row.waiting);
        (waiting < WAITING).then_some(Turn { of: self, address })
    }

    fn rows(&self) -> MutexGuard<'_, HashMap<IpAddr, Row>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Turn<'_> {
    /// It failed: the answer waits.
    pub(super) async fn failed(self) {
        let pause = {
            let mut rows = self.of.rows();
            if rows.len() >= ADDRESSES && !rows.contains_key(&self.address) {
                let oldest = rows.iter().filter(|(_, row)| row.waiting == 0).min_by_key(|(_, row)| row.last);
                if let Some(oldest) = oldest.map(|(address, _)| *address) {
                    rows.remove(&oldest);
                }
            }
            let row = rows.entry(self.address).or_insert(Row { failures: 0, waiting: 0, last: Instant::now() });
            let pause = FIRST.saturating_mul(1 << row.failures.min(16)).min(LONGEST);
            row.failures += 1;
            row.waiting += 1;
            row.last = Instant::now();
            pause
        };
        let _waiting = Waiting(&self);
        tokio::time::sleep(pause).await;
    }
}

/// Ends with the answer, or with a caller that goes away.
struct Waiting<'a>(&'a Turn<'a>);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if let Some(row) = self.0.of.rows().get_mut(&self.0.address) {
            row.waiting = row.waiting.saturating_sub(1);
        }
    }
}
