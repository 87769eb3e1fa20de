//! How the figures grow with the ledger, the streams, the sinks and what waits for a sink.

use std::time::Duration;

use rustix::process::Signal;
use sqlx::{Connection as _, PgConnection};
use standpipe::event::ports::Dialect;
use tokio::time::Instant;

use crate::ground::{open, peak_rss};
use crate::options::Part;
use crate::parts::Bench;
use crate::report::Figure;
use crate::runs::{Pipe, Scene, Stage, Whose, run};
use crate::vendor::Story;

const RATE: &str = "events/s";
const PAGE: u64 = 1_000;

/// Measures those parts that are asked for.
pub async fn measure(bench: &mut Bench<'_>) {
    let options = bench.options;
    let one = Scene::new(Story::flood(options.events), PAGE, 1, false);
    if options.wants(Part::Ledger) {
        ledger(bench, options.before.unwrap_or(20_000_000), &one).await;
    }
    if options.wants(Part::Streams) {
        let each = options.events / options.streams;
        let story = Story { streams: options.streams, ..Story::flood(each) };
        eprintln!("{} streams", options.streams);
        let many = run(&bench.ground, &Scene::new(story, PAGE, 1, false), Whose::Ours).await;
        let one = run(&bench.ground, &one, Whose::Ours).await;
        let what = format!("→ Kafka, {} streams by one", options.streams);
        bench.figures.push(Figure::beside(what.clone(), RATE, many.rate, one.rate, ""));
        bench.figures.push(Figure::beside(what + ": peak RSS", "MB", many.peak_rss, one.peak_rss, ""));
    }
    if options.wants(Part::Idle) {
        idle(bench).await;
    }
    if options.wants(Part::Sinks) {
        eprintln!("{} sinks", options.sinks);
        let events = options.events / options.sinks;
        let many = Scene::new(Story::flood(events), PAGE, options.sinks, false);
        let many = run(&bench.ground, &many, Whose::Ours).await;
        let one = run(&bench.ground, &one, Whose::Ours).await;
        let what = format!("→ Kafka, {} sinks by one", options.sinks);
        bench.figures.push(Figure::beside(what.clone(), RATE, many.rate, one.rate, ""));
        bench.figures.push(Figure::beside(what + ": peak RSS", "MB", many.peak_rss, one.peak_rss, ""));
    }
    if options.wants(Part::Backlog) {
        backlog(bench, options.before.unwrap_or(5_000_000), &one).await;
    }
}

/// The same flow into a ledger that holds events already, and into an empty one.
async fn ledger(bench: &mut Bench<'_>, before: u64, empty: &Scene) {
    eprintln!("a ledger of {before} events");
    let scene = Scene { from_now: true, ..*empty };
    let stage = Stage::new(&bench.ground, &scene).await;
    fill(&stage.database, &stage.name, before).await;
    let pipe = stage.start(&bench.ground, &scene, Whose::Ours);
    let full = stage.follow(&bench.ground, &scene, &pipe).await;
    drop(pipe);
    stage.end(&bench.ground).await;
    full.tell("Ours");
    let empty = run(&bench.ground, empty, Whose::Ours).await;
    let what = format!("→ Kafka, {before} events recorded by none");
    bench.figures.push(Figure::beside(what, RATE, full.rate, empty.rate, "≥ 0.85"));
}

/// Writes events as if they had been recorded. Their chain is not theirs, but no sink reads behind the last one.
async fn fill(url: &str, deployment: &str, events: u64) {
    // It makes the tables.
    drop(open(url, deployment).await);
    let mut connection = PgConnection::connect(url).await.expect("the server answers");
    let mut execute = async |sql: &'static str, values: &[i64]| {
        let bound = values.iter().fold(sqlx::query(sql), |query, value| query.bind(*value));
        bound.execute(&mut connection).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
    };
    let slice = 500_000;
    for from in (0..i64::try_from(events).expect("a count")).step_by(slice) {
        let to = from + i64::try_from(slice).expect("a count");
        execute("SELECT standpipe_add_partition(0::smallint, $1)", &[to - from]).await;
        execute(
            "INSERT INTO events (shard, seq, account_id, type_id, occurred_at, recorded_at, content_hash, event_id, \
             record_id, body) SELECT 0, n, 1, 1, now(), now(), md5('hash' || n)::uuid, 'old-' || n, '1234567', \
             convert_to(repeat(md5(n::text), 11), 'UTF8') FROM generate_series($1 + 1, $2) n",
            &[from, to],
        )
        .await;
        execute(
            "INSERT INTO event_ids (key, content_hash, seq, day, shard) \
             SELECT md5('key' || n)::uuid, md5('hash' || n)::uuid, n, current_date, 0 FROM generate_series($1 + 1, $2) n",
            &[from, to],
        )
        .await;
        execute(
            "WITH moved AS (UPDATE shards SET head = $1, bytes = $1 * 352, chain = sha256(int8send($1)) RETURNING *) \
             INSERT INTO chain_marks (shard, seq, chain, bytes) SELECT shard, head, chain, bytes FROM moved",
            &[to],
        )
        .await;
        eprintln!("  {to} events are there");
    }
    execute("VACUUM (ANALYZE) event_ids", &[]).await;
    // A ledger at rest, as one is that grew over weeks: nothing is left to be written, and the index is where every
    // event's look into it has put it.
    execute("CHECKPOINT", &[]).await;
    rustix::fs::sync();
    execute("CREATE EXTENSION pg_prewarm", &[]).await;
    execute("SELECT pg_prewarm('event_ids_key_excl')", &[]).await;
}

/// Streams that have nothing to tell, asked every five seconds.
async fn idle(bench: &mut Bench<'_>) {
    let streams = bench.options.streams;
    eprintln!("{streams} idle streams");
    let story = Story { streams, events: 0, distinct: 0, pace: None };
    let scene = Scene { dialect: Dialect::Live, ..Scene::new(story, 100, 0, false) };
    let stage = Stage::new(&bench.ground, &scene).await;
    let pipe = stage.start(&bench.ground, &scene, Whose::Ours);
    let polled = async |times: u64| {
        while stage.vendor.polls() < times * streams {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    // The first round opens the streams, and makes the connections.
    polled(2).await;
    let (before, began, first) = (bench.ground.cpu(pipe.pid()), Instant::now(), stage.vendor.polls());
    tokio::time::sleep(Duration::from_secs(20)).await;
    let (after, took) = (bench.ground.cpu(pipe.pid()), began.elapsed().as_secs_f64());
    #[expect(clippy::cast_precision_loss, reason = "a count of polls")]
    let polls = (stage.vendor.polls() - first) as f64 / took;
    let used = |group: &str| (after[group] - before[group]) / took * 100.0;
    let what = format!("{streams} idle streams");
    bench.figures.push(Figure::alone(format!("{what}: polls"), "a second", polls, ""));
    bench.figures.push(Figure::alone(format!("{what}: CPU, pipe"), "% of one", used("pipe"), "≤ 10"));
    bench.figures.push(Figure::alone(format!("{what}: CPU, postgres"), "% of one", used("postgres"), ""));
    bench.figures.push(Figure::alone(format!("{what}: peak RSS"), "MB", peak_rss(pipe.pid()), ""));
}

/// A sink that comes back when the ledger has long gone on without it.
async fn backlog(bench: &mut Bench<'_>, events: u64, live: &Scene) {
    eprintln!("a backlog of {events} events");
    let scene = Scene { story: Story::flood(events), ..*live };
    let stage = Stage::new(&bench.ground, &scene).await;
    let mut alone = stage.start(&bench.ground, &Scene { kafka: 0, ..scene }, Whose::Ours);
    stage.vendor.asked(events).await;
    if let Pipe::Ours(daemon) = &mut alone {
        daemon.process.signal(Signal::TERM);
        daemon.process.wait_ended(Duration::from_mins(1)).await;
    }
    eprintln!("  {events} events are recorded");
    let pipe = stage.start(&bench.ground, &scene, Whose::Ours);
    let drained = stage.follow(&bench.ground, &scene, &pipe).await;
    drop(pipe);
    stage.end(&bench.ground).await;
    let live = run(&bench.ground, live, Whose::Ours).await;
    let what = format!("→ Kafka, {events} events from the ledger by live");
    bench.figures.push(Figure::beside(what.clone(), RATE, drained.rate, live.rate, "≥ 0.8"));
    bench.figures.push(Figure::beside(what + ": peak RSS", "MB", drained.peak_rss, live.peak_rss, "≤ 150"));
}
