//! OAuth 2.0 over HTTP: from consent to a token, and back.

use reqwest::{Method, Url};
use serde_json::{Value, json};

use super::super::Options;
use super::{Bench, options};

#[tokio::test]
async fn consent_leads_to_a_token_that_core_takes_until_it_is_revoked() {
    let bench = Bench::new(Options { token: Some("only".into()), ..options() }).await;
    assert_eq!(bench.ask(Method::GET, "/v3/leads", Value::Null).await.0, 401, "T is not the token");
    // The verifier and challenge of RFC 7636, appendix B.
    let (verifier, challenge) =
        ("dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk", "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM");
    let back = "http://127.0.0.1:9/back?from=sell";
    let asked = [
        ("response_type", "code"),
        ("client_id", "c"),
        ("redirect_uri", back),
        ("state", "a b"),
        ("code_challenge", challenge),
        ("code_challenge_method", "S256"),
    ];
    let answer = bench.get("/oauth2/authorize", &asked).await;
    assert_eq!(answer.status(), 302);
    let to = Url::parse(answer.headers()["location"].to_str().unwrap()).unwrap();
    let led: Vec<(String, String)> = to.query_pairs().into_owned().collect();
    let [(_, from), (_, code), (_, state)] = led.as_slice() else { panic!("{to}") };
    assert_eq!((to.path(), from.as_str(), state.as_str()), ("/back", "sell", "a b"));
    for wrong in [&asked[1..], &asked[..2], &[("response_type", "code"), ("redirect_uri", back)]] {
        assert_eq!(bench.get("/oauth2/authorize", wrong).await.status(), 400, "{wrong:?}");
    }

    let post = async |path: &str, fields: &[(&str, &str)]| {
        let url = format!("{}{path}", bench.simulator.url());
        bench.http.post(url).form(fields).send().await.unwrap()
    };
    let given =
        [("grant_type", "authorization_code"), ("code", code), ("redirect_uri", back), ("code_verifier", verifier)];
    assert_eq!(post("/oauth2/token", &given[..3]).await.status(), 400, "without the verifier");
    let granted = super::json(post("/oauth2/token", &given).await).await;
    let token = granted["access_token"].as_str().unwrap();
    let read = async || {
        let request = bench.http.get(format!("{}/v3/leads", bench.simulator.url())).bearer_auth(token);
        request.send().await.unwrap().status().as_u16()
    };
    assert_eq!((read().await, token.len()), (200, 64));
    assert_eq!(post("/oauth2/revoke", &[("token", token)]).await.status(), 200);
    assert_eq!(read().await, 401);
    assert_eq!(post("/oauth2/revoke", &[]).await.status(), 400);
    let refresh = [("grant_type", "refresh_token"), ("refresh_token", granted["refresh_token"].as_str().unwrap())];
    assert_eq!(super::json(post("/oauth2/token", &refresh).await).await["token_type"], json!("bearer"));
}
