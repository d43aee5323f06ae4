//! Speakers: enrolled, found, merged, deleted, by this server's own routes.

use std::collections::HashSet;
use std::path::Path;
use std::sync::{Arc, Mutex};

use axum::Router;
use serde_json::{Value, json};
use stentor::http::{Settings, State, router};
use stentor::obs::install_metrics;
use stentor::service::speakers::Options;

use super::fake::{Answer, Fake, delete, form, get, kept_with, patch, post, send};
use super::voices::Throats;

/// A server with a book of its own.
pub struct Desk {
    dir: tempfile::TempDir,
    voices: Throats,
    pub app: Router,
    state: State,
}

fn open(dir: &Path, voices: &Throats, options: Options, settings: Settings) -> State {
    let fake = Fake { voices: voices.clone(), ..Fake::default() };
    State::new(Arc::new(fake), kept_with(dir, options), settings, install_metrics().unwrap())
}

pub fn desk_with(options: Options, settings: Settings) -> Desk {
    let (dir, voices) = (tempfile::tempdir().unwrap(), Throats::default());
    let state = open(dir.path(), &voices, options, settings);
    Desk { dir, voices, app: router(state.clone()), state }
}

pub fn desk() -> Desk {
    desk_with(Options::default(), Settings::default())
}

impl Desk {
    async fn enrol(&self, fields: &[(&str, &str)]) -> Answer {
        send(&self.app, form("/v1/speakers", fields)).await
    }

    /// Enrols a voice by one recording; the id.
    async fn known(&self, name: &str) -> String {
        let file = format!("@{name}.wav:voice={name} seconds=4 snr=30");
        let answer = self.enrol(&[("file", &file), ("name", name)]).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        answer.json()["id"].as_str().unwrap().to_owned()
    }

    async fn identify(&self, fields: &[(&str, &str)]) -> Value {
        let answer = send(&self.app, form("/v1/speakers/identify", fields)).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        answer.json()
    }

    /// Who a voice is held for.
    async fn name(&self, voice: &str) -> String {
        let found = self.identify(&[("file", &format!("@voice={voice} seconds=3"))]).await;
        found["data"][0]["name"].as_str().unwrap().to_owned()
    }

    pub fn kept_files(&self) -> usize {
        std::fs::read_dir(self.dir.path().join("files")).unwrap().count()
    }
}

#[tokio::test]
async fn a_speaker_is_enrolled_found_changed_and_deleted() {
    let desk = desk();
    let fields = [
        ("files[]", "@one.wav:voice=anna seconds=6 speech=4 snr=25"),
        ("files[]", "@two.wav:voice=anna seconds=3"),
        ("name", "Anna"),
        ("tags", "team, berlin"),
    ];
    let anna = desk.enrol(&fields).await.json();
    let id = anna["id"].as_str().unwrap();
    assert!(id.starts_with("spk_") && anna["object"] == "speaker" && anna["stale"] == false, "{anna}");
    assert_eq!((&anna["name"], &anna["tags"]), (&json!("Anna"), &json!(["team", "berlin"])));
    let sample = &anna["samples"][0];
    assert_eq!(sample["source"], json!({"kind": "upload", "name": "one.wav"}));
    assert_eq!((&sample["seconds"], &sample["speech_seconds"]), (&json!(6.0), &json!(4.0)));
    assert_eq!((&sample["snr_db"], &sample["kept"]), (&json!(25.0), &json!(false)));
    desk.known("ben").await;

    let found = desk.identify(&[("file", "@voice=anna seconds=3"), ("top_k", "2")]).await;
    assert_eq!(
        (&found["enrolled"], &found["stale"], &found["threshold"]),
        (&json!(2), &json!(0), &json!(0.5))
    );
    assert_eq!((&found["model"], &found["normalized"]), (&json!("org/throats"), &json!(false)));
    let who = &found["data"][0];
    assert_eq!((&who["id"], &who["name"]), (&json!(id), &json!("Anna")));
    assert_eq!(who["matches"].as_array().unwrap().len(), 2);
    assert!(who["matches"][0]["score"].as_f64().unwrap() > 0.8, "{who}");
    let strict = desk.identify(&[("file", "@voice=anna seconds=3"), ("threshold", "0.999")]).await;
    assert_eq!((&strict["data"][0]["name"], &strict["data"][0]["id"]), (&json!("unknown"), &Value::Null));
    assert_eq!(desk.name("carl").await, "unknown");

    let path = format!("/v1/speakers/{id}");
    let renamed = send(&desk.app, patch(&path, r#"{"name": "Anna K."}"#)).await.json();
    assert_eq!((&renamed["name"], &renamed["tags"]), (&json!("Anna K."), &json!(["team", "berlin"])));
    assert_eq!(send(&desk.app, get(&path)).await.json(), renamed);
    assert_eq!(desk.name("anna").await, "Anna K.");
    let more = [("file", "@three.wav:voice=anna seconds=4")];
    let more = send(&desk.app, form(&format!("{path}/samples"), &more)).await.json();
    assert_eq!(more["samples"].as_array().unwrap().len(), 3);

    let gone = send(&desk.app, delete(&path)).await.json();
    assert_eq!(gone, json!({"id": id, "object": "speaker.deleted", "deleted": true}));
    assert_eq!(desk.name("anna").await, "unknown");
    let samples = form(&format!("{path}/samples"), &[("file", "@voice=anna")]);
    let merge = post(&format!("{path}/merge"), r#"{"speakers": ["x"]}"#);
    for request in [get(&path), delete(&path), patch(&path, "{}"), samples, merge] {
        let answer = send(&desk.app, request).await;
        assert_eq!((answer.status.as_u16(), answer.code().as_str()), (404, "not_found"), "{}", answer.text);
    }
}

#[tokio::test]
async fn lists_have_pages_and_tags() {
    let desk = desk();
    for name in ["anna", "ben", "carl"] {
        let file = format!("@voice={name} seconds=3");
        let id = format!("{name}.1");
        let tag = if name == "ben" { "b" } else { "other" };
        let fields = [("file", file.as_str()), ("name", name), ("id", &id), ("tags", tag)];
        assert_eq!(desk.enrol(&fields).await.json()["id"], id.as_str());
    }
    let ids = async |query: &str| -> (Vec<String>, bool) {
        let page = send(&desk.app, get(&format!("/v1/speakers{query}"))).await.json();
        let data = page["data"].as_array().unwrap();
        let ids = data.iter().map(|speaker| speaker["id"].as_str().unwrap().to_owned()).collect();
        (ids, page["has_more"] == true)
    };
    let (all, more) = ids("").await;
    assert_eq!((all.len(), more), (3, false));
    let (first, more) = ids("?limit=2").await;
    assert_eq!((&first[..], more), (&all[..2], true));
    assert_eq!(ids(&format!("?after={}", all[1])).await.0, all[2..]);
    assert_eq!(ids("?tag=b").await.0, ["ben.1"]);
    assert!(ids("?tag=none").await.0.is_empty());
    for query in ["?limit=101", "?order=up", "?after=nobody"] {
        assert_eq!(send(&desk.app, get(&format!("/v1/speakers{query}"))).await.status, 400, "{query}");
    }
}

#[tokio::test]
async fn recordings_that_are_not_good_enough_are_refused() {
    let desk = desk();
    let anna = desk.known("anna").await;
    let good = ("file[]", "@good.wav:voice=anna seconds=5");
    for (bad, why) in [
        ("@short.wav:voice=anna seconds=9 speech=0.9", "too short: it has 0.9 s"),
        ("@noisy.wav:voice=anna seconds=9 snr=5.5", "too noisy"),
        ("@both.wav:voice=anna seconds=9 others=0.3", "two voices: 30%"),
        ("@ben.wav:voice=ben seconds=9", "unlike"),
        ("@text.wav:no recording", "this is no recording"),
    ] {
        for fields in [[good, ("file[]", bad), ("name", "X")], [good, ("file[]", bad), ("id", &anna)]] {
            let answer = desk.enrol(&fields).await;
            let name = bad[1..].split(':').next().unwrap();
            assert_eq!(answer.status, 400, "{bad}: {}", answer.text);
            assert!(answer.text.contains(&format!("recording 2 (`{name}`): {why}")), "{}", answer.text);
            assert_eq!(answer.json()["error"]["param"], "file");
        }
    }
    let short = desk.enrol(&[("file", "@voice=dora seconds=1.5"), ("name", "Dora")]).await;
    assert!(short.status == 400 && short.text.contains("1.5 s of speech together"), "{}", short.text);
    // To one who is there it may be added.
    let added = desk.enrol(&[("file", "@voice=anna seconds=1.5"), ("id", &anna)]).await;
    assert_eq!(added.json()["samples"].as_array().unwrap().len(), 2);
    let unlike = desk.enrol(&[("file", "@voice=ben seconds=2"), ("id", &anna)]).await;
    assert!(unlike.status == 400 && unlike.text.contains("force=true"), "{}", unlike.text);
    let forced = desk.enrol(&[("file", "@voice=ben seconds=2"), ("id", &anna), ("force", "true")]).await;
    assert_eq!(forced.json()["samples"].as_array().unwrap().len(), 3);
    let replaced = desk.enrol(&[("file", "@voice=ben seconds=2"), ("id", &anna), ("merge", "false")]).await;
    assert_eq!(replaced.json()["samples"].as_array().unwrap().len(), 1);
    assert_eq!(desk.name("ben").await, "anna");
    assert_eq!(send(&desk.app, get("/v1/speakers")).await.json()["data"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn what_is_asked_for_is_checked() {
    let desk = desk();
    let long = "x".repeat(257);
    let file = ("file", "@voice=anna");
    for (fields, param) in [
        (vec![("name", "Anna")], "file"),
        (vec![file], "name"),
        (vec![file, ("id", "anna")], "name"),
        (vec![file, ("name", &long)], "name"),
        (vec![file, ("name", "Unknown")], "name"),
        (vec![file, ("name", "a\u{7}b")], "name"),
        (vec![file, ("name", "A"), ("id", "a/b")], "id"),
        (vec![file, ("name", "A"), ("id", ".a")], "id"),
        (vec![file, ("name", "A"), ("id", "jobs")], "id"),
        (vec![file, ("name", "A"), ("tags", &long)], "tags"),
        (vec![file, ("name", "A"), ("merge", "perhaps")], "merge"),
        (vec![file, ("name", "A"), ("file_urls", r#"["http://127.0.0.1/a"]"#)], "file_urls"),
    ] {
        let answer = desk.enrol(&fields).await;
        assert_eq!(answer.status, 400, "{fields:?}: {}", answer.text);
        assert_eq!(answer.json()["error"]["param"], param, "{}", answer.text);
    }
    let many: Vec<(&str, &str)> = std::iter::repeat_n(("files[]", "@voice=anna"), 33).collect();
    assert_eq!(desk.enrol(&many).await.status, 400);
    let full: Vec<_> = many[..32].iter().copied().chain([("name", "Anna"), ("id", "a")]).collect();
    assert_eq!(desk.enrol(&full).await.json()["samples"].as_array().unwrap().len(), 32);
    let over = desk.enrol(&[file, ("id", "a")]).await;
    assert!(over.status == 409 && over.text.contains("merge=false"), "{}", over.text);
    for (name, value) in [
        ("top_k", "0"),
        ("top_k", "51"),
        ("threshold", "2"),
        ("segments", "[{}]"),
        ("segments", r#"[{"start": 2, "end": 1}]"#),
        ("segments", r#"[{"start": -1, "end": 1}]"#),
    ] {
        let answer = send(&desk.app, form("/v1/speakers/identify", &[file, (name, value)])).await;
        assert_eq!((answer.status.as_u16(), &answer.json()["error"]["param"]), (400, &json!(name)));
    }
    assert_eq!(send(&desk.app, form("/v1/speakers/identify", &[])).await.status, 400);
}

#[tokio::test]
async fn segments_are_looked_for_by_themselves() {
    let desk = desk();
    let nobody = desk.identify(&[("file", "@voice=anna")]).await;
    assert_eq!((&nobody["enrolled"], &nobody["data"][0]["name"]), (&json!(0), &json!("unknown")));
    assert_eq!(nobody["data"][0]["matches"], json!([]));
    desk.known("anna").await;
    desk.known("ben").await;
    let segments = r#"[{"start": 0, "end": 3.5}, {"start": 4, "end": 8}, {"start": 9, "end": 9.5}]"#;
    let fields = [("file", "@anna@0-4 ben@4-8"), ("segments", segments), ("top_k", "1")];
    let found = desk.identify(&fields).await;
    let names: Vec<&Value> = found["data"].as_array().unwrap().iter().map(|who| &who["name"]).collect();
    assert_eq!(names, ["anna", "ben", "unknown"]);
    assert_eq!((&found["data"][1]["start"], &found["data"][1]["end"]), (&json!(4.0), &json!(8.0)));
    assert_eq!(
        (&found["data"][2]["speech_seconds"], &found["data"][2]["matches"]),
        (&json!(0.0), &json!([]))
    );
}

#[tokio::test]
async fn two_recordings_are_compared() {
    let desk = desk();
    let verify = async |other: &str| {
        let fields = [("file", "@voice=anna seconds=3"), ("other", other)];
        send(&desk.app, form("/v1/speakers/verify", &fields)).await
    };
    let same = verify("@voice=anna seconds=4").await.json();
    assert_eq!((&same["same"], &same["threshold"]), (&json!(true), &json!(0.5)), "{same}");
    let other = verify("@voice=ben seconds=4").await.json();
    assert!(other["same"] == false && other["score"].as_f64().unwrap() < 0.4, "{other}");
    assert!(verify("@b.wav:voice=ben speech=0").await.text.contains("`b.wav`: no speech is heard"));
    let one = send(&desk.app, form("/v1/speakers/verify", &[("file", "@voice=anna")])).await;
    assert_eq!((one.status.as_u16(), &one.json()["error"]["param"]), (400, &json!("other")));
}

#[tokio::test]
async fn speakers_become_one() {
    let desk = desk();
    let (anna, anne, ben) = (desk.known("anna").await, desk.known("anne").await, desk.known("ben").await);
    let path = format!("/v1/speakers/{anna}/merge");
    for (speakers, status) in
        [(json!([]), 400), (json!([anna]), 400), (json!([anne, anne]), 400), (json!([anne, "nobody"]), 404)]
    {
        let body = json!({"speakers": speakers}).to_string();
        assert_eq!(send(&desk.app, post(&path, body)).await.status, status, "{speakers}");
    }
    let merged = send(&desk.app, post(&path, json!({"speakers": [anne]}).to_string())).await.json();
    assert_eq!((&merged["name"], merged["samples"].as_array().unwrap().len()), (&json!("anna"), 2));
    assert_eq!(send(&desk.app, get(&format!("/v1/speakers/{anne}"))).await.status, 404);
    assert_eq!(desk.name("anne").await, "anna", "by the other's samples");
    desk.voices.become_version(Some("2"));
    let file = ("file", "@voice=ben seconds=3");
    let renewed = desk.enrol(&[file, ("id", &ben), ("merge", "false")]).await;
    assert_eq!(renewed.status, 200, "{}", renewed.text);
    let body = json!({"speakers": [ben]}).to_string();
    let conflict = send(&desk.app, post(&path, body)).await;
    assert!(conflict.status == 409 && conflict.text.contains("different models"), "{}", conflict.text);
}

#[tokio::test]
async fn another_model_recognises_whom_it_can() {
    let desk = desk();
    let anna = desk.known("anna").await;
    desk.voices.become_version(None);
    let path = format!("/v1/speakers/{anna}");
    assert_eq!(send(&desk.app, get(&path)).await.json()["stale"], true, "nobody is recognised");
    assert_eq!(desk.enrol(&[("file", "@voice=ben"), ("name", "Ben")]).await.status, 503);
    desk.voices.become_version(Some("2"));
    desk.known("ben").await;
    let found = desk.identify(&[("file", "@voice=anna")]).await;
    assert_eq!((&found["enrolled"], &found["stale"]), (&json!(1), &json!(1)));
    assert!(found["note"].as_str().unwrap().contains("enrol them again"), "{found}");
    assert_eq!(found["data"][0]["name"], "unknown");
    assert_eq!(send(&desk.app, get(&path)).await.json()["stale"], true);
    let mixed = desk.enrol(&[("file", "@voice=anna"), ("id", &anna)]).await;
    assert!(mixed.status == 409 && mixed.text.contains("merge=false"), "{}", mixed.text);
    // What was embedded by the old one is not lost.
    desk.voices.become_version(Some("1"));
    assert_eq!(desk.name("anna").await, "anna");
    assert_eq!(desk.kept_files(), 0);
}

#[tokio::test]
async fn kept_recordings_are_embedded_anew_and_deleted() {
    let desk = desk_with(Options { keep_audio: true }, Settings::default());
    let anna = desk.known("anna").await;
    let path = format!("/v1/speakers/{anna}");
    let added = form(&format!("{path}/samples"), &[("file", "@voice=anna seconds=2.5")]);
    let speaker = send(&desk.app, added).await.json();
    assert!(speaker["samples"].as_array().unwrap().iter().all(|sample| sample["kept"] == true));
    assert_eq!(desk.kept_files(), 2);
    let listed = send(&desk.app, get("/v1/files")).await.json();
    assert_eq!(listed["data"], json!([]), "they are none of the files that clients left");
    desk.voices.become_version(Some("2"));
    assert_eq!(desk.name("anna").await, "anna");
    assert_eq!(send(&desk.app, get(&path)).await.json()["stale"], false);
    let refused = form(&format!("{path}/samples"), &[("file", "@voice=ben seconds=3")]);
    assert_eq!(send(&desk.app, refused).await.status, 400);
    assert_eq!(desk.kept_files(), 2, "what is refused is not kept");
    let replaced = [("file", "@voice=anna seconds=9"), ("id", &anna), ("merge", "false")];
    assert_eq!(desk.enrol(&replaced).await.status, 200);
    assert_eq!(desk.kept_files(), 1);
    desk.state.sweep().await.unwrap();
    assert_eq!(desk.kept_files(), 1);
    assert_eq!(send(&desk.app, delete(&path)).await.status, 200);
    assert_eq!(desk.kept_files(), 0);
}

#[tokio::test]
async fn the_book_outlives_the_server() {
    let Desk { dir, voices, app, state } = desk();
    let enrol = async |app: &Router, name: &str| {
        let file = format!("@voice={name} seconds=4");
        send(app, form("/v1/speakers", &[("file", &file), ("name", name)])).await.json()
    };
    let (anna, ben) = (enrol(&app, "anna").await, enrol(&app, "ben").await);
    let path = |speaker: &Value| format!("/v1/speakers/{}", speaker["id"].as_str().unwrap());
    assert_eq!(send(&app, delete(&path(&ben))).await.status, 200);
    drop((app, state));
    let app = router(open(dir.path(), &voices, Options::default(), Settings::default()));
    assert_eq!(send(&app, get(&path(&anna))).await.json(), anna);
    assert_eq!(send(&app, get(&path(&ben))).await.status, 404);
    for (voice, name) in [("anna", "anna"), ("ben", "unknown")] {
        let file = format!("@voice={voice} seconds=2");
        let found = send(&app, form("/v1/speakers/identify", &[("file", &file)])).await.json();
        assert_eq!(found["data"][0]["name"], name);
    }
}

/// A client that enrols, looks for and deletes a voice of its own, over and over. `gone` are ids of those whose
/// deletion was answered.
async fn client(desk: Arc<Desk>, number: usize, gone: Arc<Mutex<HashSet<String>>>) {
    let voice = format!("voice{number}");
    for round in 0..6 {
        let before: HashSet<String> = gone.lock().unwrap().clone();
        let file = format!("@voice=voice{} seconds=3", (number + round) % 16);
        let found = desk.identify(&[("file", &file), ("top_k", "50")]).await;
        for seen in found["data"][0]["matches"].as_array().unwrap() {
            let id = seen["id"].as_str().unwrap();
            assert!(!before.contains(id), "{id} was deleted before");
            assert!(seen["name"].as_str().unwrap().starts_with("voice"), "{seen}");
        }
        let id = desk.known(&voice).await;
        let own = desk.identify(&[("file", &format!("@voice={voice} seconds=2")), ("top_k", "1")]).await;
        assert_eq!(own["data"][0]["id"], id.as_str());
        let path = format!("/v1/speakers/{id}");
        let renamed = json!({"name": format!("{voice} {round}")}).to_string();
        assert_eq!(send(&desk.app, patch(&path, renamed)).await.status, 200);
        assert_eq!(send(&desk.app, delete(&path)).await.status, 200);
        gone.lock().unwrap().insert(id);
        assert_eq!(desk.name(&voice).await, "unknown");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn deleted_voices_are_never_found_again() {
    let (desk, gone) = (Arc::new(desk()), Arc::new(Mutex::new(HashSet::new())));
    let clients: Vec<_> =
        (0..16).map(|number| tokio::spawn(client(desk.clone(), number, gone.clone()))).collect();
    for client in clients {
        client.await.unwrap();
    }
    assert_eq!(gone.lock().unwrap().len(), 16 * 6);
    assert_eq!(send(&desk.app, get("/v1/speakers")).await.json()["data"], json!([]));
}

#[tokio::test]
async fn scores_are_compared_with_the_others_where_there_are_enough() {
    let desk = desk();
    for number in 0..31 {
        desk.known(&format!("voice{number}")).await;
    }
    let found = desk.identify(&[("file", "@voice=voice7 seconds=3"), ("top_k", "3")]).await;
    assert_eq!((&found["normalized"], &found["enrolled"]), (&json!(true), &json!(31)));
    let who = &found["data"][0];
    assert_eq!(who["name"], "voice7");
    let score = |at: usize| who["matches"][at]["score"].as_f64().unwrap();
    assert!(score(0) > 0.8 && score(1) < 0.4, "on the cosine's scale: {who}");
    assert_eq!(desk.name("stranger").await, "unknown");
}
