//! The figures, as a table and as JSON.

use serde::Serialize;

/// One figure, beside its ceiling.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Figure {
    pub what: String,
    pub unit: &'static str,
    pub pipe: Option<f64>,
    pub bare: Option<f64>,
    /// Pipe by bare.
    pub ratio: Option<f64>,
    pub wanted: &'static str,
}

impl Figure {
    /// A figure without a ceiling.
    pub fn alone(what: impl Into<String>, unit: &'static str, pipe: f64, wanted: &'static str) -> Self {
        Self { what: what.into(), unit, pipe: Some(pipe), wanted, ..Self::default() }
    }

    /// A ceiling alone.
    pub fn ceiling(what: impl Into<String>, unit: &'static str, bare: f64) -> Self {
        Self { what: what.into(), unit, bare: Some(bare), ..Self::default() }
    }

    /// A figure with what it is measured against.
    pub fn beside(what: impl Into<String>, unit: &'static str, pipe: f64, bare: f64, wanted: &'static str) -> Self {
        Self { what: what.into(), unit, pipe: Some(pipe), bare: Some(bare), ratio: Some(pipe / bare), wanted }
    }
}

/// Everything of one bench.
#[derive(Debug, Serialize)]
pub struct Report {
    pub machine: String,
    pub version: &'static str,
    pub postgres_waits_for_the_disk: bool,
    pub event_bytes: usize,
    pub figures: Vec<Figure>,
}

impl Report {
    pub fn print(&self) {
        println!("{}", self.machine);
        println!(
            "events of {} bytes; PostgreSQL waits for the disk: {}",
            self.event_bytes, self.postgres_waits_for_the_disk
        );
        println!("{:<46} {:>12} {:>12} {:>7}  {:<8} wanted", "figure", "pipe", "beside", "ratio", "unit");
        for figure in &self.figures {
            println!(
                "{:<46} {:>12} {:>12} {:>7}  {:<8} {}",
                figure.what,
                number(figure.pipe),
                number(figure.bare),
                figure.ratio.map_or_else(String::new, |ratio| format!("{ratio:.2}")),
                figure.unit,
                figure.wanted
            );
        }
    }
}

/// Three digits that mean something.
fn number(value: Option<f64>) -> String {
    match value {
        None => String::new(),
        Some(value) if value.abs() >= 100.0 => format!("{value:.0}"),
        Some(value) => format!("{value:.1}"),
    }
}
