//! Splits a page into its elements as bytes, by brackets and quotes alone: what stands inside an element need not be
//! JSON, nor UTF-8.

use super::element::Member;

/// A page, split.
#[derive(Debug)]
pub(super) struct Split<'a> {
    /// The elements of `items`, in order, without the white space around them.
    pub items: Vec<&'a [u8]>,
    /// The value of `meta`.
    pub meta: &'a [u8],
}

/// Why a page cannot even be split.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum SplitError {
    #[error("it is empty")]
    Empty,
    #[error("it is not a JSON object")]
    NotAnObject,
    #[error("it is cut short")]
    CutShort,
    #[error("its brackets do not match at byte {0}")]
    Mismatch(usize),
    #[error("something follows its end at byte {0}")]
    Trailing(usize),
    #[error("its `items` are not a list")]
    ItemsNotAList,
    #[error("it has no `{0}`")]
    Without(&'static str),
}

/// Splits a page.
pub(super) fn page(bytes: &[u8]) -> Result<Split<'_>, SplitError> {
    let mut cursor = Cursor { bytes, at: 0 };
    match cursor.peek() {
        None => return Err(SplitError::Empty),
        Some(b'{') => cursor.at += 1,
        Some(_) => return Err(SplitError::NotAnObject),
    }
    let (mut items, mut meta) = (None, None);
    if cursor.peek() == Some(b'}') {
        return Err(SplitError::Without("items"));
    }
    loop {
        if cursor.peek() != Some(b'"') {
            return Err(cursor.unexpected());
        }
        let name = cursor.value()?;
        cursor.expect(b':')?;
        match name {
            b"\"items\"" => items = Some(cursor.list()?),
            b"\"meta\"" => meta = Some(cursor.value()?),
            _ => drop(cursor.value()?),
        }
        match cursor.peek() {
            Some(b',') => cursor.at += 1,
            _ => break,
        }
    }
    cursor.expect(b'}')?;
    if cursor.peek().is_some() {
        return Err(SplitError::Trailing(cursor.at));
    }
    Ok(Split { items: items.ok_or(SplitError::Without("items"))?, meta: meta.ok_or(SplitError::Without("meta"))? })
}

/// The value of the first member `id` of a record, as it was spelled. The record is valid JSON, and read no further
/// than needed: it is a slice, not a tree.
pub(super) fn id_of(record: &str) -> Option<&str> {
    let mut cursor = Cursor { bytes: record.as_bytes(), at: 0 };
    cursor.expect(b'{').ok()?;
    while cursor.peek()? == b'"' {
        let from = cursor.at;
        cursor.string().ok()?;
        let member = Member { name: record.get(from..cursor.at)?, value: "" };
        cursor.expect(b':').ok()?;
        cursor.peek();
        let from = cursor.at;
        let value = cursor.value().ok()?;
        if member.is("id") {
            return record.get(from..from + value.len());
        }
        cursor.expect(b',').ok()?;
    }
    None
}

struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    /// The next byte that is not white space; it is not taken.
    fn peek(&mut self) -> Option<u8> {
        while matches!(self.bytes.get(self.at), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
        self.bytes.get(self.at).copied()
    }

    fn expect(&mut self, byte: u8) -> Result<(), SplitError> {
        if self.peek() != Some(byte) {
            return Err(self.unexpected());
        }
        self.at += 1;
        Ok(())
    }

    fn unexpected(&self) -> SplitError {
        if self.at >= self.bytes.len() { SplitError::CutShort } else { SplitError::Mismatch(self.at) }
    }

    fn list(&mut self) -> Result<Vec<&'a [u8]>, SplitError> {
        if self.peek() != Some(b'[') {
            return Err(SplitError::ItemsNotAList);
        }
        self.at += 1;
        let mut items = Vec::new();
        if self.peek() == Some(b']') {
            self.at += 1;
            return Ok(items);
        }
        loop {
            self.peek();
            items.push(self.value()?);
            match self.peek() {
                Some(b',') => self.at += 1,
                _ => break,
            }
        }
        self.expect(b']')?;
        Ok(items)
    }

    /// Everything up to the comma, the colon or the closing bracket that ends this value.
    fn value(&mut self) -> Result<&'a [u8], SplitError> {
        let start = {
            self.peek();
            self.at
        };
        let mut open = Vec::new();
        loop {
            let Some(&byte) = self.bytes.get(self.at) else { return Err(SplitError::CutShort) };
            match byte {
                b'"' => {
                    self.string()?;
                    continue;
                }
                b'{' => open.push(b'}'),
                b'[' => open.push(b']'),
                b'}' | b']' => match open.pop() {
                    Some(closer) if closer == byte => {}
                    Some(_) => return Err(SplitError::Mismatch(self.at)),
                    None => break,
                },
                b',' | b':' if open.is_empty() => break,
                _ => {}
            }
            self.at += 1;
        }
        let value = &self.bytes[start..self.at];
        // JSON's white space, and nothing else that Rust takes for such.
        let end =
            value.iter().rposition(|byte| !matches!(byte, b' ' | b'\t' | b'\n' | b'\r')).map_or(0, |last| last + 1);
        Ok(&value[..end])
    }

    fn string(&mut self) -> Result<(), SplitError> {
        self.at += 1;
        loop {
            match self.bytes.get(self.at) {
                None => return Err(SplitError::CutShort),
                Some(b'"') => break,
                Some(b'\\') => self.at += 2,
                Some(_) => self.at += 1,
            }
        }
        self.at += 1;
        Ok(())
    }
}
