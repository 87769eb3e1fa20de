use std::fmt::{self, Write as _};

use time::OffsetDateTime;

/// Writes JSON as a server of some years would: text either as it is or in ASCII with escapes.
#[derive(Debug)]
pub(super) struct Json<'a> {
    pub out: &'a mut Vec<u8>,
    /// Writes what is not ASCII as `\uXXXX` and `/` as `\/`.
    pub ascii: bool,
}

impl Json<'_> {
    pub fn raw(&mut self, text: &str) {
        self.out.extend_from_slice(text.as_bytes());
    }

    pub fn format(&mut self, arguments: fmt::Arguments<'_>) {
        struct Out<'a>(&'a mut Vec<u8>);
        impl fmt::Write for Out<'_> {
            fn write_str(&mut self, text: &str) -> fmt::Result {
                self.0.extend_from_slice(text.as_bytes());
                Ok(())
            }
        }
        Out(self.out).write_fmt(arguments).expect("writing to memory does not fail");
    }

    pub fn value(&mut self, value: &serde_json::Value) {
        serde_json::to_writer(&mut *self.out, value).expect("writing to memory does not fail");
    }

    pub fn number(&mut self, number: u64) {
        self.format(format_args!("{number}"));
    }

    pub fn boolean(&mut self, value: bool) {
        self.raw(if value { "true" } else { "false" });
    }

    /// A string of parts.
    pub fn text(&mut self, parts: &[&str]) {
        self.out.push(b'"');
        for part in parts {
            self.escaped(part);
        }
        self.out.push(b'"');
    }

    fn escaped(&mut self, text: &str) {
        for character in text.chars() {
            match character {
                '"' => self.raw("\\\""),
                '\\' => self.raw("\\\\"),
                '\n' => self.raw("\\n"),
                '/' if self.ascii => self.raw("\\/"),
                '\0'..='\x1f' => self.format(format_args!("\\u{:04x}", u32::from(character))),
                character if self.ascii && !character.is_ascii() => {
                    let mut units = [0; 2];
                    for unit in character.encode_utf16(&mut units) {
                        self.format(format_args!("\\u{unit:04x}"));
                    }
                }
                character => self.out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
    }

    /// A time as RFC 3339 in UTC, to the millisecond where it has any.
    pub fn time(&mut self, milliseconds: i64, exact: bool) {
        let nanos = i128::from(milliseconds) * 1_000_000;
        let at = OffsetDateTime::from_unix_timestamp_nanos(nanos).unwrap_or(OffsetDateTime::UNIX_EPOCH);
        let (year, month, day) = at.to_calendar_date();
        let (hour, minute, second, milli) = at.to_hms_milli();
        let month = u8::from(month);
        self.format(format_args!("\"{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}"));
        if exact {
            self.format(format_args!(".{milli:03}"));
        }
        self.raw("Z\"");
    }

    /// A day: `"2026-11-24"`.
    pub fn date(&mut self, milliseconds: i64) {
        let at = OffsetDateTime::from_unix_timestamp(milliseconds.div_euclid(1_000));
        let (year, month, day) = at.unwrap_or(OffsetDateTime::UNIX_EPOCH).to_calendar_date();
        self.format(format_args!("\"{year:04}-{:02}-{day:02}\"", u8::from(month)));
    }
}
