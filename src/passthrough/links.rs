//! Links of an answer lead back through the door: a string in `meta.links` that is an address of the vendor becomes one
//! of ours. Everything else passes byte by byte, however the answer is cut into pieces.

use reqwest::Url;

/// The longest link that is looked at, in bytes; a longer one passes as it is.
const MAX_LINK: usize = 8 * 1024;
/// How deep objects and arrays are followed; links lie at depth 3.
const MAX_DEPTH: usize = 64;
/// No key that matters is longer.
const MAX_KEY: usize = 16;

/// Where the vendor's addresses become ours.
#[derive(Clone, Debug)]
pub(super) struct Door {
    theirs: String,
    ours: String,
}

impl Door {
    /// `ours` is what stands in the place of the vendor's origin.
    pub(super) fn new(origin: &Url, ours: String) -> Self {
        Self { theirs: origin.as_str().trim_end_matches('/').to_owned(), ours }
    }

    /// An address of the vendor as one of ours; none when it is another's.
    pub(super) fn rewrite(&self, link: &str) -> Option<String> {
        let rest = link.strip_prefix(&self.theirs)?;
        // `https://api.getbase.com.evil.example` begins like it.
        (rest.is_empty() || rest.starts_with(['/', '?'])).then(|| format!("{}{rest}", self.ours))
    }
}

/// Whether a whole answer may have links that are rewritten: names are compared as they are spelled.
pub(super) fn may_have(answer: &[u8]) -> bool {
    memchr::memmem::find(answer, b"\"links\"").is_some()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Other,
    Meta,
    Links,
}

#[derive(Clone, Copy, Debug)]
struct Frame {
    object: bool,
    role: Role,
    /// In an object: whether the next string is a name.
    naming: bool,
    /// What the value under the last name is.
    below: Role,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Text {
    None,
    Name,
    Link,
    Other,
}

/// Rewrites the links of one JSON answer as it passes. What is no JSON passes too.
#[derive(Debug)]
pub(super) struct Links {
    door: Door,
    frames: Vec<Frame>,
    /// Open objects and arrays beyond [`MAX_DEPTH`].
    deeper: usize,
    text: Text,
    escaped: bool,
    /// A name, or a link without its quotes.
    held: Vec<u8>,
}

impl Links {
    pub(super) const fn new(door: Door) -> Self {
        Self { door, frames: Vec::new(), deeper: 0, text: Text::None, escaped: false, held: Vec::new() }
    }

    /// Passes a piece; the end of it may be held back until the next one.
    pub(super) fn pass(&mut self, piece: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(piece.len() + 64);
        for &byte in piece {
            match self.text {
                Text::None => self.between(byte, &mut out),
                _ => self.inside(byte, &mut out),
            }
        }
        out
    }

    /// What is still held back when the answer has ended.
    pub(super) fn end(&mut self) -> Vec<u8> {
        if self.text == Text::Link { std::mem::take(&mut self.held) } else { Vec::new() }
    }

    fn between(&mut self, byte: u8, out: &mut Vec<u8>) {
        out.push(byte);
        if self.deeper > 0 && byte != b'"' {
            match byte {
                b'{' | b'[' => self.deeper += 1,
                b'}' | b']' => self.deeper -= 1,
                _ => {}
            }
            return;
        }
        match byte {
            b'{' | b'[' if self.frames.len() == MAX_DEPTH => self.deeper = 1,
            b'{' | b'[' => {
                let role = self
                    .frames
                    .last()
                    .map_or(Role::Other, |frame| if frame.object { frame.below } else { Role::Other });
                let object = byte == b'{';
                self.frames.push(Frame { object, role, naming: object, below: Role::Other });
            }
            b'}' | b']' => drop(self.frames.pop()),
            b',' => {
                if let Some(frame) = self.frames.last_mut() {
                    frame.naming = frame.object;
                }
            }
            b':' => {
                if let Some(frame) = self.frames.last_mut() {
                    frame.naming = false;
                }
            }
            b'"' => {
                self.text = match self.frames.last() {
                    _ if self.deeper > 0 => Text::Other,
                    Some(frame) if frame.object && frame.naming => Text::Name,
                    Some(frame) if frame.object && frame.role == Role::Links => Text::Link,
                    _ => Text::Other,
                };
                self.held.clear();
            }
            _ => {}
        }
    }

    fn inside(&mut self, byte: u8, out: &mut Vec<u8>) {
        let ends = byte == b'"' && !self.escaped;
        self.escaped = byte == b'\\' && !self.escaped;
        match self.text {
            Text::Link if ends => {
                let held = std::mem::take(&mut self.held);
                match self.rewritten(&held) {
                    Some(link) => out.extend_from_slice(&link),
                    None => out.extend_from_slice(&held),
                }
            }
            Text::Link => {
                self.held.push(byte);
                if self.held.len() > MAX_LINK {
                    out.append(&mut self.held);
                    self.text = Text::Other;
                }
                return;
            }
            Text::Name if ends => self.named(),
            Text::Name if self.held.len() < MAX_KEY => self.held.push(byte),
            _ => {}
        }
        out.push(byte);
        if ends {
            self.text = Text::None;
        }
    }

    fn named(&mut self) {
        if let Some(frame) = self.frames.last_mut() {
            frame.below = match (frame.role, &*self.held) {
                (_, b"meta") => Role::Meta,
                (Role::Meta, b"links") => Role::Links,
                _ => Role::Other,
            };
        }
    }

    /// A link without its quotes, as it is spelled, in ours; none when it is left as it is.
    fn rewritten(&self, spelled: &[u8]) -> Option<Vec<u8>> {
        let quoted = [b"\"", spelled, b"\""].concat();
        let link: String = serde_json::from_slice(&quoted).ok()?;
        let mut text = serde_json::to_vec(&self.door.rewrite(&link)?).ok()?;
        text.pop();
        text.remove(0);
        Some(text)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn door() -> Door {
        Door::new(&Url::parse("https://api.getbase.com").unwrap(), "http://localhost:8080/sell/acme".to_owned())
    }

    fn passed(answer: &[u8], piece: usize) -> Vec<u8> {
        let mut links = Links::new(door());
        let mut out: Vec<u8> = answer.chunks(piece).flat_map(|piece| links.pass(piece)).collect();
        out.extend(links.end());
        out
    }

    const LIST: &str = r#"{"items":[{"data":{"meta":"x","site":"https://api.getbase.com/v2/a"},"meta":{"type":"deal","links":{"self":"https:\/\/api.getbase.com\/v2\/deals\/1"}}}],
"meta":{"links":{"self":"https://api.getbase.com/v2/deals?page=1","next_page":"https://api.getbase.com/v2/deals?page=2\u0026q=a","other":"https://api.getbase.com.evil.example/","n":null,"list":["https://api.getbase.com/v2/x"]},"note":"https://api.getbase.com/v2/b"},"links":{"a":"https://api.getbase.com/"}}"#;

    #[test]
    fn links_of_meta_lead_through_the_door_and_nothing_else_changes() {
        let expected = LIST
            .replace(r"https:\/\/api.getbase.com\/v2\/deals\/1", "http://localhost:8080/sell/acme/v2/deals/1")
            .replace("https://api.getbase.com/v2/deals?page=1", "http://localhost:8080/sell/acme/v2/deals?page=1")
            .replace(
                r"https://api.getbase.com/v2/deals?page=2\u0026q=a",
                "http://localhost:8080/sell/acme/v2/deals?page=2&q=a",
            );
        for piece in [1, 2, 3, 7, 64, LIST.len()] {
            assert_eq!(String::from_utf8(passed(LIST.as_bytes(), piece)).unwrap(), expected, "in pieces of {piece}");
        }
    }

    #[test]
    fn what_is_too_long_too_deep_or_cut_off_passes_as_it_is() {
        let long = format!(r#"{{"meta":{{"links":{{"a":"https://api.getbase.com/{}"}}}}}}"#, "x".repeat(9000));
        let deep = format!("{}{}", "[{\"meta\":".repeat(100), "\"https://api.getbase.com/\"");
        let cut = r#"{"meta":{"links":{"a":"https://api.getbase.com/v2"#;
        for text in [long.as_str(), &deep, cut, "<html>\"{[", "}}}]]]\"\\"] {
            assert_eq!(passed(text.as_bytes(), 5), text.as_bytes());
        }
    }

    proptest! {
        #[test]
        fn any_bytes_in_any_pieces_pass_alike(bytes in proptest::collection::vec(any::<u8>(), 0..300), piece in 1_usize..40) {
            // No link of the vendor is among them.
            prop_assert_eq!(passed(&bytes, piece), bytes);
        }

        #[test]
        fn pieces_make_no_difference(cuts in proptest::collection::vec(1_usize..LIST.len(), 0..12)) {
            let mut links = Links::new(door());
            let mut cuts = cuts;
            cuts.extend([0, LIST.len()]);
            cuts.sort_unstable();
            let mut out: Vec<u8> = cuts.windows(2).flat_map(|cut| links.pass(&LIST.as_bytes()[cut[0]..cut[1]])).collect();
            out.extend(links.end());
            prop_assert_eq!(out, passed(LIST.as_bytes(), LIST.len()));
        }

        #[test]
        fn what_is_said_to_have_no_links_has_none(at in 0..LIST.len(), byte in any::<u8>()) {
            let mut answer = LIST.as_bytes().to_vec();
            answer[at] = byte;
            let answer = if at % 2 == 0 { answer } else { String::from_utf8_lossy(&answer).replace("links", "link").into() };
            prop_assert!(may_have(&answer) || passed(&answer, answer.len()) == answer);
        }
    }
}
