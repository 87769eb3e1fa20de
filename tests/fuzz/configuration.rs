//! Configuration: documents of known keys, wrong values and broken syntax, with an environment. Whatever is wrong, it
//! is said without a panic and without a secret (INV-16), and a variable means what its content would have meant.

use standpipe::config::{Loaded, Origins, parse_with};

use crate::fuzz;
use crate::recipe::Recipe;

/// In a place for secrets: printed nowhere. As base64 33 bytes, so that it can be a key.
const SECRET: &str = "SECRETqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqq";
/// In the environment, for any key: in no error.
const HIDDEN: &str = "hidden0value";

/// Parts of a document; `@` stands for the secret.
const BLOCKS: [&str; 26] = [
    "deployment = \"test\"\n",
    "[ledger]\nurl = \"embedded\"\n",
    "[accounts.acme]\ntoken = \"@\"\n",
    "[ledger]\nurl = \"postgres://u:@@h/d\"\n",
    "[server.keys.ci]\ntoken = \"@-0123456789\"\nallow = [\"admin\"]\n",
    "[accounts.two.oauth]\nclient_id = \"id\"\nclient_secret = '@'\nrefresh_token = \"\"\"@\"\"\"\n",
    "[sinks.crm]\ntype = \"kafka\"\nbrokers = \"k:9092\"\ntopic = \"t\"\nproperties = { \"sasl.password\" = \"@\" }\n",
    "[sinks.sec]\ntype = \"kafka\"\nproperties = { sasl.password = \"@\", ssl.key.pem = '@' }\n",
    "[sinks.ops]\ntype = \"webhook\"\nurl = \"https://u:@@example.com/@\"\nsecrets = [\"whsec_@\"]\n",
    "[sinks.new]\ntype = \"webhook\"\nsigning_key = \"whsk_@\"\nheaders.Authorization = \"Bearer @\"\n",
    "[sinks.ops]\nsecret = \"@\"\n",
    "[accounts]\nacme = { token = \"@\", token_file = \"/nowhere/@\" }\n",
    "[accounts.acme]\ntoken = [\"@\"]\n",
    "[accounts.acme]\ntoken = { x = \"@\" }\n",
    "[accounts.acme]\ntokn = \"@\"\n",
    "[sinks.crm]\ntype = \"webhook\"\nurl = @\n",
    "[sinks.old]\ntype = \"kafak\"\nsecret = \"@\"\n",
    "[accounts.acme]\ntoken = \"${SECRET}\"\n",
    "[accounts.acme]\ntoken = \"${NONE:-@}\"\n",
    "[accounts.acme]\ntoken = \"${@\"\n",
    "[telemetry]\nlog = \"debug\"\n",
    "[server]\nlisten = \"0.0.0.0:8080\"\n",
    "[channels]\nevents = 1\nbytes = \"64MiB\"\n",
    "[ledger]\nretention = \"7d\"\nshards = 3\n",
    "[audit]\nenabled = true\n",
    "[sinks.crm]\nfilter = \"type == 'x'\"\nstart = \"now\"\n",
];
/// Tables and keys that take a value; `%` stands for it.
const LINES: [(&str, &[&str]); 6] = [
    ("", &["deployment", "state_dir", "startup_timeout", "drain_timeout"]),
    ("ledger", &["shards", "lease_ttl", "retention", "dedupe_window", "max_backlog", "backlog_hold", "pooler"]),
    ("channels", &["events", "bytes"]),
    ("server", &["listen", "metrics_listen"]),
    ("accounts.acme", &["base_url", "dialect", "streams", "events", "start", "history", "on_gap", "page_limit"]),
    ("telemetry", &["log", "log_format", "otlp_endpoint"]),
];
const VALUES: [&str; 28] = [
    "1",
    "0",
    "65536",
    "-1",
    "99999999999",
    "true",
    "30s",
    "0s",
    "72h",
    "9999999d",
    "14d",
    "64MiB",
    "10GiB",
    "x",
    "",
    "*",
    "deal.*",
    "one, two",
    "[\"a\", \"b\"]",
    "auto",
    "live",
    "tail",
    "now",
    "repair",
    "127.0.0.1:0",
    ":8080",
    "http://127.0.0.1:1",
    "${",
];
/// Variables that set secrets, and such as set anything else.
const SECRET_VARIABLES: [&str; 7] = [
    "STANDPIPE__LEDGER__URL",
    "STANDPIPE__ACCOUNTS__ACME__TOKEN",
    "STANDPIPE__ACCOUNTS__ACME__OAUTH__CLIENT_SECRET",
    "STANDPIPE__SINKS__CRM__PROPERTIES__SASL_PASSWORD",
    "STANDPIPE__SINKS__OPS__SECRET",
    "STANDPIPE__SINKS__OPS__SECRETS",
    "STANDPIPE__SERVER__KEYS__CI__TOKEN",
];
const VARIABLES: [&str; 14] = [
    "STANDPIPE__DEPLOYMENT",
    "STANDPIPE__LEDGER",
    "STANDPIPE__LEDGER__SHARDS",
    "STANDPIPE__LEDGER__RETENTION",
    "STANDPIPE__ACCOUNTS",
    "STANDPIPE__ACCOUNTS__ACME__DIALECT",
    "STANDPIPE__ACCOUNTS__ACME__STREAMS",
    "STANDPIPE__SINKS__CRM__TYPE",
    "STANDPIPE__SINKS__CRM__PROPERTIES",
    "STANDPIPE__SINKS__OPS__ALLOW_NETWORKS",
    "STANDPIPE__SERVER__LISTEN",
    "STANDPIPE__TELEMETRY__LOG",
    "STANDPIPE__",
    "STANDPIPE____X",
];

fn value(recipe: &mut Recipe<'_>) -> &'static str {
    if recipe.below(4) == 0 { "${HIDDEN}" } else { recipe.pick(&VALUES) }
}

fn document(recipe: &mut Recipe<'_>) -> String {
    let mut text = String::new();
    for _ in 0..recipe.below(12) {
        match recipe.below(8) {
            0 => text.push_str(&String::from_utf8_lossy(recipe.raw(4))),
            1 | 2 => {
                let (table, keys) = LINES[recipe.below(LINES.len())];
                let (key, value) = (recipe.pick(keys), value(recipe));
                let quote = recipe.pick(&["\"", "\"", "'", ""]);
                if !table.is_empty() {
                    text.extend(["[", table, "]\n"]);
                }
                text.extend([key, " = ", quote, value, quote, "\n"]);
            }
            _ => text.push_str(&recipe.pick(&BLOCKS).replace('@', SECRET)),
        }
    }
    if recipe.below(8) == 0 {
        let mut end = text.len() * usize::from(recipe.byte()) / 256;
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
    }
    text
}

fn environment(recipe: &mut Recipe<'_>) -> Vec<(String, String)> {
    let mut variables = vec![("SECRET".to_owned(), SECRET.to_owned()), ("HIDDEN".to_owned(), HIDDEN.to_owned())];
    for _ in 0..recipe.below(4) {
        let (name, value) = if recipe.flag() {
            (
                recipe.pick(&SECRET_VARIABLES),
                recipe.pick(&[
                    SECRET,
                    "[\"SECRETqqqqqqqqq\"]",
                    "SECRETqqqqqqqqq,SECRETqqqqqqqqq",
                    "[\"SECRETqqqqqqqqq\"",
                ]),
            )
        } else {
            const PLAIN: [&str; 7] = ["4", "10d", "true", "", "[", "{}", "{ x = 1 }"];
            (recipe.pick(&VARIABLES), if recipe.flag() { HIDDEN } else { recipe.pick(&PLAIN) })
        };
        variables.push((name.to_owned(), value.to_owned()));
    }
    variables
}

/// What a configuration comes to, without the places of its keys.
fn outcome(loaded: Loaded) -> String {
    let mut config = loaded.config;
    config.origins = Origins::default();
    format!("{config:?}")
}

fn property(input: &[u8]) {
    let mut recipe = Recipe::new(input);
    let environment = environment(&mut recipe);
    let text = document(&mut recipe);
    match parse_with("f.toml", &text, &environment) {
        Ok(loaded) => {
            let printed = format!("{loaded:?} {} {:?}", loaded.shown, loaded.warnings);
            assert!(!printed.contains("SECRETqq"), "{printed}");
            loaded.shown.parse::<toml_edit::DocumentMut>().expect("what is shown is TOML");
        }
        Err(errors) => {
            let printed = format!("{errors} {errors:?}");
            assert!(!errors.0.is_empty() && errors.0.iter().all(|problem| !problem.message.is_empty()));
            assert!(!printed.contains("SECRETqq") && !printed.contains(HIDDEN), "{printed}");
        }
    }
    if recipe.below(4) == 1 {
        variable_and_content(&mut recipe);
    }
}

/// `"${V}"` is what the content of V would be in its place.
fn variable_and_content(recipe: &mut Recipe<'_>) {
    let (table, keys) = LINES[recipe.below(LINES.len())];
    let (key, value) = (recipe.pick(keys), recipe.pick(&VALUES[..27]).replace(['"', '\\'], ""));
    let with = |value: &str| {
        let least = ["deployment = \"test\"\n", "[ledger]\nurl = \"embedded\"\n", "[accounts.acme]\ntoken = \"t\"\n"];
        let line = format!("{key} = \"{value}\"\n");
        match table {
            "" => least.concat().replacen("[ledger]", &format!("{line}[ledger]"), 1).replacen(
                "deployment = \"test\"\ndeployment",
                "deployment",
                1,
            ),
            "ledger" | "accounts.acme" => {
                least.concat().replacen(&format!("[{table}]\n"), &format!("[{table}]\n{line}"), 1)
            }
            table => format!("{}[{table}]\n{line}", least.concat()),
        }
    };
    let variable = [("V".to_owned(), value.clone())];
    let (plain, variable) = (parse_with("f.toml", &with(&value), &[]), parse_with("f.toml", &with("${V}"), &variable));
    match (plain, variable) {
        (Ok(plain), Ok(variable)) => assert_eq!(outcome(plain), outcome(variable)),
        // As text that stands for any type a variable may also give a number, a boolean or a list.
        (Err(_), _) => {}
        (Ok(_), Err(errors)) => panic!("{key} = {value:?} is right, and wrong as a variable: {errors}"),
    }
}

#[test]
fn no_configuration_makes_a_panic_or_tells_a_secret() {
    fuzz!("configuration", property);
}
