//! What a person sees while the demo runs: a block that is redrawn in place on a terminal, plain lines elsewhere.

use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use crossterm::cursor::{Hide, MoveToColumn, MoveUp, Show};
use crossterm::style::{StyledContent, Stylize};
use crossterm::terminal::{Clear, ClearType, size};
use crossterm::{execute, queue};

use super::seen::{Arrival, Counts};

/// How often plain lines tell the counts, in ticks.
const PLAIN_EVERY: u64 = 5;
/// New arrivals that plain lines show between two counts, at most.
const PLAIN_ARRIVALS: usize = 3;

/// What the screen shows.
#[derive(Clone, Debug, Default)]
pub(super) struct Scene {
    pub(super) running_for: Duration,
    pub(super) recorded: u64,
    pub(super) streams: usize,
    pub(super) at_top: usize,
    pub(super) sinks: Vec<SinkScene>,
    pub(super) counts: Counts,
}

/// One sink.
#[derive(Clone, Debug, Default)]
pub(super) struct SinkScene {
    pub(super) kind: String,
    /// A word of `SinkState`; empty before its start.
    pub(super) state: String,
    pub(super) lag_events: u64,
    pub(super) lag_seconds: f64,
}

/// What does not change while the demo runs.
#[derive(Clone, Debug, Default)]
pub(super) struct Hints {
    /// What has to be said of the broker.
    pub(super) broker: Vec<String>,
    pub(super) console: String,
    pub(super) commands: Vec<String>,
}

/// Where it is shown.
#[derive(Debug)]
pub(super) struct Screen {
    terminal: bool,
    color: bool,
    drawn: u16,
    ticks: u64,
    told: u64,
    hints: Hints,
}

impl Screen {
    /// On a terminal, unless `plain`.
    pub(super) fn new(plain: bool) -> Self {
        let terminal = !plain && io::stdout().is_terminal();
        let color = terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Self { terminal, color, drawn: 0, ticks: 0, told: 0, hints: Hints::default() }
    }

    /// Whether a terminal is drawn on; then nobody else may write there.
    pub(super) const fn is_terminal(&self) -> bool {
        self.terminal
    }

    /// One step of the start, told as it happens.
    pub(super) fn step(&self, text: &str) -> io::Result<()> {
        let line =
            if self.terminal { format!("  {} {text}", Paint(self.color).name("·")) } else { format!("demo: {text}") };
        writeln!(io::stdout(), "{line}")
    }

    /// What to try; once, where lines are not redrawn.
    pub(super) fn begin(&mut self, hints: Hints) -> io::Result<()> {
        self.hints = hints;
        let mut out = io::stdout();
        if self.terminal {
            return execute!(out, Hide);
        }
        for line in hint_lines(&self.hints, Paint(false)) {
            writeln!(out, "demo: {}", line.trim_start())?;
        }
        Ok(())
    }

    /// Shows how things are now. Called about once a second.
    pub(super) fn show(&mut self, scene: &Scene) -> io::Result<()> {
        if self.terminal { self.draw(scene) } else { self.tell(scene) }
    }

    /// Leaves the terminal as it was, the last block on it.
    pub(super) fn end(&mut self) -> io::Result<()> {
        if self.terminal {
            execute!(io::stdout(), Show)?;
        }
        self.step("ending")
    }

    fn draw(&mut self, scene: &Scene) -> io::Result<()> {
        let (columns, rows) = size().ok().filter(|(columns, rows)| *columns > 0 && *rows > 1).unwrap_or((100, 40));
        let mut lines = block(scene, self.color);
        lines.extend(hint_lines(&self.hints, Paint(self.color)));
        lines.truncate(usize::from(rows.saturating_sub(1)));
        let mut out = io::stdout().lock();
        if self.drawn > 0 {
            queue!(out, MoveUp(self.drawn))?;
        }
        queue!(out, MoveToColumn(0), Clear(ClearType::FromCursorDown))?;
        for line in &lines {
            writeln!(out, "{}", cut(line, usize::from(columns)))?;
        }
        self.drawn = u16::try_from(lines.len()).unwrap_or(u16::MAX);
        out.flush()
    }

    fn tell(&mut self, scene: &Scene) -> io::Result<()> {
        let mut out = io::stdout().lock();
        let total = scene.counts.in_kafka();
        let new = usize::try_from(total - self.told.min(total)).unwrap_or(usize::MAX).min(PLAIN_ARRIVALS);
        for arrival in scene.counts.last.iter().rev().take(new).rev() {
            writeln!(out, "{}", arrival_line(arrival, Paint(false)).trim_start())?;
        }
        self.told = total;
        if self.ticks.is_multiple_of(PLAIN_EVERY) {
            writeln!(out, "{}", plain_counts(scene))?;
        }
        self.ticks += 1;
        out.flush()
    }
}

fn plain_counts(scene: &Scene) -> String {
    let mut line = format!(
        "demo: after={}s recorded={} kafka={} webhook_verified={} webhook_refused={} streams_at_top={}/{}",
        scene.running_for.as_secs(),
        scene.recorded,
        scene.counts.in_kafka(),
        scene.counts.verified,
        scene.counts.refused,
        scene.at_top,
        scene.streams,
    );
    for sink in &scene.sinks {
        write!(line, " {}_lag={}/{:.1}s", sink.kind, sink.lag_events, sink.lag_seconds)
            .expect("a string takes what is written to it");
    }
    line
}

/// The part that changes.
fn block(scene: &Scene, color: bool) -> Vec<String> {
    let paint = Paint(color);
    let seconds = scene.running_for.as_secs();
    let row = |name: &str, count: u64, what: String, rest: String| {
        let (count, what) = (paint.bold(&format!("{count:>9}")), format!("{what:<42}"));
        format!("  {name:<8}{count}  {what}{rest}")
    };
    let mut lines = vec![
        String::new(),
        format!(
            "  {}  {}",
            paint.bold("standpipe demo"),
            paint.quiet(&format!(
                "{:02}:{:02}  a simulated Sell ▶ ledger ▶ Kafka and webhook",
                seconds / 60,
                seconds % 60
            ))
        ),
        String::new(),
        row(
            "ledger",
            scene.recorded,
            "events, each recorded once".to_owned(),
            paint.quiet(&format!("{} of {} streams at their top", scene.at_top, scene.streams)),
        ),
    ];
    for sink in &scene.sinks {
        let (count, what) = match sink.kind.as_str() {
            "kafka" => {
                (scene.counts.in_kafka(), format!("messages in {} topics, exactly once", scene.counts.topics.len()))
            }
            _ => (scene.counts.verified, "requests verified, at least once".to_owned()),
        };
        let state = match sink.state.as_str() {
            "running" => paint.good("● running"),
            "" => paint.wait("■ starting"),
            other => paint.wait(&format!("▲ {other}")),
        };
        let lag = paint.quiet(&format!("  lag {} events, {:.1} s", sink.lag_events, sink.lag_seconds));
        lines.push(row(&sink.kind, count, what, format!("{state}{lag}")));
    }
    if scene.counts.refused > 0 {
        lines.push(row("", scene.counts.refused, "requests whose signature does not fit".to_owned(), String::new()));
    }
    lines.push(String::new());
    lines.extend(scene.counts.last.iter().map(|arrival| arrival_line(arrival, paint)));
    lines.push(String::new());
    lines
}

/// Colours, where they are wanted.
#[derive(Clone, Copy, Debug)]
struct Paint(bool);

impl Paint {
    fn with(self, text: &str, paint: impl FnOnce(&str) -> StyledContent<&str>) -> String {
        if self.0 { paint(text).to_string() } else { text.to_owned() }
    }

    fn bold(self, text: &str) -> String {
        self.with(text, |text| text.bold())
    }

    fn quiet(self, text: &str) -> String {
        self.with(text, |text| text.dark_grey())
    }

    fn good(self, text: &str) -> String {
        self.with(text, |text| text.green())
    }

    fn wait(self, text: &str) -> String {
        self.with(text, |text| text.yellow())
    }

    fn name(self, text: &str) -> String {
        self.with(text, |text| text.cyan())
    }
}

fn arrival_line(arrival: &Arrival, paint: Paint) -> String {
    let printable = |text: &str| text.chars().map(|c| if c.is_control() { '\u{FFFD}' } else { c }).collect::<String>();
    let name = paint.name(&format!("{:<24}", printable(&arrival.event_type)));
    let place = paint.quiet(&format!("{}[{}]@{}", arrival.topic, arrival.partition, arrival.offset));
    format!("  {name} {:<32} {place}", printable(&arrival.key))
}

fn hint_lines(hints: &Hints, paint: Paint) -> Vec<String> {
    let mut lines = vec![format!("  {}  {}", paint.quiet("console"), hints.console)];
    for (at, command) in hints.commands.iter().enumerate() {
        lines.push(format!("  {}  {command}", paint.quiet(if at == 0 { "try    " } else { "       " })));
    }
    lines.extend(hints.broker.iter().map(|line| paint.quiet(&format!("  {line}"))));
    lines.push(paint.quiet("  Ctrl-C ends everything and leaves nothing behind."));
    lines
}

/// The line cut to the terminal's width; escape sequences take no room.
fn cut(line: &str, columns: usize) -> String {
    let (mut width, mut escape, mut shown) = (0, false, String::with_capacity(line.len()));
    for c in line.chars() {
        match (escape, c) {
            (false, '\u{1b}') => escape = true,
            (true, 'm') => {
                escape = false;
                shown.push(c);
                continue;
            }
            _ => {}
        }
        if escape {
            shown.push(c);
        } else if width < columns {
            width += 1;
            shown.push(c);
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scene() -> Scene {
        let arrival = Arrival {
            event_type: "deal.updated".to_owned(),
            key: "acme/deal/456".to_owned(),
            topic: "sell.deal".to_owned(),
            partition: 1,
            offset: 44,
        };
        let sink = |kind: &str| SinkScene {
            kind: kind.to_owned(),
            state: "running".to_owned(),
            lag_events: 3,
            lag_seconds: 0.25,
        };
        Scene {
            running_for: Duration::from_secs(62),
            recorded: 120,
            streams: 19,
            at_top: 18,
            sinks: vec![sink("kafka"), sink("webhook")],
            counts: Counts {
                topics: [("sell.deal".to_owned(), 117)].into(),
                verified: 40,
                refused: 0,
                last: [arrival].into(),
            },
        }
    }

    #[test]
    fn the_block_shows_counts_lag_and_the_last_events() {
        let text = block(&scene(), false).join("\n");
        for shown in ["01:02", "120", "117", "40", "lag 3 events, 0.2 s", "deal.updated", "sell.deal[1]@44"] {
            assert!(text.contains(shown), "{shown} is not in\n{text}");
        }
        assert!(!text.contains('\u{1b}'), "no colour where none is wanted");
    }

    #[test]
    fn plain_lines_can_be_read_by_a_program() {
        assert_eq!(
            plain_counts(&scene()),
            "demo: after=62s recorded=120 kafka=117 webhook_verified=40 webhook_refused=0 streams_at_top=18/19 \
             kafka_lag=3/0.2s webhook_lag=3/0.2s"
        );
    }

    #[test]
    fn a_line_is_cut_to_the_terminal_and_its_colours_are_closed() {
        assert_eq!(cut("abcdef", 3), "abc");
        assert_eq!(cut("\u{1b}[1mabc\u{1b}[0mdef", 2), "\u{1b}[1mab\u{1b}[0m");
    }
}
