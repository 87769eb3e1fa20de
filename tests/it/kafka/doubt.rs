//! Outcomes that are not a definite yes (INV-9): the producer is discarded, and the next start reads what became of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use standpipe::event::ports::Delivered;
use standpipe::sink::kafka::{
    Cluster, Committed, CursorFound, Extent, KafkaCluster, KafkaSinkError, Tails, TopicEnd, TopicHeld, TopicInfo,
    TopicKind, Transaction, Transactions, run_on,
};
use tokio::sync::mpsc;

use super::*;

/// What becomes of a transaction whose outcome is then not told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Committed,
    Lost,
}

/// The real cluster, where every fourth outcome stays open.
struct Doubtful {
    inner: KafkaCluster,
    fate: Fate,
    asked: Arc<AtomicUsize>,
    fenced: Arc<AtomicUsize>,
}

struct DoubtfulProducer<P> {
    inner: P,
    fate: Fate,
    asked: Arc<AtomicUsize>,
    was_open: bool,
}

impl<P: Transactions> Transactions for DoubtfulProducer<P> {
    fn submit(
        &mut self,
        transaction: Transaction,
    ) -> impl Future<Output = Result<Committed, KafkaSinkError>> + Send + 'static {
        assert!(!self.was_open, "a producer is used again after an open outcome");
        let open = self.asked.fetch_add(1, Ordering::SeqCst) % 4 == 3;
        self.was_open = open;
        let lost = open && self.fate == Fate::Lost;
        let outcome = (!lost).then(|| self.inner.submit(transaction));
        async move {
            let outcome = match outcome {
                Some(outcome) => Some(outcome.await?),
                None => None,
            };
            let doubt = || KafkaSinkError::Doubt { why: "the test says so".into(), source: None };
            outcome.filter(|_| !open).ok_or_else(doubt)
        }
    }

    async fn discard(self) -> Result<(), KafkaSinkError> {
        self.inner.discard().await
    }
}

impl Cluster for Doubtful {
    type Producer = DoubtfulProducer<<KafkaCluster as Cluster>::Producer>;

    async fn cursor_topic(&mut self, create: bool) -> Result<bool, KafkaSinkError> {
        self.inner.cursor_topic(create).await
    }

    async fn fence(&mut self) -> Result<Self::Producer, KafkaSinkError> {
        self.fenced.fetch_add(1, Ordering::SeqCst);
        let inner = self.inner.fence().await?;
        Ok(DoubtfulProducer { inner, fate: self.fate, asked: self.asked.clone(), was_open: false })
    }

    async fn read_cursor(&mut self, fenced: &Self::Producer) -> Result<CursorFound, KafkaSinkError> {
        self.inner.read_cursor(&fenced.inner).await
    }

    async fn last_cursor(&mut self) -> Result<CursorFound, KafkaSinkError> {
        self.inner.last_cursor().await
    }

    async fn delivered(
        &mut self,
        tails: &Tails,
        range: (Seq, Seq),
        extent: Extent,
        found: mpsc::Sender<Vec<(Seq, Delivered)>>,
    ) -> Result<(), KafkaSinkError> {
        self.inner.delivered(tails, range, extent, found).await
    }

    async fn ends(&mut self, expected: &Tails) -> Result<Vec<TopicEnd>, KafkaSinkError> {
        self.inner.ends(expected).await
    }

    async fn held(&mut self, topics: &[Arc<str>], range: (Seq, Seq)) -> Result<Vec<TopicHeld>, KafkaSinkError> {
        self.inner.held(topics, range).await
    }

    async fn topic(&mut self, name: &str, kind: TopicKind) -> Result<TopicInfo, KafkaSinkError> {
        self.inner.topic(name, kind).await
    }

    async fn topics(&mut self, names: &[Arc<str>]) -> Result<Vec<Option<TopicInfo>>, KafkaSinkError> {
        self.inner.topics(names).await
    }

    async fn partitions(&mut self, topics: &[Arc<str>]) -> Result<Vec<Option<i32>>, KafkaSinkError> {
        self.inner.partitions(topics).await
    }

    fn outgrown(&self) -> bool {
        self.inner.outgrown()
    }
}

async fn delivers_through_doubt(name: &str, fate: Fate) {
    let stage = Stage::new(name).await;
    let sink = sink(&stage.ledger, &stage.deployment, stage.config());
    let settings = Arc::new(sink.settings());
    let fenced = Arc::new(AtomicUsize::new(0));
    let inner = KafkaCluster::new(settings.clone());
    let cluster = Doubtful { inner, fate, asked: Arc::default(), fenced: fenced.clone() };
    let stop = sink.stop.clone();
    let task = tokio::spawn(run_on(sink, settings, cluster));
    for round in 1..=8 {
        stage.ledger.record_some(50);
        stage.wait_cursor(round * 50).await;
    }
    stop.cancel();
    tokio::time::timeout(LIMIT, task).await.expect("it ends").unwrap().unwrap();
    stage.assert_delivered(1..=400).await;
    assert!(fenced.load(Ordering::SeqCst) >= 3, "the doubt never came");
    assert!(stage.ledger.state().reports.iter().any(|(state, _)| *state == SinkState::Retrying));
}

/// Field 3: what is in doubt is settled before anything goes on.
#[tokio::test]
async fn a_commit_whose_answer_is_lost_is_neither_repeated_nor_missed() {
    delivers_through_doubt("answerlost", Fate::Committed).await;
}

#[tokio::test]
async fn a_transaction_that_is_lost_is_delivered_by_the_next_producer() {
    delivers_through_doubt("txnlost", Fate::Lost).await;
}

#[tokio::test]
async fn a_producer_for_every_transaction_delivers_the_same() {
    let stage = Stage::new("every").await;
    let mut config = stage.config();
    config.new_producer = standpipe::config::NewProducer::EveryTransaction;
    stage.ledger.record_some(100);
    let running = start(sink(&stage.ledger, &stage.deployment, config));
    stage.wait_cursor(100).await;
    for round in 1..=3 {
        stage.ledger.record_some(50);
        stage.wait_cursor(100 + round * 50).await;
    }
    running.stop().await.unwrap();
    stage.assert_delivered(1..=250).await;
    let running = stage.ledger.state().reports.iter().filter(|(state, _)| *state == SinkState::Running).count();
    assert!(running >= 4, "{running} producers for at least 4 transactions");
}

#[tokio::test]
async fn a_broker_that_is_away_is_waited_for_and_nothing_is_lost_or_repeated() {
    let mut kafka = Kafka::start().await;
    let ledger = FakeLedger::new();
    ledger.record_some(50);
    let running = start(sink(&ledger, "it-away", config(&kafka.brokers(), "away.deals")));
    let copied = async |seq: u64| {
        wait_until(format!("W is {seq}"), LIMIT, async || ledger.state().row.cursor == Some(Seq(seq))).await;
    };
    copied(50).await;
    kafka.kill();
    ledger.record_some(50);
    let retrying = async || ledger.reported().0 == SinkState::Retrying;
    wait_until("the outage is reported", LIMIT, retrying).await;
    kafka.start_again().await;
    copied(100).await;
    assert_eq!(ledger.reported().0, SinkState::Running);
    running.stop().await.unwrap();
    let mut found: Vec<u64> = kafka.read_committed("away.deals").await.iter().map(seq).collect();
    found.sort_unstable();
    assert_eq!(found, (1..=100).collect::<Vec<_>>());
}
