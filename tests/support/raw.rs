//! Kafka's protocol by hand, for what no client would send: an `EndTxn` that comes late.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const END_TXN: i16 = 26;
const DESCRIBE_TRANSACTIONS: i16 = 65;
const LIMIT: Duration = Duration::from_secs(10);

/// Who produces under a transactional id now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProducerEpoch {
    pub id: i64,
    pub epoch: i16,
}

/// Asks a broker; none where it does not coordinate this transactional id, or is away.
pub async fn describe(port: u16, transactional_id: &str) -> Option<ProducerEpoch> {
    // Flexible: lengths are varints and one more than what they count, a tagged section of nothing ends each structure.
    let mut body = vec![0, 2];
    body.push(u8::try_from(transactional_id.len() + 1).ok().filter(|length| *length < 128).expect("a short id"));
    body.extend_from_slice(transactional_id.as_bytes());
    body.push(0);
    let answer = call(port, DESCRIBE_TRANSACTIONS, 0, &body).await?;
    let mut left = Reader(&answer);
    // Tags of the header, throttle time, how many, the error.
    left.take(1)?;
    left.take(4)?;
    left.take(1)?;
    if left.take(2)? != [0, 0] {
        return None;
    }
    for _ in ["transactional id", "state"] {
        let length = left.take(1)?[0];
        left.take(usize::from(length) - 1)?;
    }
    // Timeout and start.
    left.take(12)?;
    let id = i64::from_be_bytes(left.take(8)?.try_into().ok()?);
    let epoch = i16::from_be_bytes(left.take(2)?.try_into().ok()?);
    Some(ProducerEpoch { id, epoch })
}

/// Sends an `EndTxn`; gives the broker's error code, 0 for success, none where it does not answer.
pub async fn end_transaction(port: u16, transactional_id: &str, of: ProducerEpoch, commit: bool) -> Option<i16> {
    let mut body = Vec::new();
    body.extend_from_slice(&i16::try_from(transactional_id.len()).expect("a short id").to_be_bytes());
    body.extend_from_slice(transactional_id.as_bytes());
    body.extend_from_slice(&of.id.to_be_bytes());
    body.extend_from_slice(&of.epoch.to_be_bytes());
    body.push(u8::from(commit));
    let answer = call(port, END_TXN, 1, &body).await?;
    let mut left = Reader(&answer);
    left.take(4)?;
    Some(i16::from_be_bytes(left.take(2)?.try_into().ok()?))
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, left) = self.0.split_at_checked(count)?;
        self.0 = left;
        Some(taken)
    }
}

/// One request on a connection of its own; gives what follows the correlation id.
async fn call(port: u16, key: i16, version: i16, body: &[u8]) -> Option<Vec<u8>> {
    const CLIENT: &[u8] = b"raw";
    let mut request = Vec::new();
    request.extend_from_slice(&key.to_be_bytes());
    request.extend_from_slice(&version.to_be_bytes());
    request.extend_from_slice(&7_i32.to_be_bytes());
    request.extend_from_slice(&[0, 3]);
    request.extend_from_slice(CLIENT);
    // A flexible header ends with its tags: the caller's first byte.
    request.extend_from_slice(body);
    let talk = async {
        let mut broker = TcpStream::connect(("127.0.0.1", port)).await.ok()?;
        broker.write_all(&u32::try_from(request.len()).ok()?.to_be_bytes()).await.ok()?;
        broker.write_all(&request).await.ok()?;
        let length = broker.read_u32().await.ok()?;
        let mut answer = vec![0; usize::try_from(length).ok()?];
        broker.read_exact(&mut answer).await.ok()?;
        Some(answer.split_off(4))
    };
    tokio::time::timeout(LIMIT, talk).await.ok()?
}
