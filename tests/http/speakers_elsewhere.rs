//! Speakers as clients of PMX and Paneas enrol, look for and hear them; and recordings that are fetched.

use serde_json::{Value, json};
use stentor::http::{Dialect, Settings};
use stentor::service::speakers::Options;

use super::fake::{delete, form, get, patch, post, send};
use super::jobs::{host, id as job_id, outcome};
use super::socket::until;
use super::speakers::{desk, desk_with};

#[tokio::test]
async fn pmx_clients_keep_their_speakers() {
    let desk = desk();
    let identify = |file: &str| form("/rag/identify", &[("file", file)]);
    let nobody = send(&desk.app, identify("@voice=anna")).await;
    assert_eq!(nobody.status, 503);
    assert!(nobody.error(Dialect::Pmx).contains("no speakers are enrolled"));
    let fields = [
        ("files", "@one.wav:voice=anna seconds=3"),
        ("files", "@two.wav:voice=anna seconds=2"),
        ("name", "Anna"),
        ("spk_id", "anna-1"),
        ("tags_csv", "team,berlin"),
        ("merge", "true"),
    ];
    let enrolled = send(&desk.app, form("/rag/speakers/enroll", &fields)).await.json();
    assert_eq!((&enrolled["ok"], &enrolled["dim"]), (&json!(true), &json!(192)), "{enrolled}");
    for key in ["id", "spk_id", "speaker_id"] {
        assert_eq!(enrolled[key], "anna-1");
    }
    assert_eq!((&enrolled["sample_count"], &enrolled["tags"]), (&json!(2), &json!(["team", "berlin"])));
    assert_eq!(enrolled["sources"], json!(["one.wav", "two.wav"]));
    let items = send(&desk.app, get("/rag/speakers")).await.json();
    let item = send(&desk.app, get("/speakers/anna-1")).await.json();
    assert_eq!(items, json!({"items": [item]}));
    assert_eq!(send(&desk.app, get("/speakers/list")).await.json(), json!([item]));
    let mut change = patch("/speakers/anna-1", r#"{"name": "Anna K.", "tags": []}"#);
    *change.method_mut() = axum::http::Method::PUT;
    let changed = send(&desk.app, change).await.json();
    assert_eq!((&changed["name"], &changed["tags"]), (&json!("Anna K."), &json!([])));

    let segments = r#"[{"start_ms": 0, "end_ms": 2000, "spk": "S1"}, {"start_ms": 2000, "end_ms": 5000}]"#;
    let fields = [("file", "@anna@0-2 ben@2-5"), ("segments_json", segments), ("threshold", "0.65")];
    let found = send(&desk.app, form("/identify", &fields)).await.json();
    let first = &found["matches"][0];
    assert_eq!((&first["from_ms"], &first["to_ms"], &first["spk"]), (&json!(0), &json!(2000), &json!("S1")));
    assert_eq!(
        (&first["spk_id"], &first["name"], &first["alts"]),
        (&json!("anna-1"), &json!("Anna K."), &json!([]))
    );
    let second = &found["matches"][1];
    assert_eq!((&second["spk_id"], &second["name"]), (&Value::Null, &json!("unknown")));
    assert_eq!(second["alts"][0]["spk_id"], "anna-1");
    let info = &found["info"];
    assert_eq!((&info["enrolled_count"], &info["segments_processed"]), (&json!(1), &json!(2)));
    assert!((info["threshold"].as_f64().unwrap() - 0.65).abs() < 1e-6 && info["top_k"] == 1);
    assert_eq!((&info["backend"], &info["embed_model"]), (&json!("stentor"), &json!("org/throats")));
    assert_eq!(info["duration_ms"], 5000);
    let whole = send(&desk.app, identify("@voice=anna seconds=3")).await.json();
    assert_eq!((&whole["matches"][0]["to_ms"], &whole["info"]["threshold"]), (&json!(3000), &json!(0.5)));

    let gone = send(&desk.app, delete("/rag/speakers/anna-1")).await.json();
    assert_eq!(gone, json!({"deleted": "anna-1", "status": "ok"}));
    let missing = send(&desk.app, get("/speakers/anna-1")).await;
    assert_eq!(missing.status, 404);
    assert!(missing.error(Dialect::Pmx).contains("anna-1"));
    assert_eq!(send(&desk.app, identify("@voice=anna")).await.status, 503);
}

#[tokio::test]
async fn pmx_clients_need_not_wait() {
    let desk = desk();
    let fields = [
        ("files", "@one.wav:voice=anna seconds=3"),
        ("files", "@two.wav:voice=anna seconds=4"),
        ("name", "Anna"),
    ];
    let queued = send(&desk.app, form("/speakers/enroll/async", &fields)).await;
    let job = outcome(&desk.app, &format!("/rag/speakers/jobs/{}", job_id(&queued))).await;
    assert_eq!((&job["status"], &job["result"]["sample_count"]), (&json!("done"), &json!(2)), "{job}");
    let spk = &job["result"]["spk_id"];
    let fields = [
        ("file", "@anna@0-3 ben@3-6"),
        ("segments", r#"[{"start_ms": 0, "end_ms": 3000}, {"start_ms": 3000, "end_ms": 6000}]"#),
        ("top_k", "1"),
    ];
    let queued = send(&desk.app, form("/identify/async", &fields)).await;
    let job = outcome(&desk.app, &format!("/identify/jobs/{}", job_id(&queued))).await;
    assert_eq!(&job["result"]["matches"][0]["spk_id"], spk, "{job}");
    assert_eq!(job["result"]["matches"][1]["name"], "unknown");
    let queued = send(&desk.app, form("/diarize/async", &[("file", "@anna@0-3 ben@3-6")])).await;
    let job = outcome(&desk.app, &format!("/diarize/jobs/{}", job_id(&queued))).await;
    assert_eq!(job["result"]["segments"].as_array().unwrap().len(), 2, "{job}");
    let bad = [("files", "@voice=anna speech=0.5"), ("spk_id", spk.as_str().unwrap())];
    let queued = send(&desk.app, form("/speakers/enroll/async", &bad)).await;
    let job = outcome(&desk.app, &format!("/speakers/jobs/{}", job_id(&queued))).await;
    assert_eq!(job["status"], "error");
    assert!(job["error"].as_str().unwrap().contains("too short"), "{job}");
    until("the files of jobs that are over go", || desk.kept_files() == 0).await;
    for (path, body) in [
        ("/identify/async", json!({"file_url": "http://127.0.0.1/a"})),
        ("/speakers/enroll/async", json!({"file_urls": ["http://127.0.0.1/a"], "name": "A"})),
        ("/speakers/enroll/async", json!({"name": "A"})),
        ("/diarize/async", json!({"max_speakers": 2})),
    ] {
        assert_eq!(send(&desk.app, post(path, body.to_string())).await.status, 400, "{body}");
    }
}

#[tokio::test]
async fn recordings_are_fetched() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let asked = host(listener, ["voice=anna seconds=3", "voice=anna seconds=2"]);
    let desk = desk_with(
        Options::default(),
        Settings { remote_hosts: vec![addr.to_string()], ..Settings::default() },
    );
    let urls = [format!("http://{addr}/a.wav"), format!("http://{addr}/b.wav")];
    let body = json!({"file_urls": urls, "name": "Anna", "tags_csv": "far"});
    let queued = send(&desk.app, post("/speakers/enroll/async", body.to_string())).await;
    let job = outcome(&desk.app, &format!("/speakers/jobs/{}", job_id(&queued))).await;
    assert_eq!(job["result"]["sources"], json!(urls), "{job}");
    assert_eq!(tokio::task::spawn_blocking(|| asked.join().unwrap()).await.unwrap().len(), 2);
    let id = job["result"]["id"].as_str().unwrap();
    let speaker = send(&desk.app, get(&format!("/v1/speakers/{id}"))).await.json();
    assert_eq!(speaker["samples"][0]["source"], json!({"kind": "url", "name": urls[0]}));
}

#[tokio::test]
async fn turns_are_told_in_each_dialect() {
    let desk = desk();
    let file = ("file", "@talk.wav:anna@0-4 ben@4-8 anna@8.5-10 seconds=11");
    let answer = send(&desk.app, form("/rag/diarize", &[file, ("max_speakers", "4")])).await.json();
    let turn = |from: u64, to: u64, spk: &str| json!({"start_ms": from, "end_ms": to, "spk": spk});
    let turns = json!([turn(0, 4000, "S1"), turn(4000, 8000, "S2"), turn(8500, 10_000, "S1")]);
    assert_eq!(answer["segments"], turns);
    let info = json!({"backend": "stentor", "model": "org/throats", "duration_ms": 11_000, "collar_s": 0.0,
        "min_speech_s": 0.0});
    assert_eq!(answer["info"], info);
    assert_eq!(answer["speech_ratios"][1], json!({"spk": "S2", "ratio": 4.0 / 9.5}));
    assert_eq!(answer["debug"]["input_filename"], "talk.wav");
    let one = send(&desk.app, form("/diarize", &[file, ("num_speakers", "1")])).await.json();
    assert_eq!(one["speech_ratios"], json!([{"spk": "S1", "ratio": 1.0}]));
    let paneas = send(&desk.app, form("/api/v1/diar", &[file, ("num_speakers", "2")])).await.json();
    let second = json!({"start": 4.0, "end": 8.0, "speaker": "SPEAKER_01"});
    assert_eq!((paneas["segments"].as_array().unwrap().len(), &paneas["segments"][1]), (3, &second));
    for (path, dialect) in [("/diarize", Dialect::Pmx), ("/api/v1/diar", Dialect::Paneas)] {
        for fields in [vec![], vec![file, ("num_speakers", "0")]] {
            let answer = send(&desk.app, form(path, &fields)).await;
            assert_eq!(answer.status, 400);
            answer.error(dialect);
        }
    }
    let contradicting = [file, ("min_speakers", "3"), ("max_speakers", "2")];
    assert_eq!(send(&desk.app, form("/diarize", &contradicting)).await.status, 400);
}
