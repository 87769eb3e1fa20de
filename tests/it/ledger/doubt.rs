//! A commit whose answer is lost, or whose request is, is settled: nothing is missing, nothing is there twice.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use standpipe::event::ports::{ChainAt, PageOutcome, ReadLedger as _, SinkBook as _};
use standpipe::event::{Seq, Shard};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::world::{World, config, event, events, page};
use crate::support::postgres::{Postgres, Stop};

/// What a request must hold for the link to be cut.
const MARK: &str = "cut-here";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Cut {
    Nothing,
    /// The server never sees the request.
    Request,
    /// The server carries it out, and its answer is lost.
    Answer,
}

/// A link to a PostgreSQL that cuts one marked request.
struct Link {
    port: u16,
    cut: Arc<AtomicU8>,
}

impl Link {
    async fn to(server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let cut = Arc::new(AtomicU8::new(Cut::Nothing as u8));
        let armed = cut.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(pass(client, TcpStream::connect(("127.0.0.1", server)).await.unwrap(), armed.clone()));
            }
        });
        Self { port, cut }
    }

    fn arm(&self, cut: Cut) {
        self.cut.store(cut as u8, Ordering::SeqCst);
    }

    fn fired(&self) -> bool {
        self.cut.load(Ordering::SeqCst) == Cut::Nothing as u8
    }
}

async fn pass(mut client: TcpStream, mut server: TcpStream, armed: Arc<AtomicU8>) {
    let (mut request, mut answer) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    let mut lose_answer = false;
    loop {
        tokio::select! {
            read = client.read(&mut request) => {
                let Ok(n @ 1..) = read else { return };
                if request[..n].windows(MARK.len()).any(|bytes| bytes == MARK.as_bytes()) {
                    match armed.swap(Cut::Nothing as u8, Ordering::SeqCst) {
                        cut if cut == Cut::Request as u8 => return,
                        cut => lose_answer = cut == Cut::Answer as u8,
                    }
                }
                if server.write_all(&request[..n]).await.is_err() { return }
            }
            read = server.read(&mut answer) => {
                let Ok(n @ 1..) = read else { return };
                if lose_answer || client.write_all(&answer[..n]).await.is_err() { return }
            }
        }
    }
}

async fn world() -> (World, Link) {
    let server = Postgres::shared().await;
    let direct = server.database().await;
    let link = Link::to(server.port()).await;
    let (_, database) = direct.rsplit_once('/').unwrap();
    let through = format!("postgres://postgres@127.0.0.1:{}/{database}", link.port);
    (World::with(config(&through), direct).await, link)
}

#[tokio::test]
async fn a_lost_answer_and_a_lost_request_lose_and_repeat_nothing_inv_1() {
    let (world, link) = world().await;
    let deals = world.stream("deals").await;
    assert_eq!(world.record(page(&deals, "tail", "p1", events(["known"]))).await, PageOutcome::Recorded);
    for (round, cut) in [Cut::Answer, Cut::Request, Cut::Answer].into_iter().enumerate() {
        let (from, to) = (format!("p{}", round + 1), format!("p{}", round + 2));
        let marked = event(&format!("{round}-b"), MARK);
        let mut on_page = events(["known".to_owned(), format!("{round}-a")]);
        on_page.extend([marked, event(&format!("{round}-c"), "after")]);
        link.arm(cut);
        assert_eq!(world.record(page(&deals, &from, &to, on_page)).await, PageOutcome::Recorded);
        assert!(link.fired());
        assert_eq!(world.position(&deals).await, to);
    }
    let ids = ["known", "0-a", "0-b", "0-c", "1-a", "1-b", "1-c", "2-a", "2-b", "2-c"];
    assert_eq!(world.shelf.ids(), ids);
    let mut after = Seq::ZERO;
    for batch in world.shelf.batches() {
        assert_eq!(batch.after, after, "what is published joins");
        after = batch.to();
    }
    assert_eq!(world.count("SELECT count(*) FROM events").await, 10);
    world.finish().await.unwrap();
}

#[tokio::test]
async fn an_empty_page_whose_answer_is_lost_has_moved_the_position_inv_4() {
    let (world, link) = world().await;
    let deals = world.stream("deals").await;
    link.arm(Cut::Answer);
    let moved = world.record(page(&deals, "tail", MARK, vec![])).await;
    // The ledger cannot tell it from a stream that somebody else moved there; the source goes on from there either way.
    assert_eq!(moved, PageOutcome::Superseded { at: MARK.into() });
    assert!(link.fired());
    assert_eq!(world.record(page(&deals, MARK, "p2", events(["a"]))).await, PageOutcome::Recorded);
    world.finish().await.unwrap();
}

#[tokio::test]
async fn a_database_that_crashes_and_comes_back_loses_and_repeats_nothing_inv_1() {
    let mut server = Postgres::start().await;
    let direct = server.database().await;
    let mut world = World::with(config(&direct), direct).await;
    let deals = world.stream("deals").await;
    let mut at = 0;
    let mut crashes = [3, 4, 9, 15].into_iter().peekable();
    while at < 20 {
        let (from, to) = (if at == 0 { "tail".to_owned() } else { at.to_string() }, (at + 1).to_string());
        let submitted = page(&deals, &from, &to, events((0..20).map(|n| format!("{at}-{n}"))));
        let outcome = if crashes.next_if_eq(&at).is_some() {
            let (outcome, ()) = tokio::join!(world.try_record(submitted), async {
                server.stop(Stop::Immediate).await;
                server.start_again().await;
            });
            outcome
        } else {
            world.try_record(submitted).await
        };
        if outcome == Some(PageOutcome::Recorded) {
            at += 1;
        } else {
            // As `app` and the source do: start anew, and ask the ledger where the stream is.
            world = world.again().await;
            at += u32::from(world.position(&deals).await == to);
        }
    }
    let expected: Vec<String> = (0..20).flat_map(|page| (0..20).map(move |n| format!("{page}-{n}"))).collect();
    let all = world.ledger.read(Shard(0), Seq::ZERO, Seq(400), 1000, 1 << 20).await.unwrap();
    assert_eq!(all.events.iter().map(|event| event.id.to_string()).collect::<Vec<_>>(), expected);
    assert_eq!(world.ledger.chain_at(Shard(0), Seq(400)).await.unwrap(), ChainAt::Known(all.chain()));
    assert_eq!(world.count("SELECT count(*) FROM events").await, 400);
    world.finish().await.unwrap();
}
