use std::sync::Arc;

use super::*;

/// Without a keeper, as before the program has started one.
#[tokio::test(start_paused = true)]
async fn a_request_waits_for_a_token_so_long_and_no_longer() {
    let client = Client {
        id: "client".to_owned(),
        secret: Secret::value("s"),
        refresh_token: Secret::value("r"),
        key: Secret::value("k"),
    };
    let grant = Arc::new(Grant::new(client));
    let waited = |since: Instant| (PATIENCE..PATIENCE + Duration::from_secs(1)).contains(&since.elapsed());
    let began = Instant::now();
    let error = grant.bearer().await.err().expect("nobody gives one");
    assert!(matches!(error, SellError::NoAccessToken { .. }) && waited(began), "{error}");
    let access = |generation, life| Access {
        token: SecretString::from("t"),
        generation,
        until: Instant::now() + Duration::from_secs(life),
    };
    grant.view.send_modify(|view| view.access = Some(access(1, 10)));
    assert_eq!(grant.bearer().await.unwrap().generation, 1);
    // Trouble counts once the token has ended.
    grant.view.send_modify(|view| view.trouble = Some(Trouble::Reauth("spent".to_owned())));
    assert!(grant.bearer().await.is_ok());
    tokio::time::advance(Duration::from_secs(10)).await;
    assert!(matches!(grant.bearer().await, Err(SellError::ReauthRequired { .. })));
    grant.view.send_modify(|view| (view.access, view.trouble) = (Some(access(2, 10)), None));
    assert_eq!(grant.after_refusal(1).await.unwrap().unwrap().generation, 2, "it is there already");
    let began = Instant::now();
    assert!(grant.after_refusal(2).await.is_err() && waited(began));
}
