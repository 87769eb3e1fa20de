//! A Sell of one's own that can misbehave: `standpipe simulate`, the demo's account, and what tests poll.
//!
//! One [`company`] lives by a seed; what happens in it is written once into the [`journal`], as the bytes of both
//! dialects, and the [`firehose`] serves pages of it. A fault of events changes what is emitted; a fault of requests
//! ([`mishaps`]) what a request gets. Each throws dice of its own, so that the same seed tells the same story under
//! any faults. [`emitted`] is the oracle's end: what a consumer must have, once each, byte for byte.
//!
//! [`crm`] answers what is asked of the company: Core, Search, Sync, GraphQL and Apps, by the tables of the
//! [`catalog`]. What is written there happens in the same company and is told by the same journal.

mod admin;
mod catalog;
mod company;
mod crm;
mod dice;
mod emitted;
mod encode;
mod error;
mod faults;
mod firehose;
mod journal;
mod limits;
mod living;
mod mishaps;
mod oauth;
mod options;
mod position;
mod server;
mod shared;
#[cfg(test)]
mod tests;
mod trouble;
mod world;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
pub use emitted::Emitted;
pub use error::{SimulatorDisposition, SimulatorError};
pub use faults::Fault;
use faults::Rate;
use limits::Traffic;
pub use limits::{Requests, RequestsOf};
use oauth::Tokens;
pub use options::{Dialect, Enforced, Options, Served};
use shared::Shared;
use world::World;

/// A running simulator. Dropping it ends it at once.
#[derive(Debug)]
pub struct Simulator {
    shared: Arc<Shared>,
    tasks: JoinSet<&'static str>,
}

/// Lets the company live through its backlog and starts to serve it.
pub async fn start(options: Options, clock: Clock) -> Result<Simulator, SimulatorError> {
    for (fault, rate) in &options.faults {
        Rate::new(*rate).map_err(|why| SimulatorError::Option { option: fault.as_str(), why })?;
    }
    if !(options.rate.is_finite() && options.rate >= 0.0) {
        return Err(SimulatorError::Option { option: "rate", why: "must not be negative".to_owned() });
    }
    let listen = |source| SimulatorError::Listen { address: options.listen, source };
    let listener = TcpListener::bind(options.listen).await.map_err(listen)?;
    let address = listener.local_addr().map_err(listen)?;
    let (lived, now) = (options.clone(), clock.now());
    // A long backlog takes seconds.
    let world = tokio::task::spawn_blocking(move || World::new(&lived, now)).await;
    let world = world.map_err(|error| SimulatorError::Option { option: "backlog", why: error.to_string() })?;
    let shared = Arc::new(Shared {
        seed: options.seed,
        served: options.dialect,
        address,
        clock,
        emitted: watch::Sender::new(world.events),
        rate: watch::Sender::new(options.rate),
        stop: CancellationToken::new(),
        world: Mutex::new(world),
        traffic: Mutex::new(Traffic::new(options.limits)),
        tokens: Mutex::new(Tokens::new(options.token.as_ref(), options.token_life, options.seed)),
        subscriptions: Mutex::default(),
        book: Mutex::new(crm::Book::new(options.seed)),
    });
    let mut tasks = JoinSet::new();
    let (serving, living) = (shared.clone(), shared.clone());
    tasks.spawn(async move {
        server::serve(listener, serving).await;
        "server"
    });
    tasks.spawn(async move {
        living::live(living).await;
        "company"
    });
    Ok(Simulator { shared, tasks })
}

impl Simulator {
    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.shared.address
    }

    /// The `base_url` of an account here.
    #[must_use]
    pub fn url(&self) -> String {
        self.shared.url()
    }

    /// Emits `count` events now.
    pub fn emit(&self, count: u64) {
        self.shared.emit(count);
    }

    /// How many events there are, the backlog included.
    #[must_use]
    pub fn events(&self) -> u64 {
        self.shared.world().events
    }

    /// Sets the probability of a fault; one outside 0..=1 is refused.
    pub fn set_fault(&self, fault: Fault, rate: f64) -> Result<(), SimulatorError> {
        let rate = Rate::new(rate).map_err(|why| SimulatorError::Option { option: fault.as_str(), why })?;
        self.shared.set_fault(fault, rate);
        Ok(())
    }

    /// How often a fault happened.
    #[must_use]
    pub fn happened(&self, fault: Fault) -> u64 {
        self.shared.world().faults.happened(fault)
    }

    /// Sets how many events come a second.
    pub fn set_rate(&self, rate: f64) {
        self.shared.rate.send_replace(rate.clamp(0.0, 1_000_000.0));
    }

    /// Up to `limit` events after a place (0 = from the first), as a dialect tells them.
    #[must_use]
    pub fn emitted(&self, dialect: Dialect, after: u64, limit: usize) -> Vec<Emitted> {
        admin::all_emitted(&self.shared, dialect, after, limit)
    }

    /// What was asked.
    #[must_use]
    pub fn requests(&self) -> Requests {
        self.shared.traffic().report()
    }

    /// Lets everything that was emitted until now expire: every position is gone.
    pub fn expire_all(&self) {
        let now = self.shared.clock.now();
        self.shared.world().expire(world::milliseconds(now) + 1);
    }

    /// Waits until a part of it ends, which none does before [`Simulator::stop`]; gives its name.
    pub async fn ended(&mut self) -> String {
        match self.tasks.join_next().await {
            Some(Ok(name)) => name.to_owned(),
            Some(Err(error)) => error.to_string(),
            None => "everything".to_owned(),
        }
    }

    /// Ends it, within about `within`.
    pub async fn stop(mut self, within: Duration) {
        self.shared.stop.cancel();
        let until = Instant::now() + within;
        while let Ok(Some(_)) = tokio::time::timeout_at(until, self.tasks.join_next()).await {}
        self.tasks.shutdown().await;
    }
}
