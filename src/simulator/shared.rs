use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::crm::Book;
use super::faults::{Fault, Rate};
use super::firehose::reference::Subscriptions;
use super::limits::Traffic;
use super::oauth::Tokens;
use super::options::Served;
use super::world::{World, milliseconds};
use crate::clock::Clock;

/// So many events are emitted before others have their turn.
const AT_ONCE: u64 = 2_000;

/// What every request sees.
#[derive(Debug)]
pub(super) struct Shared {
    pub seed: u64,
    pub served: Served,
    pub address: SocketAddr,
    pub clock: Clock,
    /// How many events there are; whoever waits for more watches it.
    pub emitted: watch::Sender<u64>,
    /// Events a second.
    pub rate: watch::Sender<f64>,
    pub stop: CancellationToken,
    pub world: Mutex<World>,
    pub traffic: Mutex<Traffic>,
    pub tokens: Mutex<Tokens>,
    pub subscriptions: Mutex<Subscriptions>,
    /// Locked after `world` where both are.
    pub book: Mutex<Book>,
}

impl Shared {
    pub fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn traffic(&self) -> MutexGuard<'_, Traffic> {
        self.traffic.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn tokens(&self) -> MutexGuard<'_, Tokens> {
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn subscriptions(&self) -> MutexGuard<'_, Subscriptions> {
        self.subscriptions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Emits `count` events now, and tells who waits. Gives how many events there are then.
    pub fn emit(&self, count: u64) -> u64 {
        let mut left = count;
        loop {
            let now = left.min(AT_ONCE);
            let events = {
                let mut world = self.world();
                world.emit(now, self.clock.now());
                world.events
            };
            self.emitted.send_replace(events);
            left -= now;
            if left == 0 {
                return events;
            }
        }
    }
}

impl Shared {
    /// Changes the world through Core, and tells who waits. The time is in milliseconds since 1970.
    pub fn write<T, E>(&self, write: impl FnOnce(&mut World, i64) -> Result<T, E>) -> Result<T, E> {
        let (result, events) = {
            let mut world = self.world();
            let result = write(&mut world, milliseconds(self.clock.now()));
            (result, world.events)
        };
        self.emitted.send_replace(events);
        result
    }

    /// Tells what has waited for the lag.
    pub fn tell(&self) {
        let (told, events) = {
            let mut world = self.world();
            (world.tell(milliseconds(self.clock.now())), world.events)
        };
        if told {
            self.emitted.send_replace(events);
        }
    }

    pub fn set_fault(&self, fault: Fault, rate: Rate) {
        self.world().faults.set(fault, rate);
        if fault == Fault::Unauthorized && rate.get() == 0.0 {
            self.tokens().pardon();
        }
    }
}

/// What a request is called in the logs of the vendor.
#[derive(Clone, Debug)]
pub(super) struct RequestId(pub Arc<str>);

/// The FNV-1a hash: the same on every machine.
pub(super) fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}
