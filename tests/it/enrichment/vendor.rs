//! Against the simulated Sell's own Core: what is looked up is what Core says, and what `verify` and `reconcile` make of
//! messages whose topic or key hangs on it.

use serde_json::Value;

use super::{has_stage, json, own};
use crate::proof::found;
use crate::proof::world::Pipe;
use crate::support::http;
use crate::support::kafka::Message;

const DEALS_BY_STAGE: &str = r#"filter = "resource == 'deal'"
key = "{% if enrichment.stage %}{{ enrichment.stage.data.name }}{% else %}none{% endif %}/{{ record_id }}"
[[sinks.crm.enrich]]
lookup = "stages"
id = "data.deal.stage_id"
as = "stage"
"#;

/// What Core says of a stage, by the simulator itself.
async fn stage(pipe: &Pipe, id: u64) -> Value {
    let url = format!("{}/v3/stages/{id}", pipe.simulator.url());
    let answer = http::client().get(&url).bearer_auth("0123456789").send().await.expect("the simulator");
    assert_eq!(answer.status(), 200, "{url}");
    serde_json::from_str(&answer.text().await.unwrap()).expect("JSON")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_core_says_stands_in_the_events_and_where_a_key_hangs_on_it_verify_judges_the_rest() {
    let mut pipe = Pipe::start("enrich-core", 300, DEALS_BY_STAGE).await;
    let messages = pipe.messages().await;
    let with: Vec<&Message> = messages.iter().filter(|message| has_stage(&json(message))).collect();
    assert!(with.len() > 20, "{} of {} have a stage", with.len(), messages.len());
    for message in &with {
        let event = json(message);
        let id = event["data"]["deal"]["stage_id"].as_u64().expect("an id");
        let said = stage(&pipe, id).await;
        let looked_up = &event["enrichment"]["stage"];
        assert_eq!((&looked_up["data"], &looked_up["id"]), (&said, &id.to_string().into()), "{event}");
        let name = said["name"].as_str().expect("a name");
        assert_eq!(message.key.as_deref().unwrap(), format!("{name}/{}", event["data"]["deal"]["id"]));
    }
    for message in with.iter().take(3) {
        let told = pipe.verb(&["events", "get", message.header("standpipe-id"), "--body"]).await;
        assert_eq!(own(message), told.trim_end(), "the event's own bytes");
    }

    let proof = pipe.verify(&[]).await;
    assert_eq!((found(&proof), &proof["delivered"]), ([0; 5], &messages.len().into()), "{proof}");
    // A repetition and another text show; whether the key is right only the answers could tell.
    pipe.produce(&messages[7..8]);
    let proof = pipe.verify(&[]).await;
    assert_eq!(found(&proof), [0, 1, 0, 0, 0], "{proof}");
    pipe.stop().await;
    let mut mirror = messages.clone();
    let first = mirror.iter().position(|message| has_stage(&json(message))).expect("there are some");
    mirror[first].key = Some("another".to_owned());
    let last = mirror.iter().rposition(|message| has_stage(&json(message))).expect("there are some");
    mirror[last].payload = Some(mirror[last].body().replacen("\"type\":\"deal", "\"type\":\"deed", 1));
    pipe.mirror(&mirror, &[]).await;
    let proof = pipe.verify(&[]).await;
    assert_eq!(found(&proof), [0, 0, 0, 1, 0], "{proof}");

    // Where something is lost nobody can say where it should be.
    pipe.kafka.delete_topic(&pipe.topic).await;
    pipe.daemon.start_again();
    pipe.wait_state("halted").await;
    pipe.verb(&["reconcile", "--sink", "crm"]).await;
    let why = pipe.wait_error("hang on what was looked up").await;
    assert!(why.contains("standpipe sinks seek"), "{why}");
}
