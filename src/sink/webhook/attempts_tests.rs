use std::time::Duration;

use bytes::Bytes;
use time::OffsetDateTime;
use tokio::time::Instant;

use super::super::config::Texts;
use super::super::connection::tests::Server;
use super::super::guard::Guard;
use super::super::request::Message;
use super::super::response::Verdict;
use super::*;
use crate::clock::Clock;
use crate::config::{BreakerConfig, Order, Secret, WebhookConfig};
use crate::event::ports::{Decision, RouteError};
use crate::event::{Recorded, Seq};

const SOON: Duration = Duration::from_secs(30);

struct Nowhere;

impl Route for Nowhere {
    fn decide(&self, _: &Recorded) -> Result<Decision, RouteError> {
        Ok(Decision::Filtered)
    }
}

struct Scene {
    attempts: Attempts,
    endpoint: Arc<Endpoint>,
}

fn scene(server: &Server) -> Scene {
    let config = WebhookConfig {
        url: Secret::value(format!("{}hook", server.origin)),
        secrets: vec![Secret::value("whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=")],
        signing_key: None,
        allow_http: true,
        allow_networks: vec!["127.0.0.0/8".parse().unwrap()],
        retry_schedule: Vec::new(),
        max_in_flight: 2,
        order: Order::None,
        breaker: BreakerConfig {
            failure_ratio: 1.0,
            min_attempts: 1,
            window: Duration::from_secs(1),
            probe_after: Duration::from_secs(1),
        },
        disable_after: Duration::from_hours(1),
        connect_timeout: Duration::from_secs(5),
        timeout: Duration::from_secs(30),
    };
    let guard = Guard::new(true, &config.allow_networks);
    let sender = Sender::new(&config, &guard, Clock::system()).unwrap();
    let means = Means { sender, route: Arc::new(Nowhere), enricher: None, shard: Shard(0) };
    let endpoint = Arc::new(Endpoint::new(&Texts::read(&config).unwrap(), &guard).unwrap());
    Scene { attempts: Attempts::new(means, config.max_in_flight), endpoint }
}

impl Scene {
    fn begin(&mut self, seq: u64) {
        let message = Message::ping(&format!("evt_{seq}"), Bytes::from_static(b"{}"));
        let (seq, recorded_at) = (Seq(seq), OffsetDateTime::UNIX_EPOCH);
        let start = Start { seq, recorded_at, load: Load::Message(message) };
        let endpoint = Arc::clone(&self.endpoint);
        self.attempts.begin(Job { start, endpoint, probe: false, span: Span::none() });
    }

    /// The seqs of all that is under way, once it has been delivered.
    async fn delivered(&mut self) -> Vec<u64> {
        let mut seqs = Vec::new();
        while self.attempts.under_way() > 0 {
            let ended = tokio::time::timeout(SOON, self.attempts.ended()).await.expect("in time");
            for ended in ended.unwrap() {
                let Ended::Sent(finished) = ended else { panic!("{ended:?}") };
                assert_eq!(finished.answer.verdict, Verdict::Delivered, "{}", finished.answer.error);
                seqs.push(finished.seq.0);
            }
        }
        seqs.sort_unstable();
        seqs
    }
}

#[tokio::test]
async fn a_worker_makes_one_attempt_after_the_other_over_one_connection() {
    let server = Server::start(99).await;
    let mut scene = scene(&server);
    for round in 0..5 {
        let seqs = [round * 2, round * 2 + 1];
        for seq in seqs {
            scene.begin(seq);
        }
        assert_eq!(scene.attempts.under_way(), 2);
        assert_eq!(scene.delivered().await, seqs);
    }
    assert_eq!((scene.attempts.workers.len(), server.connections()), (2, 2));
}

#[tokio::test]
async fn a_worker_that_has_gone_gets_nothing_and_what_comes_then_gets_another() {
    let server = Server::start(99).await;
    let mut scene = scene(&server);
    scene.begin(1);
    assert_eq!(scene.delivered().await, [1]);
    tokio::time::pause();
    let began = Instant::now();
    scene.attempts.workers.join_next().await.unwrap().unwrap();
    assert_eq!(began.elapsed().as_secs(), 4, "what is idle is given up");
    tokio::time::resume();
    scene.begin(2);
    assert_eq!(scene.delivered().await, [2]);
    assert_eq!((scene.attempts.workers.len(), server.connections()), (1, 2));
}

#[tokio::test]
async fn what_is_cut_off_tells_nothing() {
    let server = Server::start(99).await;
    let mut scene = scene(&server);
    scene.begin(1);
    scene.attempts.shutdown().await;
    assert_eq!((scene.attempts.under_way(), scene.attempts.workers.len()), (0, 0));
    assert!(scene.attempts.done.try_recv().is_err());
}
