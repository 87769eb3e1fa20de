use std::path::PathBuf;
use std::time::Duration;

use proptest::prelude::*;

use super::raw::RawConfig;
use super::*;
use crate::event::OnMiss;

/// The least that loads.
const LEAST: &str = r#"
deployment = "test"
[ledger]
url = "embedded"
[accounts.acme]
token = "t0ken"
"#;

const WHSEC: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

fn errors(text: &str) -> Vec<String> {
    match parse("f.toml", text) {
        Ok(_) => Vec::new(),
        Err(errors) => errors.0.iter().map(ToString::to_string).collect(),
    }
}

fn with(more: &str) -> String {
    format!("{LEAST}{more}")
}

fn loaded(more: &str) -> Loaded {
    parse("f.toml", &with(more)).unwrap_or_else(|errors| panic!("{errors}"))
}

/// The one error of the least configuration with something added.
fn error(more: &str) -> String {
    let errors = errors(&with(more));
    assert_eq!(errors.len(), 1, "{errors:#?}");
    errors[0].clone()
}

fn kafka(more: &str) -> String {
    format!("[sinks.crm]\ntype = \"kafka\"\nbrokers = \"k:9092\"\ntopic = \"t\"\n{more}")
}

fn webhook(more: &str) -> String {
    format!("[sinks.ops]\ntype = \"webhook\"\nurl = \"https://example.com/\"\nsecret = \"{WHSEC}\"\n{more}")
}

fn env(variables: &[(&str, &str)]) -> Vec<(String, String)> {
    variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn file(text: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("standpipe.toml");
    std::fs::write(&path, text).unwrap();
    (folder, path)
}

/// What is commented out is put back, under names that fit.
fn uncommented() -> String {
    let lines = DEFAULT_TOML.lines().map(|line| match line.strip_prefix('#') {
        Some(key) if key.starts_with(|c: char| c.is_ascii_lowercase() || c == '[' || c == '"') => key,
        _ => line,
    });
    let text = lines.collect::<Vec<_>>().join("\n");
    text.replace(".NAME", ".name").replace(".KAFKA", ".kafka").replace(".WEBHOOK", ".webhook")
}

#[test]
fn default_toml_is_equal_to_the_typed_defaults() {
    let typed = toml_edit::ser::to_document(&RawConfig::default()).unwrap();
    let mut written = toml_edit::de::from_str::<RawConfig>(DEFAULT_TOML).unwrap();
    assert!(written.deployment.is_none() && written.accounts.is_empty() && written.sinks.is_empty());
    let read = toml_edit::ser::to_document(&written).unwrap();
    assert_eq!(read.to_string(), typed.to_string());
    written.drain_timeout = super::scalar::DurationText(Duration::from_secs(31));
    assert_ne!(toml_edit::ser::to_document(&written).unwrap().to_string(), typed.to_string());
}

#[test]
fn default_toml_documents_every_key_with_its_default() {
    let document: toml_edit::DocumentMut = uncommented().parse().unwrap();
    let names = |section: &str| {
        let section = section.replace("[sinks.NAME.breaker]", "[sinks.webhook.breaker]");
        let section = section.replace("[[sinks.NAME.enrich]]", "[sinks.kafka.enrich]");
        let (table, kind) = section.split_once("] type = ").unwrap_or((&section, ""));
        let name = kind.trim_matches('"');
        let table = table.trim_matches(['[', ']']);
        table.replace("NAME", if name.is_empty() { "name" } else { name })
    };
    for row in reference() {
        let mut table: &dyn toml_edit::TableLike = document.as_table();
        for part in names(&row.section).split('.').filter(|part| !part.is_empty()) {
            let item = table.get(part).unwrap_or_else(|| panic!("{} is not documented", row.section));
            let first = item.as_array_of_tables().and_then(|tables| tables.get(0));
            table = match first {
                Some(table) => table,
                None => item.as_table_like().unwrap(),
            };
        }
        let item = table.get(&row.key).unwrap_or_else(|| panic!("{} {} is not documented", row.section, row.key));
        assert!(!row.meaning.is_empty(), "{} {} has no meaning", row.section, row.key);
        let Some(default) = row.default.filter(|default| default != "[]" && default != "{}") else { continue };
        let shown = item.as_value().unwrap().clone().decorated("", "").to_string();
        assert_eq!(shown, default, "{} {}", row.section, row.key);
    }
}

#[test]
fn default_toml_holds_no_key_that_the_schema_does_not_know() {
    let mut table = document::parse("default.toml".as_ref(), &uncommented()).unwrap();
    let types = walk::sink_types(std::iter::once(&table));
    let mut walk = walk::Walk { sink_types: &types, problems: Vec::new(), bad: Vec::new() };
    table = walk.layer(table);
    assert_eq!(walk.problems, []);
    assert!(table.contains_key("sinks"));
}

#[test]
fn the_least_configuration_has_the_documented_defaults() {
    let Loaded { config, warnings, .. } = loaded("");
    assert_eq!(config.deployment, "test");
    assert_eq!(config.ledger.lease_ttl, Duration::from_secs(15));
    assert_eq!(config.ledger.max_backlog, 10 << 30);
    let account = &config.accounts["acme"];
    assert_eq!(account.base_url, "https://api.getbase.com");
    assert_eq!(account.history, Duration::from_hours(72));
    assert_eq!(account.streams, ["*"]);
    assert_eq!(warnings.len(), 1, "no sink: {warnings:?}");
}

#[test]
fn sinks_are_typed_and_keep_the_order_of_the_file() {
    let sinks = ["zeta", "alpha", "mid"].map(|name| kafka("").replace("crm", name)).join("");
    let config = loaded(&format!("{sinks}{}", webhook("breaker.window = \"1m\"\nmax_in_flight = 3"))).config;
    let names: Vec<_> = config.sinks.keys().map(crate::event::SinkName::as_str).collect();
    assert_eq!(names, ["zeta", "alpha", "mid", "ops"]);
    let SinkKind::Webhook(ops) = &config.sinks["ops"].kind else { panic!("a webhook") };
    assert_eq!(ops.breaker.window, Duration::from_mins(1));
    assert_eq!((ops.breaker.min_attempts, ops.max_in_flight), (10, 3));
    assert_eq!(ops.retry_schedule.len(), 9);
    let SinkKind::Kafka(zeta) = &config.sinks["zeta"].kind else { panic!("a Kafka sink") };
    assert_eq!(zeta.key, "{{ account }}/{{ resource }}/{{ record_id }}");
}

#[test]
fn all_errors_come_at_once_each_with_its_line() {
    let text = r#"deployment = "Not A Name"
drain_timeot = "3s"
[ledger]
lease_ttl = "1s"
shards = 0
pooler = "yes"
[accounts.acme]
poll_interval = "5"
dialect = "liv"
[accounts.Bad]
[sinks.crm]
type = "kafka"
topic = ""
[sinks.ops]
type = "webhok"
[sinks.none]
topic = "x"
"#;
    let errors = errors(text);
    let expected = [
        "f.toml:2: drain_timeot: unknown key; did you mean `drain_timeout`?",
        "f.toml:5: ledger.shards: 0 is out of range: 1 to 1024",
        "f.toml:6: ledger.pooler: expected true or false, found a string",
        "f.toml:8: accounts.acme.poll_interval: \"5\": it has no unit",
        "f.toml:9: accounts.acme.dialect: \"liv\" is not one of \"auto\", \"reference\", \"live\"",
        "f.toml:10: accounts.Bad: not a name",
        "f.toml:15: sinks.ops.type: \"webhok\" is not one of \"kafka\", \"webhook\"",
        "f.toml:16: sinks.none: `type` is missing",
        "f.toml:1: deployment: not a name",
        "f.toml:7: accounts.acme.token: is missing",
        "f.toml:3: ledger.url: is missing",
        "f.toml:4: ledger.lease_ttl: 1s is too short: at least 3s",
        "f.toml:11: sinks.crm.brokers: is missing",
        "f.toml:13: sinks.crm.topic: is empty",
    ];
    for (found, expected) in errors.iter().zip(expected) {
        assert!(found.starts_with(expected), "found    {found}\nexpected {expected}");
    }
    assert_eq!(errors.len(), expected.len(), "{errors:#?}");
}

#[test]
fn an_unknown_key_names_the_nearest_or_where_it_belongs() {
    assert!(error("base_ur = \"x\"").ends_with("did you mean `base_url`?"));
    assert!(error("lease_ttl = \"5s\"").contains("belongs in [ledger]"));
    assert!(error("deployment = \"x\"").contains("belongs in the top of the file"));
    assert!(error("qqqqq = 1").contains("the nearest known key is `"));
    assert!(error(&kafka("secret = \"x\"")).contains("belongs in [sinks.NAME]"));
}

#[test]
fn what_later_versions_take_is_refused_by_name() {
    for more in [
        "on_gap = \"repair\"",
        "start = \"snapshot\"",
        &kafka("format = \"cloudevents\""),
        &webhook("after = \"crm\""),
        &webhook("coalesce = \"latest\""),
    ] {
        assert!(error(more).contains("not in this version of standpipe yet"), "{more}");
    }
}

#[test]
fn lookups_are_typed_and_each_mistake_has_its_line() {
    let enrich = |more: &str| format!("[[sinks.crm.enrich]]\nlookup = \"contacts\"\nid = \"record_id\"\n{more}");
    let Loaded { config, shown, .. } =
        loaded(&kafka(&enrich("as = \"contact\"\nfields = [\"id\"]\non_miss = \"null\"\n")));
    let known = &config.sinks["crm"].enrich[0];
    assert_eq!((known.lookup.as_str(), known.name.as_str(), known.on_miss), ("contacts", "contact", OnMiss::Null));
    assert_eq!((known.fields.as_deref(), known.max_age), (Some(&["id".to_owned()][..]), Duration::from_mins(10)));
    assert!(shown.contains("lookup = \"contacts\""), "{shown}");
    let errors = |more: &str| errors(&with(&kafka(more))).join("\n");
    let two = enrich("as = \"contact\"\n");
    assert!(errors(&format!("{two}{two}")).contains("enrich[1].as: `contact` is the name of an earlier lookup"));
    for (more, wrong) in [
        ("as = \"Contact\"", "enrich[0].as: \"Contact\" is no name"),
        ("", "enrich[0].as: is missing; for example as = \"contact\""),
        ("as = \"x\"\nfields = []", "enrich[0].fields: name 1 to 256 members"),
        ("as = \"x\"\nmax_age = \"1ms\"", "enrich[0].max_age: 1ms is too short"),
        ("as = \"x\"\non_miss = \"drop\"", "enrich[0].on_miss: \"drop\" is not one of \"wait\", \"skip\", \"null\""),
        ("as = \"x\"\nfield = [\"id\"]", "enrich[0].field: unknown key; did you mean `fields`?"),
    ] {
        assert!(errors(&enrich(more)).contains(wrong), "{more}: {}", errors(&enrich(more)));
    }
    assert!(errors("enrich = [{ lookup = \"../deals\", id = \"id\", as = \"x\" }]").contains("is no resource"));
    assert!(errors("enrich = \"contacts\"").contains("expected a list, found a string"));
}

#[test]
fn values_that_do_not_fit_each_other_are_refused() {
    assert!(error("[server]\nlisten = \"0.0.0.0:8080\"").contains("only loopback is served"));
    assert!(error("[server]\nlisten = \"127.0.0.1:9464\"").contains("choose another port"));
    assert!(error("history = \"200h\"").contains("ledger.dedupe_window: 14d is too short: at least 400h"));
    assert!(error("base_url = \"http://api.getbase.com\"").contains("in the clear"));
    assert!(error("base_url = \"https://api.getbase.com/v3\"").contains("the origin alone"));
    assert!(error("page_limit = 1001").contains("1 to 1000"));
    assert!(error(&webhook("").replace("https:", "http:")).contains("allow_http"));
    assert!(errors(&with(&webhook("secret_file = \"/absent\"")))[0].contains("keep one"));
    assert!(error(&kafka("properties = { partitioner = \"random\" }")).contains("murmur2"));
    assert!(error(&kafka("properties.enable.idempotence = false")).contains("exactly once rests on it"));
    assert!(error(&kafka("").replace("k:9092", "k")).contains("host:port"));
    loaded("base_url = \"http://127.0.0.1:8088/\"");
    loaded("[server]\nlisten = \"0.0.0.0:8080\"\nkeys.ci = { token = \"0123456789abcdef\", allow = [\"admin\"] }");
}

#[test]
fn standard_webhooks_secrets_are_checked_when_loaded() {
    let short = webhook("").replace(WHSEC, "whsec_c2hvcnQ=");
    assert!(error(&short).contains("24 to 64 bytes"));
    assert!(error(&webhook("").replace(WHSEC, "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")).contains("whsec_"));
    assert!(error(&webhook("signing_key = \"whsk_c2hvcnQ=\"")).contains("32 or 64 bytes"));
    let unsigned = webhook("").replace(&format!("secret = \"{WHSEC}\""), "");
    assert!(error(&unsigned).contains("every attempt is signed"));
    let two = webhook("").replace(&format!("secret = \"{WHSEC}\""), &format!("secrets = [\"{WHSEC}\", \"{WHSEC}\"]"));
    let SinkKind::Webhook(ops) = &loaded(&two).config.sinks["ops"].kind else { panic!("a webhook") };
    assert_eq!(ops.secrets.len(), 2);
}

#[test]
fn a_secret_comes_from_itself_or_from_its_file_never_both() {
    let (_folder, path) = file("s3cret\n");
    let text = LEAST.replace("token = \"t0ken\"", &format!("token_file = \"{}\"", path.display()));
    assert!(parse("f.toml", &text).is_ok());
    assert!(errors(&text.replace("standpipe.toml", "absent"))[0].contains("cannot read the secret file"));
    std::fs::write(&path, " \n").unwrap();
    assert!(errors(&text)[0].contains("is empty"));
    assert!(error("token_file = \"x\"").contains("both `token` and `token_file` are given"));
}

#[test]
fn layers_lie_over_each_other_and_the_environment_speaks_toml_types() {
    let (_folder, path) = file(&with(&kafka("properties_file = {}")));
    let (_more, second) = file("[accounts.acme]\nstreams = [\"deals\"]\n");
    let variables = env(&[
        ("STANDPIPE__ACCOUNTS__ACME__PAGE_LIMIT", "7"),
        ("STANDPIPE__ACCOUNTS__ACME__EVENTS", "deal.*, lead.created"),
        ("STANDPIPE__LEDGER__POOLER", "true"),
        ("STANDPIPE__SINKS__CRM__PROPERTIES__STATISTICS_INTERVAL_MS", "20000"),
        ("STANDPIPE__SINKS__TWO__TYPE", "kafka"),
        ("STANDPIPE__SINKS__TWO__BROKERS", "b:1"),
        ("STANDPIPE__SINKS__TWO__TOPIC", "${NOT_REPLACED}"),
        ("STANDPIPE_UNRELATED", "x"),
    ]);
    let flag = Override { flag: "--listen".into(), key: "server.listen".into(), value: "127.0.0.1:1".into() };
    let config = load(&[path, second], variables, &[flag]).unwrap().config;
    let account = &config.accounts["acme"];
    assert_eq!((account.page_limit, account.streams.as_slice()), (7, ["deals".to_owned()].as_slice()));
    assert_eq!(account.events, ["deal.*", "lead.created"]);
    assert!(config.ledger.pooler);
    assert_eq!(config.server.listen.port(), 1);
    let SinkKind::Kafka(crm) = &config.sinks["crm"].kind else { panic!("a Kafka sink") };
    assert_eq!(crm.properties["statistics.interval.ms"], "20000");
    let SinkKind::Kafka(two) = &config.sinks["two"].kind else { panic!("a Kafka sink") };
    assert_eq!(two.topic, "${NOT_REPLACED}");
    assert_eq!(
        config.origin("accounts.acme.page_limit").unwrap().to_string(),
        "environment variable STANDPIPE__ACCOUNTS__ACME__PAGE_LIMIT"
    );
    assert_eq!(config.origin("server.listen").unwrap().to_string(), "--listen");
    assert!(config.origin("server.metrics_listen").is_none());
}

#[test]
fn a_later_layer_replaces_the_twin_of_an_earlier_one() {
    let (_folder, path) = file(&LEAST.replace("url = \"embedded\"", "url_file = \"/absent\""));
    let variables = env(&[("STANDPIPE__LEDGER__URL", "postgres://db/x")]);
    assert!(matches!(load(&[path], variables, &[]).unwrap().config.ledger.url, LedgerUrl::Postgres(_)));
}

#[test]
fn errors_of_the_environment_name_the_variable_and_not_its_value() {
    let (_folder, path) = file(LEAST);
    let variables = env(&[
        ("STANDPIPE__ACCOUNTS__ACME__PAGE_LIMIT", "s3cret"),
        ("STANDPIPE__SERVER__LISTN", "s3cret"),
        ("STANDPIPE__SERVER__LISTEN", "s3cret"),
        ("STANDPIPE__LEDGER__RETENTION", "s3cret"),
        ("STANDPIPE__TELEMETRY__LOG_FORMAT", "s3cret"),
    ]);
    let errors = load(&[path], variables, &[]).unwrap_err();
    assert_eq!(errors.0.len(), 5, "{errors}");
    for problem in &errors.0 {
        assert!(problem.to_string().starts_with("environment variable STANDPIPE__"), "{problem}");
    }
    assert!(!errors.to_string().contains("s3cret"), "{errors}");
}

#[test]
fn a_broken_file_is_placed_and_never_quoted() {
    for text in
        ["a = 1\ntoken = \"s3cret\" s3cret", "token = \"s3cret", "[s3cret\nx", "s3cret = 1\ns3cret = 2", "= s3cret"]
    {
        let errors = errors(text);
        assert_eq!(errors.len(), 1, "{errors:?}");
        assert!(errors[0].starts_with("f.toml:") && errors[0].contains("column"), "{errors:?}");
        assert!(!errors[0].contains("s3cret"), "{errors:?}");
    }
}

#[test]
fn nothing_given_says_where_a_file_was_looked_for() {
    let errors = load(&[], [], &[]).unwrap_err().to_string();
    assert!(errors.contains("no configuration file was found"), "{errors}");
    let absent = PathBuf::from("/absent/standpipe.toml");
    assert!(load(&[absent], [], &[]).unwrap_err().to_string().contains("/absent/standpipe.toml"));
}

#[test]
fn files_are_found_in_the_documented_order() {
    let given = [PathBuf::from("one"), PathBuf::from("two")];
    let variables = env(&[("STANDPIPE_CONFIG", "a.toml:b.toml")]);
    assert_eq!(discover(&given, &variables), given);
    assert_eq!(discover(&[], &variables), [PathBuf::from("a.toml"), PathBuf::from("b.toml")]);
}

#[test]
fn variables_are_replaced_in_strings_of_any_type() {
    let (_folder, path) = file(&with("page_limit = \"${LIMIT:-9}\"\nstreams = \"${STREAMS}\"\nbase_url = \"${URL}\""));
    let variables = env(&[("STREAMS", "deals,leads"), ("URL", "https://x.example")]);
    let config = load(std::slice::from_ref(&path), variables, &[]).unwrap().config;
    assert_eq!(config.accounts["acme"].page_limit, 9);
    assert_eq!(config.accounts["acme"].streams, ["deals", "leads"]);
    let errors = load(&[path], [], &[]).unwrap_err();
    assert_eq!(errors.0.len(), 2, "{errors}");
    assert!(errors.to_string().contains("the environment variable STREAMS is not set"));
}

#[test]
fn show_tells_every_value_with_its_origin() {
    let shown = loaded(&kafka("properties.\"linger.ms\" = 1\nfilter = '''\ntype == 'x'\n'''")).shown;
    assert!(shown.contains("deployment = \"test\"  # f.toml:2\n"), "{shown}");
    assert!(shown.contains("state_dir = \"/var/lib/standpipe\"  # default\n"), "{shown}");
    assert!(shown.contains("[sinks.crm.properties]\n\"linger.ms\" = \"1\"  # f.toml:"), "{shown}");
    assert!(shown.contains("url = \"<redacted>\"  # f.toml:4\n"), "{shown}");
    shown.parse::<toml_edit::DocumentMut>().unwrap();
}

#[test]
fn the_key_of_an_oauth_grant_is_needed_and_is_32_bytes() {
    let oauth = |key: &str| {
        let table = "oauth = { client_id = \"id\", client_secret = \"s\", refresh_token = \"r\"";
        LEAST.replace("token = \"t0ken\"", &format!("{table}{key} }}"))
    };
    let missing = errors(&oauth(""));
    assert!(missing.len() == 1 && missing[0].contains("accounts.acme.oauth.key: is missing"), "{missing:?}");
    assert!(missing[0].contains("openssl rand -hex 32"), "{missing:?}");
    let short = errors(&oauth(", key = \"5ecret\""));
    assert!(short.len() == 1 && short[0].contains("not a key") && !short[0].contains("5ecret"), "{short:?}");
    let key = "00".repeat(32);
    assert!(parse("f.toml", &oauth(&format!(", key = \"{key}\""))).is_ok());
    let (_folder, path) = file("nothing");
    let wrong = errors(&oauth(&format!(", key_file = \"{}\"", path.display())));
    assert!(wrong.len() == 1 && wrong[0].contains("accounts.acme.oauth.key_file: not a key"), "{wrong:?}");
}

/// A configuration with the canary in every place that takes a secret.
fn planted(canary: &str) -> String {
    format!(
        r#"
deployment = "test"
[ledger]
url = "postgres://u:{canary}@h/d"
[server.keys.ci]
token = "{canary}-0123456789"
allow = ["admin"]
[accounts.one]
token = "{canary}"
[accounts.two.oauth]
client_id = "id"
client_secret = "{canary}"
refresh_token = "{canary}"
key = "{canary}"
[sinks.crm]
type = "kafka"
brokers = "k:9092"
topic = "t"
[sinks.crm.properties]
"sasl.password" = "{canary}"
"ssl.key.pem" = "{canary}"
"ssl.key.password" = "{canary}"
"sasl.oauthbearer.client.secret" = "{canary}"
[sinks.ops]
type = "webhook"
url = "https://u:{canary}@example.com/{canary}"
secrets = ["whsec_{canary}"]
signing_key = "whsk_{canary}"
headers.Authorization = "Bearer {canary}"
"#
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    /// INV-16: whatever else is wrong, no secret is told.
    #[test]
    fn a_planted_secret_never_prints(
        canary in "CANARY[a-zA-Z0-9]{38}", // 44 characters: base64 of 33 bytes, no ed25519 key
        cut in 0usize..800,
        line in 0usize..32,
        junk in prop::sample::select(vec!["", "x = [", "type = 1", "= =", "\"", "'''", "[a]"]),
    ) {
        let text = planted(&canary);
        let mut lines: Vec<&str> = text.lines().collect();
        lines.insert(line.min(lines.len()), junk);
        let end = cut.min(text.len());
        for text in [text.clone(), lines.join("\n"), text[..end].to_owned(), text.replacen('"', "", 1 + line)] {
            if let Err(errors) = parse("f.toml", &text) {
                prop_assert!(!format!("{errors} {errors:?}").contains("CANARY"), "{errors}");
            }
        }
    }
}

#[test]
fn a_secret_of_a_configuration_that_loads_never_prints() {
    let canary = "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwMfKQ9r8GKYo=";
    let text = planted(canary);
    let loaded = parse("f.toml", &text).unwrap_or_else(|errors| panic!("{errors}"));
    let printed = format!("{loaded:?} {} {:?}", loaded.shown, loaded.warnings);
    assert!(!printed.contains("MfKQ9r8"), "{printed}");
    assert!(loaded.shown.contains("\"sasl.password\" = \"<redacted>\""), "{}", loaded.shown);
    let mistyped = text.replace("token = ", "tokn = ").replace("url = ", "ulr = ").replace("secrets", "secret");
    let errors = parse("f.toml", &mistyped).unwrap_err().to_string();
    assert!(!errors.contains("MfKQ9r8"), "{errors}");
}

#[test]
fn the_example_loads_but_for_its_secrets() {
    let example = include_str!("../../config/example.toml");
    let errors = errors(&example.replace("${LEDGER_PASSWORD:-standpipe}", "x"));
    assert_eq!(errors.len(), 2, "{errors:#?}");
    assert!(errors.iter().all(|error| error.contains("cannot read the secret file")), "{errors:#?}");
}

#[test]
fn every_schema_key_is_understood_by_the_walk() {
    for row in reference() {
        assert!(!row.kind.is_empty() && row.kind != "null", "{row:?}");
    }
    assert!(schema()["properties"]["ledger"]["properties"]["shards"]["maximum"] == 1024);
}

#[test]
fn a_further_check_adds_its_problems_to_all_others() {
    let (_folder, path) = file(&with(&kafka("filter = \"nonsense\"\ntopc = 1").replace("brokers", "brokes")));
    let errors = load_and(&[path], [], &[], |config| {
        let key = "sinks.crm.filter";
        config.sinks["crm"].filter.iter().map(|filter| config.problem(key, format!("{filter}!"))).collect()
    })
    .unwrap_err();
    let lines: Vec<_> = errors.0.iter().map(|problem| problem.key.as_str()).collect();
    assert_eq!(lines, ["sinks.crm.brokes", "sinks.crm.topc", "sinks.crm.brokers", "sinks.crm.filter"]);
}

#[test]
fn what_the_environment_gives_is_shown_by_no_later_check_either() {
    let (_folder, path) = file(&with(&webhook("allow_networks = [\"${HIDDEN}\"]\n")));
    let variables = env(&[("HIDDEN", "hidden0value"), ("STANDPIPE__ACCOUNTS__ACME__EVENTS", "hidden0value")]);
    let errors = load(&[path], variables, &[]).unwrap_err().to_string();
    assert!(errors.contains("a network looks like") && errors.contains("a pattern is"), "{errors}");
    assert!(!errors.contains("hidden0value"), "{errors}");
}
