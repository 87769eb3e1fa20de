use std::sync::LazyLock;

use minijinja::value::Serde;
use minijinja::{Environment, Error, UndefinedBehavior, Value, context};

use super::model::{Overview, ShardLine};

/// The style sheet.
pub(super) const STYLE: &str = include_str!("style.css");

// The name ends in .html, so that everything is escaped.
const NAME: &str = "console.html";

static PAGES: LazyLock<Environment<'static>> = LazyLock::new(|| {
    let mut pages = Environment::new();
    pages.set_undefined_behavior(UndefinedBehavior::Strict);
    pages.add_filter("count", count);
    pages.add_filter("span", span);
    pages.add_filter("size", size);
    pages.add_template(NAME, include_str!("console.html")).expect("the template is tested");
    pages
});

/// The whole page. `refresh` 0 = it stands still.
pub(super) fn render(overview: &Result<Overview, String>, refresh: u32) -> Result<String, Error> {
    let (overview, error) = match overview {
        Ok(overview) => (Some(overview), None),
        Err(error) => (None, Some(error)),
    };
    let recorded: u64 = overview.iter().flat_map(|overview| &overview.shards).map(ShardLine::recorded).sum();
    let shard_count = overview.map_or(0, |overview| overview.shards.len());
    let version = env!("CARGO_PKG_VERSION");
    let overview = Value::from(Serde(overview));
    PAGES.get_template(NAME)?.render(context! { overview, error, refresh, recorded, shard_count, version })
}

/// `12345` as `12 345`, with narrow spaces that do not break.
pub(super) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 2);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push('\u{202F}');
        }
        text.push(digit);
    }
    text
}

/// Bytes as a person says them: `34.5 KiB`.
pub(super) fn size(bytes: u64) -> String {
    bytesize::ByteSize(bytes).display().iec().to_string()
}

/// Seconds as a person says them: `0.4 s`, `12 s`, `3 min`, `5 h 20 min`, `2 d 4 h`.
pub(super) fn span(seconds: f64) -> String {
    if seconds.is_nan() || seconds < 0.05 {
        return "0 s".to_owned();
    }
    if seconds < 9.95 {
        return format!("{seconds:.1} s");
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a float is cut to the integer's range"
    )]
    let whole = seconds.round() as u64;
    let (minutes, hours, days) = (whole / 60, whole / 3600, whole / 86400);
    let two = |large: u64, unit: &str, small: u64, smaller: &str| match small {
        0 => format!("{large} {unit}"),
        small => format!("{large} {unit} {small} {smaller}"),
    };
    match whole {
        0..100 => format!("{whole} s"),
        100..3600 => format!("{minutes} min"),
        3600..86400 => two(hours, "h", minutes % 60, "min"),
        _ => two(days, "d", hours % 24, "h"),
    }
}
