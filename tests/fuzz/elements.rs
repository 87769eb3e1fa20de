//! Pages of the vendor's JSON, from words that it is made of.

use crate::recipe::Recipe;

/// Texts as JSON spells them, with what has cost somebody something: escapes, halves of pairs, NUL, bounds.
const TEXTS: [&str; 24] = [
    r#""deal""#,
    r#""event-123""#,
    r#""deal.updated""#,
    r#""updated""#,
    r#""contact.deleted""#,
    r#""LineItem""#,
    r#""""#,
    r#""2024-02-14T10:30:00Z""#,
    r#""2024-02-14T10:30:00+01:00""#,
    r#""de\u0061l""#,
    r#""a\/b\"c\\""#,
    r#""\ud83d\ude00""#,
    r#""\ud83d""#,
    r#""\ude00""#,
    r#""\u0000""#,
    "\"caf\u{e9}\"",
    "\"\u{1f600}\"",
    r#""acme""#,
    r#""deal.""#,
    r#"".created""#,
    r#""a.b.c""#,
    r#""items""#,
    r#"" ""#,
    r#""[]{},:""#,
];
const SCALARS: [&str; 14] = [
    "null",
    "true",
    "7",
    "-0",
    "1e3",
    "1E+400",
    "0.10",
    "12345678901234567890123",
    "18446744073709551616",
    "{}",
    "[]",
    "[1, 2]",
    r#"{"id":1,"id":2}"#,
    r#"{ "a" : [ {} , null ] }"#,
];
const NAMES: [&str; 22] = [
    r#""id""#,
    r#""type""#,
    r#""timestamp""#,
    r#""data""#,
    r#""previous""#,
    r#""meta""#,
    r#""deal""#,
    r#""sequence""#,
    r#""cause""#,
    r#""account""#,
    r#""stream""#,
    r#""event_id""#,
    r#""event_type""#,
    r#""event_time""#,
    r#""event_cause""#,
    r#""contact""#,
    r#""\u0069d""#,
    r#""m\u0065ta""#,
    r#""x""#,
    r#""\ud800""#,
    r#""""#,
    r#""line_item""#,
];
/// What no element is made of.
const BROKEN: [&[u8]; 12] = [
    b"garbage",
    b"\xff\xfe",
    b"\"\xff\"",
    b"{\"id\":\xc3\x28}",
    b"{\"id\":}",
    b"{,}",
    b"nul",
    b"01",
    b"17",
    b"[{}]",
    b"null",
    b"{\"id\" 1}",
];
const BLANKS: [&str; 6] = ["", "", "", " ", "\n\t ", "\r\n"];

/// A JSON text: of the words, of the recipe's own bytes, or one at a bound's edge.
pub fn text(recipe: &mut Recipe<'_>) -> String {
    match recipe.below(8) {
        0 => {
            let length = [127, 128, 129, 255, 256, 257, 511, 512, 513][recipe.below(9)];
            format!("\"{}\"", "x".repeat(length))
        }
        1 => {
            let length = recipe.below(12);
            serde_json::to_string(&String::from_utf8_lossy(recipe.raw(length))).unwrap()
        }
        _ => recipe.pick(&TEXTS).to_owned(),
    }
}

pub fn value(recipe: &mut Recipe<'_>, depth: usize) -> String {
    match recipe.below(6) {
        0 | 1 if depth > 0 => object(recipe, depth - 1, &NAMES),
        2 | 3 => text(recipe),
        _ => recipe.pick(&SCALARS).to_owned(),
    }
}

fn object(recipe: &mut Recipe<'_>, depth: usize, names: &[&str]) -> String {
    let mut object = String::from("{");
    for at in 0..recipe.below(5) {
        if at > 0 {
            object.push(',');
        }
        let blank = recipe.pick(&BLANKS);
        let (name, value) = (recipe.pick(names), value(recipe, depth));
        object.extend([blank, name, blank, ":", &value, blank]);
    }
    object + "}"
}

/// A member that is there more often than not.
fn member(recipe: &mut Recipe<'_>, name: &str, value: impl FnOnce(&mut Recipe<'_>) -> String, into: &mut Vec<String>) {
    if recipe.below(8) != 7 {
        let value = value(recipe);
        into.push(format!("\"{name}\":{value}"));
    }
}

fn further(recipe: &mut Recipe<'_>, into: &mut Vec<String>) {
    for _ in 0..recipe.below(3) {
        let at = recipe.below(into.len() + 1);
        let further = format!("{}:{}", recipe.pick(&NAMES), value(recipe, 2));
        into.insert(at, further);
    }
}

/// An element of the reference dialect, most often a good one.
pub fn reference(recipe: &mut Recipe<'_>) -> String {
    let mut members = Vec::new();
    member(recipe, "id", text, &mut members);
    let (kind, record) = [
        (r#""deal.updated""#, "deal"),
        (r#""de\u0061l.created""#, "deal"),
        (r#""contact.deleted""#, r"cont\u0061ct"),
        (r#""x""#, "x"),
    ][recipe.below(4)];
    member(recipe, "type", |recipe| if recipe.below(8) == 7 { text(recipe) } else { kind.to_owned() }, &mut members);
    member(recipe, "timestamp", |recipe| recipe.pick(&TEXTS[7..9]).to_owned(), &mut members);
    let data = |recipe: &mut Recipe<'_>| {
        let fields = object(recipe, 2, &NAMES);
        let fields = match (recipe.below(4), fields.as_str()) {
            (0, _) | (_, "{}") => fields,
            (_, fields) => format!("{{\"id\":{},{}", value(recipe, 0), &fields[1..]),
        };
        let mut members = vec![format!("\"{record}\":{fields}")];
        further(recipe, &mut members);
        format!("{{{}}}", members.join(","))
    };
    member(recipe, "data", data, &mut members);
    member(recipe, "previous", |recipe| value(recipe, 2), &mut members);
    let meta = |recipe: &mut Recipe<'_>| {
        let mut members = Vec::new();
        member(recipe, "sequence", |recipe| value(recipe, 0), &mut members);
        member(recipe, "cause", text, &mut members);
        further(recipe, &mut members);
        format!("{{{}}}", members.join(","))
    };
    member(recipe, "meta", meta, &mut members);
    further(recipe, &mut members);
    format!("{{{}}}", members.join(","))
}

/// An element of the live dialect, most often a good one.
pub fn live(recipe: &mut Recipe<'_>) -> String {
    let mut members = Vec::new();
    member(recipe, "data", |recipe| object(recipe, 2, &NAMES), &mut members);
    let meta = |recipe: &mut Recipe<'_>| {
        let mut members = Vec::new();
        member(recipe, "event_id", text, &mut members);
        member(
            recipe,
            "type",
            |recipe| recipe.pick(&[r#""deal""#, r#""LineItem""#, r#""\u0064eal""#]).to_owned(),
            &mut members,
        );
        member(
            recipe,
            "event_type",
            |recipe| recipe.pick(&[r#""updated""#, r#""d\u0065leted""#]).to_owned(),
            &mut members,
        );
        member(recipe, "event_time", |recipe| recipe.pick(&TEXTS[7..9]).to_owned(), &mut members);
        member(recipe, "sequence", |recipe| value(recipe, 0), &mut members);
        member(recipe, "event_cause", text, &mut members);
        member(recipe, "previous", |recipe| value(recipe, 2), &mut members);
        further(recipe, &mut members);
        format!("{{{}}}", members.join(","))
    };
    member(recipe, "meta", meta, &mut members);
    further(recipe, &mut members);
    format!("{{{}}}", members.join(","))
}

/// Bytes that are no element, alone or within one that looks good; its brackets match.
pub fn broken(recipe: &mut Recipe<'_>) -> Vec<u8> {
    let broken = BROKEN[recipe.below(BROKEN.len())];
    if recipe.flag() { [b"{\"id\":\"b\",\"x\":", broken, b",}"].concat() } else { broken.to_vec() }
}
