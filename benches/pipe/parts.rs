//! The parts of a bench, in their order.

use std::time::Duration;

use crate::bare::Work;
use crate::door;
use crate::events::Pages;
use crate::ground::{Ground, machine};
use crate::growth;
use crate::options::{Options, Part};
use crate::report::{Figure, Report};
use crate::runs::{Measured, Scene, Whose, known, looked_up, part, run};
use crate::vendor::Story;

const RATE: &str = "events/s";
/// Runs before anything is measured, at most.
const WARM_UPS: usize = 6;

/// Measures what is asked for.
pub async fn measure(options: &Options) -> Report {
    let machine = machine();
    let ground = Ground::start(options).await;
    let mut bench = Bench { options, ground, figures: Vec::new() };
    bench.warm_up().await;
    for page in &options.pages {
        if options.wants(Part::Ceilings) {
            bench.ceilings(*page).await;
        }
        if options.wants(Part::Kafka) {
            bench.flows("Kafka", *page, options.events, (1, false)).await;
        }
        if options.wants(Part::Known) {
            bench.known(*page).await;
        }
        if options.wants(Part::Webhooks) {
            bench.flows("webhooks", *page, options.posts, (0, true)).await;
        }
        if options.wants(Part::Both) {
            bench.flows("both", *page, options.posts, (1, true)).await;
        }
    }
    if options.wants(Part::Enrich) {
        bench.enriched().await;
    }
    if options.wants(Part::Latency) {
        bench.latency().await;
    }
    if options.wants(Part::Door) {
        door::measure(&mut bench).await;
    }
    growth::measure(&mut bench).await;
    Report {
        machine,
        version: env!("CARGO_PKG_VERSION"),
        postgres_waits_for_the_disk: options.durable,
        event_bytes: Pages::element(),
        figures: bench.figures,
    }
}

/// A bench under way.
pub struct Bench<'o> {
    pub options: &'o Options,
    pub ground: Ground,
    pub figures: Vec<Figure>,
}

impl Bench<'_> {
    /// A broker compiles itself while it works: whatever is measured first would pay for it. It is warm when an event no
    /// longer costs it a tenth less than in the run before.
    async fn warm_up(&self) {
        eprintln!("warming up");
        let scene = Scene::new(Story::flood(self.options.events), 1_000, 1, false);
        let mut before = f64::INFINITY;
        for _ in 0..WARM_UPS {
            let broker = run(&self.ground, &scene, Whose::Ours).await.cpu["kafka"];
            if broker > before * 0.9 {
                return;
            }
            before = broker;
        }
    }

    async fn ceilings(&mut self, page: u64) {
        eprintln!("the bare parts, {page} events each");
        let statement = part(&self.ground, Work::Statement, page, self.options.events / 2).await;
        let producer = part(&self.ground, Work::Producer, page, self.options.events).await;
        self.figures.push(Figure::ceiling(format!("bare statement, {page}"), RATE, statement.rate));
        let known = statement.known.unwrap_or_default();
        self.figures.push(Figure::beside(
            format!("bare statement, {page}: known by fresh ids"),
            RATE,
            known,
            statement.rate,
            "",
        ));
        self.figures.push(Figure::ceiling(format!("bare producer, {page}"), RATE, producer.rate));
        if self.figures.iter().all(|figure| figure.what != "bare POSTs") {
            let posts = part(&self.ground, Work::Posts, page, self.options.posts).await;
            self.figures.push(Figure::ceiling("bare POSTs", RATE, posts.rate));
        }
    }

    /// A pipe and its bare twin, in turn.
    async fn flows(&mut self, to: &str, page: u64, events: u64, (kafka, webhooks): (u64, bool)) {
        eprintln!("to {to}, pages of {page}");
        let scene = Scene::new(Story::flood(events), page, kafka, webhooks);
        let (mut bare, mut ours) = (Vec::new(), Vec::new());
        for _ in 0..self.options.rounds {
            bare.push(run(&self.ground, &scene, Whose::Bare).await);
            ours.push(run(&self.ground, &scene, Whose::Ours).await);
        }
        let (bare, ours) = (median(bare), median(ours));
        let what = format!("→ {to}, pages of {page}");
        self.figures.push(Figure::beside(what.clone(), RATE, ours.rate, bare.rate, "≥ 0.8"));
        for (group, cpu) in &ours.cpu {
            self.figures.push(Figure::beside(format!("{what}: CPU, {group}"), "µs/event", *cpu, bare.cpu[group], ""));
        }
        self.figures.push(Figure::beside(format!("{what}: peak RSS"), "MB", ours.peak_rss, bare.peak_rss, "≤ 100"));
    }

    async fn known(&mut self, page: u64) {
        eprintln!("known ids, pages of {page}");
        let events = self.options.events;
        let story = Story { distinct: events / 4, ..Story::flood(events) };
        let scene = Scene::new(story, page, 1, false);
        let bare = known(&self.ground, &scene, Whose::Bare).await;
        let ours = known(&self.ground, &scene, Whose::Ours).await;
        self.figures.push(Figure::beside(format!("known ids, pages of {page}"), RATE, ours, bare, ""));
    }

    /// The pipe with a lookup for every event, and without, in turn. The answers are in the cache but for the first.
    async fn enriched(&mut self) {
        let page = 1_000;
        for (to, events, kafka, webhooks) in
            [("Kafka", self.options.events, 1, false), ("webhooks", self.options.posts, 0, true)]
        {
            eprintln!("to {to} with lookups, pages of {page}");
            let scene = Scene::new(Story::flood(events), page, kafka, webhooks);
            let (mut without, mut with) = (Vec::new(), Vec::new());
            for _ in 0..self.options.rounds {
                without.push(run(&self.ground, &scene, Whose::Ours).await);
                with.push(looked_up(&self.ground, &scene).await);
            }
            let (without, with) = (median(without), median(with));
            let what = format!("→ {to} with lookups by without");
            self.figures.push(Figure::beside(what.clone(), RATE, with.rate, without.rate, "≥ 0.7"));
            for (group, cpu) in &with.cpu {
                let what = format!("{what}: CPU, {group}");
                self.figures.push(Figure::beside(what, "µs/event", *cpu, without.cpu[group], ""));
            }
            let what = format!("{what}: peak RSS");
            self.figures.push(Figure::beside(what, "MB", with.peak_rss, without.peak_rss, ""));
        }
    }

    async fn latency(&mut self) {
        for rate in [100, 3_300] {
            // A page every 30 ms: at 3,300 events/s one of 99, which is the vendor's cap for a stream.
            let count = rate * 30 / 1_000;
            let story =
                Story { pace: Some((count, Duration::from_millis(30))), ..Story::flood(rate * self.options.seconds) };
            for (to, seen, kafka, webhooks) in [("Kafka", "visible", 1, false), ("webhooks", "acknowledged", 0, true)] {
                eprintln!("to {to} at {rate} events/s");
                let scene = Scene::new(story, 100, kafka, webhooks);
                let measured = run(&self.ground, &scene, Whose::Ours).await;
                let [p50, p99] = measured.latency.unwrap_or_default();
                let wanted = if rate == 3_300 && kafka == 1 { "≤ 50" } else { "" };
                let what = format!("→ {to} at {rate} events/s, to {seen}");
                self.figures.push(Figure::alone(format!("{what}: p50"), "ms", p50, ""));
                self.figures.push(Figure::alone(format!("{what}: p99"), "ms", p99, wanted));
            }
        }
    }
}

/// The run of the middle rate.
fn median(mut runs: Vec<Measured>) -> Measured {
    runs.sort_by(|one, other| one.rate.total_cmp(&other.rate));
    runs.swap_remove(runs.len() / 2)
}
