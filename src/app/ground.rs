//! What shards stand on: the ledger, the clusters and the network, or twins of them, so that a simulation runs this
//! wiring and no other.

use std::fmt;
use std::sync::Arc;

use crate::event::DeliveryBook;
use crate::event::ports::{AuditBook, ReadLedger, RehydrateBook, SinkBook, StreamBook};
use crate::http::Transport;
use crate::ledger::{LeaseBook, Ledger, OwnerBook, Store};
use crate::sink::kafka::{Cluster, KafkaCluster, Settings};

/// Everything that a shard asks of its ledger.
pub trait Book:
    Store
    + ReadLedger
    + StreamBook
    + SinkBook
    + RehydrateBook
    + DeliveryBook
    + AuditBook
    + LeaseBook
    + OwnerBook
    + fmt::Debug
{
}

impl<L> Book for L where
    L: Store
        + ReadLedger
        + StreamBook
        + SinkBook
        + RehydrateBook
        + DeliveryBook
        + AuditBook
        + LeaseBook
        + OwnerBook
        + fmt::Debug
{
}

/// What shards stand on.
pub trait Ground: Clone + fmt::Debug + Send + Sync + 'static {
    /// Their ledger.
    type Ledger: Book;
    /// A cluster as one Kafka sink sees it.
    type Cluster: Cluster + 'static;

    /// The ledger.
    fn ledger(&self) -> &Self::Ledger;
    /// The cluster of a sink in a shard.
    fn cluster(&self, settings: Arc<Settings>) -> Self::Cluster;
    /// Where webhooks go; none for the network, where each sink has a client of its own that checks whom it dials.
    fn transport(&self) -> Option<Transport>;
}

/// The program's own.
#[derive(Clone, Debug)]
pub struct Real(pub Ledger);

impl Ground for Real {
    type Ledger = Ledger;
    type Cluster = KafkaCluster;

    fn ledger(&self) -> &Ledger {
        &self.0
    }

    fn cluster(&self, settings: Arc<Settings>) -> KafkaCluster {
        KafkaCluster::new(settings)
    }

    fn transport(&self) -> Option<Transport> {
        None
    }
}
