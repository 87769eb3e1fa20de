use std::fmt;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use rdkafka::mocking::MockCluster;

use super::error::EmbeddedError;

/// librdkafka's mock cluster: one broker inside this process, on a loopback port, reachable by any Kafka client.
///
/// It is a demo broker: it keeps little, loses all when it ends, and does not hide aborted transactions from
/// `read_committed` consumers. It knows no admin requests, so its topics are made here.
pub struct MockKafka {
    bootstrap: String,
    stop: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl MockKafka {
    /// Starts it with these topics, each with its number of partitions.
    pub fn start(topics: &[(String, u16)]) -> Result<Self, EmbeddedError> {
        let topics = topics.to_vec();
        let (stop, stopped) = mpsc::channel();
        let (report, reported) = mpsc::channel();
        // The cluster cannot change threads, so it lives and dies on its own.
        let thread = std::thread::Builder::new().name("mock-kafka".to_owned()).spawn(move || {
            let cluster = match cluster_of(&topics) {
                Ok(cluster) => cluster,
                Err(why) => {
                    drop(report.send(Err(why)));
                    return;
                }
            };
            // Nothing is ever sent: the sender's end is the sign.
            if report.send(Ok(cluster.bootstrap_servers())).is_ok() && stopped.recv().is_err() {
                tracing::debug!("the mock cluster ends");
            }
        });
        let refused = |why: String| EmbeddedError::MockKafka { why };
        let thread = thread.map_err(|error| refused(error.to_string()))?;
        let bootstrap = reported.recv_timeout(Duration::from_secs(10)).map_err(|error| refused(error.to_string()))?;
        Ok(Self { bootstrap: bootstrap.map_err(refused)?, stop: Some(stop), thread: Some(thread) })
    }

    /// `bootstrap.servers` of it.
    #[must_use]
    pub fn bootstrap(&self) -> &str {
        &self.bootstrap
    }
}

impl Drop for MockKafka {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::warn!("the mock cluster's thread panicked");
        }
    }
}

impl fmt::Debug for MockKafka {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MockKafka").field("bootstrap", &self.bootstrap).finish_non_exhaustive()
    }
}

fn cluster_of(
    topics: &[(String, u16)],
) -> Result<MockCluster<'static, rdkafka::producer::DefaultProducerContext>, String> {
    let cluster = MockCluster::new(1).map_err(|error| error.to_string())?;
    for (topic, partitions) in topics {
        cluster.create_topic(topic, i32::from(*partitions), 1).map_err(|error| format!("topic {topic}: {error}"))?;
    }
    Ok(cluster)
}
