//! `profiles` and `open`, of an engine that tells a story: a real one would read the folder of whoever runs the tests.

use insta::assert_snapshot;
use portolan::commands::{open, profiles, save_as};

use crate::story::engine;
use crate::{json, text};

#[tokio::test]
async fn profiles_are_listed_with_the_open_one_and_those_that_others_run() {
    let handle = engine();
    let running = async |_: &[String]| vec!["staging".to_owned()];
    assert_snapshot!("profiles", text(async |out| profiles(&handle, running, out).await).await.well());
    let listed = json(async |out| profiles(&handle, running, out).await).await.json();
    let wanted = serde_json::json!({
        "reply": "profiles", "names": ["dev", "empty", "staging"], "open": "dev", "running": ["dev", "staging"]
    });
    assert_eq!(listed, wanted);
}

#[tokio::test]
async fn a_profile_is_opened_and_one_that_is_not_there_only_when_it_is_to_be_new() {
    let handle = engine();
    let opened = text(async |out| open(&handle, "staging", false, out).await).await.well();
    assert_eq!(opened, "opened staging\n");
    let refused = text(async |out| open(&handle, "stagin", false, out).await).await.failed(1);
    assert_eq!(refused, "there is no profile \"stagin\" (there are: dev, empty, staging; --new makes it)");
    let saved = text(async |out| save_as(&handle, "copy", out).await).await.well();
    assert_eq!(saved, "saved as copy\n");
    let made = json(async |out| open(&handle, "stagin", true, out).await).await.json();
    assert_eq!((&made["reply"], &made["message"]), (&"done".into(), &"opened stagin (new, empty)".into()));
}
