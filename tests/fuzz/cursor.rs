//! The cursor record in Kafka: what this program writes it reads back, and whatever else lies there is refused or bounded.

use std::sync::Arc;

use serde_json::Value;
use standpipe::event::{Chain, LedgerId, Seq, Shard};
use standpipe::sink::kafka::{Cursor, CursorError, Rehydrated, Tail, Tails};
use uuid::Uuid;

use crate::fuzz;
use crate::recipe::Recipe;

const PARTS: [&str; 27] = [
    "{",
    "}",
    ":",
    ",",
    "\"version\":1",
    "\"version\":2",
    "\"ledger\":\"00000000-0000-0000-0000-000000000000\"",
    "\"shard\":0",
    "\"shard\":65536",
    "\"seq\":7",
    "\"seq\":-1",
    "\"seq\":18446744073709551616",
    "\"chain\":\"abababababababababababababababababababababababababababababababab\"",
    "\"chain\":\"AB\"",
    "\"topics\":{",
    "\"topics\":{}",
    "\"sell.deal\":{",
    "\"partitions\":3",
    "\"partitions\":100000",
    "\"partitions\":-1",
    "\"last\":{",
    "\"last\":{}",
    "\"0\":5",
    "\"2\":7",
    "\"owner\":null",
    "\"x\":[]",
    "\"rehydrated\":{\"base\":3,\"seq\":5,\"chain\":\"",
];

fn made(recipe: &mut Recipe<'_>) -> Cursor {
    let mut topics = Tails::new();
    for at in 0..recipe.below(4) {
        let length = recipe.below(12);
        let name = format!("{at}{}", String::from_utf8_lossy(recipe.raw(length)));
        let last = (0..=recipe.below(8)).map(|_| Seq(u64::from(recipe.byte()))).collect();
        topics.insert(Arc::from(name), Tail { last });
    }
    let (ledger, chain) = (LedgerId(Uuid::from_bytes(recipe.array())), Chain(recipe.array()));
    let (shard, seq) = (Shard(u16::from_be_bytes(recipe.array())), Seq(u64::from_be_bytes(recipe.array())));
    let owner = recipe.flag().then(|| Uuid::from_bytes(recipe.array()));
    let place = |recipe: &mut Recipe<'_>| Seq(u64::from_be_bytes(recipe.array()));
    let last =
        recipe.flag().then(|| Rehydrated { base: place(recipe), seq: place(recipe), chain: Chain(recipe.array()) });
    Cursor::new(ledger, shard, seq, chain, topics).by(owner).rehydrated(last)
}

fn property(input: &[u8]) {
    let mut recipe = Recipe::new(input);
    let json = match recipe.below(3) {
        0 => {
            let cursor = made(&mut recipe);
            let json = cursor.to_json();
            assert_eq!(Cursor::from_json(&json).unwrap(), cursor);
            let newer = String::from_utf8(json).unwrap().replacen("\"version\":1", "\"version\":2", 1);
            assert!(matches!(Cursor::from_json(newer.as_bytes()), Err(CursorError::Newer(2))));
            return;
        }
        1 => {
            let mut json = String::new();
            while !recipe.is_empty() {
                json.push_str(recipe.pick(&PARTS));
            }
            json.into_bytes()
        }
        _ => recipe.rest().to_vec(),
    };
    match Cursor::from_json(&json) {
        Ok(cursor) => {
            assert_eq!(Cursor::from_json(&cursor.to_json()).unwrap(), cursor);
            let partitions: usize = cursor.topics.values().map(|tail| tail.last.len()).sum();
            assert!(partitions <= 1_000_000, "{partitions} partitions");
            // Beside another parser: no number was bent.
            let value: Value = serde_json::from_slice(&json).unwrap();
            assert_eq!(value["seq"].as_u64(), Some(cursor.seq.0));
            assert_eq!(value["shard"].as_u64(), Some(u64::from(cursor.shard.0)));
            assert_eq!(value["chain"].as_str(), Some(&*cursor.chain.to_string()));
        }
        Err(CursorError::Newer(version)) => assert!(version > 1),
        Err(CursorError::Malformed(_)) => {}
    }
}

#[test]
fn a_cursor_reads_back_and_nothing_else_is_taken_for_one() {
    fuzz!("cursor", property);
}
