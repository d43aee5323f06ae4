use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use super::*;

const MANY: Limits = Limits { count: 100, bytes: 1 << 20 };

/// As version 1 wrote it.
const VERSION_1: &str = r#"{"version":1,"id":"resp_00000000000000000000000000000001","owner":"laptop",
    "created":1795293467,"previous":"resp_00000000000000000000000000000000","input":[{"type":"message"}],
    "response":{"id":"resp_00000000000000000000000000000001", "output": []}}"#;

fn id(n: u8) -> ResponseId {
    ResponseId::parse(&format!("resp_{n:032x}")).unwrap()
}

fn raw(text: &str) -> Box<RawValue> {
    RawValue::from_string(text.to_owned()).unwrap()
}

fn kept(n: u8, previous: Option<u8>) -> Kept {
    let response = raw(&format!(r#"{{"n":{n}}}"#));
    Kept::new(id(n), Some("laptop".into()), 7, previous.map(id), raw("[]"), response)
}

async fn is_there(responses: &Responses, n: u8) -> bool {
    match responses.find(Some("laptop"), &id(n)).await {
        Ok(found) => found.id == id(n),
        Err(Error::UnknownResponse { .. }) => false,
        Err(other) => panic!("{other:?}"),
    }
}

async fn there(responses: &Responses, numbers: std::ops::Range<u8>) -> Vec<u8> {
    let mut found = Vec::new();
    for n in numbers {
        if is_there(responses, n).await {
            found.push(n);
        }
    }
    found
}

#[test]
fn only_its_own_form_is_an_id() {
    assert_eq!(ResponseId::parse(ResponseId::random().as_str()).unwrap().as_str().len(), 37);
    let digits = "0".repeat(32);
    for bad in [
        String::new(),
        "resp_".into(),
        format!("resp_{}", "0".repeat(31)),
        format!("resp_{}", "0".repeat(33)),
        format!("resp_{}", "A".repeat(32)),
        format!("resp-{digits}"),
        format!("../resp_{digits}"),
        format!("resp_{}/..", "0".repeat(29)),
        format!("resp_{digits}\0"),
        format!("resp_{}", "é".repeat(16)),
    ] {
        assert_eq!(ResponseId::parse(&bad), None, "{bad:?}");
        assert!(serde_json::from_value::<ResponseId>(bad.into()).is_err());
    }
}

#[tokio::test]
async fn a_file_of_version_1_is_read() {
    let home = tempfile::tempdir().unwrap();
    fs::write(home.path().join(format!("{}.json", id(1).as_str())), VERSION_1).unwrap();
    let responses = Responses::open(home.path(), MANY).unwrap();
    let found = responses.find(Some("laptop"), &id(1)).await.unwrap();
    assert_eq!((found.created, found.previous), (1_795_293_467, Some(id(0))));
    assert_eq!(found.input.get(), r#"[{"type":"message"}]"#);
    assert!(found.response.get().contains(r#""output": []"#));
}

#[tokio::test]
async fn what_is_no_response_is_not_found_and_harms_nothing() {
    let home = tempfile::tempdir().unwrap();
    let write = |n: u8, text: &str| {
        fs::write(home.path().join(format!("{}.json", id(n).as_str())), text).unwrap();
    };
    write(1, "");
    write(2, "{\"version\":");
    write(3, &VERSION_1.replace("\"version\":1", "\"version\":2"));
    write(4, VERSION_1);
    write(5, &VERSION_1.replace("0001\",\"owner", "../x\",\"owner"));
    fs::write(home.path().join("notes.json"), "mine").unwrap();
    fs::write(home.path().join(".unfinished-abc"), "half").unwrap();
    fs::create_dir(home.path().join(format!("{}.json", id(6).as_str()))).unwrap();
    let responses = Responses::open(home.path(), Limits { count: 0, ..MANY }).unwrap();
    let left: Vec<_> = fs::read_dir(home.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left.len(), 2, "what is not ours stays, what was never finished does not: {left:?}");
    assert!(!is_there(&responses, 1).await);
    for (n, text) in
        [(1, ""), (2, "{"), (3, &*VERSION_1.replace("\"version\":1", "\"version\":2")), (4, VERSION_1)]
    {
        write(n, text);
        assert!(!is_there(&responses, n).await, "{n}: a file under another name, or none of ours");
    }
}

#[tokio::test]
async fn another_owner_finds_nothing() {
    let home = tempfile::tempdir().unwrap();
    let responses = Responses::open(home.path(), MANY).unwrap();
    assert!(responses.keep(kept(1, None)).await.unwrap());
    for owner in [None, Some("phone"), Some("")] {
        assert!(matches!(responses.find(owner, &id(1)).await, Err(Error::UnknownResponse { .. })));
        assert!(matches!(responses.conversation(owner, &id(1)).await, Err(Error::UnknownResponse { .. })));
        assert!(matches!(responses.remove(owner, &id(1)).await, Err(Error::UnknownResponse { .. })));
    }
    assert!(is_there(&responses, 1).await);
    responses.remove(Some("laptop"), &id(1)).await.unwrap();
    assert!(!is_there(&responses, 1).await);
    assert_eq!(fs::read_dir(home.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn only_the_servers_user_can_read_them() {
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().join("responses");
    let responses = Responses::open(&folder, MANY).unwrap();
    responses.keep(kept(1, None)).await.unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let file = folder.join(format!("{}.json", id(1).as_str()));
    assert_eq!((mode(&folder), mode(&file)), (0o700, 0o600));
}

#[tokio::test]
async fn the_oldest_make_room_by_count_and_by_bytes() {
    let home = tempfile::tempdir().unwrap();
    let responses = Responses::open(home.path(), Limits { count: 3, ..MANY }).unwrap();
    for n in 0..5 {
        assert!(responses.keep(kept(n, None)).await.unwrap());
    }
    assert_eq!(there(&responses, 0..5).await, [2, 3, 4]);
    assert_eq!(fs::read_dir(home.path()).unwrap().count(), 3);
    let one = serde_json::to_vec(&kept(7, None)).unwrap().len() as u64;
    let responses = Responses::open(home.path(), Limits { count: 3, bytes: 2 * one + 1 }).unwrap();
    assert_eq!(there(&responses, 0..5).await, [3, 4], "lower limits hold from the next start on");
    assert!(responses.keep(kept(5, None)).await.unwrap());
    assert_eq!(there(&responses, 0..6).await, [4, 5]);
    let large = Kept { input: raw(&format!("[{}1]", " ".repeat(3 * one as usize))), ..kept(6, None) };
    assert!(!responses.keep(large).await.unwrap(), "larger than all together");
    assert_eq!(there(&responses, 0..7).await, [4, 5]);
    let none = Responses::open(home.path(), Limits { count: 0, ..MANY }).unwrap();
    assert!(!none.keep(kept(8, None)).await.unwrap());
    assert_eq!(fs::read_dir(home.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn a_conversation_is_restored_and_stays_young() {
    let home = tempfile::tempdir().unwrap();
    let responses = Responses::open(home.path(), Limits { count: 4, ..MANY }).unwrap();
    // The clock of a file system ticks every few milliseconds.
    let tick = || std::thread::sleep(Duration::from_millis(25));
    for (n, previous) in [(0, None), (1, Some(0)), (2, None), (3, Some(1))] {
        responses.keep(kept(n, previous)).await.unwrap();
        tick();
    }
    let turns = responses.conversation(Some("laptop"), &id(3)).await.unwrap();
    assert_eq!(turns.iter().map(|kept| kept.id.clone()).collect::<Vec<_>>(), [id(0), id(1), id(3)]);
    tick();
    responses.keep(kept(4, None)).await.unwrap();
    assert_eq!(there(&responses, 0..5).await, [0, 1, 3, 4], "2 was not used for longest");
    let again = Responses::open(home.path(), Limits { count: 3, ..MANY }).unwrap();
    assert_eq!(there(&again, 0..5).await, [1, 3, 4], "the order of use outlives the process");
    let error = again.conversation(Some("laptop"), &id(3)).await.unwrap_err();
    assert!(matches!(error, Error::UnknownResponse { id: lost } if lost == id(0).as_str()));
}

#[tokio::test]
async fn a_conversation_that_is_too_long_is_refused() {
    let home = tempfile::tempdir().unwrap();
    let responses = Responses::open(home.path(), Limits { count: 100, bytes: 1 << 30 }).unwrap();
    let large = raw(&format!("[\"{}\"]", "x".repeat(3 << 20)));
    for n in 0..3 {
        let turn = Kept { input: large.clone(), ..kept(n, n.checked_sub(1)) };
        assert!(responses.keep(turn).await.unwrap());
    }
    assert_eq!(responses.conversation(Some("laptop"), &id(1)).await.unwrap().len(), 2);
    let error = responses.conversation(Some("laptop"), &id(2)).await.unwrap_err();
    assert!(matches!(error, Error::Invalid { param: "previous_response_id", .. }), "{error:?}");
    // A file that names itself as the one before does not go on for ever.
    let own = VERSION_1.replace("0000\",\"input", "0001\",\"input");
    fs::write(home.path().join(format!("{}.json", id(1).as_str())), own).unwrap();
    assert!(responses.conversation(Some("laptop"), &id(1)).await.is_err());
}

#[tokio::test]
async fn many_at_once_stay_within_the_limit() {
    let home = tempfile::tempdir().unwrap();
    let responses = Responses::open(home.path(), Limits { count: 5, ..MANY }).unwrap();
    let keep = (0..40).map(|n| {
        let responses = responses.clone();
        tokio::spawn(async move { responses.keep(kept(n, None)).await })
    });
    for kept in futures::future::join_all(keep).await {
        assert!(kept.unwrap().unwrap());
    }
    assert_eq!(there(&responses, 0..40).await.len(), 5);
    assert_eq!(fs::read_dir(home.path()).unwrap().count(), 5);
}

#[tokio::test]
async fn nothing_is_kept_where_nothing_is_to_be() {
    let responses = Responses::none();
    assert!(!responses.keep(kept(1, None)).await.unwrap());
    assert!(!is_there(&responses, 1).await);
}
