use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use super::cursor::CursorError;
use super::verify::Stop;
use crate::config::SecretError;
use crate::event::ports::{LedgerDisposition, LedgerError};

/// The third thread of the process that hangs in the Kafka client ends the process.
pub const MAX_ABANDONED: usize = 3;

/// What can go wrong between a Kafka sink and its cluster, or its ledger.
#[derive(Debug, thiserror::Error)]
pub enum KafkaSinkError {
    /// A property of the configuration cannot be used.
    #[error("the property `{property}` cannot be used: {why}")]
    Property {
        /// Its name.
        property: String,
        /// What is wrong with it, and what to do.
        why: String,
    },
    /// A property's secret cannot be read.
    #[error("the secret of the property `{property}` cannot be read")]
    Secret {
        /// The property's name.
        property: String,
        /// Why.
        #[source]
        source: SecretError,
    },
    /// The cluster did not do what it was asked.
    #[error("Kafka failed while {doing}{}", remedy(source))]
    Kafka {
        /// What was asked.
        doing: String,
        /// What the client said.
        #[source]
        source: KafkaError,
    },
    /// A client's thread did not answer within twice its own limit.
    #[error("the Kafka client hangs while {doing}: thread {abandoned} of this process that was given up")]
    Hangs {
        /// What was asked.
        doing: String,
        /// How many threads of this process have been given up.
        abandoned: usize,
    },
    /// Another producer has our transactional id.
    #[error("another producer took over the transactional id `{id}`: another replica owns the shard, or a copy runs")]
    Fenced {
        /// The transactional id.
        id: String,
        /// What the client said.
        #[source]
        source: KafkaError,
    },
    /// Whether a transaction is committed cannot be told from here: the next start reads it from the cursor (INV-9).
    #[error("the outcome of a transaction is open: {why}{}", source.as_ref().map_or("", remedy))]
    Doubt {
        /// What happened.
        why: String,
        /// What the client said, if anything.
        #[source]
        source: Option<KafkaError>,
    },
    /// The broker refused a message for its size.
    #[error("the broker refused a message as too large")]
    TooLarge {
        /// What the client said.
        #[source]
        source: KafkaError,
    },
    /// Something below the cursor partition's high watermark stays undecided.
    #[error(
        "a transaction hangs in partition {partition} of `{topic}`: nothing behind offset {stable} is decided; find it \
         with `kafka-transactions.sh find-hanging` and end it with `abort`"
    )]
    Hanging {
        /// The topic.
        topic: String,
        /// The partition.
        partition: i32,
        /// Up to where it is decided.
        stable: i64,
    },
    /// A topic cannot be used.
    #[error("the topic `{topic}` cannot be used: {why}")]
    Topic {
        /// Its name.
        topic: String,
        /// Why, and what to do.
        why: String,
    },
    /// What the cursor partition holds cannot be read.
    #[error("the cursor cannot be read; `standpipe sinks seek` makes a new one")]
    Cursor(#[from] CursorError),
    /// Kafka and the ledger disagree, so that going on could lose or repeat events.
    #[error(transparent)]
    Stop(#[from] Stop),
    /// The ledger was rewound, or is a copy, and another instance wrote to the sink's cursor a moment ago.
    #[error(
        "the ledger does not know what `{topic}` says, and the instance {owner} wrote there {seconds} s ago: this ledger \
         is a copy, or the other one still runs. Stop one of them: this one goes on by itself when the other has been \
         silent for two lease times, or at once with `standpipe run --adopt`"
    )]
    AnotherWrites {
        /// The cursor topic.
        topic: String,
        /// The other instance.
        owner: uuid::Uuid,
        /// How long ago.
        seconds: i64,
    },
    /// The producer's settings are out of date (a smaller topic, a day without a transaction): start again.
    #[error("a new producer is due: {why}")]
    Renewal {
        /// Why.
        why: &'static str,
    },
    /// The ledger failed.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

/// What the owner of a [`KafkaSinkError`] does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disposition {
    /// Start again from `init_transactions`, at once.
    Renew,
    /// Start again from `init_transactions`, after a pause.
    Retry,
    /// Stop this sink until a person has acted; nothing else stops.
    Halt,
    /// Ask the ledger whose the shard is: not ours, then stand down; ours, then start again after a pause that grows to
    /// a lease's time, so that two copies do not fence each other off all the time.
    Contend,
    /// Stop the shard's stages and start them anew.
    Restart,
    /// Give the shard up and back off at least one lease TTL.
    StandDown,
    /// End the process with 1.
    Exit,
}

impl KafkaSinkError {
    /// What to do about it.
    #[must_use]
    pub const fn disposition(&self) -> Disposition {
        match self {
            Self::Property { .. } | Self::Stop(_) | Self::Cursor(_) => Disposition::Halt,
            Self::Hangs { abandoned, .. } if *abandoned >= MAX_ABANDONED => Disposition::Exit,
            Self::Secret { .. }
            | Self::Kafka { .. }
            | Self::Hangs { .. }
            | Self::Doubt { .. }
            | Self::TooLarge { .. }
            | Self::Hanging { .. }
            | Self::AnotherWrites { .. }
            | Self::Topic { .. } => Disposition::Retry,
            Self::Renewal { .. } => Disposition::Renew,
            Self::Fenced { .. } => Disposition::Contend,
            Self::Ledger(error) => match error.disposition() {
                LedgerDisposition::StandDown => Disposition::StandDown,
                LedgerDisposition::Restart => Disposition::Restart,
                LedgerDisposition::Halt => Disposition::Halt,
            },
        }
    }

    /// Whether no broker could be reached, so that nothing is known about what the sink would find there.
    #[must_use]
    pub fn is_out_of_reach(&self) -> bool {
        match self {
            Self::Kafka { source, .. } => super::client::says_little(source) || is_unresolved(source),
            Self::Hangs { .. } => true,
            _ => false,
        }
    }

    /// Whether a broker was reached that takes neither our credentials nor our side of TLS, or is not trusted.
    pub(super) fn is_refusal(&self) -> bool {
        use RDKafkaErrorCode as Code;
        let Self::Kafka { source, .. } = self else { return false };
        matches!(code_of(source), Some(Code::SaslAuthenticationFailed | Code::Authentication | Code::SSL))
    }

    pub(super) fn kafka(doing: impl Into<String>) -> impl FnOnce(KafkaError) -> Self {
        let doing = doing.into();
        move |source| Self::Kafka { doing, source }
    }
}

/// The code behind an error of the client. The binding leaves out that of an administrative call.
pub(super) fn code_of(error: &KafkaError) -> Option<RDKafkaErrorCode> {
    match error {
        KafkaError::AdminOp(code) => Some(*code),
        error => error.rdkafka_error_code(),
    }
}

/// What a person can do about an error of the client.
fn remedy(error: &KafkaError) -> &'static str {
    use RDKafkaErrorCode as Code;
    match code_of(error) {
        Some(Code::TopicAuthorizationFailed) => {
            " (grant the sink's user Write, Describe, Create and DescribeConfigs on its topics, and Read on its cursor topic)"
        }
        Some(Code::TransactionalIdAuthorizationFailed) => {
            " (grant the sink's user Write and Describe on transactional ids that begin with the deployment's name)"
        }
        Some(Code::ClusterAuthorizationFailed) => " (grant the sink's user IdempotentWrite or Create on the cluster)",
        Some(Code::GroupAuthorizationFailed) => {
            " (grant the sink's user Read on groups that begin with the deployment's name)"
        }
        Some(Code::SaslAuthenticationFailed | Code::Authentication) => {
            " (the brokers refuse the credentials: see `properties` and `properties_file` of the sink)"
        }
        Some(Code::SSL) => " (TLS failed: see the `ssl.*` properties of the sink)",
        _ => "",
    }
}

fn is_unresolved(error: &KafkaError) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(code_of(error), Some(Code::Resolve))
}

/// Whether an error says that another producer has the transactional id.
pub(super) fn is_fencing(error: &KafkaError) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(code_of(error), Some(Code::ProducerFenced | Code::Fenced | Code::InvalidProducerEpoch))
}
