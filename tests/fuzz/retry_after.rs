//! `Retry-After` and dates of headers, as a server that means harm or is merely old may write them.

use std::time::Duration;

use standpipe::http::{date, retry_after};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;

use crate::fuzz;
use crate::recipe::Recipe;

const WORDS: [&str; 24] = [
    "Wed",
    "Wednesday",
    ", ",
    "21",
    " ",
    "Oct",
    "Feb",
    "29",
    "31",
    "2015",
    "2016",
    "0000",
    "9999",
    "07:28:00",
    "23:59:60",
    "GMT",
    "UTC",
    "+0000",
    "-2359",
    "+9999",
    "0",
    "99999999999999999999",
    "-",
    "\u{a0}",
];

/// From the year 0 to 9999, which is what a date of four digits can name.
fn moment(recipe: &mut Recipe<'_>) -> OffsetDateTime {
    let (first, last) = (-62_167_219_200_i64, 253_402_300_799_i64);
    let seconds = i64::from_be_bytes(recipe.array()).rem_euclid(last - first + 1) + first;
    OffsetDateTime::from_unix_timestamp(seconds).unwrap()
}

fn property(input: &[u8]) {
    let mut recipe = Recipe::new(input);
    let now = moment(&mut recipe);
    match recipe.below(4) {
        0 => {
            let seconds = u64::from_be_bytes(recipe.array());
            let blanks = recipe.pick(&["", " ", "\t"]);
            assert_eq!(retry_after(&format!("{blanks}{seconds}{blanks}"), now), Some(Duration::from_secs(seconds)));
        }
        1 => {
            let then = moment(&mut recipe);
            // Years before 1900 are no RFC 2822 dates.
            let Ok(text) = then.format(&Rfc2822) else { return };
            let text = text.replace("+0000", recipe.pick(&["GMT", "+0000"]));
            assert_eq!(date(&text), Some(then), "{text}");
            let wait = retry_after(&text, now).expect("a date");
            assert_eq!(wait, Duration::try_from(then - now).unwrap_or_default());
        }
        choice => {
            let text = if choice == 2 {
                (0..recipe.below(12)).map(|_| recipe.pick(&WORDS)).collect()
            } else {
                String::from_utf8_lossy(recipe.rest()).into_owned()
            };
            let digits = !text.trim().is_empty() && text.trim().bytes().all(|byte| byte.is_ascii_digit());
            match retry_after(&text, now) {
                Some(wait) if digits => {
                    assert_eq!(wait, Duration::from_secs(text.trim().parse().unwrap_or(u64::MAX)), "{text}");
                }
                Some(wait) => assert_eq!(wait, Duration::try_from(date(&text).unwrap() - now).unwrap_or_default()),
                None => assert!(!digits && date(&text).is_none(), "{text}"),
            }
        }
    }
}

#[test]
fn retry_after_is_seconds_or_a_date_and_else_nothing() {
    fuzz!("retry_after", property);
}
